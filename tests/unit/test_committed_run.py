"""The reproductions in `benchmarks/`: their reports follow from their cells and name no machine."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from delia_data.experiments import (
    Reproduction,
    Results,
    check_claims,
    make_tables,
    read_grid,
    read_results,
)
from delia_data.experiments.figures import draw_figures

ROOT = Path(__file__).parents[2]
FOLDERS = [ROOT / "benchmarks" / "reproduction" / name for name in ("tiny", "pairs")]
PANELS = {"tiny": 4, "pairs": 2}

IN_README = {
    "wordings without pairs": "no_pairs",
    "pairs with cross-entropy, as in the paper": "delia",
    "pairs with the KL loss": "delia_kl",
    "KL loss and contrast rows (recommended)": "recommended",
}


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    return read_results(read_grid(folder / "grid.yaml"), folder)


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, object]:
    document: dict[str, object] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return document


def test_the_report_follows_from_the_cells(report: dict[str, object], results: Results) -> None:
    made = [list(map(asdict, check_claims(results))), list(map(asdict, make_tables(results)))]
    assert json.loads(json.dumps(made)) == [report["findings"], report["tables"]]
    assert report["cells"] == {"finished": len(results.finished), "missing": len(results.missing)}


def test_the_run_resumes_from_its_grid(
    folder: Path, report: dict[str, object], tmp_path: Path
) -> None:
    for name in ("grid.yaml", "inputs.json"):
        shutil.copyfile(folder / name, tmp_path / name)
    grid = read_grid(folder / "grid.yaml")
    Reproduction(grid, tmp_path).start()  # Refuses another grid.
    assert grid.as_dict() == report["grid"]


def test_no_curve_leaves_its_panel(
    folder: Path, results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, float]] = []

    def look(figure: Any, file: Path) -> None:
        for axes in figure.axes:
            highest = max(max(line.get_ydata()) for line in axes.get_lines())
            seen.append((highest, axes.get_ylim()[1]))

    monkeypatch.setattr("delia_data.experiments.figures.save_png", look)
    draw_figures(results, tmp_path)
    assert len(seen) == PANELS[folder.name]  # of Figure 2, which share an axis
    assert all(highest <= top for highest, top in seen)


def test_no_text_of_others_and_no_path_is_kept(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    answers = [path.parents[1].name for path in files if path.parent.name == "answers"]
    assert answers and all(cell.startswith("formatted-text") for cell in answers)
    for path in files:
        if path.suffix not in (".png", ".parquet"):
            text = path.read_text(encoding="utf-8")
            assert not [sign for sign in ("/tmp/", "/home/", "/root/") if sign in text], path


def test_the_readmes_have_the_numbers_of_the_run() -> None:
    results = read_results(read_grid(FOLDERS[1] / "grid.yaml"), FOLDERS[1])
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    details = (FOLDERS[1].parent / "README.md").read_text(encoding="utf-8").splitlines()
    for name, method in IN_README.items():
        cells = results.of("formatted-text", method)
        follow, leak, obey = (f(cells) for f in (results.follow, results.leak, results.obey))
        kl, right, kept = results.divergence(cells), results.scores(cells), results.similar(cells)
        assert follow and leak and obey and kl and right and kept
        shown = [f"{one.value:.0%}" for one in (follow, leak, obey)]
        shown += [f"{kl.value:.3f}", f"{right.value:.0%}", str(len(follow.by_seed))]
        assert f"| {name} | {' | '.join(shown)} |" in lines
        shown.insert(4, f"{kept.value:.0%}")
        assert any(line.endswith(f"| {' | '.join(shown)} |") for line in details)
