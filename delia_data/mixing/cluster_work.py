"""What runs on the cluster: look at files, route their pairs to shards, write shards.

A task notes an error of ours in a row instead of raising it, so that it arrives at the driver as
what it is; `raise_first` raises it there.
"""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast
from uuid import uuid4

import numpy as np
import pyarrow as pa

from delia_data import errors
from delia_data.errors import DeliaError, FormatError
from delia_data.mixing.engine import ID_SQL, connect, rank_sql
from delia_data.mixing.folder import counted, write_rows
from delia_data.mixing.kept import Keeper, Kept
from delia_data.mixing.options import schema
from delia_data.mixing.plan import PLACES, Picked, Plan
from delia_data.mixing.sources import Relation, open_fast, open_general
from delia_data.mixing.survey import DoubtfulError, read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STAGED: Final = "shard-"
DOUBTFUL: Final = "doubtful"
_HALF: Final = 2**64


@dataclass(frozen=True)
class Unit:
    """What one task reads: a file of the cache of a number."""

    cache: int
    file: str
    fast: bool

    def open(self, spill: str) -> Relation:
        """Make a relation of it.

        Raises:
            InputError: It cannot be read.
        """
        if self.fast:
            return open_fast([Path(self.file)])
        try:
            return open_general(Path(self.file), "unit", Path(spill))
        except UnicodeDecodeError as broken:
            raise FormatError(f"a cache is not UTF-8 text: {broken}") from broken


@dataclass(frozen=True)
class Job:
    """What the tasks that move and write rows must know."""

    plan: Plan
    folder: str
    shards: int
    tokenizer: PreTrainedTokenizerBase | None = field(default=None, repr=False)

    def name(self, shard: int) -> str:
        """Name of a shard's file."""
        return f"train-{shard:05}-of-{self.shards:05}.parquet"

    def range(self, shard: int) -> tuple[int, int]:
        """From which place of the order a shard goes, and up to which."""
        bounds = [-(-number * _HALF // self.shards) for number in (shard, shard + 1)]
        return bounds[0] * _HALF, min(PLACES, bounds[1] * _HALF)

    def shard_sql(self, key: str) -> str:
        """SQL of the shard in whose range the row of a key stands."""
        high = rank_sql(self.plan.options.seed, "order", key, "_lower")
        return f"(({high}::UHUGEINT * {self.shards}) // {_HALF}::UHUGEINT)::INTEGER"


def look(
    batch: pa.Table,
    *,
    units: Sequence[Unit],
    seed: int,
    tokens: tuple[str, ...],
    ngrams_of_test: frozenset[tuple[str, ...]],
) -> pa.Table:
    """Read the hashes of a file's rows."""
    import duckdb

    rows = []
    for number in batch["unit"].to_pylist():
        unit, hashes = units[number], b""
        with _noted() as error, tempfile.TemporaryDirectory(prefix="delia-mix-") as spill:
            try:
                found = read_rows(unit.open(spill), seed, tokens, ngrams_of_test)
                hashes = pickle.dumps(found, protocol=5)
            except (duckdb.Error, DoubtfulError):
                if not unit.fast:
                    raise
                error.append(DOUBTFUL)
        rows.append({"unit": number, "hashes": hashes, "error": "".join(error)})
    columns = [("unit", pa.int64()), ("hashes", pa.large_binary()), ("error", pa.string())]
    return pa.Table.from_pylist(rows, pa.schema(columns))


def route(batch: pa.Table, *, units: Sequence[Unit], job: Job) -> pa.Table:
    """Give the pairs of a file that may be picked, cut by the shards that they stand in.

    A row for each shard that has any; the first unit has one for all, so that none is forgotten.
    Every repetition that the settings ask for is counted, the last one too, which may not take
    the pair: `Plan.stream` decides that.
    """
    rows = []
    for number in batch["unit"].to_pylist():
        unit = units[number]
        pieces: dict[int, list[pa.RecordBatch]] = {}
        with _noted() as error, tempfile.TemporaryDirectory(prefix="delia-mix-") as spill:
            for piece in _picked(unit, job, spill):
                shards = piece["shard"].to_numpy()
                for shard in np.unique(shards).tolist():
                    low, high = np.searchsorted(shards, [shard, shard + 1]).tolist()
                    pieces.setdefault(shard, []).append(
                        piece.slice(low, high - low).select(["messages"])
                    )
        named = {} if number else dict.fromkeys(range(job.shards), b"")
        packed = {**named, **{shard: _pack(some) for shard, some in pieces.items()}}
        if error:
            packed = {0: b""}
        rows += [
            {"shard": shard, "cache": unit.cache, "pairs": pairs, "error": "".join(error)}
            for shard, pairs in sorted(packed.items())
        ]
    columns = [
        ("shard", pa.int64()),
        ("cache", pa.int64()),
        ("pairs", pa.large_binary()),
        ("error", pa.string()),
    ]
    return pa.Table.from_pylist(rows, pa.schema(columns))


def _picked(unit: Unit, job: Job, spill: str) -> Iterator[pa.RecordBatch]:
    """The pairs of a file up to the place of the last that is picked, sorted by shard."""
    thresholds = job.plan.caches[unit.cache].thresholds
    if not thresholds:
        return
    shard = job.shard_sql("repetition || ':cache:' || id")
    selected = rank_sql(job.plan.options.seed, "select", "id")
    sql = (
        f"SELECT messages, unnest(list_distinct(list_transform(range({len(thresholds)}), "
        f"lambda repetition: {shard}))) AS shard "
        f"FROM (SELECT messages, {ID_SQL} AS id FROM {unit.open(spill).sql}) "
        f"WHERE {selected} <= {max(thresholds)}::UHUGEINT ORDER BY shard"
    )
    with connect() as connection:
        yield from connection.sql(sql).to_arrow_reader(10_000)


def count_pairs(group: pa.Table, *, job: Job) -> pa.Table:
    """Count the pairs of a shard."""
    options = replace(job.plan.options, order="shuffled", format="messages")
    plan = replace(job.plan, options=options, task=job.plan.task.slice(0, 0))

    def count(shard: int) -> tuple[int, Counter[str]]:
        with _gathered(group, plan) as pairs:
            rows = sum(batch.num_rows for batch in pairs.stream([job.range(shard)]))
        return rows, Counter()

    return _done(group, count)


def write_shard(group: pa.Table, *, job: Job, before: Mapping[int, int]) -> pa.Table:
    """Write a shard: under a name of its own, so that two attempts do not meet, then renamed."""

    def write(shard: int) -> tuple[int, Counter[str]]:
        rows = 0
        tokens: Counter[str] = Counter()

        def passed(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            nonlocal rows
            for batch in batches:
                rows += batch.num_rows
                yield batch

        root = Path(job.folder)
        staged = root / f".{STAGED}{uuid4().hex}"
        try:
            with _gathered(group, job.plan) as plan:
                batches = plan.stream([job.range(shard)], first=before.get(shard, 0))
                if job.tokenizer is not None:
                    batches = counted(batches, job.tokenizer, tokens)
                write_rows(staged, passed(batches), schema(plan.options.format))
            staged.replace(root / job.name(shard))
        except OSError as error:
            raise errors.OutputError(f"{root} cannot be written: {error}") from error
        return rows, tokens

    return _done(group, write)


def _done(group: pa.Table, work: Callable[[int], tuple[int, Counter[str]]]) -> pa.Table:
    """A row that says of a shard how many rows and tokens it has."""
    shard, rows, tokens = group["shard"][0].as_py(), 0, Counter[str]()
    earlier = [error for error in group["error"].to_pylist() if error]
    with _noted() as error:
        if not earlier:
            rows, tokens = work(shard)
    noted = "".join(earlier[:1] or error)
    return pa.table(
        {"shard": [shard], "rows": [rows], "tokens": [json.dumps(tokens)], "error": [noted]}
    )


@contextmanager
def _gathered(group: pa.Table, plan: Plan) -> Iterator[Plan]:
    """A plan with those pairs of its caches that are routed to a shard."""
    numbers = group["cache"].to_pylist()
    with tempfile.TemporaryDirectory(prefix="delia-mix-") as spill:
        caches = []
        for number, cache in enumerate(plan.caches):
            batches = [
                batch
                for index, owner in enumerate(numbers)
                if owner == number
                for batch in _unpack(group["pairs"][index])
            ]
            caches.append(replace(cache, kept=_kept(batches, cache, plan, Path(spill))))
        yield replace(plan, caches=tuple(caches))


def _kept(
    batches: Sequence[pa.RecordBatch], cache: Picked, plan: Plan, spill: Path
) -> tuple[Kept, ...]:
    """The rows of batches for each repetition of their cache."""
    if not batches:
        return ()
    relation, keeper = Relation("pairs", {"pairs": pa.Table.from_batches(batches)}), Keeper(spill)
    read_rows(relation, plan.options.seed, plan.tokens, frozenset(), keeper)
    first = keeper.done()
    more = range(1, len(cache.thresholds))
    return (first, *(first.again(plan.options.seed, repetition) for repetition in more))


def _pack(batches: Sequence[pa.RecordBatch]) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def _unpack(pairs: pa.LargeBinaryScalar) -> list[pa.RecordBatch]:
    buffer = pairs.as_buffer()
    return list(pa.ipc.open_stream(buffer)) if buffer.size else []


@contextmanager
def _noted() -> Iterator[list[str]]:
    """Note an error of ours instead of raising it; tasks take one thread, as they have one CPU."""
    os.environ["DELIA_MIX_THREADS"] = "1"
    error: list[str] = []
    try:
        yield error
    except DeliaError as raised:
        error[:] = [json.dumps([type(raised).__name__, str(raised)])]


def raise_first(noted: Iterable[str]) -> None:
    """Raise the first error that a task has noted, as what it was."""
    for error in noted:
        if error:
            name, text = json.loads(error)
            raise cast(type[DeliaError], getattr(errors, name))(text)
