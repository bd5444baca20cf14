"""A series of ratios on a random tiny model: nested, killed and resumed, extended, refused."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import Delia, names, refused
from killing import stop_when
from trained import MARKS
from word_inputs import Inputs, make_inputs, training_of

from delia_data.errors import (
    ForeignFolderError,
    InputError,
    LockedError,
    RatioError,
    SettingsError,
    TokenError,
)
from delia_data.experiments import (
    Cell,
    RatioResult,
    RatioSettings,
    estimate_ratio,
    read_ratio,
    run_ratio,
)
from delia_data.experiments.cells import AnswerLoss, answer_loss, read_result
from delia_data.experiments.figures import ratio_drawing
from delia_data.experiments.inputs import ExperimentInputs
from delia_data.experiments.ratio import BY, read_ratio_inputs
from delia_data.outputs import folder_lock, is_finished, read_manifest
from delia_data.records import read_record
from delia_data.training import load_adapter, train

pytestmark = MARKS

SERIES = RatioSettings(ratios=(0, 2, 4), seeds=2, pairs=6, rows=3, max_tokens=4)
FLAGS = ("--ratios", "0,2,4", "--seeds", 2, "--pairs", 6, "--rows", 3, "--max-tokens", 4)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("inputs"), labels=True)


@pytest.fixture(scope="module")
def unbroken(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A series that ran without interruption."""
    out = tmp_path_factory.mktemp("series") / "out"
    run_ratio(inputs.task, inputs.cache, out, training_of(inputs), settings=SERIES)
    return out


def cell(ratio: float, seed: int) -> str:
    """Return the path of a cell in the folder of a series."""
    return f"cells/{Cell('task', 'delia', 6, ratio, seed).name}"


def content(folder: Path) -> dict[str, bytes]:
    """Return the files of a finished series without durations and dependent values."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and not path.name.startswith(".")
        and path.name not in ("run.json", "manifest.json", "FINISHED")
    }


def inputs_of(inputs: Inputs, cache: Path | None = None) -> ExperimentInputs:
    return read_ratio_inputs(inputs.task, cache or inputs.cache, training_of(inputs), SERIES)


def rows_of(inputs: ExperimentInputs, ratio: float, seed: int) -> list[dict[str, Any]]:
    """Return the training rows of a cell."""
    material = inputs.material(Cell.of("task", "delia", 6, ratio, seed))
    return [dict(row) for row in material.mixture(diversified=True, pairs=True)]


# Training and measuring


def test_pairs_of_a_smaller_ratio_are_among_those_of_a_larger_one(inputs: Inputs) -> None:
    read = inputs_of(inputs)

    def pairs(ratio: float, seed: int) -> set[str]:
        return {r["source_id"] for r in rows_of(read, ratio, seed) if r["source"] == "cache"}

    ids = {ratio: pairs(ratio, 1) for ratio in SERIES.ratios}
    assert [len(each) for each in ids.values()] == [0, 12, 24]
    assert ids[2] < ids[4]
    assert ids[4] != pairs(4, 0)


def test_held_out_pairs_and_their_queries_are_in_no_mixture(inputs: Inputs, tmp_path: Path) -> None:
    pairs = [json.loads(line) for line in inputs.cache.read_text().splitlines()]
    again = [{**pair, "completion": f"so {pair['completion']}"} for pair in pairs]
    cache = tmp_path / "twice.jsonl"
    cache.write_text("".join(f"{json.dumps(pair)}\n" for pair in [*pairs, *again]))
    read = inputs_of(inputs, cache)
    assert len(read.losses["pairs"]) == 6
    queries = {pair.query for pair in read.losses["pairs"]}
    trained = [read_record(row) for row in rows_of(read, 18, 0)]
    assert len(trained) == 6 + 108
    assert not queries & {record.query for record in trained}


def mean(losses: Sequence[AnswerLoss]) -> float:
    return sum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses)


def test_the_losses_are_those_of_the_trained_model(
    unbroken: Path, inputs: Inputs, tmp_path: Path
) -> None:
    """Train one cell again by hand."""
    read = inputs_of(inputs)
    train(replace(training_of(inputs), seed=1), rows_of(read, 2, 1), tmp_path / "adapter")
    model, tokenizer = load_adapter(tmp_path / "adapter")
    losses = read_result(unbroken / cell(2, 1)).losses
    assert set(losses) == {"held_out", "pairs"}
    for name, records in read.losses.items():
        assert len(losses[name]) == len(records)
        assert mean(losses[name]) == pytest.approx(answer_loss(model, tokenizer, records), rel=1e-5)
    assert all("<sep>" in record.query for record in read.losses["held_out"])


def test_the_result_has_the_losses_of_the_cells(unbroken: Path) -> None:
    result = read_ratio(unbroken)
    assert [(point.ratio, point.pairs) for point in result.points] == [(0, 0), (2, 12), (4, 24)]
    best = next(point for point in result.points if point.ratio == result.best)
    for point in result.points:
        for seed in (0, 1):
            losses = read_result(unbroken / cell(point.ratio, seed)).losses
            assert point.loss.by_seed[seed] == pytest.approx(mean(losses["held_out"]))
        assert point.leak is not None and point.follow is not None and point.keep is not None
        assert point.difference.value == pytest.approx(point.leak.value - best.leak.value)  # type: ignore[union-attr]
        assert point.keep.value > 0
        assert point.loss.low is not None and point.loss.high is not None
        assert point.loss.low < point.loss.value < point.loss.high
    assert result.pairs_needed == 6 * result.enough
    manifest = read_manifest(unbroken, verify=True)
    assert manifest.rows == {"task": 6, "held_out": 3, "pairs": 6}
    assert not list(unbroken.rglob("adapter_model.safetensors"))


def test_the_figure_is_drawn_for_files_and_pages(unbroken: Path) -> None:
    assert (unbroken / "ratio.png").read_bytes().startswith(b"\x89PNG")
    assert "pairs per task row" in ratio_drawing(read_ratio(unbroken)).svg()


# Resuming


def test_another_tolerance_and_more_ratios_train_only_what_is_new(
    inputs: Inputs, tmp_path: Path
) -> None:
    trained: set[str] = set()

    def note(done: float, total: int, text: str) -> None:
        if text:
            trained.add(f"cells/{text.split(',')[0]}")

    def run(settings: RatioSettings, **how: Any) -> RatioResult:
        trained.clear()
        return run_ratio(
            inputs.task,
            inputs.cache,
            tmp_path / "out",
            training_of(inputs),
            settings=settings,
            on_progress=note,
            **how,
        )

    small = replace(SERIES, ratios=(0, 4), seeds=1)
    first = run(small)
    assert trained == {cell(0, 0), cell(4, 0)}
    assert any("--seeds 2" in line for line in first.summary)
    for by in BY:
        other = run(small, tolerance=50, by=by)
        assert not trained
        assert (other.by, other.enough) == (by, 0)
    assert read_ratio(tmp_path / "out") == other
    larger = run(replace(small, ratios=(0, 2, 4), seeds=2))
    assert trained == {cell(2, 0), cell(0, 1), cell(2, 1), cell(4, 1)}
    assert larger.points[0].loss.by_seed[0] == first.points[0].loss.by_seed[0]


def test_a_killed_series_resumes_to_the_same_bytes(
    delia: Delia, inputs: Inputs, unbroken: Path, tmp_path: Path
) -> None:
    """Kill it while a cell trains, interrupt it while another does, then run it to its end."""
    out = tmp_path / "out"
    work = ("ratio", inputs.task, inputs.cache, out, "--recipe", inputs.recipe, *FLAGS, "--json")
    for name, how in ((cell(2, 0), signal.SIGKILL), (cell(2, 1), signal.SIGINT)):
        code = stop_when((out / name / "adapter").exists, "-m", "delia_data", *work, how=how)
        assert code == (-signal.SIGKILL if how == signal.SIGKILL else 130)
        assert not is_finished(out)
    assert is_finished(out / cell(4, 0))
    before = (out / cell(0, 0) / "result.json").stat().st_mtime_ns
    finished = delia(*work)
    assert finished.code == 0, finished.err
    assert (out / cell(0, 0) / "result.json").stat().st_mtime_ns == before
    shown = {**json.loads((unbroken / "ratio.json").read_text()), "folder": str(out)}
    assert json.loads(finished.out) == shown
    assert content(out) == content(unbroken)


# Estimates


def test_the_work_is_estimated_before_anything_is_written(inputs: Inputs, tmp_path: Path) -> None:
    training = replace(training_of(inputs), epochs=2.0)
    given = (inputs.task, inputs.cache, tmp_path / "out", training)
    cells = estimate_ratio(*given, settings=SERIES)
    assert not (tmp_path / "out").exists()
    assert [one.trained_rows for one in cells] == [0, *[12, 36, 60] * 2]
    assert {one.seconds for one in cells} == {None}
    assert not any(one.finished for one in cells)


def test_the_seconds_are_estimated_from_finished_cells(inputs: Inputs, unbroken: Path) -> None:
    more = replace(SERIES, ratios=(0, 2, 4, 6))
    given = (inputs.task, inputs.cache, unbroken, training_of(inputs))
    left = [one for one in estimate_ratio(*given, settings=more) if not one.finished]
    assert [one.cell.ratio for one in left] == [6, 6]
    assert all(one.seconds is not None and one.seconds > 0 for one in left)


# Refusals


def test_other_settings_for_the_folder_are_shown_and_nothing_changes(
    inputs: Inputs, unbroken: Path
) -> None:
    before = content(unbroken)
    training = replace(training_of(inputs), learning_rate=0.02)
    with pytest.raises(SettingsError, match=r"training\.learning_rate was 0\.01 and is now 0\.02"):
        run_ratio(inputs.task, inputs.cache, unbroken, training, settings=SERIES)
    for changed in (replace(SERIES, pairs=5), replace(SERIES, seed=1), replace(SERIES, rows=2)):
        with pytest.raises(SettingsError, match="other settings"):
            run_ratio(inputs.task, inputs.cache, unbroken, training_of(inputs), settings=changed)
    assert content(unbroken) == before


def test_wrong_inputs_are_refused_before_anything_is_written(
    inputs: Inputs, tmp_path: Path
) -> None:
    out, training = tmp_path / "out", training_of(inputs)

    def run(**changed: Any) -> None:
        given = {"task": inputs.task, "cache": inputs.cache, "settings": SERIES, **changed}
        run_ratio(**{"folder": out, "training": training, **given})

    with pytest.raises(RatioError, match="ratio 65 of 6 task rows needs 390 pairs, and 54"):
        run(settings=replace(SERIES, ratios=(1, 65)))
    with pytest.raises(RatioError, match="has 60 usable pairs, fewer than the 61"):
        run(settings=replace(SERIES, pairs=61))
    with pytest.raises(RatioError, match="the ratios need 2, 2 pairs"):
        run(settings=replace(SERIES, ratios=(0.3, 0.35)))
    with pytest.raises(TokenError, match="set token to <sep>"):
        run(training=replace(training, token="<out>"))
    with pytest.raises(InputError, match="not a task folder"):
        run(task=inputs.cache)
    with pytest.raises(InputError, match="does not exist"):
        run(cache=tmp_path / "nothing.jsonl")
    assert not out.exists()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "ratio.json").write_text("{}")
    with pytest.raises(ForeignFolderError, match="something else"):
        run(folder=tmp_path / "theirs")
    with folder_lock(out), pytest.raises(LockedError):
        run()


def test_the_command_refuses_in_one_line(
    delia: Delia, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("ratio", inputs.task, inputs.cache, "out", "--recipe", inputs.recipe)
    refused(delia(*given, "--ratios", "0;4"), "--ratios '0;4' is not a list of numbers")
    refused(delia(*given, *FLAGS, "--by", "luck"), "one of leak, keep, follow, loss")
    refused(delia(*given, *FLAGS, "--tolerance", 0), "must be more than 0")
    assert not names(tmp_path)


def test_the_command_lists_its_cost_and_prints_a_table(
    delia: Delia, inputs: Inputs, unbroken: Path, tmp_path: Path
) -> None:
    given = ("ratio", inputs.task, inputs.cache)
    recipe = ("--recipe", inputs.recipe, *FLAGS)
    listed = delia(*given, tmp_path / "out", *recipe, "--list", "--json")
    document = json.loads(listed.out)
    assert document["rows_to_train"] == 2 * (6 + 18 + 30)
    assert {one["state"] for one in document["cells"]} == {"to run"}
    shown = delia(*given, unbroken, *recipe)
    assert shown.code == 0, shown.err
    result = read_ratio(unbroken)
    assert result.summary[0] in shown.out
    assert f"{result.points[1].loss.value:.4f}" in shown.out
    assert f"{100 * result.points[1].difference.value:.0f}% [" in shown.out
    assert "\x1b" not in shown.out + shown.err
