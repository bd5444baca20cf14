"""The buffering effect from the gradients of all groups, before training and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from delia_data.errors import InputError
from delia_data.evaluation.bootstrap import Resampling
from delia_data.evaluation.buffering import Buffering, PairGradient
from delia_data.evaluation.cancelling import cancelling
from delia_data.evaluation.correlation import rank_correlation
from delia_data.evaluation.cosines import cosines
from delia_data.evaluation.gradients import RowGradients, check_gradients
from delia_data.evaluation.measurements import When

WHENS: Final[tuple[When, ...]] = get_args(When)
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
