"""Base of the three builders: checked settings, inputs and their hashes, and shards.

A dataset is prepared once per configuration id. The id contains a hash of all settings, of the
bytes of all inputs, and of the version of this package. The hash of an input depends only on its
bytes, not on its path, so a changed source never gets an old copy.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeAlias

import datasets
import fsspec
import numpy as np
import pyarrow as pa
from datasets.builder import Key

from delia_data._version import __version__
from delia_data.bundled_cache import bundled_cache_folder, is_bundled
from delia_data.errors import InputError, SettingsError, TokenError, unknown_name
from delia_data.mixing import Mixture
from delia_data.mixing.store import CacheRows
from delia_data.outputs import canonical_json, known_sha256
from delia_data.ranking import whole_number
from delia_data.reading import is_url, open_splits
from delia_data.tasks import (
    BUNDLED_TASKS,
    TaskRows,
    bundled_task,
    bundled_wordings,
    read_task_rows,
)

Location = str | os.PathLike[str]
RowSource: TypeAlias = pa.Table | CacheRows | Mixture
"""Source of the rows of a split."""

# `datasets` patches the modules of builders to open URLs, which imports SciPy, unless they are
# patched already. These builders open no URLs.
_patched_for_streaming: Final = datasets.DownloadConfig()

# Enough to distribute evenly over many workers and nodes. Shards do not affect rows or order.
_SHARDS: Final = 64
_ROWS_AT_ONCE: Final = 1_000


@dataclass(frozen=True)
class Shard:
    """A range of the rows of a split, for a worker or a node."""

    source: RowSource
    begin: int
    end: int

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows."""
        if isinstance(self.source, pa.Table):
            yield self.source.slice(self.begin, self.end - self.begin)
        elif isinstance(self.source, Mixture):
            yield from map(_table, _read_ahead(self.source.batches(self.begin, self.end)))
        else:
            yield from map(_table, self.source.with_source_ids(self.begin, self.end))

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self.source, pa.Table):  # pickling a slice pickles the whole table
            rows = self.source.take(pa.array(np.arange(self.begin, self.end)))
            return Shard, (rows, 0, self.end - self.begin)
        return Shard, (self.source, self.begin, self.end)


def cut(source: RowSource) -> list[Shard]:
    """Split rows into shards of nearly equal size, in order."""
    count = max(1, min(_SHARDS, source.num_rows))
    bounds = [number * source.num_rows // count for number in range(count + 1)]
    return [Shard(source, begin, end) for begin, end in pairwise(bounds)]


def _table(batch: pa.RecordBatch) -> pa.Table:
    return pa.Table.from_batches([batch])


def _read_ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield batches while a thread reads the next one; Arrow releases the global lock."""
    with ThreadPoolExecutor(1, thread_name_prefix="delia-read") as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


def _joined(shards: Iterable[Shard]) -> list[Shard]:
    """Join adjacent shards, so that they are read together."""
    joined: list[Shard] = []
    for shard in shards:
        if joined and joined[-1].source is shard.source and joined[-1].end == shard.begin:
            joined[-1] = dataclasses.replace(joined[-1], end=shard.end)
        else:
            joined.append(shard)
    return joined


@dataclass
class DeliaConfig(datasets.BuilderConfig):  # type: ignore[misc]
    """Settings of a builder, which are keyword arguments of `load_dataset`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        settings = self.settings()
        if "seed" in settings:
            self.seed = whole_number(settings["seed"], "seed")
        if str(settings.get("token")).startswith("hf_"):
            raise TokenError(
                "token= is the task's special token here, and what was given looks like a Hub "
                "access token: leave it out, nothing is downloaded"
            )

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """Names of the settings of this builder."""
        shared = {field.name for field in dataclasses.fields(datasets.BuilderConfig)}
        return tuple(field.name for field in dataclasses.fields(cls) if field.name not in shared)

    def settings(self) -> dict[str, Any]:
        """Settings of this builder and their values."""
        return {key: getattr(self, key) for key in self.keys()}

    def sha256(self) -> str:
        """Hash the settings and the bytes of the inputs.

        Raises:
            InputError: An input does not exist or cannot be read.
        """
        hashes: dict[str, Callable[[Any], str]] = {"task": task_sha256, "cache": cache_sha256}
        content = {
            key: hashes[key](value) if key in hashes else repr(value)
            for key, value in self.settings().items()
        }
        return hashlib.sha256(canonical_json([__version__, content])).hexdigest()


class DeliaBuilder(datasets.ArrowBasedBuilder):  # type: ignore[misc]
    """Base of the builders; a subclass defines settings, columns and splits."""

    token: str | bool | None

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        vars(sys.modules[cls.__module__])["_patched_for_streaming"] = _patched_for_streaming

    def _create_builder_config(
        self,
        config_name: str | None = None,
        custom_features: datasets.Features | None = None,
        config_id: str | None = None,
        **given: Any,
    ) -> tuple[DeliaConfig, str]:
        if not given.get("data_files"):
            given.pop("data_files", None)
        keys = self.BUILDER_CONFIG_CLASS.keys()
        _check_keys(self.name, given, keys)
        if config_name not in (None, "default") and not self.BUILDER_CONFIGS:
            raise InputError(
                f"{self.name} has no configuration {config_name!r}: leave the name out, "
                f"and give {keys[0]}="
            )
        # load_dataset removes `token`, a Hub access token, from the settings. Here it is the
        # special token, and it is never sent to the Hub.
        if "token" in keys and isinstance(self.token, str):
            given["token"] = self.token
        self.token = None
        config: DeliaConfig = self.BUILDER_CONFIG_CLASS(name=config_name or "default", **given)
        self._sha256 = config.sha256()
        return config, config_id or config.create_config_id(
            {"sha256": self._sha256}, custom_features=custom_features
        )

    def _splits(
        self, splits: Mapping[str, pa.Table | CacheRows | Mixture]
    ) -> list[datasets.SplitGenerator]:
        """Return the splits of inputs that were just read.

        Raises:
            InputError: An input has changed since its bytes were hashed.
        """
        if self.config.sha256() != self._sha256:
            raise InputError(f"an input of {self.name} changed while it was read: load it again")
        return [
            datasets.SplitGenerator(name=name, gen_kwargs={"shards": cut(source)})
            for name, source in splits.items()
        ]

    def _as_dataset(self, *arguments: Any, **named: Any) -> datasets.Dataset:
        return RowsDataset.of(super()._as_dataset(*arguments, **named))

    def _generate_tables(self, shards: list[Shard]) -> Iterator[tuple[Key, pa.Table]]:
        tables = (table for shard in _joined(shards) for table in shard.tables())
        for index, table in enumerate(tables):
            yield Key(index, 0), table


def _check_keys(builder: str, given: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    candidates = [*keys, *inspect.signature(datasets.load_dataset).parameters]
    if unknown := [unknown_name("setting", key, candidates) for key in given if key not in keys]:
        raise SettingsError(f"{builder}: {'; '.join(unknown)}; it takes {', '.join(keys)}")


def read_task(task: Location | None, *, token: str | None = None, seed: int = 0) -> TaskRows:
    """Read the rows of a task, each in its wording.

    Args:
        task: A task folder, a JSON Lines or JSON file, or the name of a bundled task, which
            comes before a folder of that name; None for the bundled one.
        token: Special token, `""` for a task without one; None for that of the task, which is
            `<sep>` for a file.
        seed: Seed of the wordings of a bundled task; other tasks have their wordings.

    Raises:
        InputError: The task does not exist or cannot be read.
        TokenError: The token of the task differs from `token`.
    """
    name = _bundled_name(task)
    if name is not None:
        from delia_data.diversify import diversify  # a slow import

        rows = diversify(bundled_task(name), bundled_wordings(name), seed=seed)
    else:
        return read_task_rows(_path("task", task), token=token)
    if token is not None and token != rows.token:
        raise TokenError(
            f"the task's token is {rows.token!r}, and {token!r} was given: leave the token out"
        )
    return rows


def locate_cache(cache: Location | None) -> Location:
    """Return the location of the pairs: the given one, or that of the bundled cache.

    Raises:
        InputError: The cache does not exist, or no cache is bundled.
    """
    if cache is None or is_bundled(cache):
        return bundled_cache_folder()
    return _path("cache", cache)


def task_sha256(task: Location | None) -> str:
    """Hash the bytes that `read_task` reads.

    Raises:
        InputError: The task does not exist or cannot be read.
    """
    name = _bundled_name(task)
    return _path_sha256(_path("task", task)) if name is None else _data_sha256("tasks", name)


def cache_sha256(cache: Location | None) -> str:
    """Hash the bytes of a cache.

    Raises:
        InputError: The cache does not exist or cannot be read.
    """
    if cache is None or is_bundled(cache):
        return _data_sha256("sampling", "cache")
    return _path_sha256(_path("cache", cache))


def _bundled_name(task: Location | None) -> str | None:
    if task is None:
        return BUNDLED_TASKS[0]
    return task if isinstance(task, str) and task in BUNDLED_TASKS else None


def _path(kind: str, given: Any) -> Location:
    names = f", or a bundled one ({', '.join(BUNDLED_TASKS)})" if kind == "task" else ""
    advice = (
        f"give a {kind} folder, a file such as {kind}.jsonl, or a URL such as "
        f"hf://datasets/org/name/{kind}.jsonl{names}"
    )
    if not isinstance(given, str | os.PathLike):
        raise InputError(f"{kind}={given!r} is not a path: {advice}")
    path = Path(given)
    if isinstance(given, str) and is_url(given) and not path.exists():
        return given
    if not path.exists() and not glob.glob(str(path), recursive=True):
        raise InputError(f"{kind} {os.fspath(given)!r} does not exist: {advice}")
    return path


def _data_sha256(part: str, name: str) -> str:
    """Hash the bundled data of a part of the package."""
    with as_file(files("delia_data") / part / "data") as folder:
        return hashlib.sha256(f"{name}:{_path_sha256(folder)}".encode()).hexdigest()


def _path_sha256(given: Location) -> str:
    """Hash a file, or the files of a glob or a folder with their names, except hidden files.

    The files behind a URL are downloaded for their hash, and again for their rows.
    """
    path = Path(given)
    if isinstance(given, str):
        content = []
        for split, source in open_splits(given).items():
            for name in (part.file for part in source.parts if part.file):
                with fsspec.open(name, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                content.append([split, name.rpartition("/")[2], digest])
    elif path.is_file():
        content = [[path.suffix, known_sha256(path)]]
    elif not path.exists():
        matches = sorted(glob.glob(str(path), recursive=True))
        content = [[Path(name).name, _path_sha256(Path(name))] for name in matches]
    else:
        inside = [(file.relative_to(path).as_posix(), file) for file in path.rglob("[!.]*")]
        content = [[name, known_sha256(file)] for name, file in sorted(inside) if file.is_file()]
    return hashlib.sha256(canonical_json(content)).hexdigest()


class RowsDataset(datasets.Dataset):  # type: ignore[misc]
    """A `Dataset` that yields single rows as fast as batches.

    `Dataset.__iter__` of `datasets` 5.2 slices its table for each row and formats the slice, which
    takes 10 µs per row before a value is read. This class converts a thousand rows at once. A
    dataset with a format or with indices uses the original method, and everything derived from
    it is an ordinary `Dataset`.
    """

    @classmethod
    def of(cls, dataset: datasets.Dataset) -> RowsDataset:
        """Return the same dataset with faster iteration."""
        return cls(
            dataset.data,
            info=dataset.info,
            split=dataset.split,
            fingerprint=dataset._fingerprint,
        )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the rows."""
        form = self.format
        plain = form["type"] is None and form["columns"] == self.column_names
        if self._indices is not None or not plain:
            yield from super().__iter__()
            return
        for batch in self.iter(_ROWS_AT_ONCE):
            names = list(batch)
            for values in zip(*batch.values(), strict=True):
                yield dict(zip(names, values, strict=True))
