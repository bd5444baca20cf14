"""Words that would give the format away: what an instruction must not say beside the token."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_WORDS_FOR_FORMATS: Final = """
    json jsonl yaml xml html csv tsv toml latex markdown table tables row rows column columns
    dict dictionary object objects key keys value values field fields attribute attributes
    array arrays list lists bullet bullets brace braces bracket brackets parenthesis parentheses
    quote quotes quoted quotation tag tags line lines label labels comma commas colon semicolon
    uppercase lowercase capitals
"""
_FORMAT_WORDS: Final = frozenset(_WORDS_FOR_FORMATS.split())
_WORD: Final = re.compile(r"\w+")
_SENTENCE: Final = re.compile(r"(?<=[.?!;])\s+|\n+")


def words_of(text: str) -> list[str]:
    """The words of a text in lower case."""
    return _WORD.findall(text.casefold())


def leaking_words(
    description: str, keys: Iterable[str] = (), labels: Iterable[str] = ()
) -> frozenset[str]:
    """Words that would give the format away.

    Args:
        description: What the token stands for, in ordinary words. Its words for formats are
            taken, such as `json`, `table` or `column`.
        keys: Keys of the answer's object; all are taken.
        labels: What answers and values are one of. Those that the description names are part of
            the format, and are taken.
    """
    described = set(words_of(description))
    named = {label.casefold() for label in labels if set(words_of(label)) <= described}
    return (_FORMAT_WORDS & described) | {key.casefold() for key in keys} | named | {"json"}


def without_leaks(instruction: str, leaks: frozenset[str]) -> str:
    """The sentences of an instruction that say nothing of the format; all, where each does."""
    sentences = [part.strip() for part in _SENTENCE.split(instruction) if part.strip()]
    single = {leak for leak in leaks if " " not in leak}
    kept = [sentence for sentence in sentences if not single & set(words_of(sentence))]
    return " ".join(kept) if kept else instruction.strip()
