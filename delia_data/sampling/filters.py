"""Filters: small functions of one row that say why a pair is not kept."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Final, Protocol, runtime_checkable

from delia_data.engines.base import Completion
from delia_data.sampling.duplicates import DEFAULT_THRESHOLD, Duplicates
from delia_data.sampling.language import Language
from delia_data.sampling.loops import is_loop
from delia_data.sampling.refusals import is_refusal
from delia_data.sampling.words import words
from delia_data.tokens import DEFAULT_TOKEN

# What may stand around a repeated query without being an answer to it.
_FILLERS: Final = frozenset(
    words(
        "Sure, certainly, of course, okay, ok: so here, the following, is your question again, "
        "please. This was what you asked, a query to repeat, my task, that input, instruction, "
        "request, prompt. I, human, user. It, assistant, answer, output, response. Q, a, q's."
    )
)
_SENTENCE_END: Final = re.compile(r"[.!?。！？]+[\"')\]]*(?=\s|$)|[。！？]|\n+")
_SIGNS: Final = frozenset({"Sc", "Sm", "So"})  # categories of Unicode: money, sums, pictures
_SILENT: Final = frozenset(" \t\r\n\f\v\u00a0\u200b,;!?\"'`*#_\N{HORIZONTAL ELLIPSIS}")


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
    """Reject an answer that says nothing.

    A letter, a digit, a picture or a sign of a sum says something, and so do two different marks
    that end no sentence: a thumbs-up, a smiley and Morse code are answers, three dots are none.
    """
    if any(c.isalnum() for c in completion.text):
        return None
    marks = set(completion.text) - _SILENT
    says = len(marks) > 1 or any(unicodedata.category(c) in _SIGNS for c in marks)
    return None if says else "empty"


def truncated(_query: str, completion: Completion) -> str | None:
    """Reject an answer that was cut off at the token limit."""
    return "truncated" if completion.finish == "length" else None


def echo(query: str, completion: Completion) -> str | None:
    """Reject an answer that only says the query again.

    It may say it several times, with words around it that answer nothing ("Sure! The question
    is: ..."), or go on with other questions.
    """
    asked, said = words(query), words(completion.text)
    if said == asked:
        return "echo"
    if len(asked) < 3 or len(said) < len(asked):
        return None
    if f" {' '.join(asked)} " not in f" {' '.join(said)} ":
        return None
    rest = _without(said, asked)
    return "echo" if _FILLERS.issuperset(rest) or _only_asks(completion.text) else None


def repetition(_query: str, completion: Completion) -> str | None:
    """Reject an answer that got stuck and says the same over and over (`loops.is_loop`)."""
    return "repetition" if is_loop(completion.text) else None


def refusal(_query: str, completion: Completion) -> str | None:
    """Reject an answer that declines to answer (`refusals.is_refusal`)."""
    return "refusal" if is_refusal(completion.text) else None


def names(token: str) -> Filter:
    """Make the filter that rejects a pair which names the special token."""

    def names_token(query: str, completion: Completion) -> str | None:
        return "names_token" if token in query or token in completion.text else None

    return names_token


def default_filters(
    token: str = DEFAULT_TOKEN,
    *,
    keep_truncated: bool = False,
    keep_refusals: bool = False,
    language: str | None = None,
    near_duplicates: float | None = DEFAULT_THRESHOLD,
) -> Sequence[Filter]:
    """The filters that every cache goes through, in their order: new ones at every call.

    Args:
        token: The special token, which no pair may name.
        keep_truncated: Keep answers that were cut off at the token limit.
        keep_refusals: Keep answers that decline to answer.
        language: Where given, the code of the language that answers must have, such as `"en"`.
        near_duplicates: Jaccard similarity from which on a pair is a near duplicate; None for
            exact duplicates alone, which are never kept.

    Raises:
        InputError: The language is unknown, or the similarity out of its bounds.
        MissingExtraError: A language is given, and the library for it is not installed.
    """
    checks: list[Filter] = [failed, empty]
    if not keep_truncated:
        checks.append(truncated)
    checks += [names(token), echo, repetition]
    if not keep_refusals:
        checks.append(refusal)
    if language is not None:
        checks.append(Language.load(language))
    return (*checks, Duplicates(near_duplicates))


def _without(said: Sequence[str], asked: Sequence[str]) -> list[str]:
    """The words that are left when every place is taken out that says the query."""
    rest: list[str] = []
    place = 0
    while place < len(said):
        if said[place : place + len(asked)] == asked:
            place += len(asked)
        else:
            rest.append(said[place])
            place += 1
    return rest


def _only_asks(text: str) -> bool:
    """Whether all that a text says are questions, and at least two of them."""
    ends = [match[0] for match in _SENTENCE_END.finditer(f"{text}\n")]
    marks = [end for end in ends if not end.isspace()]
    return len(marks) > 1 and all("?" in mark or "？" in mark for mark in marks)
