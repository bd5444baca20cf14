"""The baseline that anisotropy is measured against: one sentence with its words swapped."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import yaml

from delia_data.ranking import rank


def synonym_swaps(text: str, count: int, *, seed: int = 0) -> list[str]:
    """Different texts that come of one by swapping words for synonyms of them.

    Args:
        text: The sentence.
        count: How many are wanted.
        seed: Seed of which are taken.

    Returns:
        As many as are wanted, or all that there are, where they are fewer.
    """
    slots = _slots(text)
    total = 1
    for _, _, words in slots:
        total *= len(words)
    numbers = (
        sorted(range(total), key=lambda n: rank(seed, str(n), "synonyms"))[:count]
        if (total <= 100_000)
        else list(dict.fromkeys(rank(seed, str(n), "synonyms") % total for n in range(4 * count)))
    )
    return [_swapped(text, slots, number) for number in numbers[:count]]


def _slots(text: str) -> list[tuple[int, int, tuple[str, ...]]]:
    """Where a word that has synonyms begins and ends, with all of them; none overlap."""
    found: list[tuple[int, int, tuple[str, ...]]] = []
    for group in _groups():
        pattern = r"(?<![{<])\b(?:" + "|".join(map(re.escape, group)) + r")\b"
        for match in re.finditer(pattern, text, re.I):
            if all(match.end() <= begin or match.start() >= end for begin, end, _ in found):
                found.append((match.start(), match.end(), group))
    return sorted(found)


def _swapped(text: str, slots: list[tuple[int, int, tuple[str, ...]]], number: int) -> str:
    parts, at = [], 0
    for begin, end, words in slots:
        number, place = divmod(number, len(words))
        word = words[place]
        parts += [text[at:begin], word.capitalize() if text[begin].isupper() else word]
        at = end
    return "".join([*parts, text[at:]])


@cache
def _groups() -> tuple[tuple[str, ...], ...]:
    data = files("delia_data.diversify") / "data" / "synonyms.yaml"
    return tuple(tuple(group) for group in yaml.safe_load(data.read_text(encoding="utf-8")))
