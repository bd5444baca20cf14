"""A Bloom filter of 64-bit keys that grows: which keys were seen, in 40 bits a key.

Bloom (1970), with the double hashing of Kirsch and Mitzenmacher (2006). Segments of a fixed size
follow each other, so that a small set costs little and a large one has no end.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]  # shape (keys,)

_BITS: Final = 40  # of a segment for each key that it is made for
_PROBES: Final = 14  # bits that stand for a key: 1 in 25 million others hits a full segment
_ONE: Final = np.uint64(1)
_STEPS: Final = np.arange(_PROBES, dtype=np.uint64)


class BloomFilter:
    """Keys that were added; one that never was is taken for one of them very rarely.

    At 10 keys a row, a million rows take 69 MB; each further million 52 MB.
    """

    def __init__(self, keys_per_row: int) -> None:
        """Begin without keys.

        Args:
            keys_per_row: Keys that are added together, for which it makes room by rows.
        """
        self._per_row = keys_per_row
        self._segments: list[npt.NDArray[np.uint64]] = []  # words of 64 bits
        self._room = 0  # rows that still fit into the last segment

    def add_if_new(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Add the keys of one row, unless one of them was added before.

        Returns:
            Of each key whether it was there before; shape (keys,).
        """
        if not self._room:
            self._grow()
        seen = np.zeros(len(keys), dtype=np.bool_)
        for words in self._segments:
            place, bit = _places(keys, words)
            seen |= ((words[place] >> bit) & _ONE).all(axis=1)
        if not seen.any():
            np.bitwise_or.at(words, place, _ONE << bit)
            self._room -= 1
        return seen

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(words.nbytes for words in self._segments)

    def _grow(self) -> None:
        rows = 1 << min(16 + 2 * len(self._segments), 20)
        self._segments.append(np.zeros(rows * self._per_row * _BITS // 64 + 1, dtype=np.uint64))
        self._room = rows


def mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spread numbers over 64 bits: the finaliser of SplitMix64 (Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _places(keys: Keys, words: npt.NDArray[np.uint64]) -> tuple[Any, Any]:
    """Word and bit of each probe of each key; two arrays of shape (keys, probes)."""
    step = mix(keys) | _ONE
    bits = (keys[:, None] + step[:, None] * _STEPS) % np.uint64(len(words) * 64)
    return bits >> np.uint64(6), bits & np.uint64(63)
