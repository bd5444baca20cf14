"""Checks of queries that a model generated: is the text a request?

A small model's idea of what a user says is often no request: it answers, greets, tells a story, or
asks to rewrite a text that it never gives. docs/decisions.md describes the texts that the checks
were written against.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from delia_data.engines.base import Finish
from delia_data.sampling.filters import is_refusal
from delia_data.sampling.similarity import words

QueryCheck: TypeAlias = Callable[[str], str | None]
"""Returns the reason to reject a query, or None."""

MIN_WORDS: Final = 3
MAX_WORDS: Final = 60

_MARK: Final = re.compile(
    r"<\|[^|]*\|>|\[/?INST\]|</?s>|^\s*(?:user|assistant|system|human|ai|q|a|bot)\s*:"
    r"|\n\s*(?:user|assistant|system|human|ai|a|answer|response)\s*:",
    re.I,
)
_LINK: Final = re.compile(r"https?:|www\.|\w@\w|(?:^|\s)[@#]\w{2,}")
_ANSWERING: Final = re.compile(
    r"(?:sure|certainly|of course|absolutely|great question|here (?:is|are)|here's|as an ai"
    r"|you are (?:an?|the) (?:helpful|ai)|you're (?:an?|the) (?:helpful|ai)|thank you|thanks"
    r"|(?:i'm|i am) (?:an ai|here to)|i can (?:help|assist|offer|provide)|yes|no)\b[^?]*$",
    re.I,
)
_ANSWERED: Final = re.compile(
    r"(?:^|[.?!\n]\s*)(?:(?:the )?(?:correct )?answer(?: is|:)|yes,|your (?:response|answer) must)"
    r"|\n\s*(?:sure|certainly|i can (?:help|assist|offer|provide)|i'm ready|here (?:is|are))\b",
    re.I,
)
_QUESTIONS: Final = """
    am are can could do does did has have how is may might shall should was were what when where
    which who whom whose why will would
"""
_VERBS: Final = """
    act adapt add advise analyse analyze answer argue arrange ask assemble assess assign brainstorm
    break build calculate categorise categorize change check choose cite classify collect combine
    come compare compile complete compose compute connect consider construct continue contrast
    convert convince copy correct count create critique debate decide define delete demonstrate
    derive describe design detect determine develop devise differentiate discuss distinguish divide
    draft dream edit elaborate estimate evaluate expand explain explore express extract fill find
    finish fix follow form format formulate generate give group guess guide help highlight identify
    illustrate imagine implement improve infer insert interpret introduce invent investigate judge
    justify kindly label list look make match mention modify multiply name offer order organise
    organize outline output paraphrase parse perform pick plan please predict prepare present
    pretend print produce propose prove provide put rank rate read rearrange recommend remove
    rephrase replace report research respond return reverse review revise reword rewrite say search
    select separate share shorten show simplify sketch solve sort specify spell state suggest sum
    summarise summarize suppose surprise take teach tell think transform translate turn update use
    verify write
"""
_ASKING: Final = re.compile(
    rf"(?:^|[.!:\n]\s*)(?:{'|'.join(_QUESTIONS.split())})\b"
    r"|(?:^|[.!:,\n]\s*|\band\s+|\bthen\s+)(?:i (?:need|want|wish|would like|would love)"
    rf"|i'd (?:like|love)|i(?:'m| am) (?:looking for|curious)|{'|'.join(_VERBS.split())})\b",
    re.I,
)
_STATING: Final = re.compile(
    r"(?:i|i'm|i've|i'd|i'll|my|we|we're|our|a|an|the|this|that|these|those|it|it's|he|she|they|his"
    r"|her|their|there|there's|here|hi|hello|hey|dear|thanks|\w+ed)\b"
    r"|[^?=]*=\s*\d|(?:\w+\W+){1,3}(?:is|was|are|were|has|have|had|said|says|will)\b",
    re.I,
)
_MATERIAL: Final = (
    r"(?:text|passage|paragraph|article|sentence|sentences|code|snippet|function|query|script|image"
    r"|picture|photo|graph|chart|table|data|dataset|file|video|link|email|e-mail|document|essay"
    r"|poem|story|input|content|list|statement|statements|words|phrase|scenario|options|problem"
    r"|equation|conversation|message|review|summary|plot|map)"
)
_POINTING: Final = re.compile(
    rf"\b(?:following|given|above|below|attached|provided|input)\s+(?:\w+\s+){{0,2}}?"
    rf"{_MATERIAL}\b|\bthis\s+(?:\w+\s+)?{_MATERIAL}\b|\b{_MATERIAL}\s+(?:below|above|provided)\b"
    r"|\b(?:as follows|the following)\b",
    re.I,
)
_DANGLING: Final = re.compile(
    r"(?:[\w']+\s+){1,4}(?:it|that|this|them|these|those)"
    r"(?:[?.!]|\s+(?:to|in|with|for|so|again|more|a bit|work|works|about)\b)",
    re.I,
)
_GIVEN: Final = re.compile(r"(?:[:\n]|[\"“'`‘\[({]\w).*\w.*\w|[.?!]\s+(?:\w+\W+){5}", re.S)
_ENGLISH: Final = """
    a about all an and are as at be between by can could describe did do does explain for from give
    had has have he her his how i if in into is it its list me most my name not of on one or our
    she should so some than that the their them there these they this to two up was we were what
    when where which while who whom whose why will with would write you your
"""
_COMMON: Final = frozenset(_ENGLISH.split())
_MOST_FOREIGN: Final = 0.1  # of the letters
_FEW_WORDS: Final = 6  # which may all be rare ones


def query_checks(token: str, *, english: bool = True) -> Sequence[QueryCheck]:
    """Return the checks of generated queries in order.

    Args:
        token: The special token, which no query may contain.
        english: Accept English queries only. If false, the checks that require English are left
            out.
    """

    def names_token(text: str) -> str | None:
        return "names_token" if token in text else None

    plain = (names_token, _empty, _marked, _too_short, _too_long, _repetition, _linked, _unended)
    return (*plain, _language, _answer_like, _lacks_context, _no_request) if english else plain


def rejection_reason(text: str, finish: Finish, checks: Sequence[QueryCheck]) -> str | None:
    """Return the reason to reject a text as a query, or None.

    Args:
        text: The text.
        finish: How the text ended.
        checks: The checks in order.
    """
    if finish == "error":
        return "failed"
    if finish == "length":
        return "cut_off"
    return next((reason for check in checks if (reason := check(text))), None)


def _empty(text: str) -> str | None:
    return None if words(text) else "empty"


def _marked(text: str) -> str | None:
    """Reject chat markup and spelled-out roles: the text has more than one turn."""
    return "chat_marks" if _MARK.search(text) else None


def _too_short(text: str) -> str | None:
    return "too_short" if len(words(text)) < MIN_WORDS else None


def _too_long(text: str) -> str | None:
    return "too_long" if len(words(text)) > MAX_WORDS else None


def _repetition(text: str) -> str | None:
    """Reject a word three times in a row, and three words that occur three times."""
    said = words(text)
    threes = list(zip(said, said[1:], said[2:], strict=False))
    stuck = any(one == two == three for one, two, three in threes)
    again = threes and max(Counter(threes).values()) >= 3
    return "repetition" if stuck or again else None


def _linked(text: str) -> str | None:
    """Reject web addresses, accounts and hashtags."""
    return "link" if _LINK.search(text) else None


def _unended(text: str) -> str | None:
    return "unended" if text.rstrip()[-1:] in {":", ",", ";", "-", "(", "/"} else None


def _language(text: str) -> str | None:
    letters = [letter for letter in text if letter.isalpha()]
    foreign = sum(not letter.isascii() for letter in letters)
    said = words(text)
    strange = len(said) >= _FEW_WORDS and not _COMMON.intersection(said)
    return "language" if strange or foreign > _MOST_FOREIGN * len(letters) else None


def _answer_like(text: str) -> str | None:
    answers = _ANSWERING.match(text) or _ANSWERED.search(text) or is_refusal(text)
    return "answer_like" if answers else None


def _lacks_context(text: str) -> str | None:
    """Reject a text that refers to a text, an image, a list, or "it" without giving it."""
    found = _DANGLING.match(text) or _POINTING.search(text)
    return "lacks_context" if found and not _GIVEN.search(text, found.end()) else None


def _no_request(text: str) -> str | None:
    """Reject a statement that neither asks nor requests anything."""
    states = _STATING.match(text) and "?" not in text and not _ASKING.search(text)
    return "no_request" if states else None
