"""Filters: small functions of one row that say why a pair is not kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Protocol, runtime_checkable

from delia_data.engines.base import Completion
from delia_data.tokens import DEFAULT_TOKEN

__all__ = [
    "Described",
    "Filter",
    "Remembering",
    "default_filters",
    "echo",
    "empty",
    "failed",
    "names",
    "repetition",
]

_WORD: Final = re.compile(r"\w+")
_LOOP_WORDS: Final = 4
_LOOP_TIMES: Final = 4


class Filter(Protocol):
    """A function of a query and its completion."""

    def __call__(self, query: str, completion: Completion, /) -> str | None:
        """Give the reason to reject the pair, or None to keep it."""
        ...


@runtime_checkable
class Described(Protocol):
    """A filter with settings, which belong to the cache's own."""

    def describe(self) -> dict[str, Any]:
        """Its settings by name; `"filter"` is its own."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A filter that compares a pair with those kept before; it stands last."""

    def remember(self, query: str, answer: str) -> None:
        """Take up a pair that was kept in an earlier run of the same cache."""
        ...


def failed(_query: str, completion: Completion) -> str | None:
    """Reject a request that failed."""
    return "failed" if completion.finish == "error" else None


def empty(_query: str, completion: Completion) -> str | None:
    """Reject an answer without a word."""
    return None if _WORD.search(completion.text) else "empty"


def echo(query: str, completion: Completion) -> str | None:
    """Reject an answer that only says the query again."""
    same = _WORD.findall(query.casefold()) == _WORD.findall(completion.text.casefold())
    return "echo" if same else None


def repetition(_query: str, completion: Completion) -> str | None:
    """Reject an answer that says the same four words over and over, one time after the other."""
    words = _WORD.findall(completion.text.casefold())
    span = _LOOP_WORDS * _LOOP_TIMES
    for start in range(len(words) - span + 1):
        unit = words[start : start + _LOOP_WORDS]
        if words[start : start + span] == unit * _LOOP_TIMES:
            return "repetition"
    return None


def names(token: str) -> Filter:
    """Make the filter that rejects a pair which names the special token."""

    def names_token(query: str, completion: Completion) -> str | None:
        return "names_token" if token in query or token in completion.text else None

    return names_token


def default_filters(token: str = DEFAULT_TOKEN) -> Sequence[Filter]:
    """The filters that every cache goes through, in their order."""
    return (failed, empty, names(token), echo, repetition)
