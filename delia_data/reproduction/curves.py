"""What was watched over a training, as curves over its share: runs of different lengths compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from delia_data.reproduction.result import CellResult
from delia_data.reproduction.results import Results

_FORMATTED: Final = "formatted-text"
POINTS: Final = 21
"""Points that a curve is read at, from the beginning to the end of the training."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve over a training.

    Attributes:
        ratio: Pairs for each task row.
        share: Share of the training that is done, of shape (points,).
        mean: Mean over the seeds, of shape (points,).
        low: Least seed, of shape (points,).
        high: Greatest seed, of shape (points,).
    """

    ratio: float
    share: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def task_loss_curves(results: Results) -> list[Curve]:
    """The loss on held-out task rows over DELIA's training, by ratio (paper, Figure 3)."""
    return _by_ratio(results, lambda found, _: [_read(result, "loss") for result in found])


def reduction_curves(results: Results) -> list[Curve]:
    """How many times fewer states DELIA leaves than diverse data alone (paper, Figure 4).

    At each share of the training the states under diverse data alone are divided by those under
    DELIA at the same ratio, seed by seed; above 1 DELIA leaves fewer.
    """

    def ratios(found: list[CellResult], ratio: float) -> list[list[float]]:
        alone = {r.cell.seed: r for r in results.of(_FORMATTED, "pairs_only", ratio=ratio)}
        made = []
        for result in found:
            other = alone.get(result.cell.seed)
            if other is not None:
                ours, theirs = _read(result, "states"), _read(other, "states")
                if ours and theirs:
                    made.append([b / a for a, b in zip(ours, theirs, strict=True)])
        return made

    return _by_ratio(results, ratios)


def _by_ratio(
    results: Results, make: Callable[[list[CellResult], float], list[list[float]]]
) -> list[Curve]:
    """A curve for each ratio of the grid, where there is anything to read."""
    if _FORMATTED not in results.grid.experiments:
        return []
    curves = []
    for ratio in results.ratios(_FORMATTED):
        read = [row for row in make(results.of(_FORMATTED, "delia", ratio=ratio), ratio) if row]
        if read:
            curves.append(_curve(ratio, read))
    return curves


def _read(result: CellResult, name: str) -> list[float]:
    """What was watched under a name, read at `POINTS` shares of the training."""
    known = [(point["step"], point[name]) for point in result.watched if name in point]
    if len(known) < 2 or not known[-1][0]:
        return []
    steps, values = zip(*known, strict=True)
    shares = np.linspace(0.0, 1.0, POINTS)
    return [float(v) for v in np.interp(shares, np.asarray(steps) / steps[-1], values)]


def _curve(ratio: float, rows: Sequence[Sequence[float]]) -> Curve:
    table = np.asarray(rows)
    return Curve(
        ratio,
        tuple(np.linspace(0.0, 1.0, table.shape[1]).tolist()),
        *(tuple(of.tolist()) for of in (table.mean(0), table.min(0), table.max(0))),
    )
