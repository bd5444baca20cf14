"""Duplicates: pairs that say what another pair of the cache says already.

    words of the pair ──▶ every 3 in a row ──▶ MinHash, 128 values ──▶ bands ──▶ seen before?
                                                                        │
                    a Bloom filter of the bands' hashes, not the texts ◀┘

Two pairs whose sets of shingles have the Jaccard similarity s share a band of r values with
probability s**r, and one of b bands with 1 - (1 - s**r)**b (Leskovec et al., Mining of Massive
Datasets, section 3.4). The bands' hashes are kept in a Bloom filter instead of an index of
signatures (LSHBloom, Khan et al. 2024), which keeps memory flat: nothing is verified, so that
the threshold is a soft one. At 0.8, 40 in 100 of the pairs with a similarity of 0.8 count as near
duplicates, 8 of those with 0.7, 1 of those with 0.6, and 94 of those with 0.9.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import rensa

from delia_data.engines.base import Completion
from delia_data.errors import InputError
from delia_data.sampling.bloom import BloomFilter, Keys, mix
from delia_data.sampling.words import words

DEFAULT_THRESHOLD: Final = 0.8
_LONG: Final = 12  # words from which on an answer is compared by itself
_SHINGLE: Final = 3  # words
_VALUES: Final = 128  # of a MinHash signature
_MOST_BANDS: Final = 24
_SEED: Final = 2408


class Duplicates:
    """The filter that rejects a pair which says what a kept one says: stateful, stands last.

    An answer of 12 words or more is compared by itself: the same long answer to another query
    teaches nothing new. A shorter one is compared together with its query, as "Yes." is a good
    answer to many. Case, punctuation and spaces do not count.
    """

    def __init__(self, threshold: float | None = DEFAULT_THRESHOLD) -> None:
        """Begin with no pairs.

        Args:
            threshold: Jaccard similarity of the sets of three words in a row from which on two
                pairs are near duplicates, 0.5 to 1; None looks for exact duplicates alone.

        Raises:
            InputError: The threshold is out of its bounds.
        """
        if threshold is not None and not 0.5 <= threshold <= 1:
            raise InputError(
                f"near-duplicate threshold {threshold} is out of bounds: give 0.5 to 1"
            )
        self.threshold = threshold
        self._bands, self._rows = _shape(threshold) if threshold is not None else (0, 0)
        self._seen = BloomFilter(1 + self._bands)

    def __call__(self, query: str, completion: Completion, /) -> str | None:
        """Give `"duplicate"` or `"near_duplicate"`, or None and remember the pair."""
        keys = self._keys(query, completion.text)
        seen = self._seen.add_if_new(keys)
        if seen[0]:
            return "duplicate"
        return "near_duplicate" if seen.any() else None

    def remember(self, query: str, answer: str) -> None:
        """Take up a pair that was kept in an earlier run."""
        self._seen.add_if_new(self._keys(query, answer))

    def describe(self) -> dict[str, Any]:
        """The settings that decide what is kept."""
        return {"filter": "duplicates", "threshold": self.threshold}

    @property
    def nbytes(self) -> int:
        """Bytes that are held for the pairs so far."""
        return self._seen.nbytes

    def _keys(self, query: str, answer: str) -> Keys:
        """The hash of the whole, and one for each band; shape (1 + bands,)."""
        found = compared(query, answer)
        digest = hashlib.blake2b("\x1f".join(found).encode(), digest_size=8)
        exact = np.frombuffer(digest.digest(), dtype="<u8")
        if not self._bands:
            return exact.astype(np.uint64)
        signature = rensa.RMinHash(num_perm=_VALUES, seed=_SEED)
        signature.update(_shingles(found))
        values = np.fromiter(signature.digest(), np.uint64, self._bands * self._rows)
        mixed = values.reshape(self._bands, self._rows) * _factors()[: self._rows]
        places = np.arange(1, self._bands + 1, dtype=np.uint64)
        return np.concatenate([exact, mix(mixed.sum(axis=1, dtype=np.uint64) + mix(places))])


def compared(query: str, answer: str) -> Sequence[str]:
    """The words by which a pair is compared with others: the answer's, the query's if needed."""
    query, answer = _whole(query), _whole(answer)
    found = words(answer)
    if len(found) < _LONG:
        # Marks are all there is in an answer without words, and tell "+" from "-".
        return [*words(query), "\x1e", *(found or answer.split())]
    return found


def _whole(text: str) -> str:
    """The text with a mark for half a character, which no hash can take."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def jaccard(first: Sequence[str], second: Sequence[str]) -> float:
    """Jaccard similarity of the shingles of two lists of words: what the filter estimates."""
    a, b = set(_shingles(first)), set(_shingles(second))
    return len(a & b) / len(a | b)


def _shingles(found: Sequence[str]) -> list[str]:
    """Every three words in a row; all of them where there are fewer."""
    if len(found) <= _SHINGLE:
        return [" ".join(found)]
    return [*map(" ".join, zip(*(found[i:] for i in range(_SHINGLE)), strict=False))]


@cache
def _shape(threshold: float) -> tuple[int, int]:
    """Bands and values a band whose curve has the least error around the threshold.

    The error is the area of wrong rejections below the threshold plus that of misses above it,
    as in Zhu et al. 2016 (LSH Ensemble), section 5.1.
    """
    similarity = np.linspace(0, 1, 1001)
    wanted = similarity >= threshold

    def error(shape: tuple[int, int]) -> float:
        bands, rows = shape
        found = 1 - (1 - similarity**rows) ** bands
        return float(np.abs(found - wanted).mean())

    shapes = ((b, r) for b in range(1, _MOST_BANDS + 1) for r in range(1, _VALUES // b + 1))
    return min(shapes, key=error)


@cache
def _factors() -> npt.NDArray[np.uint64]:
    """Odd numbers to hash a band with; shape (values,)."""
    return mix(np.arange(1, _VALUES + 1, dtype=np.uint64) << np.uint64(32)) | np.uint64(1)
