"""One number over the seeds of a cell: their mean, each of them, and an interval over the rows.

The interval is the 95% percentile bootstrap interval over held-out rows of the mean over seeds: how
far other rows would have moved the number. How far other seeds would have, the values of the seeds
show; with two or three of them no interval over seeds would mean anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from delia_data.errors import InputError
from delia_data.evaluation.bootstrap import Resampling, bootstrap_mean

_HOW = Resampling()


@dataclass(frozen=True, slots=True)
class Measured:
    """A number over seeds.

    Attributes:
        value: Mean over the seeds.
        by_seed: The number of each seed.
        low: Lower end of the 95% interval over rows; None where it is not of rows.
        high: Upper end of it.
    """

    value: float
    by_seed: tuple[float, ...]
    low: float | None = None
    high: float | None = None

    @property
    def spread(self) -> float:
        """Greatest minus least seed."""
        return max(self.by_seed) - min(self.by_seed)


def over_seeds(values: Sequence[float]) -> Measured:
    """Sum up one number a seed.

    Raises:
        InputError: There are none.
    """
    if not values:
        raise InputError("there are no seeds to sum up: give at least one value")
    return Measured(fmean(values), tuple(values))


def over_rows(
    values: Sequence[Sequence[float]], bounds: tuple[float, float] = (0.0, 1.0)
) -> Measured:
    """Sum up values of shape (seeds, rows), the rows being the same for every seed.

    Args:
        values: The values.
        bounds: Least and greatest value of a row.

    Raises:
        InputError: There are none, or not as many rows for one seed as for another.
    """
    if not values or len({len(row) for row in values}) != 1:
        raise InputError("seeds have different numbers of rows, or there are none: run them alike")
    table = np.asarray(values, dtype=np.float64)
    found = bootstrap_mean(table.mean(axis=0), _HOW, bounds=bounds)
    by_seed = tuple(float(mean) for mean in table.mean(axis=1))
    return Measured(float(table.mean()), by_seed, found.low, found.high)
