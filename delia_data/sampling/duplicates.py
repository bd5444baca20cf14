"""Duplicate pairs: exact and near duplicates of pairs accepted before.

    words of the pair ──▶ shingles of 3 words ──▶ MinHash, 128 values ──▶ bands ──▶ seen before?
                                                                             │
                     Bloom filter of the bands' hashes instead of the texts ◀┘

Two pairs whose sets of shingles have Jaccard similarity s share a band of r values with
probability s**r, and at least one of b bands with 1 - (1 - s**r)**b (Leskovec et al., Mining of
Massive Datasets, section 3.4). The bands' hashes are kept in a Bloom filter instead of an index of
signatures (LSHBloom, Khan et al. 2024), which keeps memory flat. Nothing is verified, so the
threshold is soft: at 0.8, 40% of the pairs with a similarity of 0.8 count as near duplicates, 8%
of those with 0.7, 1% of those with 0.6, and 94% of those with 0.9.
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
from delia_data.sampling.words import words

Keys = npt.NDArray[np.uint64]  # shape (keys,)

_BITS: Final = 40  # of a segment for each key that it is made for
_PROBES: Final = 14  # bits that stand for a key: 1 in 25 million others hits a full segment
_ONE: Final = np.uint64(1)
_STEPS: Final = np.arange(_PROBES, dtype=np.uint64)


class BloomFilter:
    """A growing set of 64-bit keys in 40 bits a key, with rare false positives.

    Bloom (1970), with the double hashing of Kirsch and Mitzenmacher (2006). Segments of a fixed
    size are added as needed. With 10 keys a row, a million rows take 69 MB and each further
    million 52 MB.
    """

    def __init__(self, keys_per_row: int) -> None:
        """Start without keys.

        Args:
            keys_per_row: Number of keys that are added together.
        """
        self._per_row = keys_per_row
        self._segments: list[npt.NDArray[np.uint64]] = []  # words of 64 bits
        self._room = 0  # rows that still fit into the last segment

    def add_if_new(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Add the keys of one row unless one of them was added before.

        Returns:
            Whether each key was added before; shape (keys,).
        """
        if not self._room:
            self._grow()
        seen = np.zeros(len(keys), dtype=np.bool_)
        for segment in self._segments:
            place, bit = _places(keys, segment)
            seen |= ((segment[place] >> bit) & _ONE).all(axis=1)
        if not seen.any():
            np.bitwise_or.at(segment, place, _ONE << bit)
            self._room -= 1
        return seen

    @property
    def nbytes(self) -> int:
        """Size in memory in bytes."""
        return sum(segment.nbytes for segment in self._segments)

    def _grow(self) -> None:
        rows = 1 << min(16 + 2 * len(self._segments), 20)
        self._segments.append(np.zeros(rows * self._per_row * _BITS // 64 + 1, dtype=np.uint64))
        self._room = rows


def mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spread numbers over 64 bits: the finalizer of SplitMix64 (Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _places(keys: Keys, segment: npt.NDArray[np.uint64]) -> tuple[Any, Any]:
    """Return word and bit of each probe of each key: two arrays of shape (keys, probes)."""
    step = mix(keys) | _ONE
    bits = (keys[:, None] + step[:, None] * _STEPS) % np.uint64(len(segment) * 64)
    return bits >> np.uint64(6), bits & np.uint64(63)


DEFAULT_THRESHOLD: Final = 0.8
_LONG: Final = 12  # words from which on an answer is compared by itself
_SHINGLE: Final = 3  # words
_VALUES: Final = 128  # of a MinHash signature
_MOST_BANDS: Final = 24
_SEED: Final = 2408


class Duplicates:
    """Reject a pair that repeats an accepted one; this filter is stateful and comes last.

    An answer of 12 words or more is compared by itself: the same long answer to another query
    teaches nothing new. A shorter one is compared together with its query, because "Yes." is a
    good answer to many. Case, punctuation and spaces do not count.
    """

    def __init__(self, threshold: float | None = DEFAULT_THRESHOLD) -> None:
        """Start without pairs.

        Args:
            threshold: Jaccard similarity of the sets of three-word shingles from which two pairs
                are near duplicates, 0.5 to 1; None to look for exact duplicates only.

        Raises:
            InputError: The threshold is out of range.
        """
        if threshold is not None and not 0.5 <= threshold <= 1:
            raise InputError(f"near-duplicate threshold {threshold} is out of range: give 0.5 to 1")
        self.threshold = threshold
        self._bands, self._rows = _shape(threshold) if threshold is not None else (0, 0)
        self._seen = BloomFilter(1 + self._bands)

    def __call__(self, query: str, completion: Completion, /) -> str | None:
        """Return `"duplicate"` or `"near_duplicate"`, or None after remembering the pair."""
        keys = self._keys(query, completion.text)
        seen = self._seen.add_if_new(keys)
        if seen[0]:
            return "duplicate"
        return "near_duplicate" if seen.any() else None

    def remember(self, query: str, answer: str) -> None:
        """Remember a pair that an earlier run accepted."""
        self._seen.add_if_new(self._keys(query, answer))

    def describe(self) -> dict[str, Any]:
        """Return the settings of the filter."""
        return {"filter": "duplicates", "threshold": self.threshold}

    @property
    def nbytes(self) -> int:
        """Size of the filter's state in bytes."""
        return self._seen.nbytes

    def _keys(self, query: str, answer: str) -> Keys:
        """Return a hash of the whole pair and one of each band; shape (1 + bands,)."""
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
    """Return the words that a pair is compared by: the answer's, after the query's if needed."""
    query, answer = _encodable(query), _encodable(answer)
    found = words(answer)
    if len(found) < _LONG:
        # An answer without words is compared by its marks: "+" is not "-".
        return [*words(query), "\x1e", *(found or answer.split())]
    return found


def _encodable(text: str) -> str:
    """Replace lone surrogates, which cannot be hashed."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def jaccard(first: Sequence[str], second: Sequence[str]) -> float:
    """Return the Jaccard similarity of the shingles of two texts, which the filter estimates."""
    a, b = set(_shingles(first)), set(_shingles(second))
    return len(a & b) / len(a | b)


def _shingles(found: Sequence[str]) -> list[str]:
    """Return all sequences of three words; the whole text if it has fewer."""
    if len(found) <= _SHINGLE:
        return [" ".join(found)]
    return [*map(" ".join, zip(*(found[i:] for i in range(_SHINGLE)), strict=False))]


@cache
def _shape(threshold: float) -> tuple[int, int]:
    """Return the number of bands, and of values a band, with the least error.

    The error is the area of false positives below the threshold plus that of false negatives
    above it, as in Zhu et al. 2016 (LSH Ensemble), section 5.1.
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
    """Return odd numbers to hash a band with; shape (values,)."""
    return mix(np.arange(1, _VALUES + 1, dtype=np.uint64) << np.uint64(32)) | np.uint64(1)
