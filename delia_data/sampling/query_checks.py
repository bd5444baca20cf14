"""Checks of queries that a model generated: is the text a request?

A small model's idea of what a user says is often no request: it answers, greets, tells a story, or
asks to rewrite a text that it never gives. docs/decisions.md describes the texts that the checks
were written against.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from delia_data.engines.base import Finish
from delia_data.sampling.filters import is_refusal
from delia_data.sampling.similarity import words

Fault: TypeAlias = Callable[[str], object]
"""Returns a true value if a text has a fault."""

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


def query_checks(token: str, *, english: bool = True) -> Mapping[str, Fault]:
    """Return the faults that rule out a query, by reason and in the order of the checks."""
    plain: dict[str, Fault] = {
        "names_token": lambda text: token in text,
        "empty": lambda text: not words(text),
        "chat_marks": _MARK.search,  # the text has more than one turn
        "too_short": lambda text: len(words(text)) < MIN_WORDS,
        "too_long": lambda text: len(words(text)) > MAX_WORDS,
        "repetition": _repeats,
        "link": _LINK.search,
        "unended": lambda text: text.rstrip()[-1:] in {":", ",", ";", "-", "(", "/"},
    }
    in_english: dict[str, Fault] = {
        "language": is_foreign,
        "answer_like": lambda text: (
            _ANSWERING.match(text) or _ANSWERED.search(text) or is_refusal(text)
        ),
        "lacks_context": _lacks_context,
        "no_request": lambda text: (
            _STATING.match(text) and "?" not in text and not _ASKING.search(text)
        ),
    }
    return {**plain, **in_english} if english else plain


def rejection_reason(text: str, finish: Finish, checks: Mapping[str, Fault]) -> str | None:
    """Return the reason to reject a text as a query, or None."""
    if finish == "error":
        return "failed"
    if finish == "length":
        return "cut_off"
    return next((reason for reason, has_fault in checks.items() if has_fault(text)), None)


def _repeats(text: str) -> bool:
    """Return whether a word comes three times in a row, or three words occur three times."""
    terms = words(text)
    threes = list(zip(terms, terms[1:], terms[2:], strict=False))
    stuck = any(one == two == three for one, two, three in threes)
    return stuck or max(Counter(threes).values(), default=0) >= 3


def is_foreign(text: str) -> bool:
    """Return whether a text is in another language than English."""
    letters = [letter for letter in text if letter.isalpha()]
    foreign = sum(not letter.isascii() for letter in letters)
    terms = words(text)
    strange = len(terms) >= _FEW_WORDS and not _COMMON.intersection(terms)
    return strange or foreign > _MOST_FOREIGN * len(letters)


def _lacks_context(text: str) -> bool:
    """Return whether a text refers to a text, an image, a list, or "it" without giving it."""
    reference = _DANGLING.match(text) or _POINTING.search(text)
    return reference is not None and not _GIVEN.search(text, reference.end())
