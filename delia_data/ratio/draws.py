"""What a series of losses could as well have been: draws over rows and over seeds.

nats (ratios, seeds, rows) ── rows drawn with replacement, the same ones for every ratio
                           ── noise of seeds added, from how far seeds differ
                           ── what moves all ratios alike taken off
                           ──▶ draws (draws, ratios)

Rows are resampled, as the other intervals of this package are. Two or three seeds cannot be:
drawing from two gives the same pair again half of the time, and half their variance. What remains
of a seed's losses once the mean of each ratio and of each seed is taken off is their noise; it is
pooled over all ratios, and noise of that size is drawn from the t distribution that so few values
call for. What moves all ratios alike, be it easier rows or a better seed, changes no choice
between them and is left out: intervals are there to compare ratios with each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from delia_data.errors import InputError

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """The losses of a series, and their draws.

    Attributes:
        values: Nats a token at each ratio, the mean over seeds; shape (ratios,).
        by_seed: Of each seed; shape (ratios, seeds).
        draws: What they could as well have been, each draw moved so that its mean over the ratios
            is that of `values`; shape (draws, ratios).
        covariance: Of the noise of `values`; shape (ratios, ratios), positive definite.
        seed_sd: Standard deviation of the loss of one seed at one ratio; None with one seed.
    """

    values: Floats
    by_seed: Floats
    draws: Floats
    covariance: Floats
    seed_sd: float | None

    def interval(self, confidence: float) -> tuple[Floats, Floats]:
        """Lower and upper ends at each ratio, by percentiles of the draws."""
        tail = (1 - confidence) / 2
        low, high = np.quantile(self.draws, [tail, 1 - tail], axis=0)
        return low, high


def draw_series(
    nats: Floats, tokens: Floats, *, draws: int = 2000, seed: int = 0, floor: float = 1e-3
) -> Series:
    """Draw a series again and again.

    Args:
        nats: What each row adds to the sum, in nats; shape (ratios, seeds, rows).
        tokens: Tokens of each row's answer; shape (rows,).
        draws: How often.
        seed: Seed of the draws; equal seeds give equal draws.
        floor: Nats a token that are no difference; keeps the covariance positive definite.

    Raises:
        InputError: There are no rows, or the shapes do not belong together.
    """
    table, count = np.asarray(nats, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    if table.ndim != 3 or not table.size or count.shape != table.shape[2:]:
        raise InputError(
            f"losses of shape {table.shape} over tokens of {count.shape} are no series: give "
            "nats by ratio, seed and row, and tokens by row"
        )
    ratios, seeds, rows = table.shape
    by_seed = table.sum(axis=2) / count.sum()
    mean = table.mean(axis=1)
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(rows, np.full(rows, 1 / rows), size=draws).astype(np.float64)
    drawn = weights @ mean.T / (weights @ count)[:, None]
    covariance = np.atleast_2d(np.cov(drawn, rowvar=False)) + floor**2 * np.eye(ratios)
    spread = None
    if seeds > 1:
        off = by_seed - by_seed.mean(1, keepdims=True) - by_seed.mean(0) + by_seed.mean()
        freedom = (ratios - 1) * (seeds - 1)
        variance = float((off**2).sum() / freedom)
        spread = variance**0.5
        covariance += variance / seeds * np.eye(ratios)
        likely = variance * freedom / generator.chisquare(freedom, size=draws)
        noise = generator.standard_normal((draws, ratios))
        drawn = drawn + noise * np.sqrt(likely / seeds)[:, None]
    values = by_seed.mean(axis=1)
    drawn += values.mean() - drawn.mean(axis=1, keepdims=True)
    return Series(values, by_seed, drawn, covariance, spread)
