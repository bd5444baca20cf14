"""All finished cells of a run, and the numbers that tables and figures ask them for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from delia_data.evaluation.representation import middle_block
from delia_data.outputs import is_finished
from delia_data.reproduction.cell import Cell, cells_of
from delia_data.reproduction.grid import ExperimentName, Grid
from delia_data.reproduction.result import CellResult, read_result
from delia_data.reproduction.seeds import Measured, over_rows, over_seeds
from delia_data.training.baselines import baseline

CELLS: Final = "cells"


@dataclass(frozen=True, slots=True)
class Results:
    """Finished cells.

    Attributes:
        grid: The grid that they are of.
        finished: Their results.
    """

    grid: Grid
    finished: tuple[CellResult, ...]

    @property
    def missing(self) -> list[Cell]:
        """Cells of the grid that are not finished."""
        done = {result.cell for result in self.finished}
        return [cell for cell in cells_of(self.grid) if cell not in done]

    def most_rows(self, experiment: ExperimentName) -> int:
        """The most task rows that the grid has for an experiment."""
        blocks = self.grid.experiments[experiment].blocks
        return max(rows for block in blocks for rows in block.rows)

    def ratios(self, experiment: ExperimentName) -> list[float]:
        """The ratios that the grid has DELIA on the most rows at, rising."""
        rows = self.most_rows(experiment)
        cells = [cell for cell in cells_of(self.grid) if cell.experiment == experiment]
        found = {c.ratio for c in cells if c.method == "delia" and c.rows == rows}
        return sorted(ratio for ratio in found if ratio is not None)

    def main_ratio(self, experiment: ExperimentName) -> float:
        """The greatest of them, or 0: the one that tables show."""
        return max(self.ratios(experiment), default=0.0)

    def of(
        self,
        experiment: ExperimentName,
        method: str,
        *,
        rows: int | None = None,
        ratio: float | None = None,
    ) -> list[CellResult]:
        """Results of one method over its seeds; axes that change nothing for it are left out.

        Args:
            experiment: The experiment.
            method: The method.
            rows: Task rows; the most when not given.
            ratio: The ratio; the main one when not given.
        """
        if experiment not in self.grid.experiments:
            return []
        uses = baseline(method).uses
        rows = self.most_rows(experiment) if rows is None else rows
        ratio = self.main_ratio(experiment) if ratio is None else ratio
        return [
            result
            for result in self.finished
            if (result.cell.experiment, result.cell.method) == (experiment, method)
            and result.cell.rows == (rows if "rows" in uses else None)
            and result.cell.ratio == (ratio if "ratio" in uses else None)
        ]

    def shares(self, found: Sequence[CellResult], *, named: bool = True) -> Measured | None:
        """Share of held-out answers in the format, the token being named or not."""
        held = [result.answers["held-out"] for result in found]
        if not held:
            return None
        return over_rows([a.with_token if named else a.without_token for a in held])

    def selectivity(self, found: Sequence[CellResult]) -> Measured | None:
        """The share with the token minus the share without, on the same rows."""
        held = [result.answers["held-out"] for result in found]
        if not held:
            return None
        pairs = [zip(a.with_token, a.without_token, strict=True) for a in held]
        return over_rows([[y - n for y, n in rows] for rows in pairs], (-1.0, 1.0))

    def negative(self, found: Sequence[CellResult]) -> Measured | None:
        """Share of answers in the format where the request forbids it."""
        held = [r.answers["negative"].with_token for r in found if "negative" in r.answers]
        return over_rows(held) if held else None

    def scores(self, found: Sequence[CellResult]) -> Measured | None:
        """The task's own score of held-out answers with the token."""
        held = [s for r in found if (s := r.answers["held-out"].scores) is not None]
        return over_rows(held) if held else None

    def distance(
        self,
        found: Sequence[CellResult],
        keyword: str,
        block: int | None = None,
        *,
        measure: str = "l2",
    ) -> Measured | None:
        """Distance of the token to a keyword in a block, the middle one when not given."""
        values = []
        for result in found:
            for known in result.distances:
                if known.keyword == keyword:
                    numbers: tuple[float, ...] = getattr(known, measure)
                    middle = middle_block(len(numbers))
                    values.append(numbers[middle if block is None else block])
        return over_seeds(values) if values else None

    def final(self, found: Sequence[CellResult], name: str) -> Measured | None:
        """What was watched under a name, after the last step."""
        return self._watched(found, name, lambda points: points[-1])

    def first(self, found: Sequence[CellResult], name: str) -> Measured | None:
        """What was watched under a name, before the first step."""
        return self._watched(found, name, lambda points: points[0])

    def _watched(
        self,
        found: Sequence[CellResult],
        name: str,
        pick: Callable[[list[float]], float],
    ) -> Measured | None:
        series = [[point[name] for point in r.watched if name in point] for r in found]
        values = [pick(points) for points in series if points]
        return over_seeds(values) if values else None

    def keywords(self, experiment: ExperimentName) -> list[str]:
        """The keywords that distances were measured to, in the task's order."""
        found = (r for r in self.finished if r.cell.experiment == experiment)
        return list(dict.fromkeys(d.keyword for result in found for d in result.distances))


def read_results(grid: Grid, out: str | os.PathLike[str]) -> Results:
    """Read the finished cells of a grid's run.

    Raises:
        FormatError: One was written by another version.
    """
    cells = Path(out) / CELLS
    found = [
        read_result(cells / cell.name) for cell in cells_of(grid) if is_finished(cells / cell.name)
    ]
    return Results(grid, tuple(found))
