"""Similarity of texts: words, distinct n-grams, duplicate pairs, and new queries.

Duplicates of a pair are found among the pairs accepted before:

    words of the pair ──▶ shingles of 3 words ──▶ MinHash, 128 values ──▶ bands ──▶ seen before?

Two pairs whose sets of shingles have Jaccard similarity s share a band of r values with
probability s**r, and at least one of b bands with 1 - (1 - s**r)**b (Leskovec et al., Mining of
Massive Datasets, section 3.4). Nothing is verified, so the threshold is soft: at 0.8, 40% of the
pairs with a similarity of 0.8 count as near duplicates, 8% of those with 0.7, 1% of those with 0.6,
and 94% of those with 0.9.

Pairs of the same meaning in other words are found by embeddings, if asked for: the vector of a pair
is compared with those of all accepted pairs (Abbas et al. 2023, SemDeDup, without its clusters).

A query is new if its ROUGE-L with every accepted query is below a threshold (arXiv 2212.10560,
section 2.2). An index of words finds the few accepted queries that can reach the threshold at all:
two texts that reach it share at least `needed` words, so the other one contains one of any
`words - needed + 1` words of this one. The rarest words are looked up, and a few more, which tell
chance hits apart.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from typing import Any, Final

import numpy as np
import rensa

from delia_data.engines.base import Completion
from delia_data.errors import InputError
from delia_data.records import Rejection, encodable
from delia_data.sampling.embeddings import Embed, Embedder, Vectors

# Scripts that put no space between words: Thai to Tibetan, Burmese, Khmer, kana, Han.
_UNSPACED: Final = (
    r"\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
)
_WORD: Final = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+")
_ASCII_WORD: Final = re.compile(r"\w+", re.ASCII)


@lru_cache(maxsize=8)  # several filters look at the same answer, one after the other
def words(text: str) -> tuple[str, ...]:
    """Return the words of a text in lower case, without punctuation.

    In scripts that put no spaces between words, such as Chinese, Japanese and Thai, each
    character counts as a word.
    """
    folded = text.casefold()
    return tuple((_ASCII_WORD if folded.isascii() else _WORD).findall(folded))


def distinct(texts: Iterable[str], n: int) -> float | None:
    """Return distinct-n (Li et al. 2016, section 5.1): unique n-grams divided by all n-grams.

    Words are compared in lower case and without punctuation. None if there is no n-gram.
    """
    seen: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        sequence = words(text)
        seen.update(zip(*(sequence[i:] for i in range(n)), strict=False))
        total += max(len(sequence) - n + 1, 0)
    return len(seen) / total if total else None


DEFAULT_THRESHOLD: Final = 0.8
_LONG: Final = 12  # minimum words of an answer that is compared without its query
_SHINGLE: Final = 3  # words
_VALUES: Final = 128  # of a MinHash signature
_MOST_BANDS: Final = 24
_SEED: Final = 2408
_ROUNDING: Final = 1e-6


class Duplicates:
    """Reject a pair that repeats an accepted one; this filter is stateful and comes last.

    An answer of 12 words or more is compared without its query, because a repeated long answer
    teaches nothing new. A shorter one is compared with its query, because "Yes." is a good answer
    to many. Case, punctuation and spaces do not count.

    With `similarity`, pairs of the same meaning are rejected too. Texts are embedded one by one, so
    that a vector does not depend on the batch and a resumed run rejects the same pairs.
    """

    def __init__(
        self,
        threshold: float | None = DEFAULT_THRESHOLD,
        *,
        similarity: float | None = None,
        embed: Embed | None = None,
    ) -> None:
        """Start without pairs.

        Args:
            threshold: Jaccard similarity of the sets of three-word shingles from which two pairs
                are near duplicates, 0.5 to 1; None to look for exact duplicates only.
            similarity: Cosine similarity of embeddings from which two pairs are similar, 0.5 to 1;
                None to compare words only.
            embed: Turns texts into vectors of length 1; all-MiniLM-L6-v2 if None.

        Raises:
            InputError: A threshold is out of range.
            MissingExtraError: `similarity` is given, and the model is not installed.
        """
        if threshold is not None and not 0.5 <= threshold <= 1:
            raise InputError(f"near-duplicate threshold {threshold} is out of range: give 0.5 to 1")
        if similarity is not None and not 0.5 <= similarity <= 1:
            raise InputError(f"similarity {similarity} is out of range: give 0.5 to 1")
        self.threshold = threshold
        self.similarity = similarity
        self._embed = (embed or Embedder()) if similarity is not None else None
        self._queries: list[str] = []
        self._vectors: Vectors = np.empty((0, 0), np.float32)  # the first rows, one for each query
        self._bands, self._rows = _shape(threshold) if threshold is not None else (0, 0)
        self._seen: set[int] = set()

    def __call__(self, query: str, completion: Completion, /) -> str | Rejection | None:
        """Return the reason to reject the pair, or None after remembering it.

        The reason is `"duplicate"`, `"near_duplicate"`, or `"similar"`, whose details are the
        similarity and the query of the nearest pair.
        """
        whole, *bands = keys = self._keys(query, completion.text)
        if whole in self._seen:
            return "duplicate"
        if not self._seen.isdisjoint(bands):
            return "near_duplicate"
        if self._embed is not None and self.similarity is not None:
            vector = self._vector(query, completion.text)
            if self._queries:
                similarities = self._vectors[: len(self._queries)] @ vector
                place = int(similarities.argmax())
                if similarities[place] >= self.similarity - _ROUNDING:
                    near = self._queries[place][:80]
                    return Rejection("similar", f"{similarities[place]:.2f} to {near!r}")
            self._add(query, vector)
        self._seen.update(keys)
        return None

    def remember(self, query: str, answer: str) -> None:
        """Remember a pair that an earlier run accepted."""
        self._seen.update(self._keys(query, answer))
        if self._embed is not None:
            self._add(query, self._vector(query, answer))

    def describe(self) -> dict[str, Any]:
        """Return the settings of the filter."""
        settings = {"filter": "duplicates", "threshold": self.threshold}
        return settings if self.similarity is None else {**settings, "similarity": self.similarity}

    def _vector(self, query: str, answer: str) -> Vectors:
        assert self._embed is not None
        vector: Vectors = self._embed([" ".join(compared(query, answer))])[0]
        return vector

    def _add(self, query: str, vector: Vectors) -> None:
        if not self._queries:
            self._vectors = np.empty((1024, len(vector)), np.float32)
        elif len(self._queries) == len(self._vectors):
            self._vectors = np.concatenate([self._vectors, np.empty_like(self._vectors)])
        self._vectors[len(self._queries)] = vector
        self._queries.append(query)

    def _keys(self, query: str, answer: str) -> list[int]:
        """Return a hash of the whole pair and one of each band."""
        sequence = compared(query, answer)
        digest = hashlib.blake2b("\x1f".join(sequence).encode(), digest_size=8)
        keys = [int.from_bytes(digest.digest(), "little")]
        if self._bands:
            signature = rensa.RMinHash(num_perm=_VALUES, seed=_SEED)
            signature.update(_shingles(sequence))
            values = signature.digest()
            for band in range(self._bands):
                start = band * self._rows
                # A tuple of integers has the same hash in every process.
                keys.append(hash((band, *values[start : start + self._rows])) % 2**64)
        return keys


def compared(query: str, answer: str) -> Sequence[str]:
    """Return the words that a pair is compared by: the answer's, after the query's if needed."""
    query, answer = encodable(query), encodable(answer)
    sequence = words(answer)
    if len(sequence) < _LONG:
        # An answer without words is compared by its marks: "+" is not "-".
        return [*words(query), "\x1e", *(sequence or answer.split())]
    return sequence


def _shingles(sequence: Sequence[str]) -> list[str]:
    """Return all sequences of three words; the whole text if it has fewer."""
    if len(sequence) <= _SHINGLE:
        return [" ".join(sequence)]
    return [*map(" ".join, zip(*(sequence[i:] for i in range(_SHINGLE)), strict=False))]


@cache
def _shape(threshold: float) -> tuple[int, int]:
    """Return the number of bands, and of values a band, with the least error.

    The error is the area of false positives below the threshold plus that of false negatives
    above it, as in Zhu et al. 2016 (LSH Ensemble), section 5.1.
    """
    similarity = np.linspace(0, 1, 1001)
    ideal = similarity >= threshold

    def error(shape: tuple[int, int]) -> float:
        bands, rows = shape
        detected = 1 - (1 - similarity**rows) ** bands
        return float(np.abs(detected - ideal).mean())

    shapes = ((b, r) for b in range(1, _MOST_BANDS + 1) for r in range(1, _VALUES // b + 1))
    return min(shapes, key=error)


_EXTRA_LOOKUPS: Final = 3  # words looked up beyond those needed; most chance hits share fewer
_SLACK: Final = 1e-9
_Mark = tuple[str, int]  # a word, and the number of its earlier occurrences in the text


class Novelty:
    """Accepted texts, and whether another text differs from all of them."""

    def __init__(self, threshold: float = 0.7) -> None:
        """Start without texts.

        Args:
            threshold: ROUGE-L from which a text is not new, greater than 0 and at most 1.

        Raises:
            InputError: The threshold is out of range.
        """
        if not 0 < threshold <= 1:
            raise InputError(f"threshold {threshold} is out of range: give more than 0, at most 1")
        self._threshold = threshold
        self._texts: list[Sequence[str]] = []
        self._having: dict[_Mark, list[int]] = {}

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self._texts)

    def is_new(self, text: str) -> bool:
        """Return whether a text has words and differs from all accepted texts."""
        terms = words(text)
        return bool(terms) and not any(
            rouge_l(terms, self._texts[place]) >= self._threshold for place in self._near(terms)
        )

    def add(self, text: str) -> None:
        """Add an accepted text."""
        terms = words(text)
        for mark in _marks(terms):
            self._having.setdefault(mark, []).append(len(self._texts))
        self._texts.append(terms)

    def _near(self, terms: Sequence[str]) -> Iterator[int]:
        """Yield the positions of all texts that can reach the threshold, and of few others."""
        half = self._threshold / 2
        fewest = half * len(terms) / (1 - half)  # words of the shortest text that can reach it
        needed = math.ceil(half * (len(terms) + fewest) - _SLACK)
        marks = sorted(_marks(terms), key=lambda mark: len(self._having.get(mark, ())))
        looked_up = marks[: len(terms) - needed + _EXTRA_LOOKUPS]
        shared: Counter[int] = Counter()
        for mark in looked_up:
            shared.update(self._having.get(mark, ()))
        elsewhere = len(terms) - len(looked_up)  # words that may be shared besides these
        for place, count in shared.items():
            length = len(self._texts[place])
            if count + min(elsewhere, length) >= half * (len(terms) + length) - _SLACK:
                yield place


def rouge_l(one: Sequence[str], other: Sequence[str]) -> float:
    """Return the ROUGE-L F-measure of two texts as words, from 0 to 1.

    It is `2 * common / (words of one + words of the other)`, with the length of the longest common
    subsequence. An integer whose bits are the words of `one` finds it in as many steps as `other`
    has words (Hyyrö, 2004).
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


def _marks(terms: Sequence[str]) -> list[_Mark]:
    """Return the words, each with the number of its earlier occurrences."""
    seen: Counter[str] = Counter()
    marks = []
    for word in terms:
        marks.append((word, seen[word]))
        seen[word] += 1
    return marks
