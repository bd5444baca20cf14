"""Grids, cells, and the tables, curves and findings of results, computed by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from delia_data.errors import FormatError, InputError, SettingsError
from delia_data.evaluation.representation import first_middle_last
from delia_data.experiments import (
    METHODS,
    SCALES,
    Cell,
    Grid,
    Results,
    check_claims,
    make_tables,
    read_grid,
)
from delia_data.experiments.cells import (
    RUN,
    CellResult,
    KeywordDistances,
    ProbeAnswers,
    read_result,
    write_result,
)
from delia_data.experiments.reproduction import Reproduction, write_report
from delia_data.experiments.results import (
    Measured,
    over_rows,
    over_seeds,
    reduction_curves,
    task_loss_curves,
)
from delia_data.experiments.sweep import cell_folder
from delia_data.experiments.tables import (
    PAPER_ABLATION,
    PAPER_ACCURACY,
    PAPER_BLEURT,
    PAPER_DISTANCES,
    Entry,
)
from delia_data.outputs import Manifest, finish, write_json

FORMATTED = "formatted-text"
GRID = {
    "name": "g",
    "experiments": {
        FORMATTED: {
            "cache": {"pairs": 30},
            "blocks": [
                {"methods": ["delia", "common"], "rows": [30, 100], "ratios": [5], "seeds": [0, 1]},
                {"methods": ["delia", "pairs_only"], "ratios": [1], "seeds": [0, 1]},
                {"methods": ["original", "step_matched"], "ratios": [5], "seeds": [0, 1]},
            ],
        }
    },
}


def changed(**values: Any) -> dict[str, Any]:
    """Return the grid with other values in its experiment."""
    experiment = {**GRID["experiments"][FORMATTED], **values}  # type: ignore[index]
    return {"name": "g", "experiments": {FORMATTED: experiment}}


def result(
    method: str,
    named: Sequence[float],
    bare: Sequence[float],
    *,
    rows: int = 100,
    ratio: float = 5.0,
    seed: int = 0,
    l2: float = 2.0,
    watched: Sequence[Mapping[str, float]] = (),
) -> CellResult:
    words = ("json", "thought")
    middle = (l2, l2 * 2, l2 * 3)
    marks = tuple("opening\tbrace" if one else "" for one in bare)
    return CellResult(
        Cell.of(FORMATTED, method, rows, ratio, seed),
        steps=10,
        trained_rows=100,
        answers={
            "held-out": ProbeAnswers(tuple(named), tuple(named), ("",) * len(named), tuple(named)),
            "plain": ProbeAnswers((0,) * len(bare), (0,) * len(bare), marks),
        },
        distances=tuple(
            KeywordDistances(word, middle, tuple(v / 10 for v in middle), (0.1, 0.2, 0.3))
            for word in words
        ),
        watched=tuple(watched),
    )


def results(*finished: CellResult) -> Results:
    return Results(Grid.from_dict(GRID), finished)


def test_a_grid_comes_back_from_its_plain_values() -> None:
    grid = Grid.from_dict(GRID)
    assert Grid.from_dict(json.loads(json.dumps(grid.as_dict()))) == grid


def test_the_estimate_counts_the_rows_of_fixed_steps(tmp_path: Path) -> None:
    of_epochs, of_steps = (
        [one.trained_rows for one in Reproduction(grid, tmp_path).estimate()[0]]
        for grid in (Grid.from_dict(GRID), Grid.from_dict(changed(steps=150)))
    )
    batch = Grid.from_dict(GRID).experiments[FORMATTED].settings().batch_size
    assert len(of_steps) == len(of_epochs) and of_steps != of_epochs
    assert {*of_steps} == {0, 150 * batch}
    assert [rows > 0 for rows in of_steps] == [rows > 0 for rows in of_epochs]


def test_the_estimate_of_fixed_steps_takes_the_default_batch_size(tmp_path: Path) -> None:
    """64 rows per step, and 16 for the 30 rows of common instruction tuning."""
    grid = Grid.from_dict(changed(steps=150, training={"batch_size": None}))
    rows = {
        (one.cell.method, one.cell.rows, one.cell.ratio): one.trained_rows
        for one in Reproduction(grid, tmp_path).estimate()[0]
    }
    assert rows["common", 30, None] == 150 * 16
    assert rows["delia", 100, 5] == 150 * 64


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        (changed(modle="x"), ["unknown key 'modle', did you mean 'model'?"]),
        (changed(cache={"pairs": 0}), ["cache.pairs", "greater than or equal to 1"]),
        (changed(cache={"pairs": 3, "engine": "tgi"}), ["engine 'tgi'"]),
        (changed(blocks=[{"methods": ["deliah"]}]), ["unknown method 'deliah', did you mean"]),
        (changed(blocks=[{"methods": ["delia"], "rows": [0]}]), ["rows.0: "]),
        (changed(blocks=[{"methods": ["delia"], "ratios": [-1]}]), ["ratios.0: "]),
        (changed(blocks=[{"methods": []}]), ["methods: ", "at least 1 item"]),
        (changed(training={"epoch": 2}), ["unknown key 'epoch', did you mean 'epochs'?"]),
        (changed(training={"seed": 2}), ["seed cannot be set here"]),
        (changed(recipe="none"), ["recipe 'none' is unknown"]),
        (changed(probes=["bare"]), ["held-out"]),
        (changed(max_tokens=0), ["max_tokens"]),
        ({"name": "g", "experiments": {}}, ["no experiments"]),
        ({"name": "g", "experiments": {"fr-en": {}}}, ["fr-en"]),
        ({"experiments": {}, "nmae": "g"}, ["unknown key 'nmae'", "name"]),
    ],
)
def test_a_wrong_grid_is_refused_with_all_that_is_wrong(
    values: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(SettingsError) as refused:
        Grid.from_dict(values)
    assert "\n" not in str(refused.value)
    for part in parts:
        assert part in str(refused.value)


def test_an_unknown_grid_is_refused() -> None:
    with pytest.raises(InputError, match="one of tiny"):
        read_grid("huge")


@pytest.mark.parametrize("scale", SCALES)
def test_bundled_grids_are_sound(scale: str) -> None:
    grid = read_grid(scale)
    cells = grid.cells()
    assert len({cell.name for cell in cells}) == len(cells)
    for name, experiment in grid.experiments.items():
        largest = max((c.rows or 0) * (c.ratio or 0) for c in cells if c.experiment == name)
        assert experiment.cache.pairs >= largest
        if name == "formatted-text" and scale not in ("pairs", "kinds"):
            assert {30, 65, 85, 100} == {r for b in experiment.blocks for r in b.rows}


def test_a_method_without_delias_largest_ratio_is_shown_at_its_own() -> None:
    made = results(result("delia", [1], [0]), result("no_pairs", [0], [1], ratio=1.0))
    ablation = next(table for table in make_tables(made) if table.name == "table-4")
    asked = next(line for line in ablation.lines if line.heads == ("JSON with the token",))
    shown = [(entry.ours and entry.ours.value, entry.paper) for entry in asked.entries]
    assert shown[0] == (0.0, PAPER_ABLATION["no_diverse"]["accuracy"])
    assert shown[-1] == (1.0, PAPER_ABLATION["delia"]["accuracy"])
    numbers = make_tables(made)[-1]
    assert [line.heads[1:] for line in numbers.lines] == [
        ("DELIA", "100", "5"),
        ("DELIA without pairs, step-matched", "100", "1"),
    ]


def test_caches_keep_their_names(tmp_path: Path) -> None:
    """A run that began with an earlier version finds the pairs that it sampled."""
    run = Reproduction(read_grid("pairs"), tmp_path)
    (experiment,) = run.grid.experiments.values()
    assert run.cache_of(experiment).name == "smollm2-135m-instruct-cc0931a0"
    contrast = run.contrast_of("formatted-text", replace(experiment, contrast=1.0))
    assert contrast is not None and contrast.name == "formatted-text-contrast-ce1d3d0d"


def test_the_small_grids_have_every_method_from_two_seeds() -> None:
    cells = [*read_grid("tiny").cells(), *read_grid("pairs").cells()]
    for name, method in METHODS.items():
        seeds = {c.seed for c in cells if c.method == name and c.rows in (100, None)}
        assert len(seeds) >= (2 if "seed" in method.uses and method.kind == "any" else 1), name


def test_cells_leave_out_axes_that_change_nothing() -> None:
    cells = Grid.from_dict(GRID).cells()
    names = [cell.name for cell in cells]
    assert names[:2] == [
        "formatted-text_delia_rows-30_ratio-5_seed-0",
        "formatted-text_common_rows-30_seed-0",
    ]
    assert names.count("formatted-text_original") == 1
    assert len(cells) == 8 + 4 + 3


def test_the_first_seed_of_everything_comes_first() -> None:
    seeds = [cell.seed for cell in Grid.from_dict(GRID).cells()]
    assert seeds == [0] * 4 + [0] * 2 + [None, 0] + [1] * 4 + [1] * 2 + [1]


def test_cells_of_one_method() -> None:
    grid = Grid.from_dict(GRID)
    assert {cell.method for cell in grid.cells(only=("common",))} == {"common"}
    with pytest.raises(InputError, match="does not run 'dmt'"):
        grid.cells(only=("dmt",))
    with pytest.raises(InputError, match="did you mean 'common'"):
        grid.cells(only=("comon",))


def test_a_result_comes_back(tmp_path: Path) -> None:
    one = result("delia", [1, 0], [0, 0], watched=[{"step": 0, "loss": 2.0}])
    write_result(tmp_path, one)
    assert read_result(tmp_path) == one
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(FormatError, match="run again"):
        read_result(tmp_path)


def _width(measured: Measured) -> float:
    assert measured.low is not None and measured.high is not None
    return measured.high - measured.low


def test_numbers_over_seeds_and_rows() -> None:
    distance = over_seeds([1.0, 3.0])
    assert (distance.value, distance.low) == (2.0, None)
    assert Entry(distance).cell.interval == "1.000, 3.000"
    both = over_rows([[1, 1, 0, 0], [1, 1, 1, 1]])
    assert (both.value, both.by_seed) == (0.75, (0.5, 1.0))
    assert both.low is not None and both.high is not None
    assert both.low < 0.75 < both.high
    # Seeds that agree on every row, and seeds whose means differ though rows do not vary.
    row = [1, 0] * 50
    assert _width(over_rows([row, row, row])) == pytest.approx(_width(over_rows([row])), abs=0.02)
    assert _width(over_rows([[0] * 50, [1] * 50])) == 1.0
    weighted = over_rows([[0.1, 0.4]], (0.0, math.inf), weights=[[30, 10]])
    assert weighted.value == pytest.approx((0.1 * 30 + 0.4 * 10) / 40)
    certain = over_rows([[1.0] * 10])
    assert certain.high == 1.0
    assert certain.low is not None and certain.low < 0.8  # ten rows prove no certainty
    with pytest.raises(InputError, match="different numbers"):
        over_rows([[1, 0], [1]])
    with pytest.raises(InputError, match="no seeds"):
        over_seeds([])


def test_blocks_of_the_papers_tables() -> None:
    assert first_middle_last(32) == (0, 16, 31)
    assert first_middle_last(1) == (0, 0, 0)


def entries(table: Any, *heads: str) -> list[Any]:
    (line,) = (line for line in table.lines if line.heads[: len(heads)] == heads)
    return [*line.entries]


def test_nothing_run_fills_no_table_and_says_so(tmp_path: Path) -> None:
    cells = results()
    assert not any(table.run for table in make_tables(cells))
    assert {finding.verdict for finding in check_claims(cells)} == {"not run"}
    document = write_report(cells, tmp_path)
    assert document["cells"] == {"finished": 0, "missing": 15}
    assert document["figures"] == []
    text = (tmp_path / "report.md").read_text()
    assert text.count("Not run: no cell of this table is finished.") == 5
    assert "388.1" not in text  # the paper's numbers do not stand for ours


def test_table_two_has_ours_and_the_papers_in_columns_of_their_own() -> None:
    table = make_tables(
        results(
            result("delia", [1, 1, 1, 0], [0, 0, 0, 0]),
            result("delia", [1, 1, 1, 1], [0, 0, 1, 1], seed=1),
            result("delia", [0, 0, 0, 0], [0, 0, 0, 0], rows=30),
            result("original", [1, 0, 0, 0], [0, 0, 0, 0]),
        )
    )[1]
    thirty, hundred = entries(table, "DELIA", "JSON with the token")
    assert (hundred.ours.value, hundred.paper) == (0.875, 0.960)
    assert hundred.ours.by_seed == (0.75, 1.0)
    assert (thirty.ours.value, thirty.paper) == (0.0, 0.386)
    selective = entries(table, "DELIA", "selectivity")[1]
    assert (selective.ours.by_seed, selective.paper) == ((0.75, 0.5), None)
    first, second = entries(table, "Original model", "JSON with the token")
    assert (first.ours.value, first.paper) == (0.25, 0.348)
    assert (second.ours, second.paper) == (None, None)
    assert "DMT" in table.missing


def test_table_one_has_first_middle_and_last_block() -> None:
    table = make_tables(results(result("delia", [1], [0], l2=3.0)))[0]
    six = entries(table, "DELIA", "thought")
    assert [one.ours.value for one in six] == pytest.approx([3.0, 0.3, 6.0, 0.6, 9.0, 0.9])
    assert [one.paper for one in six] == [6.2, None, 14.4, None, 47.7, None]
    assert entries(table, "DMT", "json")[0].ours is None


def test_table_four_takes_common_tuning_for_neither_part() -> None:
    table = make_tables(
        results(result("common", [1, 0], [1, 0], l2=1.0), result("delia", [1, 1], [0, 0], l2=5.0))
    )[3]
    accuracy = entries(table, "JSON with the token")
    assert [one.ours and one.ours.value for one in accuracy] == [None, None, 0.5, 1.0]
    assert [one.paper for one in accuracy] == [0.599, 0.074, 0.348, 0.960]
    assert [one.ours and one.ours.value for one in entries(table, "middle block, mean L2")] == [
        *(None, None),
        *(2.0, 10.0),
    ]


def test_the_papers_numbers_are_those_of_its_tables() -> None:
    """Sums over the four tables: a wrong digit would change one."""
    distances = [v for words in PAPER_DISTANCES.values() for three in words.values() for v in three]
    assert sum(distances) == pytest.approx(7521.9)
    for table, total in (
        (PAPER_ACCURACY, 5.859),
        (PAPER_BLEURT, 3.1402),
        (PAPER_ABLATION, 951.0939),
    ):
        assert sum(v for line in table.values() for v in line.values()) == pytest.approx(total)


def test_claims_are_held_against_seeds_and_intervals() -> None:
    good, bad = [1.0] * 40, [0.0] * 40
    cells = results(
        result("delia", good, bad),
        result("delia", good, bad, seed=1),
        result("step_matched", good, good),
        result("step_matched", good, good, seed=1),
        result("common", good, bad),
        result("common", bad, bad, seed=1),
    )
    by_claim = {finding.claim: finding for finding in check_claims(cells)}

    def verdict(*parts: str) -> str:
        (one,) = (f for claim, f in by_claim.items() if all(part in claim for part in parts))
        return one.verdict

    assert verdict("depends on the token", "step-matched") == "agrees"
    assert verdict("depends on", "than with Common instruction tuning (") == "unclear"
    assert verdict("more often", "step-matched") == "unclear"
    assert verdict("more often", "Controlled") == "not run"
    reverse = replace(cells, finished=(result("delia", bad, bad), result("original", good, bad)))
    below = next(f for f in check_claims(reverse) if "Original" in f.claim)
    assert below.verdict == "disagrees"
    assert "DELIA 0% [0%, 9%] (one seed); Original model 100%" in below.numbers


def test_the_nearest_token_by_the_relative_distance() -> None:
    near, far = result("delia", [1], [0], l2=1.0), result("common", [1], [0], l2=4.0)
    claim = "nearer to its keywords"
    agreed = next(f for f in check_claims(results(near, far)) if claim in f.claim)
    assert agreed.verdict == "agrees"
    assert "DELIA 0.200 (one seed); the nearest other is Common" in agreed.numbers
    assert "with 0.800" in agreed.numbers
    swapped = results(result("delia", [1], [0], l2=4.0), result("common", [1], [0], l2=1.0))
    assert next(f for f in check_claims(swapped) if claim in f.claim).verdict == "disagrees"


def points(*pairs: tuple[float, float, float]) -> list[dict[str, float]]:
    return [{"step": step, "loss": loss, "states": states} for step, loss, states in pairs]


def test_curves_are_read_at_shares_of_the_training() -> None:
    """10 steps against 20: at half of each, 6 states against 2 are 3 times fewer."""
    cells = results(
        result("delia", [1], [0], watched=points((0, 4.0, 10), (10, 2.0, 2), (20, 1.0, 2))),
        result("pairs_only", [1], [0], watched=points((0, 4.0, 10), (10, 4.0, 2))),
        result("delia", [1], [0], ratio=1.0, watched=points((0, 4.0, 8), (4, 3.0, 4))),
        result("pairs_only", [1], [0], ratio=1.0, watched=points((0, 4.0, 8), (2, 4.0, 4))),
    )
    low, high = task_loss_curves(cells)
    assert (low.ratio, high.ratio) == (1.0, 5.0)
    assert (high.mean[0], high.mean[10], high.mean[20]) == (4.0, 2.0, 1.0)
    assert (low.mean[10], low.mean[-1]) == (3.5, 3.0)
    low, high = reduction_curves(cells)
    assert (high.mean[0], high.mean[10], high.mean[-1]) == (1.0, 3.0, 1.0)
    falls = next(f for f in check_claims(cells) if "Figure 3" in f.claim)
    assert falls.verdict == "agrees"
    assert "3 at ratio 1, 1 at ratio 5" in falls.numbers


def test_the_report_of_a_run(tmp_path: Path) -> None:
    cells = results(
        result("delia", [1, 1], [0, 0], watched=points((0, 4, 10), (10, 2, 2))),
        result("delia", [1, 0], [0, 0], rows=30),
        result("common", [1, 1], [1, 1], l2=3.0),
    )
    run = {
        "seconds": {"train": 50.0, "ask": 10.0},
        "machine": "a CPU, 1 core",
        "versions": {"torch": "2"},
        "finished": "2026-01-02T03:04:05+00:00",
    }
    for folder in (tmp_path, tmp_path / "again"):
        for one in cells.finished:
            write_json(cell_folder(folder, one.cell) / RUN, run)
            finish(cell_folder(folder, one.cell), Manifest(kind="evaluation"))
    document = write_report(cells, tmp_path)
    assert document["figures"] == ["figure-2", "figure-3"]
    for name in document["figures"]:
        assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "figures" / "figure-4.png").exists()
    text = (tmp_path / "report.md").read_text()
    assert "3 of 15 cells are finished." in text
    assert "*96.0%*" in text  # the paper's, in italics
    assert "- 3 cells on a CPU, 1 core" in text
    assert "60 to 60 seconds per cell, finished from 2026-01-02 to 2026-01-02" in text
    again = write_report(cells, tmp_path / "again")
    assert again == document
    for name in ("report.md", "figures/figure-2.png", "figures/figure-3.png"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
