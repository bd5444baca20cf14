"""Rank correlation, plain and with a third number held fixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from delia_data.errors import InputError
from delia_data.evaluation.bootstrap import Estimate, Resampling, Sums, bootstrap
from delia_data.evaluation.buffering import Correlation

Numbers: TypeAlias = npt.NDArray[np.float64]


def rank_correlation(
    left: Sequence[float] | Numbers,
    right: Sequence[float] | Numbers,
    lengths: Sequence[float] | Numbers,
    how: Resampling,
) -> Correlation:
    """Spearman's rank correlation of two numbers a row, plain and given the rows' lengths.

    The interval is that of the ranks' linear correlation, with the ranks that all rows have.

    Args:
        left: Shape (rows,).
        right: Shape (rows,).
        lengths: Shape (rows,).
        how: How the intervals are made.

    Raises:
        InputError: There are fewer than 3 rows, or not as many of one as of the other.
    """
    columns = [np.asarray(one, dtype=np.float64) for one in (left, right, lengths)]
    if len({len(column) for column in columns}) > 1 or len(columns[0]) < 3:
        raise InputError(
            f"{[len(column) for column in columns]} numbers have no rank correlation: "
            "give as many of each, at least 3"
        )
    x, y, z = (_ranks(column) for column in columns)
    return Correlation(_linear(x, y, how), _linear(_without(x, z), _without(y, z), how))


def _ranks(values: Numbers) -> Numbers:
    """Ranks from 1; equal values share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: Numbers = (last - (counts - 1) / 2)[place]
    return shared


def _without(values: Numbers, other: Numbers) -> Numbers:
    """What of centred values is not a multiple of the other centred ones."""
    x, z = values - values.mean(), other - other.mean()
    varies = float(z @ z)
    left: Numbers = x - (x @ z) / varies * z if varies else x
    # What rounding leaves of a multiple is nothing.
    return left if np.abs(left).max() > 1e-9 * max(1.0, np.abs(x).max()) else np.zeros_like(x)


def _linear(x: Numbers, y: Numbers, how: Resampling) -> Estimate | None:
    """Linear correlation with its interval; None where one side does not vary."""

    def statistic(sums: Sums) -> Numbers:
        n = sums[:, 5]
        sx, sy, sxx, syy, sxy = (sums[:, i] for i in range(5))
        vx, vy = (n * sxx - sx**2).clip(min=0), (n * syy - sy**2).clip(min=0)
        varies = (vx > 1e-9 * n * sxx) & (vy > 1e-9 * n * syy)
        sizes = np.sqrt(np.where(varies, vx * vy, np.nan))
        value: Numbers = ((n * sxy - sx * sy) / sizes).clip(-1, 1)
        return value

    x, y = x - x.mean(), y - y.mean()
    table = np.stack([x, y, x * x, y * y, x * y, np.ones_like(x)], axis=1)
    return bootstrap(table, statistic, how)
