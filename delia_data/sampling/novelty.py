"""Is a query new? ROUGE-L against all that were taken before it, found without comparing all.

ROUGE-L of two texts is the F-measure of their longest common subsequence of words,
`2 * common / (words of one + words of the other)`. Self-instruct takes a query where it is below
0.7 for every query taken before (arXiv 2212.10560, section 2.2), and compares it with each of them.

Here an index of words finds the few that can reach the threshold at all: two texts that reach it
share at least `needed` words, so that the other one has one of any `words - needed + 1` words of
this one. The rarest are looked up, and a few more, so that chance hits can be told.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from delia_data.errors import InputError
from delia_data.sampling.words import words

_SHARED: Final = 3
"""Words looked up beyond those that must be; most of the texts found share fewer, and fall out."""
_SLACK: Final = 1e-9
_Mark = tuple[str, int]  # a word, and how many times it came before in the same text


class Novelty:
    """The texts that were taken, and whether another one is new beside them."""

    def __init__(self, threshold: float = 0.7) -> None:
        """Begin with none.

        Args:
            threshold: ROUGE-L from which a text is not new, above 0, at most 1.

        Raises:
            InputError: The threshold is out of its bounds.
        """
        if not 0 < threshold <= 1:
            raise InputError(f"threshold {threshold} is out of bounds: give above 0, at most 1")
        self._threshold = threshold
        self._texts: list[Sequence[str]] = []
        self._having: dict[_Mark, list[int]] = {}

    def __len__(self) -> int:
        """How many texts were taken."""
        return len(self._texts)

    def is_new(self, text: str) -> bool:
        """Tell whether no text that was taken is too near to this one; one without words is not."""
        said = words(text)
        return bool(said) and not any(
            rouge_l(said, self._texts[place]) >= self._threshold for place in self._near(said)
        )

    def take(self, text: str) -> None:
        """Take up a text."""
        said = words(text)
        for mark in _marks(said):
            self._having.setdefault(mark, []).append(len(self._texts))
        self._texts.append(said)

    def _near(self, said: Sequence[str]) -> Iterator[int]:
        """Places of all texts that share enough words to reach the threshold, and few others."""
        half = self._threshold / 2
        fewest = half * len(said) / (1 - half)  # words of the shortest text that can reach it
        needed = math.ceil(half * (len(said) + fewest) - _SLACK)
        marks = sorted(_marks(said), key=lambda mark: len(self._having.get(mark, ())))
        looked_up = marks[: len(said) - needed + _SHARED]
        shared: Counter[int] = Counter()
        for mark in looked_up:
            shared.update(self._having.get(mark, ()))
        elsewhere = len(said) - len(looked_up)  # words that may be shared beside these
        for place, count in shared.items():
            length = len(self._texts[place])
            if count + min(elsewhere, length) >= half * (len(said) + length) - _SLACK:
                yield place


def rouge_l(one: Sequence[str], other: Sequence[str]) -> float:
    """ROUGE-L's F-measure of two lists of words, from 0 to 1.

    The longest common subsequence is found with a number whose bits are the words of `one`
    (Hyyrö, 2004): as many steps as `other` has words.
    """
    if not one or not other:
        return 0.0
    places: dict[str, int] = {}
    for place, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << place
    unmatched = all_ones = (1 << len(one)) - 1
    for word in other:
        hit = unmatched & places.get(word, 0)
        unmatched = ((unmatched + hit) | (unmatched - hit)) & all_ones
    common = len(one) - unmatched.bit_count()
    return 2 * common / (len(one) + len(other))


def _marks(said: Sequence[str]) -> list[_Mark]:
    """The words, those that come again told apart."""
    seen: Counter[str] = Counter()
    marks = []
    for word in said:
        marks.append((word, seen[word]))
        seen[word] += 1
    return marks
