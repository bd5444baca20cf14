"""A dictionary of two languages, made from translated sentences or read from a file.

Words are aligned by IBM's model 1 (Brown et al. 1993): how probable each target word is beside each
source word, estimated by expectation maximisation from uniform beginnings. A hundred sentences
give a rough dictionary; entries that were seen once, or that are not clear, are left out.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from delia_data.errors import FormatError, InputError
from delia_data.records import Record

_WORD: Final = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_ROUNDS: Final = 8  # of expectation maximisation
_LEAST: Final = 0.2  # probability of a translation that is kept
_SEEN: Final = 2  # sentences that an entry was seen in, at least
_NONE: Final = ""  # the source word of what nothing in the sentence stands for


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return [found.group().casefold() for found in _WORD.finditer(text)]


def learn_dictionary(
    rows: Sequence[Record], *, most: int = 2, rounds: int = _ROUNDS
) -> dict[str, tuple[str, ...]]:
    """Make a dictionary of rows whose query is a text and whose answer is its translation.

    Args:
        rows: The rows.
        most: Translations of a word at most, the likeliest first.
        rounds: Rounds of expectation maximisation.

    Returns:
        Translations by source word, in lower case.
    """
    pairs = [([_NONE, *dict.fromkeys(words(row.query))], words(row.answer)) for row in rows]
    chances = _aligned(pairs, rounds)
    together: Counter[tuple[str, str]] = Counter()
    for source, target in pairs:
        together.update((s, t) for s in source for t in set(target))
    found: dict[str, tuple[str, ...]] = {}
    for word, translations in sorted(chances.items()):
        kept = [
            (-chance, other)
            for other, chance in translations.items()
            if chance >= _LEAST and together[word, other] >= _SEEN
        ]
        if word != _NONE and kept:
            found[word] = tuple(other for _, other in sorted(kept)[:most])
    return found


def read_dictionary(path: str | os.PathLike[str]) -> dict[str, tuple[str, ...]]:
    """Read a dictionary: a line an entry, the word, then its translations, between tabs.

    Raises:
        InputError: The file cannot be read.
        FormatError: A line has no translation.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not UTF-8 text: {error.reason}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; check the path") from error
    found: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        word, *others = (part.strip() for part in line.split("\t"))
        translations = tuple(other for other in others if other)
        if not word or not translations:
            raise FormatError(
                f"{path}, line {number}: {line!r} is no entry: write a word, a tab, its translation"
            )
        found[word.casefold()] = (*found.get(word.casefold(), ()), *translations)
    return found


def _aligned(
    pairs: Sequence[tuple[list[str], list[str]]], rounds: int
) -> Mapping[str, Mapping[str, float]]:
    """How probable each target word is beside each source word: model 1."""
    chances: dict[str, dict[str, float]] = defaultdict(dict)
    for source, target in pairs:
        for s in source:
            for t in target:
                chances[s][t] = 1.0
    for _ in range(rounds):
        counts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for source, target in pairs:
            for t in target:
                total = sum(chances[s][t] for s in source)
                for s in source:
                    counts[s][t] += chances[s][t] / total
        chances = defaultdict(dict)
        for s, row in counts.items():
            mass = sum(row.values())
            chances[s] = {t: count / mass for t, count in row.items()}
    return chances
