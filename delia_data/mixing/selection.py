"""Which pairs of a cache a mixture takes, and in which order its rows stand.

Both follow from a keyed hash of each row's content id and the seed, and from nothing else: not
from the row's position, the number of workers or the engine.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from delia_data.mixing.store import CacheRows, Numbers, binary_ids, hex_of
from delia_data.ranking import md5

Keys = np.ndarray[Any, np.dtype[np.uint64]]
"""`ranking.rank` of rows: the upper and the lower 64 bits of each; shape (rows, 2)."""


@dataclass(frozen=True)
class Usable:
    """The pairs of a cache that a mixture may take.

    Attributes:
        rows: Their row numbers, in the order of selection.
        ids: Their content ids in binary, in the same order.
        dropped: Rows that it may not take, by reason; each has one reason.
        sha256: Hash of the ids of all rows, independent of their order.
    """

    rows: Numbers
    ids: pa.FixedSizeBinaryArray
    dropped: Counter[str]
    sha256: str


def usable_pairs(
    cache: CacheRows,
    *,
    seed: int,
    tokens: Sequence[str],
    task_ids: Collection[str],
    test_ngrams: frozenset[tuple[str, ...]],
    earlier: Iterable[pa.FixedSizeBinaryArray],
) -> Usable:
    """Return the pairs of a cache that may be mixed, in the order of selection.

    Args:
        cache: The rows of the cache.
        seed: Seed of the selection.
        tokens: Special tokens; a pair that contains one is dropped.
        task_ids: Content ids of task rows, held-out ones too; a pair that equals one is dropped.
        test_ngrams: Runs of words of held-out rows; a pair that has one is dropped.
        earlier: Usable ids of each cache before this one, whose pairs are not taken twice.
    """
    ids = cache.ids
    hexadecimal = hex_of(ids)
    order = sort_keys(rank_keys(seed, "select:", hexadecimal))
    in_order = ids.take(pa.array(order))
    usable = np.ones(len(order), bool)
    dropped = Counter(cache.dropped)

    def drop(which: np.ndarray[Any, Any], reason: str) -> None:
        if count := int(np.count_nonzero(which & usable)):
            dropped[reason] += count
        usable[which] = False

    def numbered(rows: Numbers) -> np.ndarray[Any, Any]:
        mask = np.zeros(len(order), bool)
        mask[rows] = True
        return mask[order]

    words = np.frombuffer(hexadecimal, np.uint64).reshape(-1, 4)[order]
    repeats = np.zeros(len(order), bool)
    repeats[1:] = (words[1:] == words[:-1]).all(axis=1)
    drop(repeats, "duplicate")
    drop(_among(in_order, binary_ids(bytes.fromhex("".join(task_ids)))), "also_in_task")
    drop(numbered(cache.rows_with_token(tokens)), "names_token")
    if test_ngrams:
        drop(numbered(cache.rows_with_ngram(test_ngrams)), "overlaps_test")
    for others in earlier:
        drop(_among(in_order, others), "duplicate")
    total = words.sum(axis=0, dtype=np.uint64).tolist()
    content = hashlib.sha256(f"{len(order)}:{total}".encode()).hexdigest()
    return Usable(order[usable], in_order.filter(pa.array(usable)), dropped, content)


def rank_keys(seed: int, purpose: str, hexadecimal: bytes) -> Keys:
    """Return `ranking.rank` of rows.

    Args:
        seed: Seed of the run.
        purpose: Purpose of the order and all that precedes the id, with a colon after each.
        hexadecimal: The ids as 32 digits each, one after another.
    """
    key = f"{seed}:{purpose}".encode()
    digests = [
        md5(key + hexadecimal[i : i + 32], usedforsecurity=False).digest()
        for i in range(0, len(hexadecimal), 32)
    ]
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)[:, ::-1]


def sort_keys(keys: Keys) -> Numbers:
    """Return the row numbers in ascending order of the keys."""
    upper = keys[:, 0]
    order = np.argsort(upper)
    if np.any(upper[order[1:]] == upper[order[:-1]]):  # duplicates; two rows by chance, hardly ever
        order = np.lexsort((keys[:, 1], upper))
    return order


def interleave(task_rows: int, pairs: int) -> tuple[Numbers, Numbers]:
    """Return the positions of task rows and pairs when each task row precedes its share of pairs.

    Args:
        task_rows: Number of task rows, at least 1.
        pairs: Number of pairs.
    """
    shares = np.array([round(row * pairs / task_rows) for row in range(task_rows + 1)])
    owners = np.searchsorted(shares, np.arange(pairs), side="right")
    return np.arange(task_rows) + shares[:-1], np.arange(pairs) + owners


def _among(ids: pa.FixedSizeBinaryArray, others: pa.FixedSizeBinaryArray) -> np.ndarray[Any, Any]:
    mask: np.ndarray[Any, Any] = pc.is_in(ids, others).to_numpy(zero_copy_only=False)
    return mask.astype(bool)
