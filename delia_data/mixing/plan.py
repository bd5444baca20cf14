"""The plan of a mixture, and the rows that follow from it, in their order.

A plan names the rows of the task and those of each cache, the place up to which each is picked,
and the settings. It can be sent to another process, which gets the same rows from it, whole or a
part of the order at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa

from delia_data.errors import FormatError, InputError
from delia_data.mixing.ahead import ahead
from delia_data.mixing.kept import SLOTS, Chunk, Kept, Keys, gather
from delia_data.mixing.options import MESSAGES, MixOptions, schema
from delia_data.mixing.survey import among
from delia_data.ranking import rank
from delia_data.records import Format, read_record, write_record

PLACES: Final = 2**128
"""Places of the order: a row stands at one of 0 to `PLACES` - 1."""

_BATCH: Final = 10_000
_HALF: Final = 2**64 - 1
_SOURCES: Final = pa.array(["cache", "task"])


@dataclass(frozen=True, eq=False)
class Picked:
    """How much of a cache is taken.

    Attributes:
        thresholds: For each repetition of the cache the place, in the selection's order, of the
            last pair that is taken.
        excluded: Places in the selection's order that are not taken, ascending.
        repeated: Whether some id is there more than once, of which one is taken.
        kept: Its rows, for each repetition; none of a cache that is read elsewhere.
    """

    thresholds: tuple[int, ...]
    excluded: Keys = field(default_factory=lambda: np.empty((0, 2), np.uint64), repr=False)
    repeated: bool = False
    kept: tuple[Kept, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class _Rows:
    """Rows at their places, ascending: numbers of rows in chunks.

    Attributes:
        chunks: `messages` and `id`.
        numbers: Numbers of rows, counted through the chunks; shape (rows,).
        order: Their places; shape (rows, 2).
        wordings: Number of each row's wording; -1 for a pair, whose source is the cache.
    """

    chunks: tuple[pa.RecordBatch, ...]
    numbers: np.ndarray[Any, Any]
    order: Keys
    wordings: np.ndarray[Any, Any]

    def within(self, low: int, high: int) -> _Rows:
        """Those from a place up to another."""
        begin, end = (_count_below(self.order, place) for place in (low, high))
        return _Rows(
            self.chunks, self.numbers[begin:end], self.order[begin:end], self.wordings[begin:end]
        )

    @classmethod
    def join(cls, parts: Sequence[_Rows]) -> _Rows:
        """Bring rows together, in the order of their places."""
        chunks = tuple(chunk for part in parts for chunk in part.chunks)
        counts = [sum(chunk.num_rows for chunk in part.chunks) for part in parts]
        starts = np.cumsum([0, *counts])
        if len(parts) == 1:
            return parts[0]
        numbers = np.concatenate([p.numbers + s for p, s in zip(parts, starts[:-1], strict=True)])
        order = np.concatenate([part.order for part in parts])
        wordings = np.concatenate([part.wordings for part in parts])
        at = _sorted(order)
        return cls(chunks, numbers[at], order[at], wordings[at])


@dataclass(frozen=True, eq=False)
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
            OutputError: The temporary files are gone.
        """
        whole = list(ranges) == [(0, PLACES)]
        format = self.options.format
        batches = (
            self._batches(ranges, [self._task_rows()])
            if self.options.order == "shuffled"
            else self._interleaved(ranges, first)
        )
        count = 0
        for batch in ahead(batches):
            count += batch.num_rows
            if batch.num_rows:
                yield convert(batch, format)
        if whole and count != self.task.num_rows + self.pairs:
            raise InputError(
                f"the mixture has {count} rows, and {self.task.num_rows + self.pairs} were "
                "planned: an input changed meanwhile; mix again"
            )

    def _batches(
        self, ranges: Sequence[tuple[int, int]], others: Sequence[_Rows] = ()
    ) -> Iterator[pa.RecordBatch]:
        """Give pairs and other rows in their order, a slot of it at a time where that must be."""
        kept = [(c, i, k) for c in self.caches for i, k in enumerate(c.kept)]
        known = [*others, *(_pairs(k.chunks, c, i) for c, i, k in kept if k.chunks)]
        in_memory = [_Rows.join(known)] if known else []
        on_disk = [(c, i, k) for c, i, k in kept if k.runs]
        slots = SLOTS if on_disk else 1
        for slot in range(slots):
            bounds = [PLACES * number // slots for number in (slot, slot + 1)]
            windows = [(max(low, bounds[0]), min(high, bounds[1])) for low, high in ranges]
            windows = [(low, high) for low, high in windows if low < high]
            if not windows:
                continue
            read = [_pairs(k.slot(slot), c, i) for c, i, k in on_disk]
            for low, high in windows:
                parts = [rows.within(low, high) for rows in (*in_memory, *read)]
                if parts:
                    yield from self._in_batches(_Rows.join(parts))

    def _in_batches(self, rows: _Rows) -> Iterator[pa.RecordBatch]:
        wordings = self.task["wording_id"].combine_chunks()
        for begin in range(0, len(rows.numbers), _BATCH):
            some = gather(rows.chunks, rows.numbers[begin : begin + _BATCH])
            wording = rows.wordings[begin : begin + _BATCH]
            is_task = wording >= 0
            yield pa.RecordBatch.from_arrays(
                [
                    _plain(some["messages"]),
                    _SOURCES.take(pa.array(is_task.astype(np.int8))),
                    some["id"],
                    wordings.take(pa.array(wording, mask=~is_task)),
                ],
                schema=schema("messages"),
            )

    def _task_rows(self) -> _Rows:
        rows = self.task.select(["messages", "id"]).combine_chunks().to_batches()
        columns = (self.task[name].to_pylist() for name in ("repetition", "id", "wording_id"))
        order = _keys(
            [
                rank(self.options.seed, f"{repetition}:task:{row_id}:{wording or ''}")
                for repetition, row_id, wording in zip(*columns, strict=True)
            ]
        )
        at = _sorted(order)
        return _Rows(tuple(rows), at, order[at], at)

    def _interleaved(
        self, ranges: Sequence[tuple[int, int]], first: int
    ) -> Iterator[pa.RecordBatch]:
        """Each task row, and after it its share of the pairs."""
        tasks = pa.Table.from_batches(self._in_batches(self._task_rows()), schema("messages"))
        rows = tasks.num_rows
        shares = np.array([round(i * self.pairs / rows) for i in range(rows + 1)])
        place_of_task = np.arange(rows) + shares[:-1]

        def before(pair: int) -> int:
            """How many task rows stand before a pair."""
            return min(rows, int(np.searchsorted(shares, pair, side="right"))) if pair else 0

        begun, taken = before(first), first
        for batch in self._batches(ranges):
            numbers = np.arange(taken, taken + batch.num_rows)
            owner = np.searchsorted(shares, numbers, side="right") - 1
            last = int(owner[-1]) + 1
            some = tasks.slice(begun, last - begun)
            places = np.concatenate([place_of_task[begun:last], numbers + owner + 1])
            both = [*some.to_batches(), batch]
            yield gather(both, np.argsort(places, kind="stable"))
            begun, taken = last, taken + batch.num_rows
        end = rows if ranges[-1][1] == PLACES else before(taken)
        yield from tasks.slice(begun, end - begun).to_batches()


def _pairs(chunks: Sequence[Chunk], cache: Picked, repetition: int) -> _Rows:
    """The rows that are picked of chunks of a cache, in their order."""
    batches = tuple(chunk.rows for chunk in chunks)
    if not chunks:
        return _Rows((), np.empty(0, np.int64), cache.excluded[:0], np.empty(0, np.int64))
    select, order = (np.concatenate([getattr(c, n) for c in chunks]) for n in ("select", "order"))
    picked = _at_most(select, cache.thresholds[repetition]) & ~among(select, cache.excluded)
    numbers = np.flatnonzero(picked)
    order = order[numbers]
    at = _sorted(order)
    numbers, order = numbers[at], order[at]
    if cache.repeated:
        new = np.ones(len(order), bool)
        new[1:] = (order[1:] != order[:-1]).any(axis=1)
        numbers, order = numbers[new], order[new]
    return _Rows(batches, numbers, order, np.full(len(numbers), -1))


def _sorted(keys: Keys) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Numbers of the rows of keys, ascending."""
    at = np.argsort(keys[:, 0])
    high, low = keys[at, 0], keys[at, 1]
    if np.any((high[1:] == high[:-1]) & (low[1:] != low[:-1])):  # 64 bits alike: hardly ever
        at = np.lexsort((keys[:, 1], keys[:, 0]))
    return at


def _at_most(keys: Keys, bound: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    high, low = np.uint64(bound >> 64), np.uint64(bound & _HALF)
    below: np.ndarray[Any, np.dtype[np.bool_]] = (keys[:, 0] < high) | (
        (keys[:, 0] == high) & (keys[:, 1] <= low)
    )
    return below


def _count_below(keys: Keys, bound: int) -> int:
    """How many of ascending keys are below a place."""
    if bound >= PLACES:
        return len(keys)
    high, low = np.uint64(bound >> 64), np.uint64(bound & _HALF)
    begin, end = (int(np.searchsorted(keys[:, 0], high, side)) for side in ("left", "right"))
    return begin + int(np.searchsorted(keys[begin:end, 1], low))


def _keys(places: Sequence[int]) -> Keys:
    return np.array([(p >> 64, p & _HALF) for p in places], np.uint64).reshape(-1, 2)


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
