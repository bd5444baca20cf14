"""Whatever holds pairs, as a relation that DuckDB reads: one column, `messages`.

    rows in memory, Dataset            Arrow table
    messages in JSON Lines, Parquet    read by DuckDB as they lie            (fast)
    anything else                      through `records`, into a temporary   (general)
                                       Parquet file

The fast way takes only what the general way would take as it is; at the first doubt the general
way decides, and words the error.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from delia_data._batches import batches
from delia_data._csv import csv_rows
from delia_data.errors import FormatError, InputError
from delia_data.mixing.options import MESSAGES
from delia_data.outputs import FINISHED, MANIFEST, read_manifest
from delia_data.reading import read_rows
from delia_data.records import Record, read_record, write_record

Pairs: TypeAlias = (
    str
    | os.PathLike[str]
    | Sequence[Record]
    | Sequence[Mapping[str, Any]]
    | datasets.Dataset
    | datasets.IterableDataset
)
"""What a cache can be given as."""

SUFFIXES: Final = (".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".csv")
_FAST: Final = frozenset({".jsonl", ".ndjson", ".parquet"})
_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")
_SIGNS: Final = (MANIFEST, FINISHED, "plan.json")  # a folder of ours, be it finished or not
_BATCH: Final = 10_000
_MESSAGES_SQL: Final = "STRUCT(role VARCHAR, content VARCHAR)[]"
_VALID: Final = (
    "messages IS NOT NULL AND len(messages) > 0 AND messages[-1].role = 'assistant' "
    "AND len(list_filter(messages, lambda m: m.role = 'user')) > 0 "
    "AND len(list_filter(messages, lambda m: m.role NOT IN ('system', 'user', 'assistant') "
    "OR m.content IS NULL OR NOT regexp_matches(m.content, '[^\\s\\pZ\\pC]'))) = 0"
)
_CAST: Final = f"messages::{_MESSAGES_SQL} AS messages"


class DoubtfulError(Exception):
    """A row that only the general way can judge."""


def fast_batches(given: Any) -> Iterator[pa.RecordBatch]:
    """Yield `messages` as they lie in a dataset or in files.

    Raises:
        DoubtfulError: There is no fast way, or a row must be judged by the general one.
        InputError: There is nothing there.
    """
    if isinstance(given, datasets.Dataset):
        if not _has_messages(given.features) or given._indices is not None:
            raise DoubtfulError
        name, tables = "given", {"given": given.data.table.select(["messages"])}
        relation = f"(SELECT {_CAST} FROM given)"
    elif isinstance(given, str | os.PathLike) and not _is_hub_id(given):
        files = _files(given)
        if not _readable_as_it_lies(files):
            raise DoubtfulError
        relation, tables = _scan(files), {}
    else:
        raise DoubtfulError
    import duckdb  # here, as importing it takes a while that `import delia_data` need not

    with duckdb.connect(config={"autoinstall_known_extensions": "false"}) as connection:
        for name, table in tables.items():
            connection.register(name, table)
        with suppress(duckdb.InvalidInputException):  # raised in a notebook without ipywidgets
            connection.execute("SET enable_progress_bar = false")
        sql = f"SELECT messages, {_VALID} AS valid FROM {relation}"
        try:
            for batch in connection.sql(sql).to_arrow_reader(_BATCH):
                if not all(batch["valid"].to_pylist()):
                    raise DoubtfulError
                if batch.num_rows:
                    yield batch.select(["messages"])
        except (duckdb.Error, OSError) as error:  # an Arrow reader passes errors on as OSError
            raise DoubtfulError from error


def general_batches(given: Any) -> Iterator[pa.RecordBatch]:
    """Yield `messages` row by row, whatever the format.

    Raises:
        InputError: The message names the place of the first bad row.
    """
    for group in batches(_checked(rows_of(given)), _BATCH):
        yield from _table(group).combine_chunks().to_batches()


def shards_of(given: str | os.PathLike[str]) -> tuple[list[Path], bool]:
    """Give the files behind a path, and whether `open_fast` takes them.

    Args:
        given: A file, a glob, a cache folder, or a folder of shards.

    Raises:
        InputError: There is nothing there.
        UnfinishedError: It is a folder of ours without its finish marker.
    """
    files = _files(given)
    return files, _readable_as_it_lies(files)


def rows_of(given: Any, *, split: str = "train") -> Iterator[tuple[str, Any]]:
    """Give the rows of anything that holds rows, each with its place, one after another.

    Args:
        given: Whatever holds rows: a path, a glob, a Hub id, a dataset, a list.
        split: The split that is taken where a Hub id is given.
    """
    if isinstance(given, str | os.PathLike):
        if _is_hub_id(given):
            yield from rows_of(_from_hub(str(given), split))
        else:
            for file in _files(given):
                yield from _rows_of_file(file)
    else:
        for index, row in enumerate(given):
            yield f"row {index}", row


def _checked(rows: Iterable[tuple[str, Any]]) -> Iterator[Record]:
    for where, row in rows:
        if isinstance(row, Record):
            yield row
            continue
        try:
            yield read_record(row)
        except FormatError as error:
            raise FormatError(f"{where}: {error}") from error


def _rows_of_file(
    file: Path, groups: tuple[int, int] | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    if file.suffix in {".jsonl", ".ndjson", ".json"}:
        yield from read_rows(file)
        return
    number = 0
    try:
        rows = csv_rows(file) if file.suffix == ".csv" else _arrow_rows(file, groups)
        for where, row in rows:
            yield where, row
            number += 1
    except (OSError, pa.ArrowInvalid) as error:
        line = str(error).splitlines()[0]
        raise InputError(f"{file} cannot be read: {line}; check the file") from error
    if not number:
        raise InputError(f"{file} is empty: it must hold at least one row")


def _arrow_rows(file: Path, groups: tuple[int, int] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    for batch in _arrow_batches(file, groups):
        for row in batch.to_pylist():
            yield f"{file}: row {number}", row
            number += 1


def _arrow_batches(file: Path, groups: tuple[int, int] | None = None) -> Any:
    """Batches of a Parquet or Arrow file, one after another."""
    if file.suffix == ".parquet":
        named = None if groups is None else list(range(*groups))
        return pq.ParquetFile(file).iter_batches(_BATCH, row_groups=named)
    with pa.memory_map(str(file)) as source:
        try:
            return pa.ipc.open_stream(source).read_all().to_batches(_BATCH)
        except pa.ArrowInvalid:
            return pa.ipc.open_file(source).read_all().to_batches(_BATCH)


def _files(given: str | os.PathLike[str]) -> list[Path]:
    """The files behind a path: itself, those of a glob, or those of a folder, sorted."""
    path = Path(given)
    known = f"give a folder, or files that end in {', '.join(SUFFIXES)}"
    if path.is_dir():
        if any((path / name).exists() for name in _SIGNS):
            manifest = read_manifest(path)
            if manifest.kind != "cache":
                raise InputError(
                    f"{path} holds a {manifest.kind}, not a cache: give a cache folder"
                )
            return sorted(path.glob("pairs-*.parquet")) or [path / "pairs.parquet"]
        files = sorted(file for file in path.rglob("[!.]*") if file.suffix in SUFFIXES)
        if not files:
            raise InputError(f"{path} has no files of pairs: {known}")
        return files
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise InputError(f"{path} has an unknown ending: {known}")
        return [path]
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
    if not found:
        raise InputError(f"{path} is not there: {known}")
    return [file for each in found for file in _files(each)]


def _is_hub_id(given: str | os.PathLike[str]) -> bool:
    """Whether a text names a Hub dataset: like `owner/name`, and nothing lies there."""
    text = str(given)
    return (
        isinstance(given, str)
        and _HUB_ID.fullmatch(text) is not None
        and not text.startswith(".")
        and Path(text).suffix not in SUFFIXES
        and not Path(text).exists()
    )


def _from_hub(name: str, split: str) -> datasets.Dataset:
    try:
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # whatever the Hub's client raises
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{name!r} is neither a path here nor a dataset that the Hub gives: {line}"
        ) from error


def _readable_as_it_lies(files: Sequence[Path]) -> bool:
    """Whether DuckDB can read the files: all of one fast kind, with a `messages` column."""
    suffixes = {file.suffix for file in files}
    if len(suffixes) != 1 or not suffixes <= _FAST:
        return False
    if suffixes == {".parquet"}:
        try:
            return all(_has_messages(pq.read_schema(file)) for file in files)
        except (OSError, pa.ArrowInvalid):
            return False
    with files[0].open("rb") as lines:
        return b'"messages"' in lines.readline(1 << 20)


def _has_messages(columns: Any) -> bool:
    """Whether columns, of Arrow or of `datasets`, have plain `messages` among them."""
    arrow = columns if isinstance(columns, pa.Schema) else columns.arrow_schema
    if "messages" not in arrow.names:
        return False
    kind = arrow.field("messages").type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    inside = kind.value_type
    return pa.types.is_struct(inside) and {f.name for f in inside} >= {"role", "content"}


def _scan(files: Sequence[Path]) -> str:
    names = ", ".join(quote(str(file)) for file in files)
    if files[0].suffix == ".parquet":
        return f"(SELECT {_CAST} FROM read_parquet([{names}]))"
    return (
        f"read_json([{names}], format = 'newline_delimited', "
        f"columns = {{messages: {quote(_MESSAGES_SQL)}}})"
    )


def quote(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def _table(records: Iterable[Record]) -> pa.Table:
    return pa.Table.from_pylist(
        [write_record(record) for record in records], schema=pa.schema([("messages", MESSAGES)])
    )
