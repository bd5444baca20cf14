"""Wordings that training never sees, set aside for evaluation by keyed hash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from delia_data.diversify.plain import plain_form
from delia_data.errors import InputError
from delia_data.ranking import rank
from delia_data.tasks import Wording

HELD_OUT_SHARE: Final = 0.2


def set_aside(
    wordings: Sequence[Wording], token: str, *, share: float = HELD_OUT_SHARE, seed: int = 0
) -> tuple[Wording, ...]:
    """Set a share of wordings aside for held-out rows, at least one.

    Only those are taken that have a form without the token, given or told by rule, as held-out
    rows are asked with the token and without.

    Args:
        wordings: The wordings, in their order.
        token: The special token.
        share: The share, above 0 and below 1.
        seed: Seed of the choice.

    Returns:
        All wordings in their order; those set aside have the split `"test"` and a plain form.

    Raises:
        InputError: The share is out of its bounds, or no wording has a plain form.
    """
    if not 0 < share < 1:
        raise InputError(f"held-out share {share} is out of bounds: give above 0, below 1")
    if len(wordings) < 2:
        return tuple(wordings)
    plains = {w.id: w.plain or plain_form(w.text, token) for w in wordings}
    able = sorted(
        (w.id for w in wordings if plains[w.id]), key=lambda one: rank(seed, one, "held out")
    )
    if not able:
        raise InputError(
            f"none of {len(wordings)} wordings has a form without {token}, which held-out rows "
            'are asked with: give one as "plain"'
        )
    taken = set(able[: min(max(1, round(share * len(wordings))), len(wordings) - 1)])
    return tuple(
        replace(w, split="test", plain=plains[w.id]) if w.id in taken else w for w in wordings
    )
