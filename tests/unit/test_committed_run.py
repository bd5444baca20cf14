"""The reproduction in `benchmarks/`: its report follows from its cells and names no machine."""

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

FOLDER = Path(__file__).parents[2] / "benchmarks" / "reproduction" / "tiny"

IN_README = {
    "DELIA": "delia",
    "DELIA without the pairs": "no_diverse",
    "DELIA without diversified wordings": "no_wordings",
    "the task alone, for as many steps": "step_matched",
    "the task alone": "common",
    "examples in the prompt": "in_context",
    "untrained": "original",
}


@pytest.fixture(scope="module")
def results() -> Results:
    return read_results(read_grid(FOLDER / "grid.yaml"), FOLDER)


@pytest.fixture(scope="module")
def report() -> dict[str, object]:
    document: dict[str, object] = json.loads((FOLDER / "report.json").read_text(encoding="utf-8"))
    return document


def test_the_report_follows_from_the_cells(report: dict[str, object], results: Results) -> None:
    made = [list(map(asdict, check_claims(results))), list(map(asdict, make_tables(results)))]
    assert json.loads(json.dumps(made)) == [report["findings"], report["tables"]]
    assert report["cells"] == {"finished": len(results.finished), "missing": len(results.missing)}


def test_the_run_resumes_from_its_grid(report: dict[str, object], tmp_path: Path) -> None:
    for name in ("grid.yaml", "inputs.json"):
        shutil.copyfile(FOLDER / name, tmp_path / name)
    grid = read_grid(FOLDER / "grid.yaml")
    Reproduction(grid, tmp_path).start()  # Refuses another grid.
    assert grid.as_dict() == report["grid"]


def test_no_curve_leaves_its_panel(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, float]] = []

    def look(figure: Any, file: Path) -> None:
        for axes in figure.axes:
            highest = max(max(line.get_ydata()) for line in axes.get_lines())
            seen.append((highest, axes.get_ylim()[1]))

    monkeypatch.setattr("delia_data.experiments.figures.save_png", look)
    draw_figures(results, tmp_path)
    assert len(seen) == 4  # of Figure 2, which share an axis
    assert all(highest <= top for highest, top in seen)


def test_no_text_of_others_and_no_path_is_kept() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    answers = [path.parents[1].name for path in files if path.parent.name == "answers"]
    assert answers and all(cell.startswith("formatted-text") for cell in answers)
    for path in files:
        if path.suffix != ".png":
            text = path.read_text(encoding="utf-8")
            assert not [sign for sign in ("/tmp/", "/home/", "/root/") if sign in text], path


def test_the_readme_has_the_numbers_of_the_run(results: Results) -> None:
    lines = (FOLDER.parents[2] / "README.md").read_text(encoding="utf-8").splitlines()
    for name, method in IN_README.items():
        cells = results.of("formatted-text", method)
        follow, leak = results.follow(cells), results.leak(cells)
        assert follow and leak and follow.low is not None and follow.high is not None
        interval = f"{100 * follow.low:.0f} to {follow.high:.0%}"
        figures = f"{follow.value:.0%} | {interval} | {leak.value:.0%} | {len(follow.by_seed)}"
        assert f"| {name} | {figures} |" in lines
