"""How far the gradients of a group of rows cancel each other (the paper's first claim).

Inner products are those of the rows' sketches, norms of single rows their own. A row weighs as much
as it has answer tokens, as it does in the loss of a batch.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from delia_data.evaluation.bootstrap import Estimate, Resampling
from delia_data.evaluation.buffering import Cancelling, SubsetRatio
from delia_data.evaluation.gradients import RowGradients, check_gradients

Numbers: TypeAlias = npt.NDArray[np.float64]

_SUBSETS: Final = 200
_SMALLEST: Final = 4  # rows of the smallest subset; each next one has four times as many


def cancelling(gradients: RowGradients, how: Resampling, *, subsets: int = _SUBSETS) -> Cancelling:
    """Tell how far the gradients of a group of rows cancel.

    Args:
        gradients: Gradients of the group.
        how: How the interval is made; its seed draws the subsets too.
        subsets: Random subsets of each size.

    Raises:
        InputError: All gradients are zero, or a number is not finite.
    """
    weights, norms = gradients.tokens, gradients.norms
    check_gradients(gradients)
    products = gradients.sketches @ gradients.sketches.T
    rows = len(norms)
    everything = np.arange(rows)[None]
    [norm_of_mean], [mean_of_norms], _ = _sizes(products, weights, norms, everything)
    generator = np.random.default_rng(how.seed)
    found = []
    size = _SMALLEST
    while size < rows:
        drawn = generator.permuted(np.tile(np.arange(rows), (subsets, 1)), axis=1)[:, :size]
        found.append(_subset_ratio(products, weights, norms, drawn))
        size *= 4
    found.append(_subset_ratio(products, weights, norms, everything))
    return Cancelling(
        rows=rows,
        norm_of_mean=float(norm_of_mean),
        mean_of_norms=float(mean_of_norms),
        ratio=float(norm_of_mean / mean_of_norms),
        shared=_shared(products, weights, norms, how),
        subsets=tuple(found),
    )


def _subset_ratio(
    products: Numbers, weights: Numbers, norms: Numbers, drawn: npt.NDArray[np.intp]
) -> SubsetRatio:
    parts = [_sizes(products, weights, norms, one[None]) for one in drawn]
    of_mean, mean, unrelated = (np.concatenate(column) for column in zip(*parts, strict=True))
    mean = np.where(mean > 0, mean, np.nan)
    ratios = of_mean / mean
    return SubsetRatio(
        rows=drawn.shape[1],
        mean=float(np.nanmean(ratios)),
        low=float(np.nanmin(ratios)),
        high=float(np.nanmax(ratios)),
        independent=float(np.nanmean(unrelated / mean)),
    )


def _sizes(
    products: Numbers, weights: Numbers, norms: Numbers, subsets: npt.NDArray[np.intp]
) -> tuple[Numbers, Numbers, Numbers]:
    """Of subsets of shape (n, rows): norm of the mean, mean of the norms, and unrelated ones'.

    The norm of a mean of unrelated gradients is the root of the sum of their squared shares.
    """
    w = weights[subsets] / weights[subsets].sum(axis=1, keepdims=True)
    inner = products[subsets[:, :, None], subsets[:, None, :]]
    squared = np.einsum("ni,nij,nj->n", w, inner, w)
    mean = (w * norms[subsets]).sum(axis=1)
    unrelated = np.sqrt(((w * norms[subsets]) ** 2).sum(axis=1))
    return np.sqrt(squared.clip(min=0)), mean, unrelated


def _shared(
    products: Numbers, weights: Numbers, norms: Numbers, how: Resampling
) -> Estimate | None:
    """Mean inner product of two different rows over the squared mean norm.

    A row that a resample holds twice is not compared with itself.
    """
    rows = len(weights)
    if rows < 2:
        return None
    apart = products * np.outer(weights, weights)
    np.fill_diagonal(apart, 0)
    generator = np.random.default_rng(how.seed)
    drawn = generator.multinomial(rows, np.full(rows, 1 / rows), size=how.resamples)

    def statistic(counts: Numbers) -> Numbers:
        total = np.einsum("ni,ni->n", counts @ apart, counts)
        taken = counts * weights
        pairs = taken.sum(axis=1) ** 2 - (taken**2).sum(axis=1)
        norm = (taken @ norms) / taken.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            value: Numbers = total / pairs / norm**2
        return value

    [value] = statistic(np.ones((1, rows)))
    values = statistic(drawn.astype(np.float64))
    tail = (1 - how.confidence) / 2
    defined = values[np.isfinite(values)]
    low, high = np.quantile(defined, [tail, 1 - tail], method="inverted_cdf").tolist()
    return Estimate(float(value), low, high, rows)
