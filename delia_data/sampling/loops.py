"""Repetition loops: an answer that got stuck, told from a refrain, a table or code.

    period 3, four times:   go to the  go to the  go to the  go to the ...
    numbered lines:         1. Be kind.   2. Be kind.   3. Be kind.   4. Be kind.
    inside one word:        hahahahahahahahahahahaha...

Small models fall into all three at low temperatures (Holtzman et al. 2020, section 3).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from delia_data.sampling.words import words

# One after the other, with no other word in between: period in words, and how often at least.
_PERIODS: Final = {1: 5, 5: 4, 10: 3}
_LONGEST: Final = 60  # words of a period at most
_SPAN: Final = 20  # words that all repeats of a unit have together, at least
_SPAN_PLAIN: Final = 64  # the same in code, and for units of numbers and single letters

# Lines that come again, also with others in between.
_LINE_WORDS: Final = 4
_LINE_TIMES: Final = 4
_LINE_SHARE: Final = 0.5  # of the lines that have words
_NUMBERING: Final = re.compile(r"^\s*(?:[-*•>#]+\s*)?(?:\(?(?:\d{1,3}|[A-Za-z])[.):]\s*)?")

# Characters in a word without spaces.
_STUCK: Final = re.compile(r"(\S{1,20}?)\1{19,}")
_STUCK_CHARACTERS: Final = 100
_RULE: Final = frozenset("-=_*~#.+|:─━═ \\/")  # what lines are drawn with in tables and headings

_CODE: Final = re.compile(r"[{}<>=();\[\]\\|]")
_CODE_SHARE: Final = 0.04  # of all characters, in code and tables; prose has below 0.02


def is_loop(text: str) -> bool:
    """Tell whether an answer says the same over and over.

    A unit of up to 4 words counts from the fifth time, one of up to 9 from the fourth and one of
    up to 60 from the third, where the repeats follow each other and have 20 words together; in
    code, tables and rows of numbers they must have 64. Lines of prose, their numbering aside,
    count from the fourth time where they are at least half of all. A word counts where a unit of
    up to 20 characters comes 20 times and fills 100 characters.
    """
    code = len(_CODE.findall(text)) > _CODE_SHARE * len(text)
    return _has_period(words(text), code) or (not code and _has_lines(text)) or _has_stuck(text)


def _has_period(found: Sequence[str], code: bool) -> bool:
    # A loop of n words with period p holds n - p - 2 trigrams that came before: most answers
    # have too few of those, and are done here.
    trigrams = list(zip(found, found[1:], found[2:], strict=False))
    if len(trigrams) - len(set(trigrams)) < _SPAN - _SPAN // 3 - 2:
        return False
    for period in range(1, min(_LONGEST, len(found) // 3) + 1):
        run = 0  # words so far that are the same as one period before
        for place in range(period, len(found)):
            run = run + 1 if found[place] == found[place - period] else 0
            if run + period >= _SPAN and _is_too_long(
                found[place - period + 1 : place + 1], run + period, code
            ):
                return True
    return False


def _is_too_long(unit: Sequence[str], span: int, code: bool) -> bool:
    """Whether so many words, all repeats of one unit, are a loop."""
    times = next(times for least, times in reversed(_PERIODS.items()) if len(unit) >= least)
    if span < times * len(unit):
        return False
    plain = code or all(word.isdigit() or (len(word) == 1 and word.isascii()) for word in unit)
    return span >= _SPAN_PLAIN or not plain


def _has_lines(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < _LINE_TIMES:
        return False
    spoken = [found for line in lines if (found := words(_NUMBERING.sub("", line, count=1)))]
    if len(spoken) < _LINE_TIMES:
        return False
    line, times = Counter(spoken).most_common(1)[0]
    return len(line) >= _LINE_WORDS and times >= _LINE_TIMES and times >= _LINE_SHARE * len(spoken)


def _has_stuck(text: str) -> bool:
    found = text.split()
    if max(map(len, found), default=0) < _STUCK_CHARACTERS:  # most answers
        return False
    for word in found:
        for match in _STUCK.finditer(word):
            long = match.end() - match.start() >= _STUCK_CHARACTERS
            if long and not set(match[1]) <= _RULE:
                return True
    return False
