"""Phrasings of requests that forbid the token's format, or only mention the token."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final, Literal, TypeAlias, get_args

import yaml

from delia_data.errors import InputError

ContrastKind: TypeAlias = Literal["forbid", "mention"]
ContrastSplit: TypeAlias = Literal["train", "test"]
CONTRAST_KINDS: Final[tuple[ContrastKind, ...]] = get_args(ContrastKind)


@cache
def contrast_phrasings(kind: ContrastKind, split: ContrastSplit) -> tuple[str, ...]:
    """Return the phrasings of one kind; each has the slots `{request}` and `{token}` once.

    Args:
        kind: `"forbid"` rules out the format, `"mention"` names the token without asking for it.
        split: `"train"` for training rows, `"test"` for evaluation. No phrasing is in both.

    Raises:
        InputError: The kind or the split is unknown.
    """
    if kind not in CONTRAST_KINDS or split not in get_args(ContrastSplit):
        raise InputError(
            f"there are no contrast phrasings {kind!r} of split {split!r}: use a kind of "
            f"{', '.join(CONTRAST_KINDS)} and split train or test"
        )
    file = files("delia_data.diversify") / "data" / "contrast.yaml"
    return tuple(yaml.safe_load(file.read_text(encoding="utf-8"))[kind][split])


def fill_phrasing(phrasing: str, request: str, token: str) -> str:
    """Return a phrasing with its slots filled; braces in the request stay as they are."""
    head, _, tail = phrasing.partition("{request}")
    return head.replace("{token}", token) + request + tail.replace("{token}", token)
