"""Read any input: files, folders, URLs, Hub ids, datasets, tables and rows.

    given ──▶ open_source ──▶ Source ──▶ batches()   Arrow, one column `messages`
                                     ├─▶ map(read)   a value for each row, with its location
                                     └─▶ rows()      raw rows, with their locations

    Every input is split into chunks of some thousand rows:

    Arrow types exactly those of a row   ──▶ checked as columns, returned unchanged        (fast)
    anything else                        ──▶ row by row through `records.read_record`   (general)

Both paths give the same rows: a chunk takes the fast path only if the general path would not change
it.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, Literal, TypeAlias, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet as pq

from delia_data._batches import batches
from delia_data.errors import FormatError, InputError, UnsupportedRowError
from delia_data.outputs import FINISHED, LOCK, MANIFEST, read_manifest
from delia_data.records import (
    MEANINGFUL,
    TURN_FIELDS,
    VISIBLE,
    Format,
    Losses,
    Message,
    Record,
    check_supported,
    detect_format,
    losses_of,
    read_with_losses,
    system_turn,
)

MESSAGES: Final = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_SCHEMA: Final = pa.schema([("messages", MESSAGES)])

T = TypeVar("T")
Purpose = Literal["cache", "task", "queries", "training"]
Decoder: TypeAlias = Callable[[Any], Any]
Place: TypeAlias = tuple[str, Any]
"""A location and a row, or a `FormatError` instead of a row that cannot be parsed."""

KINDS: Final = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".csv": "csv",
}
SUFFIXES: Final = tuple(KINDS)
_COMPRESSIONS: Final = {".gz": "gzip", ".zst": "zstd"}
_NAMES: Final = {"gzip": "gzip data", "zstd": "Zstandard data", "parquet": "Parquet data"}
# First bytes of files, their kind, and the remedy if the file name has another ending.
_BEGINNINGS: Final = (
    (b"\x1f\x8b", "gzip", "add the ending .gz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "add the ending .zst"),
    (b"PAR1", "parquet", "give it the ending .parquet"),
    (b"PK\x03\x04", "a ZIP archive", "unpack it"),
    (b"BZh", "bzip2 data", "unpack it"),
    (b"\xfd7zXZ", "xz data", "unpack it"),
    (b"version https://git-lfs", "a pointer of Git LFS", "fetch the file with git lfs pull"),
    (b"<!DOCTYPE", "an HTML page", "download the file itself"),
    (b"<html", "an HTML page", "download the file itself"),
    *(
        (begin, "UTF-16 text", "save it as UTF-8")
        for begin in (b"\xff\xfe", b"\xfe\xff", b"{\0", b"[\0", b"\0{", b"\0[")
    ),
)
_GIVE: Final = (
    f"give a folder, or files that end in {', '.join(SUFFIXES)}, each also with "
    f"{' or '.join(_COMPRESSIONS)}"
)
# Conventional names of files without rows.
_NO_ROWS: Final = frozenset(
    {MANIFEST, "dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json"}
)
_BINARY: Final = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_binary_view,
)
# The same words as in `datasets`.
_TEST: Final = re.compile(r"(^|[/._ -])(test|testing|eval|evaluation)([/._ 0-9-]|$)", re.I)
_VALIDATION: Final = re.compile(r"(^|[/._ -])(validation|valid|val|dev)([/._ 0-9-]|$)", re.I)
_SPLIT: Final = re.compile(r"(.+)#([A-Za-z_]\w*)")
# Shards of splits with other names, such as data/train_sft-00000-of-00003.parquet.
_SHARD: Final = re.compile(r"(?:^|/)data/(\w+(?:\.\w+)*)-\d{5}-of-\d{5}[^/]*$")
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(:[\w.-]+)?")
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::|://)")
_SPACED_QUOTE: Final = re.compile(r'(^|,)[ \t]+"')
_QUOTED: Final = re.compile(r'[ \t]+"')
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_SHOWN: Final = 3  # problems in an error
_BATCH: Final = 10_000
_BLOCK_BYTES: Final = 4 << 20
_THREADS: Final = max(2, min(4, os.cpu_count() or 1))
_MOST_BRACKETS: Final = 2_000  # per line; pyarrow's stack overflows at a nesting of about 15,000
_MOST_DIGITS: Final = 4_000  # of an integer; Python refuses to parse more


@dataclass
class Report:
    """Report on the rows of a source; complete when they are exhausted.

    Attributes:
        rows: Number of rows in the input.
        dropped: Counts of dropped rows, which text cannot express, by reason.
        changed: Counts of changed rows by reason: `reasoning_removed`.
        ignored: Columns that no row format uses, and fields of turns as `messages.name`.
        skipped: Files of a folder that were not read, with the reason.
        is_own: Whether this package wrote the input; its other columns are not reported.
    """

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    ignored: set[str] = field(default_factory=set)
    skipped: tuple[str, ...] = ()
    is_own: bool = False

    def details(self) -> dict[str, Any]:
        """Return the entry for a manifest, without dropped rows; empty if nothing was lost."""
        lost = {
            "changed": dict(sorted(self.changed.items())),
            "ignored": [] if self.is_own else sorted(self.ignored),
            "skipped": list(self.skipped),
        }
        return {name: value for name, value in lost.items() if value}

    def add(self, other: Report) -> Report:
        """Add the report of another split of the input, and return the sum."""
        skipped = tuple(dict.fromkeys((*self.skipped, *other.skipped)))
        return Report(
            self.rows + other.rows,
            self.dropped + other.dropped,
            self.changed + other.changed,
            self.ignored | other.ignored,
            skipped,
            self.is_own and other.is_own,
        )


class Problems:
    """Problems of an input, with their count and the first ones."""

    def __init__(self) -> None:
        self.count = 0
        self.shown: list[str] = []

    def add(self, where: str, error: object) -> None:
        """Count a problem, and store its text if it is one of the first."""
        self.count += 1
        if len(self.shown) < _SHOWN:
            text = str(error)
            text = text if text.startswith(where) else f"{where}: {text}"
            self.shown.append(" ".join(text.splitlines()))  # names may contain line breaks

    def raise_if_any(self, rows: int) -> None:
        """Raise the error of all problems.

        Raises:
            FormatError: There is a problem.
        """
        if self.count:
            more = f"; and {self.count - _SHOWN:,} more" if self.count > _SHOWN else ""
            raise FormatError(
                f"{self.count:,} of {rows:,} rows cannot be used: {'; '.join(self.shown)}{more}"
            )


@dataclass(frozen=True)
class Chunk:
    """Some rows of an input.

    Attributes:
        rows: Returns the rows with their locations.
        table: Returns the same rows as Arrow, or None if there is no such table.
        validated: Whether the texts of the table are known to be UTF-8.
    """

    rows: Callable[[], Iterator[Place]]
    table: Callable[[], pa.Table | None] = lambda: None
    validated: bool = False


@dataclass(frozen=True)
class Source:
    """The rows of an input of any kind.

    Attributes:
        name: Name of the input in errors.
        parts: Parts of the input, read one after another.
        strict: Whether rows are refused instead of dropped.
        format: Format of all rows; by default detected for each row.
        report: Report on the rows that were read.
    """

    name: str
    parts: tuple[Part, ...]
    strict: bool = False
    format: Format | None = None
    report: Report = field(default_factory=Report, compare=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """Local files that hold all rows; empty for rows from elsewhere."""
        local = all(isinstance(part, FilePart) and not is_url(part.file) for part in self.parts)
        names = (cast(FilePart, part).file for part in self.parts) if local else ()
        return tuple(dict.fromkeys(map(Path, names)))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows as Arrow: one column, `messages`, each row a valid conversation.

        Raises:
            InputError: The input cannot be read, or is empty.
            FormatError: Rows cannot be used; the message counts them and shows the first three.
        """
        problems = self._start()
        for chunk, (ignored, ready) in _in_threads(self._columns, self._chunks()):
            if ready is None:
                rows = self._convert(chunk.rows(), self._pair, problems)
                yield from _arrow(record for _, record in rows)
            else:
                self.report.rows += ready.num_rows
                self.report.ignored |= ignored
                yield ready
        self._end(problems)

    def rows(self) -> Iterator[Place]:
        """Yield each row's location and the raw row.

        Raises:
            InputError: As `batches`, for rows that cannot be parsed.
        """
        return self.map(lambda row: row)

    def map(self, read: Callable[[Any], T]) -> Iterator[tuple[str, T]]:
        """Yield each row's location and the value of a function of the row.

        Args:
            read: The function. If it raises `FormatError`, the row has a problem. If it raises
                `UnsupportedRowError`, the row is dropped, unless the source is strict.

        Raises:
            InputError: As `batches`.
        """
        problems = self._start()
        for chunk in self._chunks():
            yield from self._convert(chunk.rows(), read, problems)
        self._end(problems)

    def _start(self) -> Problems:
        report = self.report
        report.rows, report.dropped, report.changed = 0, Counter(), Counter()
        report.ignored = set()
        return Problems()

    def _end(self, problems: Problems) -> None:
        problems.raise_if_any(self.report.rows)
        if not self.report.rows and any(part.file for part in self.parts):
            raise InputError(f"{self.name} is empty: it must hold at least one row")

    def _chunks(self) -> Iterator[Chunk]:
        for part in self.parts:
            # Errors of the user's iterable are not changed.
            with nullcontext() if isinstance(part, RowsPart) else _reading(part.file):
                yield from part.chunks()

    def _convert(
        self, rows: Iterable[Place], read: Callable[[Any], T], problems: Problems
    ) -> Iterator[tuple[str, T]]:
        for where, row in rows:
            self.report.rows += 1
            try:
                if isinstance(row, FormatError):
                    raise row
                if type(row) is dict and any(map(_is_nan, row.values())):
                    row = {name: None if _is_nan(each) else each for name, each in row.items()}
                value = read(row)
            except FormatError as error:
                if isinstance(error, UnsupportedRowError) and not self.strict:
                    self.report.dropped[error.reason] += 1
                else:
                    problems.add(where, error)
            else:
                yield where, value

    def _columns(self, chunk: Chunk) -> tuple[set[str], pa.RecordBatch | None]:
        """Return the unused columns of a chunk, and its rows if they are valid without changes."""
        table = None if self.format not in (None, "messages") else chunk.table()
        with suppress(UnicodeDecodeError):  # in the name of a field
            ready = None if table is None else exact(table, validated=chunk.validated)
            if table is not None and ready is not None:
                return _ignored(table), ready
        return set(), None

    def record(self, row: Any, *, used: Collection[str] = ()) -> Record:
        """Return the record of a row, and report the loss of reasoning and of unused columns.

        Args:
            row: A row of the input.
            used: Columns that the caller reads, besides those of the row's format.

        Raises:
            FormatError: As `records.read_record`.
        """
        return self._read(row, used)[0]

    def system_turn(self, row: Mapping[str, Any], used: Collection[str]) -> tuple[Message, ...]:
        """Return the system turn of a row for a caller that makes the other turns from columns.

        Report the loss of reasoning and of columns, as `record` does.

        Args:
            row: A row of the input.
            used: Columns that the caller reads.

        Raises:
            FormatError: A column that is not read changes the meaning of the row.
        """
        others = {name: value for name, value in row.items() if name not in used}
        check_supported(others)
        self._add(losses_of(others))
        return system_turn(others, ())

    def _read(self, row: Any, used: Collection[str] = ()) -> tuple[Record, Losses]:
        """Return the record of a row, and the losses."""
        if isinstance(row, Record):
            return row, Losses()
        record, lost = read_with_losses(row, self.format)
        lost.ignored.difference_update(used)
        self._add(lost)
        return record, lost

    def _add(self, lost: Losses) -> None:
        if lost.reasoning:
            self.report.changed["reasoning_removed"] += 1
        self.report.ignored |= lost.ignored

    def _pair(self, row: Any) -> Record:
        record, lost = self._read(row)
        if self.strict and lost.reasoning:
            raise FormatError("the row holds reasoning, which would be removed: remove it")
        return record


def _is_nan(value: Any) -> bool:
    """Return whether a value is a data frame's missing value."""
    return type(value).__name__ in ("NAType", "NaTType") or (
        isinstance(value, float) and math.isnan(value)
    )


def _in_threads(
    function: Callable[[Chunk], T], chunks: Iterable[Chunk]
) -> Iterator[tuple[Chunk, T]]:
    """Yield each chunk with the value of a function, which threads compute in advance.

    Arrow parses and checks without the global interpreter lock.
    """
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="delia-read") as pool:
        waiting: deque[tuple[Chunk, Future[T]]] = deque()
        for chunk in chunks:
            waiting.append((chunk, pool.submit(function, chunk)))
            if len(waiting) > _THREADS:
                first, value = waiting.popleft()
                yield first, value.result()
        for first, value in waiting:
            yield first, value.result()


def open_source(
    given: Any,
    *,
    purpose: Purpose = "cache",
    strict: bool = False,
    format: Format | None = None,
    split: str = "train",
) -> Source:
    """Open the rows of any input; if it has several splits, the training split.

    Args:
        given: A path, a glob, a folder, an fsspec URL, a Hub id (`owner/name`, or
            `owner/name:configuration`), each also with `#split`; a `Dataset`, an
            `IterableDataset`, a dictionary of these by split, a data frame, a `pyarrow.Table`, a
            list of rows or records, or a generator.
        purpose: Use of the rows. Rows that text cannot express are dropped and counted for a cache,
            and refused for a task or a training.
        strict: Refuse them for a cache too, and rows with reasoning.
        format: Format of all rows; detected row by row by default.
        split: The split to read.

    Raises:
        InputError: The input does not exist, its kind is unknown, or it has no such split.
        UnfinishedError: It is a folder of this package without its finish marker.
    """
    splits = open_splits(given, purpose=purpose, strict=strict, format=format)
    return choose_split(given, splits, split)


def choose_split(given: Any, splits: Mapping[str, Source], *names: str) -> Source:
    """Return the first of the named splits; its report lists the other splits as skipped.

    Args:
        given: The input, for the error.
        splits: All splits of the input.
        names: Names of the splits to read.

    Raises:
        InputError: The split does not exist.
    """
    source = splits.get(names[0])
    if source is None:
        first = max(splits, key=lambda name: name.startswith("train"), default=names[0])
        is_text = isinstance(given, str | os.PathLike)
        way = f"{given}#{first}" if is_text else f"rows[{first!r}], or a list of rows"
        raise InputError(
            f"{_name(given)} has the splits {', '.join(splits) or 'none'}, and no {names[0]!r}: "
            f"give one of them, such as {way}"
        )
    for name in (each for each in splits if each not in names):
        other = splits[name]
        files = [part.file for part in other.parts if part.file]
        source.report.skipped += tuple(
            f"{_relative(other.name, file)} (split {name})" for file in files
        ) or (f"split {name}",)
    return source


def open_splits(
    given: Any,
    *,
    purpose: Purpose = "cache",
    strict: bool = False,
    format: Format | None = None,
) -> dict[str, Source]:
    """Open every split of an input; an input without splits is the split `train`.

    Args:
        given: As for `open_source`.
        purpose: As for `open_source`.
        strict: As for `open_source`.
        format: As for `open_source`.

    Raises:
        InputError: As `open_source`.
    """
    if isinstance(given, Source):
        return {"train": given}
    strict = strict or purpose in ("task", "training")
    splits = _splits_of(given).items()
    return {name: replace(source, strict=strict, format=format) for name, source in splits}


def _splits_of(given: Any) -> dict[str, Source]:
    if isinstance(given, Mapping):
        found = {
            str(name): choose_split(rows, open_splits(rows), "train")
            for name, rows in given.items()
        }
        return {name: replace(source, name=name) for name, source in found.items()}
    if not isinstance(given, str | os.PathLike):
        return {"train": Source("the rows", (_memory_part(given),))}
    text = os.fspath(given)
    if (match := _SPLIT.fullmatch(text)) and not _is_there(text):
        before = Path(match[1]) if isinstance(given, Path) else match[1]
        return {"train": choose_split(before, _splits_of(before), match[2])}
    if not isinstance(given, Path) and not os.path.exists(text):
        if text.startswith("file://"):
            text = text.removeprefix("file://")
        elif is_url(text):
            return _open_url(text)
        elif _is_hub_id(text):
            return _open_datasets(_from_hub(text), text)
    return _open_path(Path(text))


def _open_datasets(found: Any, name: str) -> dict[str, Source]:
    """Open a `Dataset`, or those of a `DatasetDict`, with a name for errors."""
    splits = found if isinstance(found, Mapping) else {"train": found}
    place = f"{_quoted(name)}: row {{}}"
    return {str(n): Source(name, (DatasetPart(rows, place),)) for n, rows in splits.items()}


def read_records(given: Any, format: Format | None = None) -> Iterator[Record]:
    """Read the records of any input of `open_source`.

    Args:
        given: The input.
        format: Format of all rows; detected row by row by default.

    Raises:
        InputError: As `open_source`.
        FormatError: Rows cannot be used; the message counts them and shows the first three.
    """
    source = open_source(given, purpose="training", format=format)
    return (record for _, record in source.map(source.record))


# Parts: the rows of a file, of a table, of a dataset, or in memory.


@dataclass(frozen=True)
class FilePart:
    """The rows of a file, given by its path or URL."""

    file: str

    def chunks(self) -> Iterator[Chunk]:
        """Yield the rows."""
        if not is_url(self.file):
            _check_content(self.file)
        match _kind(self.file)[0]:
            case "parquet":
                yield from _parquet_chunks(self.file)
            case "arrow":
                yield from _arrow_chunks(self.file)
            case "csv":
                yield from _row_chunks(_csv_rows(self.file))
            case "json":
                yield from _json_chunks(self.file)
            case _:
                with _open(self.file) as opened:
                    yield from _line_chunks(opened, self.file)


@dataclass(frozen=True)
class TablePart:
    """The rows of a `pyarrow.Table`."""

    table: pa.Table
    file: None = None

    def chunks(self) -> Iterator[Chunk]:
        """Yield the rows."""
        convert = _Converter(self.table.schema)
        yield from _table_chunks(self.table.to_batches(_BATCH), convert, "row {}")


@dataclass(frozen=True)
class DatasetPart:
    """The rows of a `datasets.Dataset`, with its indices and format."""

    dataset: Any
    place: str = "row {}"
    file: None = None

    def chunks(self) -> Iterator[Chunk]:
        """Yield the rows."""
        form = self.dataset.format
        if form["type"] == "custom":
            rows = _labeled(self.dataset, self.dataset.features)
            yield from _row_chunks((self.place.format(n), row) for n, row in enumerate(rows))
            return
        columns = form["columns"]
        arrow = self.dataset.with_format("arrow", columns=columns).iter(_BATCH)
        schema = self.dataset.features.arrow_schema
        convert = _Converter(pa.schema([schema.field(name) for name in columns], schema.metadata))
        tables = (batch for table in arrow for batch in table.combine_chunks().to_batches())
        yield from _table_chunks(tables, convert, self.place)


@dataclass(frozen=True)
class RowsPart:
    """Rows in memory: a list, a generator, an `IterableDataset`."""

    given: Any
    file: None = None

    def chunks(self) -> Iterator[Chunk]:
        """Yield the rows."""
        rows = _labeled(self.given, getattr(self.given, "features", None))
        yield from _row_chunks((f"row {n}", row) for n, row in enumerate(rows))


Part: TypeAlias = FilePart | TablePart | DatasetPart | RowsPart


def _memory_part(given: Any) -> Part:
    kind = type(given).__module__.partition(".")[0]
    if kind == "datasets" or hasattr(given, "_indices"):
        return DatasetPart(given) if hasattr(given, "_indices") else RowsPart(given)
    if isinstance(given, pa.Table):
        return TablePart(given)
    is_frame = kind == "pandas" and hasattr(given, "columns")
    try:
        if is_frame:
            return TablePart(pa.Table.from_pandas(given, preserve_index=False))
        if kind != "pandas" and hasattr(given, "__arrow_c_stream__"):
            return TablePart(pa.table(given))
    except (pa.ArrowException, TypeError, ValueError) as error:
        if is_frame and given.columns.is_unique:  # columns of mixed types
            rows = given.astype(object).where(given.notna(), None).to_dict("records")
            return RowsPart(rows)
        raise FormatError(
            f"the {type(given).__name__} cannot be read: {_first_line(error)}"
        ) from error
    if kind == "pandas" or isinstance(given, Mapping | bytes) or not isinstance(given, Iterable):
        raise InputError(
            f"a {type(given).__name__} is no input of rows: give a path, a dataset, a table or a "
            "list of rows"
        )
    return RowsPart(given)


def _labeled(rows: Iterable[Any], features: Any) -> Iterable[Any]:
    """Return rows with the names of their class labels."""
    name = _labels_in(features or {})
    return rows if name is None else map(name, rows)


def _labels_in(feature: Any) -> Decoder | None:
    """Return a decoder of class labels to their names; None if a feature has no class labels."""
    if type(feature).__name__ == "ClassLabel":
        return partial(_label, names=feature.names)
    if isinstance(feature, Mapping):
        return _in_fields({name: _labels_in(inner) for name, inner in feature.items()})
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return None if inner is None else _in_list(_labels_in(inner))


def _row_chunks(rows: Iterable[Place]) -> Iterator[Chunk]:
    for group in batches(rows, _BATCH):
        yield Chunk(lambda group=group: iter(group))  # type: ignore[misc]


def _arrow(records: Iterable[Record]) -> Iterator[pa.RecordBatch]:
    for group in batches(records, _BATCH):
        turns = [[{"role": m.role, "content": m.content} for m in r.messages] for r in group]
        yield pa.RecordBatch.from_arrays([pa.array(turns, MESSAGES)], schema=_SCHEMA)


# Tables whose types are exactly those of rows.


def exact(table: pa.Table, *, validated: bool = False) -> pa.RecordBatch | None:
    """Return the `messages` of a table if all rows are valid without changes, else None.

    Args:
        table: The rows.
        validated: Whether the texts are known to be UTF-8.
    """
    names = table.column_names
    if names.count("messages") != 1:
        return None
    for name in MEANINGFUL.intersection(names):
        if names.count(name) > 1 or table[name].null_count != table.num_rows:
            return None
    if not _has_exact_type(table.schema.field("messages").type):
        return None
    if not table.num_rows:
        return pa.RecordBatch.from_pylist([], _SCHEMA)
    column = table["messages"]
    column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    lengths = pc.list_value_length(column)
    if column.null_count or pc.min(lengths).as_py() < 1:
        return None
    turns = column.flatten()
    if turns.null_count:
        return None
    for number in range(turns.type.num_fields):
        other = turns.type.field(number).name
        if other in MEANINGFUL | {"from", "value"}:
            values = turns.field(number)
            if values.null_count != len(values):
                return None
    try:
        role, content = (turns.field(name).cast(pa.string()) for name in ("role", "content"))
        if not validated:
            role.validate(full=True)
            content.validate(full=True)
    except pa.ArrowException:  # bytes that are not UTF-8, or too many for the offsets
        return None
    codes = pc.index_in(role, pa.array(["system", "user", "assistant"]))
    if codes.null_count or content.null_count:
        return None
    roles = codes.to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths.to_numpy())]).astype(np.int32)
    if (roles[offsets[1:] - 1] != 2).any():
        return None
    if not np.logical_or.reduceat(roles == 1, offsets[:-1]).all():
        return None
    if not pc.all(pc.match_substring_regex(content, VISIBLE)).as_py():
        return None
    values = pa.StructArray.from_arrays([role, content], names=["role", "content"])
    return pa.RecordBatch.from_arrays(
        [pa.ListArray.from_arrays(pa.array(offsets), values)], schema=_SCHEMA
    )


def _ignored(table: pa.Table) -> set[str]:
    """Return the columns and the fields of turns that rows of `exact` do not use."""
    columns = {
        name
        for name, column in zip(table.column_names, table.columns, strict=True)
        if name not in MEANINGFUL | {"messages"}
        and column.null_count < len(column)
        and not pc.all(pc.is_null(column, nan_is_null=True)).as_py()
    }
    fields = set()
    for chunk in table["messages"].chunks:
        turns = chunk.flatten()
        for name, values in zip(turns.type.names, turns.flatten(), strict=True):
            if name not in TURN_FIELDS and values.null_count < len(turns):
                fields.add(f"messages.{name}")
    return columns | fields


def _has_exact_type(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    turn = kind.value_type
    if not pa.types.is_struct(turn):
        return False
    names = [turn.field(i).name for i in range(turn.num_fields)]
    return len(set(names)) == len(names) and all(
        name in names and _is_text(turn.field(name).type) for name in ("role", "content")
    )


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return kind in (pa.string(), pa.large_string(), pa.string_view())


class _Converter:
    """Turns Arrow batches into rows: bytes become text, JSON is decoded, labels get names."""

    def __init__(self, schema: pa.Schema) -> None:
        twice = [name for name, count in Counter(schema.names).items() if count > 1]
        if twice:
            raise FormatError(
                f"there are two columns of one name ({', '.join(map(repr, twice))}): rename one"
            )
        features = _features(schema)
        decoders = {f.name: _decoder(f.type, features.get(f.name)) for f in schema}
        self.decode = _in_fields(decoders)

    def rows(self, batch: pa.RecordBatch) -> Iterator[Any]:
        """Yield the rows of a batch; an error for a row whose text is not UTF-8."""
        try:
            rows = batch.to_pylist(maps_as_pydicts="strict")
        except (UnicodeDecodeError, KeyError, pa.ArrowException, OverflowError, ValueError):
            if batch.num_rows == 1:
                yield self._row_of(batch)
            else:
                for index in range(batch.num_rows):
                    yield from self.rows(batch.slice(index, 1))
            return
        for row in rows:
            try:
                decoded = row if self.decode is None else self.decode(row)
            except FormatError as error:
                decoded = error
            yield decoded

    def _row_of(self, batch: pa.RecordBatch) -> Any:
        """Return a row with values that Python cannot represent; an error only for text."""
        row = {}
        for name in batch.schema.names:
            try:
                row[name] = batch[name][0].as_py(maps_as_pydicts="strict")
            except UnicodeDecodeError:
                return FormatError(f"column {name!r} holds bytes that are not UTF-8 text")
            except (KeyError, pa.ArrowException, OverflowError, ValueError):
                row[name] = _spelled(batch[name][0])
        return row


def _spelled(scalar: pa.Scalar) -> str:
    """Return a value that Python cannot represent, such as a date in the year 10000, as text."""
    try:
        return str(scalar)
    except (pa.ArrowException, OverflowError, ValueError):
        return repr(scalar.cast(pa.string()).as_py())


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Return the features that `datasets` writes into the metadata of a schema."""
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        return dict(json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"])
    return {}


def _decoder(kind: pa.DataType, feature: Any) -> Decoder | None:
    """Return a decoder of values of an Arrow type; None if they need none."""
    named = feature if isinstance(feature, Mapping) else {}
    if named.get("_type") == "ClassLabel" and named.get("names"):
        return partial(_label, names=list(named["names"]))
    if isinstance(kind, pa.JsonType) or named.get("_type") == "Json":
        return lambda value: parse_json(value) if isinstance(value, str) else value
    if isinstance(kind, pa.BaseExtensionType):
        return None
    if pa.types.is_dictionary(kind):
        return _decoder(kind.value_type, feature)
    if any(is_bytes(kind) for is_bytes in _BINARY):
        return _decode_bytes
    if pa.types.is_struct(kind):
        return _in_fields({f.name: _decoder(f.type, named.get(f.name)) for f in kind})
    is_map = pa.types.is_map(kind)
    value_type = kind.item_type if is_map else getattr(kind, "value_type", None)
    inside = None if value_type is None else _decoder(value_type, named.get("feature"))
    if is_map and inside is not None:
        decode: Decoder = inside
        return lambda value: {k: None if v is None else decode(v) for k, v in value.items()}
    return _in_list(inside)


def _in_fields(decoders: Mapping[str, Decoder | None]) -> Decoder | None:
    """Return a decoder of a struct's fields; None if no field has a decoder."""
    fields = {name: decode for name, decode in decoders.items() if decode is not None}
    if not fields:
        return None
    return lambda value: {
        k: fields[k](v) if k in fields and v is not None else v for k, v in value.items()
    }


def _in_list(decode: Decoder | None) -> Decoder | None:
    """Return a decoder of a list's values; None without a decoder."""
    if decode is None:
        return None
    return lambda value: [None if each is None else decode(each) for each in value]


def _label(value: Any, names: Sequence[str]) -> Any:
    value = value.item() if hasattr(value, "item") else value  # of NumPy or a tensor
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return None if value == -1 else value


def _decode_bytes(value: Any) -> Any:
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value  # an image, for example; `records` refuses it if it should be text


def _table_chunks(
    tables: Iterable[pa.RecordBatch], convert: _Converter, place: str
) -> Iterator[Chunk]:
    number = 0
    for batch in tables:

        def rows(batch: pa.RecordBatch = batch, first: int = number) -> Iterator[Place]:
            for index, row in enumerate(convert.rows(batch), first):
                yield place.format(index), row

        yield Chunk(rows, lambda batch=batch: pa.Table.from_batches([batch]))  # type: ignore[misc]
        number += batch.num_rows


# Files of each kind.


def _parquet_chunks(file: str) -> Iterator[Chunk]:
    with _open_seekable(file) as opened, pq.ParquetFile(opened) as parquet:
        convert = _Converter(parquet.schema_arrow)
        yield from _table_chunks(
            parquet.iter_batches(_BATCH), convert, f"{_quoted(file)}: row {{}}"
        )


def _arrow_chunks(file: str) -> Iterator[Chunk]:
    is_plain = not is_url(file) and _kind(file)[1] is None
    with _open_seekable(file) as opened:
        source = pa.memory_map(file) if is_plain else pa.PythonFile(opened, "r")
        try:
            reader = pa.ipc.open_stream(source)
            found: Iterable[pa.RecordBatch] = reader
        except pa.ArrowInvalid:
            reader = pa.ipc.open_file(source)
            found = map(reader.get_batch, range(reader.num_record_batches))
        convert = _Converter(reader.schema)
        cut = (
            batch.slice(start, _BATCH)
            for batch in map(_validate, found)
            for start in range(0, batch.num_rows, _BATCH)
        )
        yield from _table_chunks(cut, convert, f"{_quoted(file)}: row {{}}")


def _validate(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Check that the offsets of a batch are within its buffers, to avoid a crash; return it."""
    batch.validate(full=True)
    return batch


def _json_chunks(file: str) -> Iterator[Chunk]:
    """Yield the rows of a list of objects, or of JSON Lines if the file has them."""
    with _open(file) as opened:
        data = opened.read()
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{file} is not UTF-8 text: byte {error.start} is {error.reason}"
        ) from error
    try:
        value = parse_json(text or "[]")
    except FormatError as error:
        first = text.partition("\n")[0]
        with suppress(FormatError):
            if isinstance(parse_json(first), dict):
                yield from _line_chunks(io.BytesIO(data), file)
                return
        line = f":{error.line}" if isinstance(error, JsonError) and error.line else ""
        raise FormatError(f"{file}{line}: the file is not JSON: {error}") from error
    if isinstance(value, dict) and _is_row(value):
        value = [value]
    if not isinstance(value, list):
        fields = value.items() if isinstance(value, dict) else ()
        lists = [k for k, v in fields if isinstance(v, list) and v and isinstance(v[0], dict)]
        shown = f", such as the one under {lists[0]!a}" if lists else ""
        raise FormatError(f"{file} holds one JSON value: it must hold a list of objects{shown}")

    surrogates = _SURROGATE.search(text) is not None

    def rows() -> Iterator[Place]:
        for index, row in enumerate(value):
            where = f"{file}[{index}]"
            if isinstance(row, dict):
                yield where, _encodable(row) if surrogates else row
            else:
                yield where, FormatError("the row is not a JSON object: correct or remove it")

    yield from _row_chunks(rows())


def _is_row(value: Mapping[str, Any]) -> bool:
    with suppress(FormatError):
        return bool(detect_format(value))
    return False


def _line_chunks(opened: IO[bytes], file: str) -> Iterator[Chunk]:
    """Yield blocks of whole lines."""
    counts: list[int] = []  # of line ends in each block that was read
    while block := opened.read(_BLOCK_BYTES) + opened.readline():
        if not counts:
            block = block.removeprefix(b"\xef\xbb\xbf")
            if block.split(b"\n", 1)[0].strip() in (b"[", b"{") or block.lstrip()[:2] == b"[{":
                raise FormatError(
                    f"{file} holds JSON over several lines or a list: write one object per line, "
                    "or give a list the ending .json"
                )
        number = len(counts)
        counts.append(0)
        yield Chunk(
            partial(_lines, block, file, counts, number),
            partial(_json_table, block, counts, number),
            validated=True,
        )


def _lines(block: bytes, file: str, counts: list[int], number: int) -> Iterator[Place]:
    """Yield the rows of a block; all blocks before it must have been read."""
    lines = block.split(b"\n")
    counts[number] = len(lines) - 1
    for index, line in enumerate(lines, 1 + sum(counts[:number])):
        if line.strip():
            yield f"{file}:{index}", _parse_line(line)


def _parse_line(line: bytes) -> Any:
    """Return the row of a line, or an error."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return FormatError("the line is not UTF-8 text: correct or remove it")
    try:
        row = parse_json(text)
    except JsonError as error:
        reason = str(error)
    else:
        if isinstance(row, dict):
            return _encodable(row) if _SURROGATE.search(text) else row
        reason = f"it is {json.dumps(row)[:20]}"
    return FormatError(f"the line is not a JSON object ({reason}): correct or remove it")


def _json_table(block: bytes, counts: list[int], number: int) -> pa.Table | None:
    """Parse lines as Arrow; return None if the general path must read them.

    Each line must be one object. pyarrow also accepts several objects in a line and one object in
    several lines, so the function compares the numbers of objects and lines.
    """
    tail = block[-16:]
    end = len(block) - len(tail) + len(tail.rstrip(b"\r\n"))
    codes = np.frombuffer(block, np.uint8, end)
    ends = np.flatnonzero(codes == 0x0A)
    counts[number] = len(ends) + block.count(b"\n", end)
    before = codes[ends - 1]
    before = np.where(before == 0x0D, codes[ends - 2], before)
    opened, closed = ord("{"), ord("}")
    if not len(codes) or codes[0] != opened or codes[-1] != closed:
        return None
    if (codes[ends + 1] != opened).any() or (before != closed).any():
        return None
    lines = len(ends) + 1
    longest = np.diff(ends, prepend=0, append=len(codes)).max()
    if longest > _MOST_BRACKETS:  # in bytes: a shorter line has fewer brackets
        brackets = np.flatnonzero((codes == ord("[")) | (codes == opened))
        per_line = np.diff(np.searchsorted(brackets, ends), prepend=0, append=len(brackets))
        if per_line.max(initial=0) > _MOST_BRACKETS:
            return None
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(block),
            pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            pyarrow.json.ParseOptions(_SCHEMA, unexpected_field_behavior="infer"),
        )
        table.validate(full=True)
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    return table if table.num_rows == lines else None


class JsonError(FormatError):
    """Text that is not JSON.

    Attributes:
        line: Line of the error; None if it is unknown.
    """

    line: int | None = None


def parse_json(text: str) -> Any:
    """Parse JSON strictly: no repeated names; integers of any length.

    Raises:
        JsonError: The text is not JSON, is nested too deeply, or repeats a name.
    """
    try:
        try:
            return _DECODER.decode(text)
        except ValueError as error:
            if isinstance(error, json.JSONDecodeError | JsonError | UnicodeDecodeError):
                raise
            return json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    except RecursionError:
        raise JsonError(f"it is nested deeper than {sys.getrecursionlimit()} levels") from None
    except json.JSONDecodeError as error:
        found = JsonError(f"{error.msg} at column {error.colno}")
        found.line = error.lineno
        raise found from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        twice = next(name for name, count in Counter(k for k, _ in pairs).items() if count > 1)
        raise JsonError(f"two fields have the name {twice!a}")
    return row


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object)


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MOST_DIGITS else digits


def _encodable(row: dict[str, Any]) -> Any:
    """Return a row, or an error for a lone surrogate, which JSON allows but UTF-8 does not."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return FormatError(
            f"the row holds half a character ({error.object[error.start]!a}): correct or remove it"
        )
    return row


def _csv_rows(file: str) -> Iterator[Place]:
    """Read a CSV file with a header; a cell is text, or None if it is empty."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    begin = 1
    with _open(file) as opened, io.TextIOWrapper(opened, "utf-8-sig", newline="") as lines:
        raw: list[str] = []  # lines of the row
        reader = csv.reader((raw.append(line) or line for line in lines), strict=True)  # type: ignore[func-returns-value]
        try:
            header = next(reader, [])
            _check_header(header, file)
            begin = reader.line_num + 1
            raw.clear()
            for cells in reader:
                where, begin = f"{file}:{begin}", reader.line_num + 1
                if cells:
                    yield where, _csv_row(header, cells, "".join(raw))
                raw.clear()
        except csv.Error as error:
            raise FormatError(
                f"{file}:{begin}: the quotes of the row that begins here do not match ({error}): "
                'write a quote inside a quoted cell as ""'
            ) from error
        except UnicodeDecodeError as error:
            raise FormatError(
                f"{file} is not UTF-8 text ({error.reason}): save it as UTF-8"
            ) from error


def _csv_row(header: Sequence[str], cells: Sequence[str], raw: str) -> Any:
    """Return the cells by column; an error if the row does not fit the header."""
    if len(cells) != len(header):
        return FormatError(
            f"the row has {len(cells)} cells and the header has {len(header)}: "
            "quote cells that hold commas or line breaks"
        )
    if _SPACED_QUOTE.search(raw) and any(_QUOTED.match(cell) for cell in cells):
        return FormatError("a cell has spaces before its quotes: remove the spaces")
    return {
        name or f"column {number}": cell or None
        for number, (name, cell) in enumerate(zip(header, cells, strict=True), 1)
        if name or cell
    }


def _check_header(header: Sequence[str], file: str) -> None:
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        raise FormatError(
            f"{file}:1: two columns have one name ({', '.join(map(repr, twice))}): rename one"
        )
    padded = [name for name in header if name != name.strip()]
    if padded:
        raise FormatError(
            f"{file}:1: column names begin or end with spaces ({', '.join(map(repr, padded))}): "
            "remove the spaces"
        )
    if len(header) == 1:
        for separator in (";", "\t", "|"):
            if separator in header[0]:
                raise FormatError(
                    f"{file}:1: the columns seem to be separated by {separator!r}: "
                    "separate them by commas"
                )


# Paths, folders, URLs and the Hub.


def _open_path(path: Path) -> dict[str, Source]:
    name = str(path)
    with _reading(name):
        if os.path.lexists(name):
            path.stat()  # raises an error for broken links, loops and folders without permission
    if os.path.isdir(name):  # unlike pathlib's, False for a name that is too long
        return _open_folder(path)
    if os.path.isfile(name):
        if _kind(name)[0] is None:
            raise InputError(f"{path} has an unknown ending: {_GIVE}")
        return {"train": Source(name, (FilePart(name),))}
    if os.path.lexists(name):
        raise InputError(f"{path} is a pipe or a device, which cannot be read twice: {_GIVE}")
    import glob

    matches = sorted(glob.glob(name, recursive=True))
    if not matches:
        raise InputError(f"{path} does not exist: {_GIVE}")
    files = [each for each in matches if os.path.isfile(each) and _kind(each)[0]]
    folders = [each for each in matches if os.path.isdir(each)]
    unread = [each for each in matches if each not in {*files, *folders}]
    skipped = [f"{each.removeprefix(_before_pattern(name))} (unknown kind)" for each in unread]
    if not files and not folders:
        raise InputError(f"{path} matches no files of rows: {_GIVE}")
    joined = _split_files(name, files, skipped) if files else {}
    for folder in folders:
        for split, source in _open_folder(Path(folder)).items():
            before = joined.get(split, Source(name, (), report=Report(skipped=tuple(skipped))))
            report = Report(skipped=before.report.skipped + source.report.skipped)
            joined[split] = Source(name, before.parts + source.parts, report=report)
    return joined


def _open_folder(path: Path) -> dict[str, Source]:
    if is_output(path):
        manifest = read_manifest(path)
        if manifest.kind != "cache":
            raise InputError(f"{path} holds a {manifest.kind}, not a cache: give a cache folder")
        shards = sorted(path.glob("pairs-*.parquet")) or [path / "pairs.parquet"]
        parts = tuple(FilePart(str(file)) for file in shards)
        return {"train": Source(str(path), parts, report=Report(is_own=True))}
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        import datasets

        try:
            saved = datasets.load_from_disk(str(path))
        except Exception as error:  # datasets raises various errors for a damaged folder
            raise InputError(
                f"{path} was saved by datasets and cannot be loaded: {_first_line(error)}"
            ) from error
        return _open_datasets(saved, str(path))
    files, skipped = _walk(path)
    if not files:
        raise InputError(f"{path} has no files of rows: {_GIVE}")
    return _split_files(str(path), [str(path / file) for file in files], skipped)


def is_output(path: Path) -> bool:
    """Return whether a folder is an output of this package, finished or not."""
    if any(os.path.exists(path / name) for name in (FINISHED, LOCK, "plan.json")):
        return True
    with suppress(OSError, ValueError, TypeError):
        content = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        return {"kind", "code_version", "files"} <= set(content)
    return False


def _walk(folder: Path) -> tuple[list[str], list[str]]:
    """Return the files of a folder with rows, and the skipped files with the reason."""
    files: list[str] = []
    skipped: list[str] = []
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise InputError(
            f"{error.filename} cannot be read: {error.strerror}; check the folder"
        ) from error

    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        for name in sorted(names):
            if name.startswith("."):
                continue
            file = Path(root, name)
            relative = file.relative_to(folder).as_posix()
            if name in _NO_ROWS or _kind(name)[0] is None:
                skipped.append(f"{relative} (unknown kind)")
            elif not file.is_file():
                kind = "broken link" if file.is_symlink() else "not a file"
                skipped.append(f"{relative} ({kind})")
            elif (real := os.path.realpath(file)) in seen:
                skipped.append(f"{relative} (link to a file that is read)")
            else:
                seen.add(real)
                files.append(relative)
    return sorted(files), skipped


def _split_files(name: str, files: Sequence[str], skipped: Sequence[str]) -> dict[str, Source]:
    """Group files into splits by their names, like `datasets`.

    The given folder, or the folder before a pattern, is not part of the names.
    """
    splits: dict[str, list[str]] = {"train": [], "test": [], "validation": []}
    names = [_relative(name, file) for file in files]
    shards = [_SHARD.search(relative) for relative in names]
    for file, relative, shard in zip(files, names, shards, strict=True):
        is_test, is_validation = _TEST.search(relative), _VALIDATION.search(relative)
        split = "test" if is_test else "validation" if is_validation else "train"
        if shard is not None and None not in shards:
            split = shard[1]
        splits.setdefault(split, []).append(file)
    if not any(files for split, files in splits.items() if split not in ("test", "validation")):
        splits = {"train": list(files)}
    return {
        split: Source(name, tuple(map(FilePart, some)), report=Report(skipped=tuple(skipped)))
        for split, some in splits.items()
        if some
    }


def _open_url(url: str) -> dict[str, Source]:
    """Open the file, the folder or the pattern of a URL."""
    import fsspec

    with _reading(url):
        system, path = fsspec.core.url_to_fs(url)
        link, rest = _link_of_chain(url)
        if system.isdir(path):
            place, folder = f"{link.rstrip('/')}/", f"{path.rstrip('/')}/"
            names = [n for n in system.find(path) if not re.search(r"/[._]", n[len(path) :])]
        elif system.exists(path):
            if _kind(path)[0] is None:
                raise InputError(f"{url} has an unknown ending: {_GIVE}")
            return {"train": Source(url, (FilePart(url),))}
        else:
            place, folder = _before_pattern(link), _before_pattern(path)
            names = system.glob(path)
    # Names have no protocol, and no host.
    names = sorted(str(name).removeprefix(folder) for name in names)
    files = [n for n in names if _kind(n)[0] and n.rpartition("/")[2] not in _NO_ROWS]
    if not files:
        raise InputError(f"{url} does not exist, or has no files of rows: {_GIVE}")
    skipped = [f"{name} (unknown kind)" for name in names if name not in files]
    return _split_files(url, [f"{place}{n}{rest}" for n in files], skipped)


def _relative(name: str, file: str) -> str:
    """Return the name of a file relative to the given folder, or the folder before a pattern."""
    link, file = _link_of_chain(name)[0], _link_of_chain(file)[0]
    folder = f"{link.rstrip('/')}/"
    return file.removeprefix(folder if file.startswith(folder) else _before_pattern(link))


def _before_pattern(path: str) -> str:
    """Return the folder before a pattern, with its slash."""
    begin = re.split(r"[*?\[]", path, maxsplit=1)[0]
    return begin[: begin.rfind("/") + 1]


def _is_there(text: str) -> bool:
    """Return whether a path or a URL exists literally."""
    if os.path.lexists(text) or not is_url(text):
        return os.path.lexists(text)
    import fsspec

    with _reading(text):
        system, path = fsspec.core.url_to_fs(text)
        return bool(system.exists(path))


def is_url(text: str) -> bool:
    """Return whether a text is a URL, which may also be the name of a file that exists."""
    return _URL.match(text) is not None


def _link_of_chain(url: str) -> tuple[str, str]:
    """Split a chained URL into the part with the path, and the rest.

    In `zip://rows/a.csv::s3://bucket/b.zip` that is the first part. In `simplecache::s3://...` it
    is the last part, and the rest is empty.
    """
    first, separator, rest = url.partition("::")
    return (first, separator + rest) if "://" in first else (url, "")


def _is_hub_id(text: str) -> bool:
    """Return whether a text names a Hub dataset: like `owner/name`, with no known ending."""
    return _HUB_ID.fullmatch(text) is not None and _kind(text)[0] is None


def _from_hub(name: str) -> Any:
    import datasets

    path, _, configuration = name.partition(":")
    try:
        return datasets.load_dataset(path, *([configuration] if configuration else []))
    except Exception as error:  # the Hub's client raises various errors
        said = " ".join(str(error).partition("\nExample of usage")[0].split())
        way = f"; give {path}:CONFIGURATION" if "config" in said.casefold() else ""
        raise InputError(
            f"{name!r} is neither a path here nor a dataset that the Hub gives: {said[:500]}{way}"
        ) from error


def _kind(name: str) -> tuple[str | None, str | None]:
    """Return the kind of a file and its compression, by its ending in any case."""
    stem, ending = os.path.splitext(_link_of_chain(name)[0].lower())
    compression = _COMPRESSIONS.get(ending)
    if compression:
        ending = os.path.splitext(stem)[1]
    return KINDS.get(ending), compression


def _check_content(file: str) -> None:
    """Refuse a file that begins like a file of another kind."""
    with open(file, "rb") as opened:
        head = opened.read(64)
    kind, compression = _kind(file)
    for begin, other, advice in _BEGINNINGS:
        if head.startswith(begin) and other != (compression or kind):
            raise FormatError(f"{file} holds {_NAMES.get(other, other)}: {advice}")


@contextmanager
def _open(file: str) -> Iterator[IO[bytes]]:
    """Open a local or remote file, decompressed."""
    with ExitStack() as stack:
        if is_url(file):
            import fsspec

            system, path = fsspec.core.url_to_fs(file)  # keeps a ZIP archive open
            opened = stack.enter_context(system.open(path, "rb"))
        else:
            opened = stack.enter_context(open(file, "rb"))
        if compression := _kind(file)[1]:
            unpacked: Any = pa.CompressedInputStream(opened, compression)
            opened = stack.enter_context(io.BufferedReader(unpacked))
        yield opened


@contextmanager
def _open_seekable(file: str) -> Iterator[IO[bytes]]:
    """Open a file for random access; a compressed file is unpacked into a temporary file."""
    with _open(file) as opened:
        if _kind(file)[1] is None:
            yield opened
            return
        with tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(opened, unpacked, 1 << 20)
            unpacked.seek(0)
            yield unpacked


class _reading:  # noqa: N801  (a context manager that reads like a function)
    """Translate errors of a file into an `InputError` with one line that names it."""

    def __init__(self, file: str | None) -> None:
        self.file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self.file is None or error is None:
            if isinstance(error, pa.ArrowException):
                raise InputError(f"the rows cannot be read: {_first_line(error)}") from error
            return
        if isinstance(error, FormatError) and not str(error).startswith(self.file):
            raise FormatError(f"{self.file}: {error}") from error
        if isinstance(error, InputError):
            return
        if isinstance(error, MemoryError):
            raise InputError(
                f"{self.file} cannot be read: it needs more memory than there is; check the file"
            ) from error
        if isinstance(error, UnicodeDecodeError):
            raise InputError(f"{self.file} holds names of columns that are not UTF-8") from error
        if isinstance(error, OSError | EOFError | pa.ArrowException | ImportError):
            said = getattr(error, "server_message", None)  # of the Hub
            reason = said or getattr(error, "strerror", None) or _first_line(error).rstrip(".")
            raise InputError(f"{self.file} cannot be read: {reason}; check the file") from error
        if isinstance(error, ValueError | NotImplementedError) and is_url(self.file):
            raise InputError(f"{self.file} cannot be read: {_first_line(error)}") from error


def _name(given: Any) -> str:
    return str(given) if isinstance(given, str | os.PathLike) else f"the {type(given).__name__}"


def _quoted(file: str) -> str:
    return file.replace("{", "{{").replace("}", "}}")


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
