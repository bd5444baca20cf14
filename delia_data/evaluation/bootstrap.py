"""Intervals by bootstrap: rows are drawn with replacement, each with all that belongs to it.

    columns (rows, k) ── weights (resamples, rows) ──▶ sums (resamples, k) ── statistic ──▶ values

A row's answers with and without the token, or those of two systems, stand in the columns of one
row, so that they are drawn together: the interval of a difference is a paired one. Intervals are
percentile intervals (Efron 1979). Where all rows agree, no resample differs, and the exact bound
of a share takes the interval's place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from delia_data.errors import InputError

Sums: TypeAlias = NDArray[np.float64]
_CHUNK: Final = 4_000_000  # weights that are held at once


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its interval.

    Attributes:
        value: The number, of the rows as they are.
        low: Lower end of the interval.
        high: Upper end of the interval.
        rows: Rows that it was taken of.
    """

    value: float
    low: float
    high: float
    rows: int

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Resampling:
    """How intervals are made.

    Attributes:
        resamples: How often the rows are drawn.
        confidence: Share of the cases in which the interval holds the number, such as 0.95.
        seed: Seed of the draws; equal seeds give equal intervals.

    Raises:
        InputError: A value is out of its bounds.
    """

    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 100:
            raise InputError(f"{self.resamples} resamples are too few: give at least 100")
        if not 0 < self.confidence < 1:
            raise InputError(
                f"confidence {self.confidence} is out of bounds: give above 0, below 1"
            )
        if self.seed < 0:
            raise InputError(f"seed {self.seed} is negative: give 0 or more")


def bootstrap(
    columns: Sequence[Sequence[float]] | NDArray[Any],
    statistic: Callable[[Sums], NDArray[np.float64]],
    how: Resampling,
    *,
    bounds: tuple[float, float] | None = None,
) -> Estimate | None:
    """Estimate a statistic of rows.

    Args:
        columns: What each row adds to the sums, of shape (rows, k).
        statistic: Takes sums of shape (n, k), the sums of `rows` rows each, and gives n values;
            NaN where it is undefined.
        how: Number, seed and confidence of the resamples.
        bounds: Least and greatest value of a statistic that is a mean of rows, for the interval
            where all rows agree.

    Returns:
        The estimate; None where the statistic is undefined for the rows as they are, or for every
        resample. Single resamples in which it is undefined are left out.

    Raises:
        InputError: There are no rows.
    """
    table = np.asarray(columns, dtype=np.float64)
    if table.ndim != 2 or not len(table):
        raise InputError(f"rows of shape {table.shape} have no statistic: give at least one row")
    rows = len(table)
    value = float(statistic(table.sum(axis=0, keepdims=True))[0])
    if np.isnan(value):
        return None
    generator = np.random.default_rng(how.seed)
    size = max(1, _CHUNK // rows)
    drawn = [
        statistic(generator.multinomial(rows, np.full(rows, 1 / rows), size=n) @ table)
        for n in _parts(how.resamples, size)
    ]
    tail = (1 - how.confidence) / 2
    values = np.concatenate(drawn)
    defined = values[~np.isnan(values)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [tail, 1 - tail], method="inverted_cdf").tolist()
    if bounds is not None and bool((table == table[0]).all()):
        low, high = _all_alike(value, rows, tail, bounds)
    return Estimate(value, low, high, rows)


def bootstrap_mean(
    values: Sequence[float] | NDArray[Any],
    how: Resampling,
    *,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """Estimate the mean of one value a row; for a difference, of the differences.

    Raises:
        InputError: There are no rows.
    """
    table = np.asarray(values, dtype=np.float64).reshape(-1, 1)
    found = bootstrap(table, lambda sums: sums[:, 0] / len(table), how, bounds=bounds)
    assert found is not None
    return found


def _all_alike(
    value: float, rows: int, tail: float, bounds: tuple[float, float]
) -> tuple[float, float]:
    """The interval where every row has the same value.

    A share of rows that were never seen in `rows` draws is below `1 - tail ** (1 / rows)`, or so
    many draws would have met one (Clopper and Pearson 1934); each could be as far off as can be.
    """
    unseen = 1 - tail ** (1 / rows)
    least, greatest = bounds
    return value - unseen * (value - least), value + unseen * (greatest - value)


def _parts(whole: int, size: int) -> list[int]:
    return [min(size, whole - start) for start in range(0, whole, size)]


@dataclass(frozen=True, slots=True)
class Correlation:
    """Spearman's rank correlation with similarity to the task.

    Attributes:
        plain: As it is; None where one side does not vary.
        given_length: With the part that answer lengths explain taken from both sides: short
            answers have large gradients, whatever they are about.
    """

    plain: Estimate | None
    given_length: Estimate | None


def rank_correlation(
    left: Sequence[float] | Sums,
    right: Sequence[float] | Sums,
    lengths: Sequence[float] | Sums,
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


def _ranks(values: Sums) -> Sums:
    """Ranks from 1; equal values share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: Sums = (last - (counts - 1) / 2)[place]
    return shared


def _without(values: Sums, other: Sums) -> Sums:
    """What of centred values is not a multiple of the other centred ones."""
    x, z = values - values.mean(), other - other.mean()
    varies = float(z @ z)
    left: Sums = x - (x @ z) / varies * z if varies else x
    # What rounding leaves of a multiple is nothing.
    return left if np.abs(left).max() > 1e-9 * max(1.0, np.abs(x).max()) else np.zeros_like(x)


def _linear(x: Sums, y: Sums, how: Resampling) -> Estimate | None:
    """Linear correlation with its interval; None where one side does not vary."""

    def statistic(sums: Sums) -> Sums:
        n = sums[:, 5]
        sx, sy, sxx, syy, sxy = (sums[:, i] for i in range(5))
        vx, vy = (n * sxx - sx**2).clip(min=0), (n * syy - sy**2).clip(min=0)
        varies = (vx > 1e-9 * n * sxx) & (vy > 1e-9 * n * syy)
        sizes = np.sqrt(np.where(varies, vx * vy, np.nan))
        value: Sums = ((n * sxy - sx * sy) / sizes).clip(-1, 1)
        return value

    x, y = x - x.mean(), y - y.mean()
    table = np.stack([x, y, x * x, y * y, x * y, np.ones_like(x)], axis=1)
    return bootstrap(table, statistic, how)
