"""Gates: what a wording must pass before a row gets it, each with a reason when it fails."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from delia_data.tasks.task import QUERY_SLOT, Wording
from delia_data.tokens import DEFAULT_TOKEN

__all__ = ["GateResult", "check_wordings", "leaking_words", "reject_reason"]

MAX_WORDS: Final = 120
NEAR_COPY: Final = 0.8
_FORMAT_WORDS: Final = frozenset(
    [
        "json",
        "yaml",
        "xml",
        "csv",
        "markdown",
        "dict",
        "dictionary",
        "object",
        "key",
        "keys",
        "value",
        "values",
        "field",
        "fields",
        "brace",
        "braces",
        "bracket",
        "brackets",
        "quote",
        "quotes",
        "quoted",
        "column",
        "columns",
    ]
)
_WORD: Final = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True, slots=True)
class GateResult:
    """What came of checking wordings.

    Attributes:
        accepted: The wordings that passed, in their order.
        rejected: The others, each with its reason.
    """

    accepted: tuple[Wording, ...]
    rejected: tuple[tuple[Wording, str], ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many were rejected, by reason."""
        return dict(sorted(Counter(reason for _, reason in self.rejected).items()))


def leaking_words(description: str, keys: Iterable[str] = ()) -> frozenset[str]:
    """Words that would give the format away: format words of the description, and the keys.

    Args:
        description: What the token stands for, in ordinary words.
        keys: Keys of the answer's object.
    """
    described = _FORMAT_WORDS & set(_words(description))
    return described | {key.lower() for key in keys} | {"json"}


def reject_reason(
    wording: Wording,
    *,
    token: str = DEFAULT_TOKEN,
    leaks: frozenset[str] = frozenset(),
    kept: Sequence[Wording] = (),
) -> str | None:
    """Check one wording.

    Args:
        wording: The wording.
        token: The special token, which it must name once.
        leaks: Words that it must not use.
        kept: Wordings accepted before, none of which it may nearly copy.

    Returns:
        The reason why it fails, or None where it passes.
    """
    named = wording.text.count(token)
    words = _own_words(wording, token)
    if named == 0:
        return "no_token"
    if named > 1:
        return "token_repeated"
    if wording.text.count(QUERY_SLOT) != 1:
        return "no_query_slot"
    if leaks & set(words):
        return "leaks_format"
    if not words:
        return "no_words"
    if len(words) > MAX_WORDS:
        return "too_long"
    if any(_overlap(words, _own_words(other, token)) >= NEAR_COPY for other in kept):
        return "near_copy"
    return None


def check_wordings(
    wordings: Iterable[Wording],
    *,
    token: str = DEFAULT_TOKEN,
    leaks: frozenset[str] = frozenset(),
) -> GateResult:
    """Put wordings through every gate, one after another."""
    accepted: list[Wording] = []
    rejected: list[tuple[Wording, str]] = []
    for wording in wordings:
        reason = reject_reason(wording, token=token, leaks=leaks, kept=accepted)
        if reason is None:
            accepted.append(wording)
        else:
            rejected.append((wording, reason))
    return GateResult(tuple(accepted), tuple(rejected))


def _own_words(wording: Wording, token: str) -> list[str]:
    """Words of the phrasing itself, without the token and the slot of the query."""
    return _words(wording.text.replace(token, " ").replace(QUERY_SLOT, " "))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _overlap(one: Sequence[str], other: Sequence[str]) -> float:
    """Shared share of two sets of words, between 0 and 1 (Jaccard)."""
    a, b = set(one), set(other)
    return len(a & b) / len(a | b) if a | b else 1.0
