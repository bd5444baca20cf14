"""Gradients of single rows, and the buffering effect that they show.

The paper claims (section "Buffering Effect"), without measuring it:

    1  trained alone, the gradients of pairs largely cancel
    2  trained together with the task, pairs similar to the task get smaller gradients and
       dissimilar pairs larger ones, so that the mixture's gradient approaches that of the ideal,
       diversified task

`row_gradients` computes the gradient of each row, projected so that those of many rows fit into
memory. `measure_buffering` computes the numbers of both claims from them.

The projection is a count sketch (Charikar, Chen and Farach-Colton 2002; feature hashing,
Weinberger et al. 2009): each coordinate is added to one of `dimensions` places with a random sign.

    gradient    0.3  -1.2   0.7   0.1   2.0  ...        millions of numbers
    place         5     2     5     0     2             random, from the seed, block by block
    sign          +     -     +     -     +
    sketch      -0.1   0   3.2   0   0   1.0  ...       `dimensions` numbers

It is linear, so the sketch of a mean is the mean of the sketches. The estimate of <x, y> is
unbiased with a variance of at most (|x|^2 |y|^2 + <x, y>^2) / dimensions: with 4,096 dimensions a
norm has a standard error of 1.1% and a cosine of at most 0.022.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import numpy as np

from delia_data._optional import require
from delia_data.errors import InputError
from delia_data.evaluation.bootstrap import Estimate, Numbers, Resampling, bootstrap
from delia_data.ranking import row_seed
from delia_data.records import Record
from delia_data.tokens import encode

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

When = Literal["before", "after"]
WHENS: Final[tuple[When, ...]] = get_args(When)

GROUP_TITLES: Final = {
    "task": "task, diversified",
    "common": "task, one wording",
    "pairs": "pairs alone",
    "mixture": "task and pairs",
    "common_mixture": "one wording and pairs",
    "held_out": "held-out task",
}
"""Names of groups of rows in tables and figures."""

DIMENSIONS: Final = 4096
"""Dimensions of projected gradients."""
_BLOCK: Final = 1 << 20  # coordinates in memory at once
_SUBSETS: Final = 200  # random subsets of each size
_SMALLEST: Final = 4  # rows of the smallest subset; each further size is four times larger


def project(
    parts: Sequence[torch.Tensor], dimensions: int = DIMENSIONS, *, seed: int = 0
) -> torch.Tensor:
    """Project a vector given in parts, such as one gradient per parameter.

    Args:
        parts: The parts, of any shape; the map depends on their order and shapes.
        dimensions: Numbers in a sketch.
        seed: Seed of places and signs; equal seeds give equal maps on every device.

    Returns:
        float32, of shape (dimensions,), on the device of the first part.
    """
    import torch

    device = parts[0].device
    sketch = torch.zeros(dimensions, device=device)
    generator = torch.Generator()
    for number, part in enumerate(parts):
        flat = part.detach().reshape(-1)
        for start in range(0, flat.numel(), _BLOCK):
            block = flat[start : start + _BLOCK].to(device, torch.float32)
            generator.manual_seed(row_seed(seed, f"{number}:{start}", "projection"))
            drawn = torch.randint(2 * dimensions, (len(block),), generator=generator)
            places, signs = drawn // 2, drawn % 2 * 2 - 1
            sketch.index_add_(0, places.to(device), block * signs.to(device))
    return sketch


@dataclass(frozen=True, slots=True)
class RowGradients:
    """Gradients of a group of rows.

    Attributes:
        sketches: Projected gradients, of shape (rows, dimensions).
        norms: Norms of the gradients themselves, of shape (rows,).
        losses: Mean loss of each row's answer tokens, of shape (rows,).
        tokens: Answer tokens of each row, of shape (rows,): its weight in a batch's loss.
    """

    sketches: Numbers
    norms: Numbers
    losses: Numbers
    tokens: Numbers

    def __len__(self) -> int:
        return len(self.norms)

    @property
    def weighted(self) -> Numbers:
        """Gradients as they add up in a batch, of shape (rows, dimensions)."""
        return np.asarray(self.tokens[:, None] * self.sketches)

    def check(self) -> None:
        """Check that the gradients contain information.

        Raises:
            InputError: One is not finite, or all are zero.
        """
        if not np.isfinite(self.sketches).all() or not np.isfinite(self.norms).all():
            raise InputError(
                "a gradient is not finite: the training failed, or the dtype is too small"
            )
        if not self.norms.any():
            raise InputError("all gradients are zero: the loss does not depend on LoRA's weights")


def row_gradients(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Record],
    *,
    dimensions: int = DIMENSIONS,
    seed: int = 0,
    max_length: int | None = None,
    on_row: Callable[[int], None] = lambda done: None,
) -> RowGradients:
    """Compute the gradient of the loss of each row by itself, with respect to LoRA's B.

    Args:
        model: A causal language model with LoRA, as PEFT wraps it; left unchanged.
        tokenizer: Its tokenizer, with the token.
        rows: Conversations; the loss is that of the last turn.
        dimensions: Dimensions of the projected gradients.
        seed: Seed of the projection.
        max_length: Maximum number of tokens of a row; None for all.
        on_row: Called after each row with the number of rows done.

    Raises:
        InputError: A row's answer is cut away, the model has no LoRA, a gradient is not finite, or
            all are zero.
    """
    torch_ = require("torch", extra="local")
    matrices = [p for name, p in model.named_parameters() if ".lora_B." in name]
    if not matrices:
        raise InputError(
            "the model has no LoRA, and gradients are those of LoRA's parameters: give an adapter "
            "that is not merged, trained with adaptation lora or qlora"
        )
    computed = []
    with _only_gradients_of(model, matrices):
        for done, row in enumerate(rows, start=1):
            loss, tokens = _answer_loss(model, tokenizer, row, max_length)
            parts = [
                torch_.zeros_like(matrix) if gradient is None else gradient
                for gradient, matrix in zip(
                    torch_.autograd.grad(loss, matrices, allow_unused=True), matrices, strict=True
                )
            ]
            norm = sum(float(part.double().square().sum()) for part in parts) ** 0.5
            sketch = project(parts, dimensions, seed=seed).cpu().numpy()
            computed.append((sketch, norm, float(loss.detach()), tokens))
            on_row(done)
    gradients = RowGradients(
        *(np.asarray(column, dtype=np.float64) for column in zip(*computed, strict=True))
    )
    gradients.check()
    return gradients


@contextmanager
def initial_weights(model: Any) -> Iterator[None]:
    """Reset an adapter to the start of its training, then restore it.

    B is zero and the token's row has its initial value. LoRA's A stays as trained.
    """
    import torch

    parts = (".lora_B.", ".lora_embedding_B.", ".trainable_tokens_delta.")
    trained = {n: p for n, p in model.named_parameters() if any(part in n for part in parts)}
    values = {name: parameter.detach().clone() for name, parameter in trained.items()}
    initial_rows = {
        name.replace("_original", "_delta"): buffer
        for name, buffer in model.named_buffers()
        if ".trainable_tokens_original." in name
    }
    try:
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(initial_rows.get(name, torch.zeros_like(parameter)))
        yield
    finally:
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(values[name])


@contextmanager
def _only_gradients_of(model: Any, matrices: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """Turn dropout off and all other gradients, then restore the model's settings."""
    import torch

    was_training = model.training
    required = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    model.requires_grad_(False)
    for matrix in matrices:
        matrix.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, value in required:
            parameter.requires_grad_(value)
        model.train(was_training)


def _answer_loss(
    model: Any, tokenizer: PreTrainedTokenizerBase, row: Record, max_length: int | None
) -> tuple[torch.Tensor, int]:
    """Return the mean loss of the row's answer tokens, and their number."""
    import torch

    encoded = encode(tokenizer, row)
    ids, begin = encoded.ids[:max_length], len(encoded.prompt_ids)
    if len(ids) <= begin:
        raise InputError(
            f"a row of {len(encoded.ids)} tokens has no answer within {max_length}: leave it out, "
            "or give a larger max_length"
        )
    device = model.get_input_embeddings().weight.device
    output = model(
        input_ids=torch.tensor([ids], device=device),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=device),
        logits_to_keep=torch.arange(begin - 1, len(ids) - 1, device=device),
        use_cache=False,
    )
    answer = torch.tensor(ids[begin:], device=device)
    return torch.nn.functional.cross_entropy(output.logits[0].float(), answer), len(answer)


@dataclass(frozen=True, slots=True)
class SubsetRatio:
    """Norm of the mean over mean of the norms, in random subsets of a group's rows.

    Attributes:
        rows: Rows of a subset.
        mean: Mean ratio over the subsets.
        low: Lowest ratio.
        high: Highest ratio.
        independent: Ratio of gradients with the same norms in unrelated directions.
    """

    rows: int
    mean: float
    low: float
    high: float
    independent: float


@dataclass(frozen=True, slots=True)
class Cancellation:
    """How far the gradients of a group cancel (claim 1).

    Rows are weighted by their number of answer tokens, as in the loss of a batch.

    Attributes:
        rows: Rows of the group.
        ratio: Norm of the mean gradient over mean of the norms: 1 if all have one direction, 0 if
            they cancel.
        shared: Mean inner product of two different rows over the squared mean norm: the limit of
            the squared ratio for many rows, 0 for unrelated directions; None for one row.
        subsets: The ratio in random subsets of increasing size.
    """

    rows: int
    ratio: float
    shared: Estimate | None
    subsets: tuple[SubsetRatio, ...]


@dataclass(frozen=True, slots=True)
class Cosines:
    """Cosines of mean gradients with that of the held-out, diversified task rows.

    Attributes:
        groups: By name: `task` (training rows, diversified), `common` (the same rows in one
            wording), `pairs`, `mixture` (task and pairs at the ratio), `common_mixture`.
        subsets: Lowest, mean and highest cosine of random subsets of the pairs, with as many rows
            as the task.
        halves: Mean cosine between random halves of the held-out rows: the limit that so few rows
            allow; None for a single row.
    """

    groups: Mapping[str, Estimate]
    subsets: tuple[float, float, float]
    halves: float | None


@dataclass(frozen=True, slots=True)
class PairGradient:
    """Gradient of one pair.

    Attributes:
        similarity: Mean cosine similarity of its text to those of the task rows.
        tokens: Tokens of its answer.
        before: Norm of its gradient before training.
        after: Norm of its gradient after training.
    """

    similarity: float
    tokens: int
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Correlation:
    """Spearman's rank correlation.

    Attributes:
        plain: The correlation; None if one side is constant.
        given_length: The partial correlation given the answers' lengths: short answers have large
            gradients regardless of their content.
    """

    plain: Estimate | None
    given_length: Estimate | None


@dataclass(frozen=True, slots=True)
class Buffering:
    """The buffering effect in one training.

    Attributes:
        ratio: Pairs per task row in the examined mixture.
        seed: Seed of rows, projection, subsets and resamples.
        pairs: Every measured pair.
        norms: Rank correlation of the pairs' similarity with the norms of their gradients `before`
            and `after`, and with the `change`, log(after / before) (claim 2: negative).
        cancelling: By `before` and `after`, and by group: `pairs`, `task`, `common`, `held_out`.
        cosines: By `before` and `after`.
    """

    ratio: float
    seed: int
    pairs: tuple[PairGradient, ...]
    norms: Mapping[str, Correlation]
    cancelling: Mapping[str, Mapping[str, Cancellation]]
    cosines: Mapping[str, Cosines]


Groups: TypeAlias = Mapping[str, RowGradients]


def measure_buffering(
    gradients: Mapping[When, Groups],
    similarity: Sequence[float] | Numbers,
    *,
    ratio: float,
    how: Resampling,
) -> Buffering:
    """Compute the buffering effect.

    Args:
        gradients: By `before` and `after`, and by group: `pairs`, `task`, `held_out`, and
            optionally `common`; the same rows in the same order both times.
        similarity: Similarity of each pair to the task, of shape (pairs,).
        ratio: Pairs per task row in the mixture.
        how: Settings of the intervals; its seed also draws the subsets.

    Raises:
        InputError: A mean gradient is zero.
    """
    before, after = gradients["before"], gradients["after"]
    old, new = before["pairs"], after["pairs"]
    tiny = np.finfo(np.float64).tiny
    change = np.log(np.maximum(new.norms, tiny) / np.maximum(old.norms, tiny))
    sides = {"before": old.norms, "after": new.norms, "change": change}
    return Buffering(
        ratio=float(ratio),
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
            when: {name: cancellation(group, how) for name, group in groups.items()}
            for when, groups in gradients.items()
        },
        cosines={when: cosines(groups, ratio=ratio, how=how) for when, groups in gradients.items()},
    )


def cancellation(gradients: RowGradients, how: Resampling) -> Cancellation:
    """Measure how far the gradients of a group of rows cancel.

    Args:
        gradients: Gradients of the group.
        how: Settings of the interval; its seed also draws the subsets.
    """
    rows = len(gradients)
    generator = np.random.default_rng(how.seed)
    subsets, size = [], _SMALLEST
    while size < rows:
        subsets.append(_subset_ratio(gradients, _subsets(generator, rows, size)))
        size *= 4
    subsets.append(_subset_ratio(gradients, np.ones((1, rows))))
    return Cancellation(
        rows=rows,
        ratio=subsets[-1].mean,
        shared=_shared(gradients, how) if rows > 1 else None,
        subsets=tuple(subsets),
    )


def _subsets(generator: np.random.Generator, rows: int, size: int) -> Numbers:
    """Return random subsets of rows, of shape (`_SUBSETS`, rows), 1 for a member."""
    members = generator.permuted(np.tile(np.arange(rows), (_SUBSETS, 1)), axis=1)[:, :size]
    weights = np.zeros((_SUBSETS, rows))
    np.put_along_axis(weights, members, 1.0, axis=1)
    return weights


def _subset_ratio(gradients: RowGradients, members: Numbers) -> SubsetRatio:
    shares = members * gradients.tokens
    shares /= shares.sum(axis=1, keepdims=True)
    mean_of_norms = shares @ gradients.norms
    mean_of_norms[mean_of_norms == 0] = np.nan
    ratios = np.linalg.norm(shares @ gradients.sketches, axis=1) / mean_of_norms
    # The squared norm of a mean of unrelated gradients is the sum of the squares of its summands.
    unrelated = np.sqrt(shares**2 @ gradients.norms**2)
    return SubsetRatio(
        rows=int(members[0].sum()),
        mean=float(np.nanmean(ratios)),
        low=float(np.nanmin(ratios)),
        high=float(np.nanmax(ratios)),
        independent=float(np.nanmean(unrelated / mean_of_norms)),
    )


def _shared(gradients: RowGradients, how: Resampling) -> Estimate | None:
    """Return the mean inner product of two different rows over the squared mean norm.

    A row that a resample contains twice is not compared with itself.
    """
    products = gradients.weighted @ gradients.weighted.T
    np.fill_diagonal(products, 0)

    def statistic(counts: Numbers) -> Numbers:
        weights = counts * gradients.tokens
        pairs = weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1)
        norm = weights @ gradients.norms / weights.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            value: Numbers = ((counts @ products) * counts).sum(axis=1) / pairs / norm**2
        return value

    rows = len(gradients)
    resampled = np.concatenate([statistic(weights) for weights in how.weights(rows)])
    return how.estimate(float(statistic(np.ones((1, rows)))[0]), resampled, rows)


def cosines(groups: Groups, *, ratio: float, how: Resampling) -> Cosines:
    """Compare mean gradients with that of the held-out rows.

    Args:
        groups: Gradients of `task`, `pairs` and `held_out`, and optionally of `common`.
        ratio: Pairs per task row in the mixture; the pairs stand for as many as it needs.
        how: Settings of the intervals; its seed also draws the subsets.

    Raises:
        InputError: A mean gradient is zero.
    """
    generator = np.random.default_rng(how.seed)
    sums = {name: group.weighted.sum(axis=0)[None] for name, group in groups.items()}
    resampled = {
        name: generator.multinomial(len(g), np.full(len(g), 1 / len(g)), size=how.resamples)
        @ g.weighted
        for name, g in groups.items()
    }
    rows = {name: len(group) for name, group in groups.items()}
    per_pair = ratio * rows["task"] / rows["pairs"]
    mixtures = {
        "task": {"task": 1.0},
        "pairs": {"pairs": 1.0},
        "mixture": {"task": 1.0, "pairs": per_pair},
        "common": {"common": 1.0},
        "common_mixture": {"common": 1.0, "pairs": per_pair},
    }
    estimates = {}
    for name, parts in mixtures.items():
        if not parts.keys() <= groups.keys():
            continue
        value, values = (
            _cosine(sum(factor * of[part] for part, factor in parts.items()), of["held_out"])
            for of in (sums, resampled)
        )
        estimate = how.estimate(float(value[0]), values, sum(rows[part] for part in parts))
        if estimate is None:
            raise InputError(f"the mean gradient of {name} is zero: measure more rows")
        estimates[name] = estimate
    members = _subsets(generator, rows["pairs"], min(rows["task"], rows["pairs"]))
    alone = _cosine(members @ groups["pairs"].weighted, sums["held_out"])
    halves = _subsets(generator, rows["held_out"], rows["held_out"] // 2)
    half = halves @ groups["held_out"].weighted
    between = _cosine(half, sums["held_out"] - half)
    return Cosines(
        groups=estimates,
        subsets=(float(alone.min()), float(alone.mean()), float(alone.max())),
        halves=float(np.nanmean(between)) if np.isfinite(between).any() else None,
    )


def _cosine(left: Any, right: Any) -> Numbers:
    """Return cosines of vectors of shape (n or 1, dimensions); NaN for a zero vector."""
    sizes = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        value: Numbers = (left * right).sum(axis=1) / sizes
    return value


def rank_correlation(
    left: Sequence[float] | Numbers,
    right: Sequence[float] | Numbers,
    lengths: Sequence[float] | Numbers,
    how: Resampling,
) -> Correlation:
    """Return Spearman's rank correlation of two numbers per row, plain and given the lengths.

    The interval is that of the linear correlation of the ranks among all rows.

    Args:
        left: Shape (rows,).
        right: Shape (rows,).
        lengths: Shape (rows,).
        how: Settings of the intervals.
    """
    ranks = []  # from 1; equal values share their mean rank
    for column in (left, right, lengths):
        _, place, counts = np.unique(column, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[place])
    x, y, z = ranks
    return Correlation(_linear(x, y, how), _linear(_residual(x, z), _residual(y, z), how))


def _residual(values: Numbers, other: Numbers) -> Numbers:
    """Return the part of the centered values that is not a multiple of the other centered ones."""
    x, z = values - values.mean(), other - other.mean()
    variance = float(z @ z)
    left: Numbers = x - (x @ z) / variance * z if variance else x
    # A remainder of rounding is zero.
    return left if np.abs(left).max() > 1e-9 * max(1.0, np.abs(x).max()) else np.zeros_like(x)


def _linear(x: Numbers, y: Numbers, how: Resampling) -> Estimate | None:
    """Return the linear correlation with its interval; None if one side is constant."""

    def statistic(sums: Numbers) -> Numbers:
        sx, sy, sxx, syy, sxy, n = sums.T
        vx, vy = (n * sxx - sx**2).clip(min=0), (n * syy - sy**2).clip(min=0)
        varies = (vx > 1e-9 * n * sxx) & (vy > 1e-9 * n * syy)
        sizes = np.sqrt(np.where(varies, vx * vy, np.nan))
        value: Numbers = ((n * sxy - sx * sy) / sizes).clip(-1, 1)
        return value

    x, y = x - x.mean(), y - y.mean()
    table = np.stack([x, y, x * x, y * y, x * y, np.ones_like(x)], axis=1)
    return bootstrap(table, statistic, how)
