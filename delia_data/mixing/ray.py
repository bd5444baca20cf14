"""The mixture on a Ray cluster: the rows, order and manifest of one machine, written as shards.

    files ──▶ ids ─────────────────▶ this process: which pairs, at which positions, as in `mix`
                                                     │
    files ──▶ those pairs, with their positions  ◀───┘  ──▶ sort ──▶ shards

Every task is a pure function of what it reads: Ray runs one again that is lost with its node, and
it gives the same.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import uuid4

import numpy as np
import pyarrow as pa

from delia_data._optional import require
from delia_data.errors import DeliaError, EngineError, InputError, OutputError
from delia_data.mixing.folder import card, counted, mixture_folder, with_tokens, write_rows
from delia_data.mixing.mixture import Mixture, convert, mix, named_caches
from delia_data.mixing.options import TEACHER_MESSAGES, schema
from delia_data.mixing.store import (
    SCHEMA,
    CacheRows,
    Numbers,
    hex_texts,
    open_cache,
    take_in_windows,
)
from delia_data.mixing.task_rows import Rows
from delia_data.outputs import Manifest, finish, write_text
from delia_data.reading import MESSAGES, open_source
from delia_data.records import Format

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHARD_ROWS: Final = 500_000
_BATCH: Final = 10_000
_ANSWER_S: Final = 10.0
_Path = str | os.PathLike[str]


def mix_on_ray(
    task: Rows | Mapping[str, Rows],
    cache: _Path | Mapping[str, _Path],
    folder: str | os.PathLike[str],
    *,
    address: str | None = None,
    shard_rows: int = _SHARD_ROWS,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **settings: Any,
) -> Manifest:
    """Mix on a Ray cluster, and write the mixture as shards that `datasets` loads.

    The rows of `train-00000-of-000NN.parquet` and so on, one after another, are those of the
    `train.parquet` that `save_mixture` writes from the same inputs. A task reads one file of a
    cache, or sorts one shard, so that a cache should come as several files. This process holds
    some bytes for each pair of the caches.

    Args:
        task: As `mix` takes it; read on this machine.
        cache: The pairs: a file, a glob, a cache folder or a folder of shards, or several such by
            name. Every node must see the files under the same path, and have this package.
        folder: Output folder; every node must see it under the same path.
        address: Address of a running cluster, such as `"10.0.0.1:6379"` or `"auto"`. None for the
            one that this process is connected to or that `RAY_ADDRESS` names, else a cluster of
            this machine alone for the time of the call.
        shard_rows: Rows of a shard; the last one may have fewer.
        tokenizer: As `save_mixture` takes it; every node needs `transformers` then.
        **settings: As `mix` takes them.

    Returns:
        The manifest as written: that of one machine, except for the names and hashes of files.

    Raises:
        DeliaError: As `mix` and `save_mixture`.
        InputError: No cluster answers.
        EngineError: The cluster failed.
        MissingExtraError: Ray is not installed.
    """
    if shard_rows < 1:
        raise InputError(f"shard_rows is {shard_rows}: give a number of at least 1")
    given = named_caches(cache)
    caches = {name: _open(path, settings.get("strict", False)) for name, path in given.items()}
    with connected(address):
        mixture = mix(
            task,
            cast(Any, caches if isinstance(cache, Mapping) else caches["cache"]),
            **settings,
        )
        with mixture_folder(folder) as root:
            shards = -(-mixture.num_rows // shard_rows)
            job = _Job(
                str(root.absolute()),
                shards,
                shard_rows,
                mixture.format,
                mixture.teachers is not None,
                tokenizer,
            )
            try:
                tokens = _write_shards(mixture, job)
            finally:
                for left in root.glob(".shard-*"):  # of tasks that were killed
                    left.unlink(missing_ok=True)
            splits = {"train": "train-*.parquet"}
            if mixture.test is not None:
                splits["test"] = "test.parquet"
                write_rows(root / "test.parquet", mixture.test.to_batches(), mixture.schema)
            write_text(root / "README.md", card(mixture.manifest, splits))
            return finish(root, with_tokens(mixture.manifest, tokens))


def _open(path: _Path, strict: bool) -> _ClusterRows:
    source = open_source(path)
    files = source.files
    if not files:
        raise InputError(f"{path} has no files that every node can read: give a file or a folder")
    return _ClusterRows(files, path, strict, source.report.skipped)


@dataclass(frozen=True, eq=False)
class _ClusterRows:
    """The rows of a cache as `CacheRows`; a task reads each of its files.

    Attributes:
        files: The files.
        folder: The path that was given.
        strict: Whether rows that would be dropped are refused.
        skipped: Files of the folder that are not read.
    """

    files: Sequence[Path]
    folder: _Path
    strict: bool = False
    skipped: Sequence[str] = ()

    @cached_property
    def ids(self) -> pa.FixedSizeBinaryArray:
        return pa.concat_arrays(self._ids)

    @cached_property
    def dropped(self) -> Counter[str]:
        parts = self._ask(lambda rows: Counter(rows.dropped))
        return sum(parts, Counter[str]())

    @cached_property
    def read(self) -> dict[str, Any]:
        parts = self._ask(lambda rows: rows.read)
        changed = sum((Counter(part.get("changed", {})) for part in parts), Counter[str]())
        ignored = sorted({name for part in parts for name in part.get("ignored", [])})
        read = {
            "changed": dict(sorted(changed.items())),
            "ignored": ignored,
            "skipped": list(self.skipped),
        }
        return {name: value for name, value in read.items() if value}

    @property
    def starts(self) -> list[int]:
        """Number of the first row of each file, and the number of all rows."""
        return [0, *accumulate(map(len, self._ids))]

    @property
    def has_longer_rows(self) -> bool:
        return any(self._ask(lambda rows: rows.has_longer_rows))

    def rows_with_token(self, tokens: Sequence[str]) -> Numbers:
        return self._numbers(lambda rows: rows.rows_with_token(tokens))

    def rows_with_ngram(self, runs: frozenset[tuple[str, ...]]) -> Numbers:
        return self._numbers(lambda rows: rows.rows_with_ngram(runs))

    @cached_property
    def _ids(self) -> list[pa.FixedSizeBinaryArray]:
        return self._ask(lambda rows: rows.ids)

    def _numbers(self, search: Callable[[CacheRows], Numbers]) -> Numbers:
        parts = zip(self._ask(search), self.starts, strict=False)
        return np.concatenate([numbers + start for numbers, start in parts])

    def _ask(self, question: Callable[[CacheRows], Any]) -> list[Any]:
        strict = self.strict
        ask = _task(lambda file: question(open_cache(file, strict)))
        return _results([ask.remote(file.absolute()) for file in self.files])


@dataclass(frozen=True)
class _Job:
    """The output that the tasks write."""

    folder: str
    shards: int
    shard_rows: int
    format: Format
    contrast: bool
    tokenizer: PreTrainedTokenizerBase | None = field(default=None, repr=False)

    def name(self, shard: int) -> str:
        """Return the name of a shard's file."""
        return f"train-{shard:05}-of-{self.shards:05}.parquet"

    def cut(self, rows: pa.Table) -> list[pa.Table]:
        """Return rows, ascending by position, as one table for each shard."""
        bounds = np.arange(self.shards + 1) * self.shard_rows
        ends = np.searchsorted(rows["position"].to_numpy(), bounds).tolist()
        return [rows.slice(low, high - low) for low, high in pairwise(ends)]

    def write(self, shard: int, *parts: pa.Table) -> tuple[int, Counter[str]]:
        """Write a shard under another name, so that two attempts do not meet, then rename it.

        Returns:
            How many rows it has, and how many tokens by source when there is a tokenizer.
        """
        rows = pa.concat_tables(parts).sort_by("position")
        root, tokens = Path(self.folder), Counter[str]()
        staged = root / f".shard-{uuid4().hex}"
        names = schema("messages", contrast=self.contrast).names
        plain = rows.select(names).combine_chunks().to_batches(_BATCH)
        batches: Iterable[pa.RecordBatch] = (convert(batch, self.format) for batch in plain)
        if self.tokenizer is not None:
            batches = counted(batches, self.tokenizer, tokens)
        try:
            write_rows(staged, batches, schema(self.format, contrast=self.contrast))
            staged.replace(root / self.name(shard))
        except OSError as error:
            raise OutputError(f"{root} cannot be written: {error}") from error
        return rows.num_rows, tokens


def _write_shards(mixture: Mixture, job: _Job) -> Counter[str]:
    """Send the rows to their shards, write them, and count their tokens.

    Raises:
        EngineError: Rows are missing, or a shard is on another file system.
    """
    route = _task(_route).options(num_returns=job.shards)
    rows = np.arange(mixture.task.num_rows)
    of_task = replace(mixture, caches=(), rows=rows, format="messages")
    table = pa.Table.from_batches(of_task.batches())
    where = np.argsort(mixture.rows, kind="stable")  # positions, by row number
    numbers, start = mixture.rows[where], mixture.task.num_rows
    first = int(np.searchsorted(numbers, start))
    table = table.take(pa.array(numbers[:first])).append_column("position", pa.array(where[:first]))
    routed = [job.cut(table.sort_by("position"))]
    for cache in cast(Sequence[_ClusterRows], mixture.caches):
        for file, bounds in zip(cache.files, pairwise(cache.starts), strict=True):
            low, high = np.searchsorted(numbers, np.add(bounds, start))
            of_file = np.sort(where[low:high])
            picked = mixture.rows[of_file] - start - bounds[0]
            parts = route.remote(job, file.absolute(), picked, of_file, cache.strict)
            routed.append(parts if job.shards > 1 else [parts])
        start += cache.starts[-1]
    write = _task(_Job.write)
    done = _results(
        [write.remote(job, n, *parts) for n, parts in enumerate(zip(*routed, strict=True))]
    )
    for name in map(job.name, range(job.shards)):
        if not (Path(job.folder) / name).is_file():
            raise EngineError(
                f"{job.folder} does not hold {name}, which a node has written: give a folder on a "
                "file system that every node sees under the same path"
            )
    if (rows := sum(rows for rows, _ in done)) != mixture.num_rows:
        raise EngineError(
            f"the cluster wrote {rows} rows in place of {mixture.num_rows}: a cache changed while "
            "it was mixed; run the command again"
        )
    return sum((tokens for _, tokens in done), Counter[str]())


def _route(job: _Job, file: Path, numbers: Numbers, positions: Numbers, strict: bool) -> Any:
    """Read the picked pairs of a file, and return those of each shard."""
    cache = open_cache(file, strict)
    if len(numbers) and int(numbers.max()) >= cache.num_rows:
        raise EngineError(f"{file} changed while it was mixed: run the command again")
    batches = [batch for _, batch in take_in_windows(cache.batches, numbers)]
    rows = pa.Table.from_batches(batches, SCHEMA)
    columns = {
        "messages": rows["messages"],
        "source": pa.array(["cache"] * len(numbers), pa.string()),
        "source_id": pa.chunked_array([hex_texts(part) for part in rows["id"].chunks], pa.string()),
        "wording_id": pa.nulls(len(numbers), pa.string()),
        **({TEACHER_MESSAGES: pa.nulls(len(numbers), MESSAGES)} if job.contrast else {}),
        "position": pa.array(positions, pa.int64()),
    }
    parts = job.cut(pa.table(columns))
    return parts if job.shards > 1 else parts[0]


def _task(function: Callable[..., Any]) -> Any:
    return require("ray", extra="ray").remote(function)


def _results(references: Sequence[Any]) -> list[Any]:
    """Return the results of tasks; the first error of this package is raised as what it is."""
    ray = require("ray", extra="ray")
    try:
        results: list[Any] = ray.get(list(references))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DeliaError):
            raise error.cause from None
        raise
    return results


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one, and keep Ray Data quiet.

    Raises:
        InputError: No cluster answers at the address.
        EngineError: The cluster failed.
    """
    ray, data = require("ray", extra="ray"), require("ray.data", extra="ray")
    connects = not ray.is_initialized()
    if connects:
        try:
            _check_answers(address or os.environ.get("RAY_ADDRESS", ""))
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"no Ray cluster answers at {address or 'this machine'}: {_last_line(error)}; "
                "start one with ray start --head, or give another --address"
            ) from error
    elif address not in (None, "auto", there := ray.get_runtime_context().gcs_address):
        raise InputError(
            f"this process is connected to the Ray cluster {there}, not to {address}: give that "
            "address, or none"
        )
    log, context = logging.getLogger("ray.data"), data.DataContext.get_current()
    level, bars = log.level, context.enable_progress_bars
    log.setLevel(logging.ERROR)
    context.enable_progress_bars = False
    try:
        yield
    except (ray.exceptions.RayError, data.exceptions.SystemException) as error:
        raise EngineError(
            f"the Ray cluster failed: {_last_line(error)}; every node needs this package in the "
            "same version"
        ) from error
    finally:
        log.setLevel(level)
        context.enable_progress_bars = bars
        if connects:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Fail at once when nothing listens at an address: Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
