"""All finished cells of a reproduction and the numbers of tables and figures, over seeds and rows.

An interval is the 95% percentile bootstrap interval of the mean over seeds. Seeds and held-out rows
are resampled independently (Owen 2007, "The pigeonhole bootstrap"), as every seed answers the same
rows. Two or three seeds show little of what others would do, so such an interval is rather narrow.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Final

import numpy as np

from delia_data.errors import InputError
from delia_data.evaluation.bootstrap import Estimate, Numbers, Resampling, bootstrap_mean
from delia_data.evaluation.keep import SIMILAR
from delia_data.evaluation.probes import LEAK_PROBES
from delia_data.evaluation.representation import middle_block
from delia_data.evaluation.scores import is_leak, obeys
from delia_data.experiments.cells import AnswerLoss, CellResult, read_result
from delia_data.experiments.grid import FORMATTED, Cell, Grid, task_of
from delia_data.experiments.methods import get_method
from delia_data.experiments.sweep import cell_folder
from delia_data.outputs import is_finished

CURVE_POINTS: Final = 21
"""Points of a curve, from the start to the end of the training."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A mean over seeds, with its 95% interval if it is a mean of rows."""

    value: float
    by_seed: tuple[float, ...]
    low: float | None = None
    high: float | None = None


def over_seeds(values: Sequence[float]) -> Measured:
    """Summarize one number per seed."""
    if not values:
        raise InputError("there are no seeds to summarize: give at least one value")
    return Measured(fmean(values), tuple(values))


def over_rows(
    values: Sequence[Sequence[float]] | Numbers,
    bounds: tuple[float, float] = (0.0, 1.0),
    *,
    weights: Sequence[Sequence[float]] | Numbers | None = None,
) -> Measured:
    """Summarize values of shape (seeds, rows), with the same rows for every seed.

    Args:
        values: The values.
        bounds: Smallest and largest possible value of a row. If all values are equal, the interval
            is the exact one of a share.
        weights: Weights of the rows, of the same shape; equal by default.
    """
    if not len(values) or len({len(row) for row in values}) != 1:
        raise InputError(
            "seeds have different numbers of rows, or there are no seeds: run them on the same rows"
        )
    table, how = np.asarray(values, dtype=np.float64), Resampling()
    shares = np.ones_like(table) if weights is None else np.asarray(weights, dtype=np.float64)
    by_seed = (table * shares).sum(axis=1) / shares.sum(axis=1)
    estimate: Estimate | None
    if not np.ptp(table):
        estimate = bootstrap_mean(table[0], how, bounds=bounds)
    else:
        seeds, rows = table.shape
        drawn = np.concatenate(
            [counts @ (table * shares).T / (counts @ shares.T) for counts in how.weights(rows)]
        )
        if seeds > 1:
            others = replace(how, seed=how.seed + 1)  # not the draws of the rows
            drawn *= np.concatenate(list(others.weights(seeds)))
        resampled = drawn.sum(axis=1) / seeds
        estimate = how.estimate(float(by_seed.mean()), resampled, rows)
    assert estimate is not None
    return Measured(float(by_seed.mean()), tuple(by_seed.tolist()), estimate.low, estimate.high)


def over_tokens(answers: Sequence[Sequence[AnswerLoss]]) -> Measured:
    """Summarize sums over the tokens of answers, of shape (seeds, answers), per token."""
    nats = np.array([[one.nats for one in each] for each in answers])
    tokens = np.array([[one.tokens for one in each] for each in answers])
    return over_rows(nats / tokens, (0.0, math.inf), weights=tokens)


@dataclass(frozen=True, slots=True)
class Results:
    """The finished cells of a grid."""

    grid: Grid
    finished: tuple[CellResult, ...]

    @property
    def missing(self) -> list[Cell]:
        """Cells of the grid that are not finished."""
        finished = {result.cell for result in self.finished}
        return [cell for cell in self.grid.cells() if cell not in finished]

    def ratios(self) -> list[float]:
        """Return the ratios of DELIA on the most task rows of formatted text, ascending."""
        if FORMATTED not in self.grid.experiments:
            return []
        cells = [c for c in self.grid.cells() if (c.experiment, c.method) == (FORMATTED, "delia")]
        rows = self._most_rows(FORMATTED)
        return sorted({c.ratio for c in cells if c.rows == rows and c.ratio is not None})

    def _most_rows(self, experiment: str) -> int:
        return max(max(block.rows) for block in self.grid.experiments[experiment].blocks)

    def of(
        self,
        experiment: str,
        method: str,
        *,
        rows: int | None = None,
        ratio: float | None = None,
    ) -> list[CellResult]:
        """Return the results of one method, one per seed.

        By default they are those of the most task rows and of the largest ratio at which the
        method was run; an axis that does not change the method is ignored.
        """
        if experiment not in self.grid.experiments:
            return []
        uses = get_method(method).uses
        rows = self._most_rows(experiment) if rows is None else rows
        cells = [
            result
            for result in self.finished
            if (result.cell.experiment, result.cell.method) == (experiment, method)
            and result.cell.rows == (rows if "rows" in uses else None)
        ]
        if "ratio" not in uses:
            return cells
        if ratio is None:
            ratio = max((result.cell.ratio or 0.0 for result in cells), default=0.0)
        return [result for result in cells if result.cell.ratio == ratio]

    def follow(self, cells: Sequence[CellResult]) -> Measured | None:
        """Return the share of held-out answers with the token in the format as it is."""
        return _over_cells(cells, lambda cell: cell.answers["held-out"].strict)

    def shares(self, cells: Sequence[CellResult]) -> Measured | None:
        """Return the share of held-out answers with the token that count loosely (Table 2)."""
        return _over_cells(cells, lambda cell: cell.answers["held-out"].loose)

    def leak(self, cells: Sequence[CellResult]) -> Measured | None:
        """Return the share of answers that show the format and should not, in the worst probe.

        Marks that the untrained model's answer to the same prompt has do not count, if the grid
        runs it (`original`).
        """
        leaks = self._leaks(cells)
        return over_rows(leaks) if leaks else None

    def selectivity(self, cells: Sequence[CellResult]) -> Measured | None:
        """Return follow minus leak; paired by row if the leak is that of the same requests."""
        leaks = self._leaks(cells)
        if not leaks:
            return None
        follow = [cell.answers["held-out"].strict for cell in cells]
        if leaks == self._leaks(cells, ("plain",)):
            values = [
                [f - x for f, x in zip(*both, strict=True)]
                for both in zip(follow, leaks, strict=True)
            ]
            return over_rows(values, (-1.0, 1.0))
        ours, theirs = over_rows(follow), over_rows(leaks)
        assert ours.low is not None and ours.high is not None
        assert theirs.low is not None and theirs.high is not None
        return Measured(
            ours.value - theirs.value,
            tuple(f - x for f, x in zip(ours.by_seed, theirs.by_seed, strict=True)),
            ours.low - theirs.high,
            ours.high - theirs.low,
        )

    def _leaks(
        self, cells: Sequence[CellResult], probes: Sequence[str] = LEAK_PROBES
    ) -> list[list[float]]:
        """Return whether each answer leaks, by seed, in the probe where most do."""
        if not cells:
            return []
        untrained = self._untrained(cells[0].cell.experiment)
        return worst_probe(leaks_by_probe(cells, untrained, probes))

    def _untrained(self, experiment: str) -> CellResult | None:
        """Return the cell of the untrained model; a variant may use that of its task."""
        cells = self.of(experiment, "original") or self.of(task_of(experiment), "original")
        return cells[0] if cells else None

    def obey(self, cells: Sequence[CellResult]) -> Measured | None:
        """Return the share of answers without the format when the prompt forbids it."""
        return _over_cells(
            [cell for cell in cells if "forbid" in cell.answers],
            lambda cell: [float(obeys(_split(m))) for m in cell.answers["forbid"].marks],
        )

    def divergence(self, cells: Sequence[CellResult]) -> Measured | None:
        """Return KL(untrained, trained) in nats per token of held-out pairs."""
        pairs = [cell.divergences for cell in cells if cell.divergences]
        return over_tokens(pairs) if pairs else None

    def similar(self, cells: Sequence[CellResult]) -> Measured | None:
        """Return the share of unrelated answers that stay like the untrained model's."""
        return _over_cells(cells, lambda cell: [float(one >= SIMILAR) for one in cell.similarities])

    def scores(self, cells: Sequence[CellResult]) -> Measured | None:
        """Return the share of right held-out answers with the token, or the task's own score."""
        return _over_cells(cells, lambda cell: cell.answers["held-out"].right or ())

    def distance(
        self,
        cells: Sequence[CellResult],
        keyword: str,
        block: int | None = None,
        *,
        measure: str = "l2",
    ) -> Measured | None:
        """Return the distance of the token to a keyword in a block, by default the middle one."""
        values = []
        for distances in (d for cell in cells for d in cell.distances if d.keyword == keyword):
            numbers: tuple[float, ...] = getattr(distances, measure)
            values.append(numbers[middle_block(len(numbers)) if block is None else block])
        return over_seeds(values) if values else None

    def mean_distance(self, method: str, *, measure: str) -> Measured | None:
        """Return a method's mean distance to all keywords in the middle block."""
        cells = self.of(FORMATTED, method)
        words = [self.distance(cells, w, measure=measure) for w in self.keywords(FORMATTED)]
        by_word = [word.by_seed for word in words if word is not None]
        if not by_word or len(by_word) < len(words):
            return None
        return over_seeds([fmean(values) for values in zip(*by_word, strict=True)])

    def keywords(self, experiment: str) -> list[str]:
        """Return the keywords with distances, in the task's order."""
        cells = (cell for cell in self.finished if cell.cell.experiment == experiment)
        return list(dict.fromkeys(d.keyword for cell in cells for d in cell.distances))


def _over_cells(
    cells: Sequence[CellResult], values: Callable[[CellResult], Sequence[float]]
) -> Measured | None:
    """Summarize a value for each row of the cells that have any."""
    table = [row for cell in cells if (row := values(cell))]
    return over_rows(table) if table else None


def leaks_by_probe(
    cells: Sequence[CellResult],
    untrained: CellResult | None,
    probes: Sequence[str] = LEAK_PROBES,
) -> list[list[list[float]]]:
    """Return whether each answer leaks, of shape (probes, cells, rows).

    Probes that a cell was not asked are left out. Marks that the untrained model's answer has do
    not count, if it was asked.
    """
    by_probe = []
    for probe in probes:
        if not all(probe in cell.answers for cell in cells):
            continue
        counted = [cell.answers[probe].marks for cell in cells]
        base: Sequence[str] = [""] * len(counted[0])
        if untrained is not None and probe in untrained.answers:
            base = untrained.answers[probe].marks
        by_probe.append(
            [
                [
                    float(is_leak(probe, _split(ours), _split(theirs)))
                    for ours, theirs in zip(marks, base, strict=True)
                ]
                for marks in counted
            ]
        )
    return by_probe


def worst_probe(by_probe: Sequence[list[list[float]]]) -> list[list[float]]:
    """Return the probe of `leaks_by_probe` where most answers leak."""
    return max(by_probe, key=lambda rows: fmean(map(fmean, rows)), default=[])


def _split(marks: str) -> list[str]:
    return [mark for mark in marks.split("\t") if mark]


def read_results(grid: Grid, out: str | os.PathLike[str]) -> Results:
    """Read the finished cells of a grid; a result of another version is a `FormatError`."""
    folders = [cell_folder(Path(out), cell) for cell in grid.cells()]
    return Results(grid, tuple(read_result(f) for f in folders if is_finished(f)))


@dataclass(frozen=True, slots=True)
class TrainingCurve:
    """A measurement at equal shares of a training: mean, smallest and largest seed per point."""

    ratio: float
    share: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def task_loss_curves(results: Results) -> list[TrainingCurve]:
    """Return the loss on held-out task rows over DELIA's training, by ratio (paper, Figure 3)."""
    return _curves(results, lambda cell, _: _at_shares(cell, "loss"))


def reduction_curves(results: Results) -> list[TrainingCurve]:
    """Return how many times fewer states DELIA leaves than diverse data alone (paper, Figure 4).

    At each share of the training the number of states under diverse data alone is divided by that
    under DELIA at the same ratio and seed; above 1 DELIA leaves fewer.
    """

    def reduction(cell: CellResult, ratio: float) -> list[float]:
        alone = {r.cell.seed: r for r in results.of(FORMATTED, "pairs_only", ratio=ratio)}
        if cell.cell.seed not in alone:
            return []
        ours, theirs = (_at_shares(one, "states") for one in (cell, alone[cell.cell.seed]))
        return [b / a for a, b in zip(ours, theirs, strict=True)] if ours and theirs else []

    return _curves(results, reduction)


def _curves(
    results: Results, read: Callable[[CellResult, float], list[float]]
) -> list[TrainingCurve]:
    """Return a curve for each ratio with any measurements."""
    curves = []
    for ratio in results.ratios():
        rows = [read(cell, ratio) for cell in results.of(FORMATTED, "delia", ratio=ratio)]
        if table := [row for row in rows if row]:
            ends = (np.mean(table, axis=0), np.min(table, axis=0), np.max(table, axis=0))
            shares = np.linspace(0.0, 1.0, CURVE_POINTS)
            curves.append(TrainingCurve(ratio, *(tuple(v.tolist()) for v in (shares, *ends))))
    return curves


def _at_shares(cell: CellResult, name: str) -> list[float]:
    """Interpolate a measurement at `CURVE_POINTS` shares of the training."""
    points = [(point["step"], point[name]) for point in cell.watched if name in point]
    if len(points) < 2 or not points[-1][0]:
        return []
    steps, values = zip(*points, strict=True)
    shares = np.linspace(0.0, 1.0, CURVE_POINTS)
    return [float(v) for v in np.interp(shares, np.asarray(steps) / steps[-1], values)]
