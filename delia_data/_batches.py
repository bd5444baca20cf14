"""Cutting a stream into groups (`itertools.batched` comes with Python 3.12)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Give the items in lists of `size`, the last one shorter where they run out."""
    iterator = iter(items)
    while group := list(itertools.islice(iterator, size)):
        yield group
