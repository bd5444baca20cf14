"""Bootstrap intervals: rows are resampled with replacement, each with all that belongs to it.

    columns (rows, k) ── weights (resamples, rows) ──▶ sums (resamples, k) ── statistic ──▶ values

The answers to a row with and without the token, or those of two systems, are columns of one row.
They are resampled together, so the interval of a difference is a paired one. Intervals are
percentile intervals (Efron 1979). If all rows agree, no resample differs, and the exact bound of a
share takes the place of the interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from delia_data.errors import InputError
from delia_data.outputs import Settings, setting

Numbers: TypeAlias = NDArray[np.float64]
_CHUNK: Final = 4_000_000  # weights in memory at once


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: The number for the rows as they are.
        low: Lower end of the interval.
        high: Upper end of the interval.
        rows: Number of rows.
    """

    value: float
    low: float
    high: float
    rows: int


class Cell(NamedTuple):
    """A number as tables show it: its text and that of its interval, such as `95%` and `91, 98`."""

    text: str
    interval: str = ""

    def __str__(self) -> str:
        return f"{self.text} [{self.interval}]" if self.interval else self.text


def cell(number: Any, text: Callable[[float], str]) -> Cell:
    """Write a number with its interval; a dash if it is unknown or has no interval.

    Args:
        number: An `Estimate`, another number with `value`, `low` and `high`, or None.
        text: Writes a value, or an end of the interval.
    """
    if number is None or number.low is None or number.high is None:
        return Cell("–")
    low, high = (text(end).removesuffix("%") for end in (number.low, number.high))
    return Cell(text(number.value), f"{low}, {high}")


def decimal(number: float, digits: int = 2, *, signed: bool = False) -> str:
    """Write a number in some decimal places; one that rounds to 0 has no sign."""
    rounded = round(number, digits) + 0.0
    return f"{rounded:{'+' if signed and rounded else ''}.{digits}f}"


@dataclass(frozen=True, slots=True)
class Resampling(Settings):
    """Settings of intervals; equal seeds give equal intervals.

    Raises:
        InputError: A value is out of bounds.
    """

    resamples: int = setting(2000, "Number of resamples.", ge=100)
    confidence: float = setting(
        0.95, "Share of the cases in which the interval contains the number.", gt=0, lt=1
    )
    seed: int = setting(0, "Seed of the resamples.", ge=0)

    def weights(self, rows: int) -> Iterator[Numbers]:
        """Yield how often each resample contains each row, of shape (some resamples, rows)."""
        generator = np.random.default_rng(self.seed)
        size = max(1, _CHUNK // rows)
        for start in range(0, self.resamples, size):
            count = min(size, self.resamples - start)
            weights = generator.multinomial(rows, np.full(rows, 1 / rows), size=count)
            yield weights.astype(np.float64)

    def estimate(self, value: float, resampled: Numbers, rows: int) -> Estimate | None:
        """Return a number with the interval of its resampled values.

        Returns:
            The estimate; None if the number or all resampled values are undefined (not finite).
            Single undefined values are left out.
        """
        defined = resampled[np.isfinite(resampled)]
        if not np.isfinite(value) or not len(defined):
            return None
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(defined, [tail, 1 - tail], method="inverted_cdf").tolist()
        return Estimate(float(value), low, high, rows)


def bootstrap(
    columns: Sequence[Sequence[float]] | NDArray[Any],
    statistic: Callable[[Numbers], Numbers],
    how: Resampling,
    *,
    bounds: tuple[float, float] | None = None,
) -> Estimate | None:
    """Estimate a statistic of rows.

    Args:
        columns: Summands of each row, of shape (rows, k).
        statistic: Turns sums of shape (n, k), each over all rows, into n values; NaN if undefined.
        how: Settings of the interval.
        bounds: Lowest and highest value of a statistic that is a mean of rows. If all rows agree,
            the interval is the exact one.

    Returns:
        The estimate; None if the statistic is undefined (see `Resampling.estimate`).

    Raises:
        InputError: There are no rows.
    """
    table = np.asarray(columns, dtype=np.float64)
    if table.ndim != 2 or not len(table):
        raise InputError(f"rows of shape {table.shape} have no statistic: give at least one row")
    rows = len(table)
    value = float(statistic(table.sum(axis=0, keepdims=True))[0])
    resampled = np.concatenate([statistic(weights @ table) for weights in how.weights(rows)])
    estimate = how.estimate(value, resampled, rows)
    if estimate is not None and bounds is not None and bool((table == table[0]).all()):
        # A share of rows that none of `rows` draws showed is below `unseen`, or so many draws
        # would have shown one (Clopper and Pearson 1934); each could have the farthest value.
        unseen = 1 - ((1 - how.confidence) / 2) ** (1 / rows)
        lowest, highest = (value + unseen * (bound - value) for bound in bounds)
        return Estimate(value, lowest, highest, rows)
    return estimate


def bootstrap_mean(
    values: Sequence[float] | NDArray[Any],
    how: Resampling,
    *,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """Estimate the mean of one value per row; for a difference, give the differences.

    Raises:
        InputError: There are no rows, or a value is not finite.
    """
    table = np.asarray(values, dtype=np.float64).reshape(-1, 1)
    estimate = bootstrap(table, lambda sums: sums[:, 0] / len(table), how, bounds=bounds)
    if estimate is None:
        raise InputError("the mean of values that are not finite is undefined")
    return estimate
