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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from delia_data.evaluation._plain import from_plain, to_plain
from delia_data.evaluation.bootstrap import Estimate


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
class Correlation:
    """Spearman's rank correlation with similarity to the task.

    Attributes:
        plain: As it is; None where one side does not vary.
        given_length: With the part that answer lengths explain taken from both sides: short
            answers have large gradients, whatever they are about.
    """

    plain: Estimate | None
    given_length: Estimate | None


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
