"""A set of 64-bit keys that holds millions of them in little memory.

add ──▶ a set, up to 65,536 keys ──▶ one sorted array, 8 bytes a key
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np

_RECENT: Final = 1 << 16


class KeySet:
    """Keys of 0 up to 2**64, each once."""

    def __init__(self) -> None:
        """Begin without keys."""
        self._sorted = array("Q")
        self._recent: set[int] = set()

    def add(self, key: int) -> None:
        """Add a key; one that is there already changes nothing."""
        if key in self:
            return
        self._recent.add(key)
        if len(self._recent) >= _RECENT:
            recent = np.fromiter(self._recent, np.uint64, len(self._recent))
            known = np.frombuffer(self._sorted, np.uint64)
            self._sorted = array("Q", np.sort(np.concatenate([known, recent])).tobytes())
            self._recent.clear()

    def update(self, keys: Iterable[int]) -> None:
        """Add keys."""
        for key in keys:
            self.add(key)

    def __contains__(self, key: int) -> bool:
        if key in self._recent:
            return True
        place = bisect_left(self._sorted, key)
        return place < len(self._sorted) and self._sorted[place] == key

    def __iter__(self) -> Iterator[int]:
        yield from self._sorted
        yield from self._recent

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)
