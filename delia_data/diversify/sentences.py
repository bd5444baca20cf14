"""Sentences of a wording: those that ask, and those that only say how to reply."""

from __future__ import annotations

import re
from typing import Final

from delia_data.sampling.similarity import words
from delia_data.tasks import QUERY_SLOT

_SENTENCE: Final = re.compile(r"[^.?!\n]*(?:[.?!]+[)\"']*|\n|$)[ \t]*")
_REPLYING: Final = """
    a accepted an and answer as back be by come do else ever fill following for form format get give
    here i in into is it its just keep kept kindly know layout like me must my no nothing now of on
    only out output please prefer put reply report respond response result send should stick style
    tell thank that the then this to use using want way will with would write you your
"""
_TALK: Final = frozenset(_REPLYING.split())
_REQUEST: Final = re.compile(r"\?|\b(?:whether|if)\b", re.I)
_STATES: Final = re.compile(
    r"\W*(?:(?:i|my|we|our|a|an|the|this|that|these|those|it|he|she|they|you|your|there|here"
    r"|what|when|whenever|if|somebody|wrong|such)\b|(?:\w+\W+){1,3}?(?:is|was|are|will|has)\b)",
    re.I,
)
_FEWEST_WORDS: Final = 2


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, each with what ends it; a line break ends one too."""
    return [part for part in _SENTENCE.findall(text) if part.strip(" \n\t") not in ("", QUERY_SLOT)]


def is_format_talk(sentence: str, token: str) -> bool:
    """Whether a sentence names the token and says nothing but how to reply."""
    said = words(sentence.replace(token, " ").replace(QUERY_SLOT, " "))
    return token in sentence and _TALK.issuperset(said)


def asks(text: str) -> bool:
    """Whether a text asks for something by itself."""
    said = text.replace(QUERY_SLOT, "\n")
    if len(words(said)) < _FEWEST_WORDS and "?" not in said:
        return False
    parts = [part for part in _SENTENCE.findall(said) if words(part)]
    orders = (not part.rstrip().endswith(":") and not _STATES.match(part) for part in parts)
    return bool(_REQUEST.search(said)) or any(orders)
