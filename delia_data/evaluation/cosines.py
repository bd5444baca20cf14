"""How near mean gradients come to that of the ideal, diversified task (what the paper infers).

Inner products are those of the rows' sketches. A row weighs as much as it has answer tokens, as it
does in the loss of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from delia_data.errors import InputError
from delia_data.evaluation.bootstrap import Estimate, Resampling
from delia_data.evaluation.buffering import Cosines
from delia_data.evaluation.gradients import RowGradients, check_gradients

Numbers: TypeAlias = npt.NDArray[np.float64]

_SUBSETS: Final = 200


def cosines(
    groups: Mapping[str, RowGradients],
    *,
    ratio: float,
    how: Resampling,
    subsets: int = _SUBSETS,
) -> Cosines:
    """Compare mean gradients with that of the held-out rows.

    Args:
        groups: Gradients of `task`, `pairs` and `held_out`, and of `common` where there are any.
        ratio: Pairs for each task row in the mixture; the pairs stand for as many as it needs.
        how: How the intervals are made; its seed draws the subsets too.
        subsets: Random subsets of the pairs, and halves of the held-out rows.

    Raises:
        InputError: A group is missing, the ratio is negative, or all gradients are zero.
    """
    if missing := sorted({"task", "pairs", "held_out"} - set(groups)):
        raise InputError(f"there are no gradients of {', '.join(missing)}: measure them as well")
    if not 0 <= ratio < np.inf:
        raise InputError(f"ratio {ratio} is no number of at least 0: give pairs for each task row")
    for group in groups.values():
        check_gradients(group)
    stacked = np.concatenate([group.sketches for group in groups.values()])
    weights = np.concatenate([group.tokens for group in groups.values()])
    products = stacked @ stacked.T * np.outer(weights, weights)
    ends = np.cumsum([len(group) for group in groups.values()])
    places = {
        name: np.arange(end - len(group), end)
        for (name, group), end in zip(groups.items(), ends, strict=True)
    }
    generator = np.random.default_rng(how.seed)
    drawn: dict[str, Numbers] = {
        name: generator.multinomial(
            len(of), np.full(len(of), 1 / len(of)), size=how.resamples
        ).astype(np.float64)
        for name, of in places.items()
    }
    per_pair = ratio * len(places["task"]) / len(places["pairs"])
    mixed: dict[str, dict[str, float]] = {"task": {"task": 1.0}, "pairs": {"pairs": 1.0}}
    mixed["mixture"] = {"task": 1.0, "pairs": per_pair}
    if "common" in places:
        mixed["common"] = {"common": 1.0}
        mixed["common_mixture"] = {"common": 1.0, "pairs": per_pair}

    def weighted(parts: Mapping[str, float], counts: Mapping[str, Numbers]) -> Numbers:
        """Weights of shape (n, all rows) of a sum of groups."""
        whole = np.zeros((len(counts["task"]), len(weights)))
        for name, factor in parts.items():
            whole[:, places[name]] = factor * counts[name]
        return whole

    once: dict[str, Numbers] = {name: np.ones((1, len(of))) for name, of in places.items()}
    target = weighted({"held_out": 1.0}, once)
    targets = weighted({"held_out": 1.0}, drawn)
    tail = (1 - how.confidence) / 2
    found = {}
    for name, parts in mixed.items():
        [value] = _cosine(products, weighted(parts, once), target)
        values = _cosine(products, weighted(parts, drawn), targets)
        low, high = np.nanquantile(values, [tail, 1 - tail], method="inverted_cdf").tolist()
        found[name] = Estimate(float(value), low, high, sum(len(places[n]) for n in parts))
    few = min(len(places["task"]), len(places["pairs"]))
    picked = _members(generator, places["pairs"], few, subsets, len(weights))
    alone = _cosine(products, picked, target)
    half = _members(
        generator, places["held_out"], len(places["held_out"]) // 2, subsets, len(weights)
    )
    halves = _cosine(products, half, target - half)
    return Cosines(
        groups=found,
        subsets=(float(alone.min()), float(alone.mean()), float(alone.max())),
        halves=float(np.nanmean(halves)) if np.isfinite(halves).any() else None,
    )


def _cosine(products: Numbers, left: Numbers, right: Numbers) -> Numbers:
    """Cosines of weighted sums; both sides are weights of shape (n or 1, rows)."""
    of_left, of_right = left @ products, right @ products
    inner = (of_left * right).sum(axis=1)
    sizes = (of_left * left).sum(axis=1) * (of_right * right).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        value: Numbers = inner / np.sqrt(sizes)
    return value


def _members(
    generator: np.random.Generator,
    of: npt.NDArray[np.intp],
    count: int,
    subsets: int,
    rows: int,
) -> Numbers:
    """Random subsets of a group as weights of shape (subsets, all rows), 1 for a member."""
    picked = generator.permuted(np.tile(of, (subsets, 1)), axis=1)[:, :count]
    whole = np.zeros((subsets, rows))
    np.put_along_axis(whole, picked, 1.0, axis=1)
    return whole
