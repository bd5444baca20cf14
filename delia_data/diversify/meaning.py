"""The gate of meaning: near enough to the task's request, and to no other request.

    cosine similarity with       0 ──── low ──────────────── high ─ 1
    the nearest request of       another     a wording       a copy of
    the task                     matter                      the request

Where a wording is nearer to one of thirty other requests ("Answer the question.", "Rewrite the
text politely.") by more than a little, it asks for something else. The bounds were set on the
bundled wordings and 2,000 unrelated queries; decisions.md has the figures.

What a small model writes is often near the request and beside the point ("Make up an answer to the
question."). The strict gate asks for more: nearer to the request, clearly nearer than to any other,
near misses of small models among them, and each sentence by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

import numpy as np

from delia_data.diversify.sentences import is_format_talk, sentences_of
from delia_data.sampling.embeddings import Vectors
from delia_data.tasks import QUERY_SLOT, Task

Embed = Callable[[Sequence[str]], Vectors]

LOW: Final = 0.3
STRICT: Final = 0.5
HIGH: Final = 0.98
SAME: Final = 0.9
"""Similarity from which a wording is a near copy of another."""
_MARGIN: Final = -0.05  # by which it is nearer to the task's requests than to others
_STRICT_MARGIN: Final = 0.1
_ALIKE: Final = 0.75
"""Similarity from which another request is one of the task's own."""
_PLAINLY: Final = 0.65
"""That from which a single sentence asks for another request."""
_FEWEST_WORDS: Final = 2


def bare_text(text: str, token: str) -> str:
    """A wording without its slot and its token, as it is embedded."""
    return " ".join(text.replace(QUERY_SLOT, " ").replace(token, " ").split())


@dataclass(frozen=True, slots=True)
class _Near:
    own: float
    other: float


class Meaning:
    """Judges by embeddings whether a wording asks for what the task asks for."""

    def __init__(self, task: Task, embed: Embed, *, strict: bool = False) -> None:
        """Embed the task's requests and the others.

        Args:
            task: The task.
            embed: Gives vectors of length 1.
            strict: Ask for more, as for what a small model writes.
        """
        self._embed = embed
        self._token = task.token
        self._strict = strict
        self._low = STRICT if strict else LOW
        self._margin = _STRICT_MARGIN if strict else _MARGIN
        self._own = embed((task.plain_request, task.instruction, *task.meanings))
        others = embed(_lines("others.txt") + (_lines("near.txt") if strict else ()))
        self._others = others[(others @ self._own.T).max(axis=1) < _ALIKE]

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Embed wordings; shape (texts, width)."""
        return self._embed([bare_text(text, self._token) for text in texts])

    def fault(self, text: str, vector: Vectors) -> str | None:
        """Give the reason why a wording's meaning is not the task's, or None.

        Args:
            text: The wording.
            vector: Its embedding; shape (width,).
        """
        near = self._near(vector)
        if near.own < self._low:
            return "off_meaning"
        if near.own > HIGH:
            return "copies_request"
        if near.own < near.other + self._margin:
            return "other_request"
        return "asks_more" if self._asks_more(text) else None

    def _asks_more(self, text: str) -> bool:
        """Whether one of several sentences asks for something else; if strict, or is beside it."""
        sentences = sentences_of(text)
        parts = [
            bare_text(part, self._token)
            for part in sentences
            if len(part.split()) >= _FEWEST_WORDS and not is_format_talk(part, self._token)
        ]
        if len(sentences) < _FEWEST_WORDS or not parts:
            return False
        nears = [self._near(vector) for vector in self._embed(parts)]
        if self._strict:
            return any(near.own < LOW or near.other > near.own for near in nears)
        return any(near.other >= _PLAINLY and near.other > near.own for near in nears)

    def _near(self, vector: Vectors) -> _Near:
        other = float((self._others @ vector).max()) if len(self._others) else -1.0
        return _Near(float((self._own @ vector).max()), other)

    def describe(self) -> dict[str, Any]:
        """The settings that decide what passes."""
        return {"low": self._low, "high": HIGH, "margin": self._margin, "same": SAME}

    def is_near_copy(self, vector: Vectors, kept: Sequence[Vectors]) -> bool:
        """Whether a wording says what a kept one says, in nearly the same words."""
        return bool(kept) and float(np.max(np.stack(kept) @ vector)) >= SAME


@cache
def _lines(name: str) -> tuple[str, ...]:
    data = files("delia_data.diversify") / "data" / name
    return tuple(data.read_text(encoding="utf-8").splitlines())
