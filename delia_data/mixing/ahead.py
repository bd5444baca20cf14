"""Items made in a thread of their own, while those before them are used."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Give the items as they come, the next one being made meanwhile; at most one waits.

    What raises while an item is made raises here, in its place. The thread ends with the iterator.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="delia-ahead") as thread:
        end = object()
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item  # type: ignore[misc]
