"""Answers of a reproduction's cells, with the questions that the grid says were asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from delia_data.errors import DeliaError
from delia_data.evaluation.generation import ANSWERS, Answer, PromptBuilder, read_answer_log
from delia_data.evaluation.probes import ProbeRow
from delia_data.records import content_id
from delia_data.report.example import Example, Given
from delia_data.reproduction.cell import Cell
from delia_data.reproduction.grid import read_grid
from delia_data.reproduction.ground import Ground
from delia_data.reproduction.results import CELLS, Results, read_results
from delia_data.reproduction.run import Run
from delia_data.training.baselines import BASELINES

_ANSWERS: Final = "answers"
_METHODS: Final = ("delia", "step_matched", "common", "original")
"""Methods that stand side by side, those that were run."""


def cell_examples(folder: Path) -> Iterator[tuple[str, list[Example]]]:
    """Give the held-out rows of experiments with what a few methods answered.

    Of each method the cell with the most task rows, the greatest ratio and the first seed is
    taken. An experiment whose texts are not at hand, as those of translations, is left out.

    Args:
        folder: Folder of a reproduction.
    """
    results = read_results(read_grid(folder / "grid.yaml"), folder)
    run = Run(results.grid, folder)
    for name in results.grid.experiments:
        cells = [cell for m in _METHODS if (cell := _cell(results, name, m)) is not None]
        if not cells:
            continue
        try:
            ground = Ground.of(run, name)
        except DeliaError:
            continue
        rows = next(probe for probe in ground.probes if probe.name == "held-out").rows
        yield name, list(_examples(folder, ground, cells, rows))


def _cell(results: Results, experiment: str, method: str) -> Cell | None:
    found = results.of(experiment, method)  # type: ignore[arg-type]  # a name of the grid's
    return min((one.cell for one in found), key=lambda cell: cell.seed_or(), default=None)


def _examples(
    folder: Path, ground: Ground, cells: list[Cell], rows: tuple[ProbeRow, ...]
) -> Iterator[Example]:
    answers = {
        cell: read_answer_log(folder / CELLS / cell.name / _ANSWERS / ANSWERS) for cell in cells
    }
    builds = {cell: _build(ground, cell) for cell in cells}
    for row in rows:
        given = [_given(ground, cell, builds[cell], answers[cell], row) for cell in cells]
        known = tuple(one for one in given if one is not None)
        if len(known) == len(cells):
            question = row.prompt[-1].content
            yield Example(row.id, question, row.expected, ground.asked.token, known)


def _build(ground: Ground, cell: Cell) -> PromptBuilder | None:
    prompt = BASELINES[cell.method].prompt
    return None if prompt is None else prompt(ground.material(cell))


def _given(
    ground: Ground,
    cell: Cell,
    build: PromptBuilder | None,
    answers: Mapping[str, Answer],
    row: ProbeRow,
) -> Given | None:
    both = (row.prompt, row.plain)
    turns = both if build is None else tuple(build(each, row.query) for each in both)
    found = [answers.get(content_id(each)) for each in turns]
    named, bare = found
    if named is None or bare is None:
        return None
    read = [ground.asked.form.read(each.text) is not None for each in (named, bare)]
    return Given(BASELINES[cell.method].title, named.text, bare.text, *read)
