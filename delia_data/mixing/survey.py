"""The first look at a cache: which pairs may be mixed, and why not the others.

The cache is read once. Of every pair 16 bytes stay in memory, so that ten million need 160 MB;
the pairs themselves are kept where `kept` has room for them.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa

from delia_data.errors import DeliaError, FormatError
from delia_data.mixing.engine import ID_SQL, connect, names_sql, place_sql
from delia_data.mixing.kept import Chunk, Keeper, Kept, Keys, keys_of
from delia_data.mixing.sources import Pairs, Relation, open_general, open_pairs
from delia_data.ranking import rank
from delia_data.records import Record

NGRAM_WORDS: Final = 13
_WORD: Final = re.compile(r"\w+")
_BATCH: Final = 40_000
_FIRST_KEY: Final = "'0:cache:' || id"
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
        kept: Those of its rows that may be picked; None of a cache that is read elsewhere.
        rows: Rows that it holds.
        ranks: Places in the selection's order of the pairs that may be mixed, ascending; a row
            for each, of the higher and the lower 64 bits; shape (pairs, 2).
        dropped: How many may not be mixed, by reason.
        excluded: Places of rows that may not be mixed, but for those that the text itself tells,
            ascending.
        repeated: Whether some id is there more than once.
        longer: Whether some row has more than a question and its answer.
        content: Hash of the rows' ids, the same whatever their order.
    """

    kept: Kept | None = field(repr=False)
    rows: int
    ranks: Keys
    dropped: Counter[str]
    excluded: Keys
    repeated: bool
    longer: bool
    content: str

    def threshold(self, count: int) -> int:
        """The place of the pair that is picked last when `count` are picked, at least 1."""
        high, low = self.ranks[count - 1].tolist()
        return int(high) << 64 | int(low)


@dataclass(frozen=True)
class Hashes:
    """What is read of rows, in the order in which they came; parts of a cache can be joined.

    Attributes:
        ranks: Places in the selection's order, of the higher and the lower 64 bits; shape (rows,
            2).
        named: Whether a row names a special token; shape (rows,).
        tainted: Ids of rows that share a run of words with a held-out row.
        total: Sum of the rows' ids, as four numbers modulo 2**64.
        longer: Whether some row has more than a question and its answer.
    """

    ranks: Keys
    named: np.ndarray[Any, np.dtype[np.bool_]]
    tainted: frozenset[str]
    total: np.ndarray[Any, np.dtype[np.uint64]]
    longer: bool

    @classmethod
    def join(cls, parts: Sequence[Hashes]) -> Hashes:
        """Put the hashes of parts together, in their order."""
        return cls(
            np.concatenate([np.empty((0, 2), np.uint64), *(part.ranks for part in parts)]),
            np.concatenate([np.empty(0, bool), *(part.named for part in parts)]),
            frozenset().union(*(part.tainted for part in parts)),
            sum((part.total for part in parts), np.zeros(4, np.uint64)),
            any(part.longer for part in parts),
        )


class Elsewhere(Protocol):
    """A cache whose rows are read elsewhere, such as on a cluster."""

    def look(
        self, *, seed: int, tokens: tuple[str, ...], ngrams_of_test: frozenset[tuple[str, ...]]
    ) -> Hashes:
        """Read the hashes of every row.

        Args:
            seed: Seed of the selection.
            tokens: Special tokens, none of which a pair may name.
            ngrams_of_test: Runs of words that no pair may have.

        Raises:
            InputError: The cache cannot be read, or a row is wrong.
        """


def survey(
    given: Pairs | Elsewhere,
    name: str,
    spill: Path,
    *,
    seed: int,
    tokens: tuple[str, ...],
    task: Sequence[Record],
    wanted: int | None = None,
    ngrams_of_test: frozenset[tuple[str, ...]] = frozenset(),
    earlier: Sequence[Survey] = (),
) -> Survey:
    """Look at a cache, and keep what may be picked of it.

    Args:
        given: The pairs.
        name: A name for its tables.
        spill: Folder for temporary files.
        seed: Seed of the selection.
        tokens: Special tokens, none of which a pair may name.
        task: Task rows, held-out ones among them, none of which may be a pair.
        wanted: How many pairs are picked at most; all of them where it is not said.
        ngrams_of_test: Runs of words that no pair may have.
        earlier: Caches looked at before, whose pairs are not taken twice.

    Raises:
        InputError: The cache cannot be read, or a row is wrong.
        OutputError: The disk is full.
    """
    if hasattr(given, "look"):
        found = given.look(seed=seed, tokens=tokens, ngrams_of_test=ngrams_of_test)
        return _weigh(None, found, seed, task, earlier)
    import duckdb

    if wanted is not None:  # so many more may yet turn out to be no pairs
        wanted += len(task) + sum(len(other.ranks) for other in earlier)
    relation = open_pairs(given, name, spill)
    keeper = Keeper(spill, wanted)
    try:
        found = read_rows(relation, seed, tokens, ngrams_of_test, keeper)
    except (duckdb.Error, DoubtfulError) as error:
        if not relation.fast or isinstance(error, duckdb.OutOfMemoryException):
            raise
        try:
            relation = open_general(given, name, spill)
        except UnicodeDecodeError as broken:
            raise FormatError(f"a cache is not UTF-8 text: {broken}") from broken
        keeper = Keeper(spill, wanted)
        found = read_rows(relation, seed, tokens, ngrams_of_test, keeper)
    return _weigh(keeper.done(), found, seed, task, earlier)


class DoubtfulError(Exception):
    """A row that only the general way can judge."""


def read_rows(
    relation: Relation,
    seed: int,
    tokens: tuple[str, ...],
    ngrams_of_test: frozenset[tuple[str, ...]],
    keeper: Keeper | None = None,
) -> Hashes:
    """Read the hashes of every row of a relation, and what only its text can tell.

    Args:
        relation: The rows.
        seed: Seed of the selection and the order.
        tokens: Special tokens, none of which a pair may name.
        ngrams_of_test: Runs of words that no pair may have.
        keeper: What gets the rows that name no token and have no such run.

    Raises:
        DoubtfulError: A row was left as it lies, and the general way must judge it.
    """
    text = ", messages" if ngrams_of_test or keeper else ""
    order = f", {place_sql(seed, 'order', _FIRST_KEY)} AS place" if keeper else ""
    inner = (
        f"SELECT {ID_SQL} AS id, {names_sql(tokens)} AS named, {_VALID} AS valid, "
        f"len(messages) > 2 AS longer{text}"
    )
    sql = (
        f"SELECT id, {place_sql(seed, 'select', 'id')} AS rank{order}, named, valid, longer{text} "
        f"FROM ({inner} FROM {{}})"
    )
    parts = []
    for batch in _stream(sql, relation):
        if not batch.num_rows:
            continue
        found, may_be_picked = _hashes_of(batch, ngrams_of_test)
        parts.append(found)
        if keeper:
            rows = batch.select(["messages", "id"])
            keeper.add(Chunk(rows, found.ranks, keys_of(batch["place"])).where(may_be_picked))
    return Hashes.join(parts)


def _hashes_of(
    batch: pa.RecordBatch, ngrams_of_test: frozenset[tuple[str, ...]]
) -> tuple[Hashes, np.ndarray[Any, np.dtype[np.bool_]]]:
    """The hashes of a batch, and which of its rows may be picked for all that their text tells."""
    valid, named, longer = (
        batch[name].to_numpy(zero_copy_only=False).astype(bool)
        for name in ("valid", "named", "longer")
    )
    if not valid.all():
        raise DoubtfulError
    tainted = _tainted(batch, ngrams_of_test) if ngrams_of_test else np.zeros(len(named), bool)
    found = Hashes(
        keys_of(batch["rank"]),
        named,
        frozenset(batch["id"].filter(pa.array(tainted)).to_pylist()),
        _sum_of_ids(batch["id"]),
        bool(longer.any()),
    )
    return found, ~(named | tainted)


def _stream(sql: str, relation: Relation) -> Iterator[pa.RecordBatch]:
    with connect() as connection:
        for name, table in relation.tables.items():
            connection.register(name, table)
        reader = connection.sql(sql.format(relation.sql)).to_arrow_reader(_BATCH)
        try:
            yield from reader
        except OSError as error:  # what DuckDB finds wrong in a row, as Arrow passes it on
            if isinstance(error, DeliaError) or "Out of Memory" in str(error):
                raise
            raise DoubtfulError from error


def _sum_of_ids(ids: pa.StringArray) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Sum of ids of 32 hexadecimal digits each, as four numbers modulo 2**64."""
    text = np.frombuffer(ids.cast(pa.binary()).buffers()[2], np.uint8)
    start = ids.offset * 32
    words = text[start : start + 32 * len(ids)].view(np.uint64).reshape(-1, 4)
    total: np.ndarray[Any, np.dtype[np.uint64]] = words.sum(axis=0, dtype=np.uint64)
    return total


def _weigh(
    kept: Kept | None,
    found: Hashes,
    seed: int,
    task: Sequence[Record],
    earlier: Sequence[Survey],
) -> Survey:
    """Sort the ranks, and drop what may not be mixed, each row for one reason."""
    dropped: Counter[str] = Counter()
    ranks, good = found.ranks, np.ones(len(found.ranks), bool)
    content = hashlib.sha256(f"{len(ranks)}:{found.total.tolist()}".encode()).hexdigest()
    order = np.argsort(ranks[:, 0])
    ranks, named = ranks[order], found.named[order]
    if np.any((ranks[1:, 0] == ranks[:-1, 0]) & (ranks[1:, 1] != ranks[:-1, 1])):
        order = np.lexsort((ranks[:, 1], ranks[:, 0]))
        ranks, named = ranks[order], named[order]

    def drop(which: np.ndarray[Any, Any], reason: str) -> None:
        count = int(np.count_nonzero(which & good))
        if count:
            dropped[reason] += count
        good[which] = False

    again = np.zeros(len(ranks), bool)
    again[1:] = (ranks[1:] == ranks[:-1]).all(axis=1)
    drop(again, "duplicate")
    in_task = among(ranks, _ranks_of({row.id for row in task}, seed))
    tainted = among(ranks, _ranks_of(found.tainted, seed))
    elsewhere = np.zeros(len(ranks), bool)
    for other in earlier:
        elsewhere |= among(ranks, other.ranks)
    drop(in_task, "also_in_task")
    drop(named, "names_token")
    drop(tainted, "overlaps_test")
    drop(elsewhere, "duplicate")
    return Survey(
        kept,
        rows=len(ranks),
        ranks=ranks[good],
        dropped=dropped,
        excluded=ranks[in_task | tainted | elsewhere],
        repeated=bool(again.any()),
        longer=found.longer,
        content=content,
    )


def _ranks_of(ids: Any, seed: int) -> Keys:
    places = sorted(rank(seed, row_id, "select") for row_id in ids)
    pairs = [(place >> 64, place & (2**64 - 1)) for place in places]
    return np.array(pairs, np.uint64).reshape(-1, 2)


def among(ranks: Keys, others: Keys) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which ranks are among others, which are sorted by their higher half."""
    if not len(others):
        return np.zeros(len(ranks), bool)
    first = np.searchsorted(others[:, 0], ranks[:, 0])
    at = np.minimum(first, len(others) - 1)
    same_half = others[at, 0] == ranks[:, 0]
    found: np.ndarray[Any, np.dtype[np.bool_]] = same_half & (others[at, 1] == ranks[:, 1])
    for row in np.flatnonzero(same_half & ~found):  # two that share 64 bits: hardly ever
        end = np.searchsorted(others[:, 0], ranks[row, 0], side="right")
        found[row] = bool((others[first[row] : end, 1] == ranks[row, 1]).any())
    return found


def ngrams(texts: Sequence[str]) -> frozenset[tuple[str, ...]]:
    """Runs of 13 words in texts, case and punctuation aside; a shorter text has none."""
    found = set()
    for text in texts:
        words = _WORD.findall(text.casefold())
        found |= {tuple(words[i : i + NGRAM_WORDS]) for i in range(len(words) - NGRAM_WORDS + 1)}
    return frozenset(found)


def _tainted(
    batch: pa.RecordBatch, of_test: frozenset[tuple[str, ...]]
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows have a run of words that a held-out row has."""
    return np.array(
        [
            not of_test.isdisjoint(ngrams([message["content"] for message in messages]))
            for messages in batch["messages"].to_pylist()
        ],
        bool,
    )
