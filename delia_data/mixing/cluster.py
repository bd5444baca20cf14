"""The mixture on a Ray cluster: the rows, order and manifest of one machine, written as shards.

    cache shards ──▶ look ──▶ hashes ──▶ driver: what is picked, as on one machine
                                                        │ plan
    cache shards ──▶ route: picked pairs, to the range  ▼
                     of the order they stand in ──▶ sort ──▶ write: a range, in order ──▶ shard

Every task is a pure function of what it reads, so that one that is lost with its node runs again
and gives the same. The number of shards follows from the number of rows alone. Errors of ours
travel as rows, not as exceptions, and arrive as they would be raised here.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, cast
from uuid import uuid4

import duckdb
import numpy as np
import pyarrow as pa

from delia_data import errors
from delia_data._optional import require
from delia_data.errors import DeliaError, EngineError, FormatError, InputError
from delia_data.files import write_text
from delia_data.manifest import Manifest, finish
from delia_data.mixing.engine import ID_SQL, connect, rank_sql
from delia_data.mixing.folder import card, mixture_folder, write_rows
from delia_data.mixing.mixture import mix
from delia_data.mixing.options import MESSAGES, OnShort, Order, Select, schema
from delia_data.mixing.plan import PLACES, Plan
from delia_data.mixing.sources import Relation, open_fast, open_general, shards_of
from delia_data.mixing.survey import DoubtfulError, Hashes, read_hashes
from delia_data.mixing.task_rows import Rows, TaskRow
from delia_data.records import Format
from delia_data.tokens import DEFAULT_TOKEN

__all__ = ["mix_on_ray"]

_SHARD_ROWS: Final = 500_000
_STAGED: Final = "shard-"
_DOUBTFUL: Final = "doubtful"
_HALF: Final = 2**64
_Paths = str | os.PathLike[str]


def mix_on_ray(
    task: Rows | Mapping[str, Rows],
    cache: _Paths | Mapping[str, _Paths],
    folder: str | os.PathLike[str],
    *,
    ratio: float,
    seed: int = 0,
    test: Sequence[TaskRow] | None = None,
    order: Order = "shuffled",
    on_short: OnShort = "error",
    select: Select = "uniform",
    format: Format = "messages",
    token: str | None = DEFAULT_TOKEN,
    task_weights: Mapping[str, float] | None = None,
    cache_weights: Mapping[str, float] | None = None,
    decontaminate: bool = False,
    address: str | None = None,
    shard_rows: int = _SHARD_ROWS,
) -> Manifest:
    """Mix on a Ray cluster, and write the mixture as shards that `datasets` loads.

    The rows of `train-00000-of-000NN.parquet` and so on, one after another, are those of the
    `train.parquet` that `save_mixture` writes of the same inputs, in the same order; NN depends
    on the number of rows alone. A task reads one file of a cache and holds the pairs that it picks,
    or sorts one shard, so that a cache should come as several files. The driver holds 17 bytes
    for each pair of the caches.

    Args:
        task: As `mix` takes it; read on this machine.
        cache: The pairs: a file, a glob, a cache folder or a folder of shards, or several such by
            name. Every node must see the files under the same path, and have this package.
        folder: Where to; every node must see it under the same path.
        ratio: As `mix` takes it, like all that follow.
        seed: Seed of selection and order.
        test: Held-out rows of the task; those of its folder when not given.
        order: `"shuffled"` or `"interleaved"`.
        on_short: `"error"`, `"all"` or `"repeat"`.
        select: `"uniform"`.
        format: Row format of the result.
        token: The special token of tasks that do not say their own; None for none.
        task_weights: Multiples of each named task's rows.
        cache_weights: Shares of the pairs that come from each named cache.
        decontaminate: Drop pairs that share 13 words in a row with a held-out row.
        address: Address of a cluster that runs, such as `"10.0.0.1:6379"` or `"auto"`. None for
            the one that this process is connected to or that `RAY_ADDRESS` names, else a cluster
            of this machine alone for the time of the call.
        shard_rows: Rows of a shard, about.

    Returns:
        The manifest as written: that of one machine, but for the names and hashes of files.

    Raises:
        RatioError: The ratio is wrong, or the cache is too small for it.
        TokenError: A task row does not name its token.
        InputError: An input cannot be read, a choice is unknown, or no cluster answers.
        FormatError: A row is in no known format, or the format is unknown or cannot hold a row.
        OutputError: The folder holds something else, or cannot be written.
        EngineError: The cluster failed.
        MissingExtraError: Ray is not installed.
    """
    if shard_rows < 1:
        raise InputError(f"shard_rows is {shard_rows}: give a number of at least 1")
    given = cache if isinstance(cache, Mapping) else {"cache": cache}
    caches = {name: _Cache(*shards_of(paths)) for name, paths in given.items()}
    with _cluster(address):
        mixture = mix(
            task,
            cast(Any, caches if isinstance(cache, Mapping) else caches["cache"]),
            ratio=ratio,
            seed=seed,
            test=test,
            order=order,
            on_short=on_short,
            select=select,
            format=format,
            token=token,
            task_weights=task_weights,
            cache_weights=cache_weights,
            decontaminate=decontaminate,
        )
        rows = mixture.plan.task.num_rows + mixture.plan.pairs
        with mixture_folder(folder) as root:
            job = _Job(mixture.plan, str(root.absolute()), max(1, -(-rows // shard_rows)))
            try:
                _write_shards(list(caches.values()), job, rows)
            finally:
                _remove_staged(root)
            splits = {"train": "train-*.parquet"}
            if mixture.test is not None:
                splits["test"] = "test.parquet"
                columns = schema(mixture.plan.options.format)
                write_rows(root / "test.parquet", mixture.test.to_batches(), columns)
            write_text(root / "README.md", card(mixture.manifest, splits))
            return finish(root, mixture.manifest)


@dataclass
class _Cache:
    """The files of a cache, read on the cluster (`survey.Elsewhere`).

    Attributes:
        files: The files.
        fast: Whether they are read as they lie; decided for all of them alike.
    """

    files: list[Path]
    fast: bool

    def look(
        self, *, seed: int, tokens: tuple[str, ...], ngrams_of_test: frozenset[tuple[str, ...]]
    ) -> tuple[Relation, Hashes]:
        """Read the hashes of every row; where a file is doubtful, all of them in the general way.

        Raises:
            InputError: A file cannot be read, or a row is wrong: the first, in order of files.
        """
        units = [_Unit(0, str(file.absolute()), self.fast) for file in self.files]
        parts = _run(units, _look, seed=seed, tokens=tokens, ngrams_of_test=ngrams_of_test)
        found = sorted(parts.take_all(), key=lambda row: row["unit"])
        if self.fast and any(row["error"] == _DOUBTFUL for row in found):
            self.fast = False
            return self.look(seed=seed, tokens=tokens, ngrams_of_test=ngrams_of_test)
        _raise_first(row["error"] for row in found)
        hashes = Hashes.join([pickle.loads(row["hashes"]) for row in found])
        return Relation("", fast=self.fast), hashes


@dataclass(frozen=True)
class _Unit:
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
class _Job:
    """What the tasks that move and write rows must know."""

    plan: Plan
    folder: str
    shards: int

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


def _write_shards(caches: Sequence[_Cache], job: _Job, rows: int) -> None:
    """Send the picked pairs to their shards, and write them.

    Raises:
        EngineError: Rows are missing or were written twice.
    """
    units = [
        _Unit(number, str(file.absolute()), cache.fast)
        for number, cache in enumerate(caches)
        for file in cache.files
    ]
    routed = _run(units, _route, job=job)
    before: dict[int, int] = {}
    if job.plan.options.order == "interleaved" and job.shards > 1:
        routed = routed.materialize()
        counts = _by_shard(routed, _count, job)
        before = dict(enumerate(accumulate((counts[i] for i in sorted(counts)), initial=0)))
    written = _by_shard(routed, _write, job, before=before)
    found = sum(written.values())
    absent = [name for s in written if not (Path(job.folder) / (name := job.name(s))).is_file()]
    if absent:
        raise EngineError(
            f"{job.folder} does not hold {absent[0]}, which a node has written: give a folder on "
            "a file system that every node sees under the same path"
        )
    if sorted(written) != list(range(job.shards)) or found != rows:
        raise EngineError(
            f"the cluster wrote {found} rows where there are {rows}: a cache changed "
            "while it was mixed; run the command again"
        )


def _by_shard(
    routed: Any, work: Callable[..., pa.Table], job: _Job, **settings: Any
) -> dict[int, int]:
    """Run a function on the pairs of every shard, each in a task of its own, and count rows."""
    by_shard = routed.sort("shard", boundaries=list(range(1, job.shards)))
    found = _map(by_shard, work, job=job, **settings).take_all()
    _raise_first(row["error"] for row in sorted(found, key=lambda row: row["shard"]))
    return {int(row["shard"]): int(row["rows"]) for row in found}


def _run(units: Sequence[_Unit], work: Callable[..., pa.Table], **settings: Any) -> Any:
    """A dataset of what a function gives for every unit, each in a task of its own."""
    data = require("ray.data", extra="ray")
    numbers = data.from_items(
        [{"unit": number} for number in range(len(units))], override_num_blocks=len(units)
    )
    return _map(numbers, work, units=list(units), **settings)


def _map(rows: Any, work: Callable[..., pa.Table], **settings: Any) -> Any:
    return rows.map_batches(work, batch_size=None, batch_format="pyarrow", fn_kwargs=settings)


# What follows runs on the cluster.


def _look(
    batch: pa.Table,
    *,
    units: Sequence[_Unit],
    seed: int,
    tokens: tuple[str, ...],
    ngrams_of_test: frozenset[tuple[str, ...]],
) -> pa.Table:
    """Read the hashes of a file's rows."""
    rows = []
    for number in batch["unit"].to_pylist():
        unit, hashes = units[number], b""
        with _noted() as error, tempfile.TemporaryDirectory(prefix="delia-mix-") as spill:
            try:
                found = read_hashes(unit.open(spill), seed, tokens, ngrams_of_test)
                hashes = pickle.dumps(found, protocol=5)
            except (duckdb.Error, DoubtfulError):
                if not unit.fast:
                    raise
                error.append(_DOUBTFUL)
        rows.append({"unit": number, "hashes": hashes, "error": "".join(error)})
    columns = [("unit", pa.int64()), ("hashes", pa.large_binary()), ("error", pa.string())]
    return pa.Table.from_pylist(rows, pa.schema(columns))


def _route(batch: pa.Table, *, units: Sequence[_Unit], job: _Job) -> pa.Table:
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


def _picked(unit: _Unit, job: _Job, spill: str) -> Iterator[pa.RecordBatch]:
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


def _count(group: pa.Table, *, job: _Job) -> pa.Table:
    """Count the pairs of a shard."""
    options = replace(job.plan.options, order="shuffled", format="messages")
    plan = replace(job.plan, options=options, task=job.plan.task.slice(0, 0))

    def count(shard: int) -> int:
        pairs = replace(plan, caches=_caches_of(group, plan))
        return sum(batch.num_rows for batch in pairs.stream([job.range(shard)]))

    return _done(group, count)


def _write(group: pa.Table, *, job: _Job, before: Mapping[int, int]) -> pa.Table:
    """Write a shard: under a name of its own, so that two attempts do not meet, then renamed."""

    def write(shard: int) -> int:
        plan = replace(job.plan, caches=_caches_of(group, job.plan))
        batches = plan.stream([job.range(shard)], first=before.get(shard, 0))
        rows = 0

        def counted() -> Iterator[pa.RecordBatch]:
            nonlocal rows
            for batch in batches:
                rows += batch.num_rows
                yield batch

        root = Path(job.folder)
        staged = root / f".{_STAGED}{uuid4().hex}"
        try:
            write_rows(staged, counted(), schema(plan.options.format))
            staged.replace(root / job.name(shard))
        except OSError as error:
            raise errors.OutputError(f"{root} cannot be written: {error}") from error
        return rows

    return _done(group, write)


def _done(group: pa.Table, work: Callable[[int], int]) -> pa.Table:
    """A row that says of a shard how many rows it has."""
    shard, rows = group["shard"][0].as_py(), 0
    earlier = [error for error in group["error"].to_pylist() if error]
    with _noted() as error:
        if not earlier:
            rows = work(shard)
    return pa.table({"shard": [shard], "rows": [rows], "error": ["".join(earlier[:1] or error)]})


def _caches_of(group: pa.Table, plan: Plan) -> tuple[Any, ...]:
    """The caches of a plan, each with those of its pairs that are routed to a shard."""
    numbers = group["cache"].to_pylist()
    empty = pa.schema([("messages", MESSAGES)])
    caches = []
    for number, cache in enumerate(plan.caches):
        batches = [
            batch
            for index, owner in enumerate(numbers)
            if owner == number
            for batch in _unpack(group["pairs"][index])
        ]
        name = f"pairs_{number}"
        table = pa.Table.from_batches(batches, batches[0].schema if batches else empty)
        caches.append(replace(cache, relation=Relation(name, {name: table})))
    return tuple(caches)


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


# And this on the driver.


def _raise_first(noted: Iterator[str]) -> None:
    for error in noted:
        if error:
            name, text = json.loads(error)
            raise cast(type[DeliaError], getattr(errors, name))(text)


def _remove_staged(root: Path) -> None:
    """Remove what killed tasks left."""
    for left in root.glob(f".*{_STAGED}*"):
        left.unlink(missing_ok=True)


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one, with the settings that Ray Data needs here.

    Raises:
        InputError: No cluster answers at the address.
        EngineError: The cluster failed.
    """
    ray, data = require("ray", extra="ray"), require("ray.data", extra="ray")
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"no Ray cluster answers at {address or 'this machine'}: {_last_line(error)}; "
                "start one with ray start --head, or give another --address"
            ) from error
    log = logging.getLogger("ray.data")
    level = log.level
    context = data.DataContext.get_current().copy()
    # The pull-based sort is made of tasks alone: what a lost node had is worked out again. The
    # hash shuffle keeps rows in actors, which a node takes with it.
    context.shuffle_strategy = data.context.ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
    context.enable_progress_bars = False
    try:
        log.setLevel(logging.ERROR)
        with data.DataContext.current(context):
            yield
    except (ray.exceptions.RayError, data.exceptions.SystemException) as error:
        raise EngineError(
            f"the Ray cluster failed: {_last_line(error)}; every node needs this package in the "
            "same version"
        ) from error
    finally:
        log.setLevel(level)
        if ours:
            ray.shutdown()


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
