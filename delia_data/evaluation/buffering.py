"""The buffering effect: what gradients of pairs do by themselves, and beside a task.

The paper claims (section "Buffering Effect"), without measuring it:

    1  trained alone, the pairs' gradients largely cancel each other out
    2  trained together with the task, pairs like the task get smaller gradients and pairs unlike
       it larger ones
       so that the mixture's gradient comes near to that of the ideal, diversified task

`gradients` takes the gradients of rows; `cancelling`, `cosines` and `correlation` work these
numbers out of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from delia_data.errors import InputError
from delia_data.evaluation.bootstrap import Correlation, Estimate, Resampling, rank_correlation
from delia_data.evaluation.gradients import RowGradients, check_gradients
from delia_data.evaluation.serialization import from_plain, to_plain
from delia_data.records import Record
from delia_data.sampling.embeddings import Embed

When = Literal["before", "after"]
WHENS: Final[tuple[When, ...]] = get_args(When)


@dataclass(frozen=True, slots=True)
class SubsetRatio:
    """Norm of the mean over the mean of the norms, in random subsets of a group's rows.

    Attributes:
        rows: Rows of a subset.
        mean: Mean ratio over the subsets.
        low: The least.
        high: The greatest.
        independent: The ratio that gradients of the same norms in unrelated directions have.
    """

    rows: int
    mean: float
    low: float
    high: float
    independent: float


@dataclass(frozen=True, slots=True)
class Cancelling:
    """How far the gradients of a group cancel (claim 1).

    Rows weigh as much as they have answer tokens, as in the loss of a batch.

    Attributes:
        rows: Rows of the group.
        norm_of_mean: Norm of the mean gradient.
        mean_of_norms: Mean norm of the gradients.
        ratio: The first over the second: 1 where all point one way, 0 where they cancel.
        shared: Mean inner product of two different rows over the squared mean norm: what the
            squared ratio tends to with more rows, 0 for unrelated directions; None for one row.
        subsets: The ratio in random subsets, smaller ones first.
    """

    rows: int
    norm_of_mean: float
    mean_of_norms: float
    ratio: float
    shared: Estimate | None
    subsets: tuple[SubsetRatio, ...]


@dataclass(frozen=True, slots=True)
class Cosines:
    """Cosines between mean gradients and that of the held-out, diversified task rows.

    Attributes:
        groups: By name: `task` (training rows, diversified), `common` (the same rows in one
            wording), `pairs`, `mixture` (task and pairs at the ratio), `common_mixture`.
        subsets: Of random subsets of the pairs, as many rows as the task has: the least, the mean
            and the greatest cosine.
        halves: Mean cosine between random halves of the held-out rows: what so few rows allow;
            None where there is one.
    """

    groups: Mapping[str, Estimate]
    subsets: tuple[float, float, float]
    halves: float | None


@dataclass(frozen=True, slots=True)
class PairGradient:
    """One pair.

    Attributes:
        similarity: Mean cosine similarity of its text to those of the task rows.
        tokens: Tokens of its answer.
        before: Norm of its gradient before training.
        after: The same after it.
    """

    similarity: float
    tokens: int
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Buffering:
    """The buffering effect in one training.

    Attributes:
        ratio: Pairs for each task row in the mixture that is looked at.
        dimensions: Dimensions of the projection.
        projection_error: The largest relative error of a projected gradient's norm.
        seed: Seed of rows, projection, subsets and resamples.
        pairs: Every pair that was measured.
        norms: Rank correlation of the pairs' similarity with their gradients' norms `before` and
            `after`, and with the `change`, the logarithm of after over before (claim 2: negative).
        cancelling: By `before` and `after`, and by group: `pairs`, `task`, `common`, `held_out`.
        cosines: By `before` and `after`.
    """

    ratio: float
    dimensions: int
    projection_error: float
    seed: int
    pairs: tuple[PairGradient, ...]
    norms: Mapping[str, Correlation]
    cancelling: Mapping[str, Mapping[str, Cancelling]]
    cosines: Mapping[str, Cosines]

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "buffering") -> Buffering:
        """Make it of what `as_dict` gave.

        Raises:
            FormatError: A value is missing or has the wrong type.
        """
        return from_plain(cls, values, where)


def task_similarity(pairs: Sequence[Record], task: Sequence[Record], embed: Embed) -> Numbers:
    """Mean cosine similarity of each pair to the rows of a task.

    Args:
        pairs: Rows of a cache.
        task: Rows of the task.
        embed: Turns texts into vectors of length 1, such as `sampling.embeddings.Embedder`; it
            reads question and answer together.

    Returns:
        Shape (pairs,), from -1 to 1.

    Raises:
        InputError: There are no pairs, or no task rows.
    """
    if not pairs or not task:
        raise InputError(
            f"similarity of {len(pairs)} pairs to {len(task)} task rows: give at least 1 of both"
        )
    centre = np.asarray(embed([_text(row) for row in task]), dtype=np.float64).mean(axis=0)
    of_pairs = np.asarray(embed([_text(row) for row in pairs]), dtype=np.float64)
    similarity: Numbers = of_pairs @ centre
    return similarity


def _text(row: Record) -> str:
    return f"{row.query}\n{row.answer}"


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


Groups: TypeAlias = Mapping[str, RowGradients]


def buffering_of(
    gradients: Mapping[When, Groups],
    similarity: Sequence[float] | npt.NDArray[np.float64],
    *,
    ratio: float,
    how: Resampling,
) -> Buffering:
    """Work out the buffering effect.

    Args:
        gradients: By `before` and `after`, and by group: `pairs`, `task`, `held_out`, and
            `common` where there are any; the same rows in the same order both times.
        similarity: Similarity of each pair to the task, of shape (pairs,).
        ratio: Pairs for each task row in the mixture.
        how: How intervals are made; its seed draws the subsets too.

    Raises:
        InputError: The groups do not fit together, or gradients are zero or not finite.
    """
    before, after = gradients["before"], gradients["after"]
    sizes = [{name: len(group) for name, group in groups.items()} for groups in (before, after)]
    if sizes[0] != sizes[1] or len(similarity) != sizes[0].get("pairs", 0):
        raise InputError(
            f"gradients before are of {sizes[0]}, after of {sizes[1]}, and {len(similarity)} pairs "
            "have a similarity: measure the same rows"
        )
    every = [group for groups in (before, after) for group in groups.values()]
    for group in every:
        check_gradients(group)
    old, new = before["pairs"], after["pairs"]
    tiny = np.finfo(np.float64).tiny
    change = np.log(np.maximum(new.norms, tiny) / np.maximum(old.norms, tiny))
    sides = {"before": old.norms, "after": new.norms, "change": change}
    return Buffering(
        ratio=float(ratio),
        dimensions=int(old.sketches.shape[1]),
        projection_error=max(_error(group) for group in every),
        seed=how.seed,
        pairs=tuple(
            PairGradient(float(s), int(t), float(b), float(a))
            for s, t, b, a in zip(similarity, old.tokens, old.norms, new.norms, strict=True)
        ),
        norms={
            name: rank_correlation(similarity, values, old.tokens, how)
            for name, values in sides.items()
        },
        cancelling={
            when: {name: cancelling(group, how) for name, group in groups.items()}
            for when, groups in gradients.items()
        },
        cosines={when: cosines(groups, ratio=ratio, how=how) for when, groups in gradients.items()},
    )


def _error(group: RowGradients) -> float:
    """The largest relative error of a sketch's norm; rows without a gradient have none."""
    sketched = np.linalg.norm(group.sketches, axis=1)
    there = group.norms > 0
    return float(np.abs(sketched[there] / group.norms[there] - 1).max())
