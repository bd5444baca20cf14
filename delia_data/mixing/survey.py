"""The first look at a cache: which pairs may be mixed, which are picked, why not the others.

Only hashes are kept, 16 bytes a pair, so that ten million pairs need 160 MB.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa

from delia_data.errors import FormatError
from delia_data.mixing.engine import ID_SQL, connect, names_sql, rank_sql
from delia_data.mixing.sources import Pairs, Relation, open_general, open_pairs
from delia_data.ranking import rank
from delia_data.records import Record

__all__ = ["Survey", "ngrams", "survey"]

NGRAM_WORDS: Final = 13
_WORD: Final = re.compile(r"\w+")
_BATCH: Final = 100_000
_VALID: Final = (
    "messages IS NOT NULL AND len(messages) > 0 AND messages[-1].role = 'assistant' "
    "AND len(list_filter(messages, lambda m: m.role = 'user')) > 0 "
    "AND len(list_filter(messages, lambda m: m.role NOT IN ('system', 'user', 'assistant') "
    "OR m.content IS NULL OR NOT regexp_matches(m.content, '[^\\s\\pZ\\pC]'))) = 0"
)
"""What `records.Record` asks of a row, a little stricter: the general way decides the doubtful."""


@dataclass(frozen=True)
class Survey:
    """What one look at a cache found.

    Attributes:
        relation: The cache, checked.
        rows: Rows that it holds.
        ranks: Places in the selection's order of the pairs that may be mixed, ascending; a row
            for each, of the higher and the lower 64 bits; shape (pairs, 2).
        dropped: How many may not be mixed, by reason.
        excluded: Places of rows that may not be mixed, but for those that the text itself tells.
        repeated: Whether some id is there more than once.
        longer: Whether some row has more than a question and its answer.
        content: Hash of the rows' ids, the same whatever their order.
    """

    relation: Relation
    rows: int
    ranks: np.ndarray[Any, np.dtype[np.uint64]]
    dropped: Counter[str]
    excluded: tuple[int, ...]
    repeated: bool
    longer: bool
    content: str

    def threshold(self, count: int) -> int:
        """The place of the pair that is picked last when `count` are picked, at least 1."""
        high, low = self.ranks[count - 1].tolist()
        return int(high) << 64 | int(low)


def survey(
    given: Pairs,
    name: str,
    spill: Path,
    *,
    seed: int,
    tokens: tuple[str, ...],
    task: Sequence[Record],
    ngrams_of_test: frozenset[tuple[str, ...]] = frozenset(),
    earlier: Sequence[Survey] = (),
) -> Survey:
    """Look at a cache.

    Args:
        given: The pairs.
        name: A name for its tables.
        spill: Folder for temporary files.
        seed: Seed of the selection.
        tokens: Special tokens, none of which a pair may name.
        task: Task rows, held-out ones among them, none of which may be a pair.
        ngrams_of_test: Runs of words that no pair may have.
        earlier: Caches looked at before, whose pairs are not taken twice.

    Raises:
        InputError: The cache cannot be read, or a row is wrong.
    """
    relation = open_pairs(given, name, spill)
    try:
        found = _look(relation, seed, tokens, ngrams_of_test)
    except (duckdb.Error, _DoubtfulError) as error:
        if not relation.fast or isinstance(error, duckdb.OutOfMemoryException):
            raise
        try:
            relation = open_general(given, name, spill)
        except UnicodeDecodeError as broken:
            raise FormatError(f"a cache is not UTF-8 text: {broken}") from broken
        found = _look(relation, seed, tokens, ngrams_of_test)
    return _weigh(replace(found.survey, relation=relation), found, seed, task, earlier)


class _DoubtfulError(Exception):
    """A row that only the general way can judge."""


@dataclass
class _Look:
    """Hashes of every row, as they came."""

    survey: Survey
    ranks: np.ndarray[Any, np.dtype[np.uint64]]
    named: np.ndarray[Any, np.dtype[np.bool_]]
    tainted: dict[str, None]


def _look(
    relation: Relation,
    seed: int,
    tokens: tuple[str, ...],
    ngrams_of_test: frozenset[tuple[str, ...]],
) -> _Look:
    """Read the hashes of every row, and what only its text can tell."""
    text = ", messages" if ngrams_of_test else ""
    inner = (
        f"SELECT {ID_SQL} AS id, {names_sql(tokens)} AS named, {_VALID} AS valid, "
        f"len(messages) > 2 AS longer{text}"
    )
    high, low = (rank_sql(seed, "select", "id", half) for half in ("_lower", "_upper"))
    sql = (
        f"SELECT id, {high} AS high, {low} AS low, named, valid, longer{text} "
        f"FROM ({inner} FROM {{}})"
    )
    parts: list[np.ndarray[Any, Any]] = []
    named: list[np.ndarray[Any, Any]] = []
    tainted: dict[str, None] = {}
    total = np.zeros(4, np.uint64)
    longer = False
    for batch in _stream(sql, relation):
        if not np.all(batch["valid"].to_numpy(zero_copy_only=False)):
            raise _DoubtfulError
        parts.append(np.stack([batch["high"].to_numpy(), batch["low"].to_numpy()], axis=1))
        named.append(batch["named"].to_numpy(zero_copy_only=False))
        total += _sum_of_ids(batch["id"])
        longer = longer or bool(np.any(batch["longer"].to_numpy(zero_copy_only=False)))
        if ngrams_of_test:
            tainted |= dict.fromkeys(_tainted(batch, ngrams_of_test))
    ranks = np.concatenate(parts) if parts else np.empty((0, 2), np.uint64)
    flags = np.concatenate(named).astype(bool) if named else np.empty(0, bool)
    content = hashlib.sha256(f"{len(ranks)}:{total.tolist()}".encode()).hexdigest()
    empty = np.empty((0, 2), np.uint64)
    found = Survey(relation, len(ranks), empty, Counter(), (), False, longer, content)
    return _Look(found, ranks, flags, tainted)


def _stream(sql: str, relation: Relation) -> Iterator[pa.RecordBatch]:
    with connect() as connection:
        for name, table in relation.tables.items():
            connection.register(name, table)
        yield from connection.sql(sql.format(relation.sql)).to_arrow_reader(_BATCH)


def _sum_of_ids(ids: pa.StringArray) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Sum of ids of 32 hexadecimal digits each, as four numbers modulo 2**64."""
    text = np.frombuffer(ids.cast(pa.binary()).buffers()[2], np.uint8)
    start = ids.offset * 32
    words = text[start : start + 32 * len(ids)].view(np.uint64).reshape(-1, 4)
    return words.sum(axis=0, dtype=np.uint64)


def _weigh(
    found: Survey, look: _Look, seed: int, task: Sequence[Record], earlier: Sequence[Survey]
) -> Survey:
    """Sort the ranks, and drop what may not be mixed, each row for one reason."""
    dropped: Counter[str] = Counter()
    ranks, kept = look.ranks, np.ones(len(look.ranks), bool)
    order = np.argsort(ranks[:, 0], kind="stable")
    ranks, named = ranks[order], look.named[order]
    if np.any((ranks[1:, 0] == ranks[:-1, 0]) & (ranks[1:, 1] != ranks[:-1, 1])):
        order = np.lexsort((ranks[:, 1], ranks[:, 0]))
        ranks, named = ranks[order], named[order]

    def drop(which: np.ndarray[Any, Any], reason: str) -> None:
        count = int(np.count_nonzero(which & kept))
        if count:
            dropped[reason] += count
        kept[which] = False

    again = np.zeros(len(ranks), bool)
    again[1:] = (ranks[1:] == ranks[:-1]).all(axis=1)
    drop(again, "duplicate")
    in_task = _among(ranks, _ranks_of({row.id for row in task}, seed))
    tainted = _among(ranks, _ranks_of(look.tainted, seed))
    elsewhere = np.zeros(len(ranks), bool)
    for other in earlier:
        elsewhere |= _among(ranks, other.ranks)
    drop(in_task, "also_in_task")
    drop(named, "names_token")
    drop(tainted, "overlaps_test")
    drop(elsewhere, "duplicate")
    return replace(
        found,
        ranks=ranks[kept],
        dropped=dropped,
        excluded=tuple(
            int(high) << 64 | int(low) for high, low in ranks[in_task | tainted | elsewhere]
        ),
        repeated=bool(again.any()),
    )


def _ranks_of(ids: Any, seed: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    places = sorted(rank(seed, row_id, "select") for row_id in ids)
    pairs = [(place >> 64, place & (2**64 - 1)) for place in places]
    return np.array(pairs, np.uint64).reshape(-1, 2)


def _among(
    ranks: np.ndarray[Any, Any], others: np.ndarray[Any, Any]
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which ranks are among others; both sorted by their higher half."""
    if not len(others) or not len(ranks):
        return np.zeros(len(ranks), bool)
    near = np.isin(ranks[:, 0], others[:, 0])
    if near.any():
        candidates = others[np.isin(others[:, 0], ranks[near, 0])]
        known = {(int(high), int(low)) for high, low in candidates}
        for index in np.flatnonzero(near):
            near[index] = (int(ranks[index, 0]), int(ranks[index, 1])) in known
    result: np.ndarray[Any, np.dtype[np.bool_]] = near
    return result


def ngrams(texts: Sequence[str]) -> frozenset[tuple[str, ...]]:
    """Runs of 13 words in texts, case and punctuation aside; a shorter text has none."""
    found = set()
    for text in texts:
        words = _WORD.findall(text.casefold())
        found |= {tuple(words[i : i + NGRAM_WORDS]) for i in range(len(words) - NGRAM_WORDS + 1)}
    return frozenset(found)


def _tainted(batch: pa.RecordBatch, of_test: frozenset[tuple[str, ...]]) -> Iterator[str]:
    for row_id, messages in zip(batch["id"], batch["messages"].to_pylist(), strict=True):
        if not of_test.isdisjoint(ngrams([message["content"] for message in messages])):
            yield row_id.as_py()
