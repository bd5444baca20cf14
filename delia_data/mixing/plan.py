"""The plan of a mixture, and the rows that follow from it, in their order.

A plan holds no rows but the task's: it names the caches, the place up to which each is picked,
and the settings. It can be sent to another process, which gets the same rows from it, whole or
a part of the order at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from delia_data.errors import FormatError, InputError, OutputError
from delia_data.mixing.engine import ID_SQL, connect, names_sql, rank_sql
from delia_data.mixing.options import MESSAGES, MixOptions, schema
from delia_data.mixing.sources import Relation
from delia_data.records import Format, read_record, write_record

__all__ = ["PLACES", "Picked", "Plan", "convert"]

PLACES: Final = 2**128
"""Places of the order: a row stands at one of 0 to `PLACES` - 1."""

_BATCH: Final = 10_000
_SMALLEST: Final = PLACES // 4096  # parts of the order that are not halved again
_TASK: Final = pa.schema(
    [
        ("messages", MESSAGES),
        ("id", pa.string()),
        ("wording_id", pa.string()),
        ("repetition", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Picked:
    """A cache, and how much of it is taken.

    Attributes:
        relation: The cache.
        thresholds: For each repetition of the cache the place, in the selection's order, of the
            last pair that is taken.
        excluded: Places in the selection's order that are not taken.
        repeated: Whether some id is there more than once, of which one is taken.
    """

    relation: Relation
    thresholds: tuple[int, ...]
    excluded: tuple[int, ...] = ()
    repeated: bool = False


@dataclass(frozen=True)
class Plan:
    """All that the rows of a mixture follow from.

    Attributes:
        options: The settings.
        tokens: The special tokens.
        task: Training rows of the task: `messages`, `id`, `wording_id`, `repetition`.
        caches: What is taken of each cache.
        pairs: How many pairs that are, in all.
    """

    options: MixOptions
    tokens: tuple[str, ...]
    task: pa.Table = field(repr=False)
    caches: tuple[Picked, ...]
    pairs: int

    def stream(
        self, ranges: Sequence[tuple[int, int]] = ((0, PLACES),), *, first: int = 0
    ) -> Iterator[pa.RecordBatch]:
        """Give the rows in their order, in batches with the mixture's columns.

        Args:
            ranges: Parts of the order to give, each from a place up to another, ascending; of an
                interleaved mixture one part, of the order in which its pairs stand.
            first: How many pairs stand before that part of an interleaved mixture.

        Raises:
            FormatError: The format cannot hold a row.
            InputError: An input changed since the plan was made.
        """
        whole = list(ranges) == [(0, PLACES)]
        format = self.options.format
        batches = (
            self._query([*self._pairs_sql(), self._task_sql()], ranges)
            if self.options.order == "shuffled"
            else self._interleaved(ranges, first)
        )
        count = 0
        for batch in batches:
            count += batch.num_rows
            if batch.num_rows:
                yield convert(batch, format)
        if whole and count != self.task.num_rows + self.pairs:
            raise InputError(
                f"the mixture has {count} rows, and {self.task.num_rows + self.pairs} were "
                "planned: an input changed meanwhile; mix again"
            )

    def _query(
        self, parts: Sequence[str], ranges: Sequence[tuple[int, int]]
    ) -> Iterator[pa.RecordBatch]:
        """Give the rows of SQL parts in order; what is too large to sort at once, in two halves."""
        begun = False
        try:
            for batch in self._sorted(parts, ranges):
                begun = begun or batch.num_rows > 0
                yield batch
        except OutputError:
            halves = _halves(ranges)
            if begun or not halves:
                raise
            for half in halves:
                yield from self._query(parts, half)

    def _sorted(
        self, parts: Sequence[str], ranges: Sequence[tuple[int, int]]
    ) -> Iterator[pa.RecordBatch]:
        """Sort the rows of SQL parts by their places; equal rows of a cache become one."""
        if not parts:
            return
        # Inclusive: 2**128 itself is no UHUGEINT, and a comparison with it would find nothing.
        within = " OR ".join(f"place BETWEEN {low} AND {high - 1}" for low, high in ranges)
        whole = list(ranges) == [(0, PLACES)]
        union = " UNION ALL ".join(parts)
        sql = (
            f"SELECT * EXCLUDE place FROM ({union}) "
            f"{'' if whole else f'WHERE {within} '}ORDER BY place"
        )
        with connect() as connection:
            connection.register("task", self.task)
            for number, cache in enumerate(self.caches):
                places = pa.table({"place": pa.array(map(str, cache.excluded), pa.string())})
                connection.register(f"excluded_{number}", places)
                for name, table in cache.relation.tables.items():
                    connection.register(name, table)
            batches = connection.sql(sql).to_arrow_reader(_BATCH)
            if any(cache.repeated for cache in self.caches):
                yield from _without_repeats(batches)
            else:
                yield from batches

    def _task_sql(self) -> str:
        key = "repetition || ':task:' || id || ':' || coalesce(wording_id, '')"
        return (
            "SELECT messages, 'task' AS source, id AS source_id, wording_id, repetition, "
            f"{rank_sql(self.options.seed, 'order', key)} AS place FROM task"
        )

    def _pairs_sql(self) -> list[str]:
        return [
            self._picked_sql(number, cache)
            for number, cache in enumerate(self.caches)
            if cache.thresholds
        ]

    def _picked_sql(self, number: int, cache: Picked) -> str:
        seed = self.options.seed
        values = ", ".join(
            f"({i}::BIGINT, {threshold}::UHUGEINT)" for i, threshold in enumerate(cache.thresholds)
        )
        key = "repetition || ':cache:' || id"
        selected = rank_sql(seed, "select", "id")
        excluded = f"SELECT place::UHUGEINT FROM excluded_{number}"
        return (
            "SELECT messages, 'cache' AS source, id AS source_id, NULL::VARCHAR AS wording_id, "
            f"repetition, {rank_sql(seed, 'order', key)} AS place "
            f"FROM (SELECT messages, {ID_SQL} AS id FROM {cache.relation.sql}), "
            f"(VALUES {values}) AS picked(repetition, threshold) "
            f"WHERE {selected} <= threshold AND NOT ({names_sql(self.tokens)})"
            + (f" AND {selected} NOT IN ({excluded})" if cache.excluded else "")
        )

    def _interleaved(
        self, ranges: Sequence[tuple[int, int]], first: int
    ) -> Iterator[pa.RecordBatch]:
        """Each task row, and after it its share of the pairs."""
        tasks = pa.Table.from_batches(self._query([self._task_sql()], ((0, PLACES),)))
        rows = tasks.num_rows
        shares = np.array([round(i * self.pairs / rows) for i in range(rows + 1)])
        place_of_task = np.arange(rows) + shares[:-1]

        def before(pair: int) -> int:
            """How many task rows stand before a pair."""
            return min(rows, int(np.searchsorted(shares, pair, side="right"))) if pair else 0

        begun, taken = before(first), first
        for batch in self._query(self._pairs_sql(), ranges):
            if not batch.num_rows:  # all of them repeated the row before
                continue
            numbers = np.arange(taken, taken + batch.num_rows)
            owner = np.searchsorted(shares, numbers, side="right") - 1
            last = int(owner[-1]) + 1
            some = tasks.slice(begun, last - begun)
            places = np.concatenate([place_of_task[begun:last], numbers + owner + 1])
            both = pa.concat_tables([some, pa.Table.from_batches([batch])]).combine_chunks()
            yield from both.take(pa.array(np.argsort(places, kind="stable"))).to_batches()
            begun, taken = last, taken + batch.num_rows
        end = rows if ranges[-1][1] == PLACES else before(taken)
        yield from tasks.slice(begun, end - begun).to_batches()


def _halves(ranges: Sequence[tuple[int, int]]) -> list[Sequence[tuple[int, int]]]:
    """Two halves of parts of the order; none where there is nothing left to halve."""
    middle = len(ranges) // 2
    if middle:
        return [ranges[:middle], ranges[middle:]]
    low, high = ranges[0]
    if high - low < _SMALLEST:
        return []
    return [[(low, (low + high) // 2)], [((low + high) // 2, high)]]


def _without_repeats(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Leave out a pair that equals the one before it, in the same repetition of the cache."""
    last = None
    for batch in batches:
        if not batch.num_rows:
            continue
        keys = pc.binary_join_element_wise(
            batch["source"],
            batch["repetition"].cast(pa.string()),
            batch["source_id"],
            pc.fill_null(batch["wording_id"], ""),
            ":",
        )
        shifted = pa.concat_arrays([pa.array([last], pa.string()), keys[:-1]])
        is_new = pc.or_kleene(pc.not_equal(keys, shifted), pc.is_null(shifted))
        is_task = pc.equal(batch["source"], "task")
        yield batch.filter(pc.or_(is_new, is_task))
        last = keys[-1].as_py()


def convert(batch: pa.RecordBatch, format: Format) -> pa.RecordBatch:
    """Give a batch with `messages` the columns of a row format.

    Raises:
        FormatError: The format cannot hold a row.
    """
    columns = schema(format)
    where = [batch[name] for name in ("source", "source_id", "wording_id")]
    if format == "messages":
        return pa.RecordBatch.from_arrays([_plain(batch["messages"]), *where], schema=columns)
    rows = [_written(messages, format, columns) for messages in batch["messages"].to_pylist()]
    given = [
        pa.array([row[name] for row in rows], columns.field(name).type)
        for name in columns.names[: -len(where)]
    ]
    return pa.RecordBatch.from_arrays([*given, *where], schema=columns)


def _plain(messages: pa.Array) -> pa.Array:
    return messages if messages.type == MESSAGES else messages.cast(MESSAGES)


def _written(messages: list[dict[str, str]], format: Format, columns: pa.Schema) -> dict[str, Any]:
    """The row's own columns; one that the mixture does not have is refused, not lost."""
    row = write_record(read_record({"messages": messages}, "messages"), format)
    if extra := sorted(set(row).difference(columns.names)):
        raise FormatError(
            f"a row has {' and '.join(extra)}, for which a mixture in the format {format!r} has no "
            "column: use format 'messages'"
        )
    return row
