"""The rows of an opened input, and the report on what reading them lost.

Every input is split into chunks of some thousand rows:

    Arrow types exactly those of a row   ──▶ checked as columns, returned unchanged        (fast)
    anything else                        ──▶ row by row through `records.read_record`   (general)

Both paths give the same rows: a chunk takes the fast path only if the general path would not change
it.
"""

from __future__ import annotations

import math
import os
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar, cast

import pyarrow as pa

from delia_data.errors import FormatError, InputError, UnsupportedRowError
from delia_data.reading.files import FilePart, first_line, is_url, reading_errors
from delia_data.reading.tables import (
    BATCH_ROWS,
    Chunk,
    Converter,
    Place,
    as_batches,
    exact,
    ignored_names,
    row_chunks,
    table_chunks,
    with_label_names,
)
from delia_data.records import (
    Format,
    Losses,
    Message,
    Record,
    check_supported,
    losses_of,
    read_with_losses,
    system_turn,
)

T = TypeVar("T")
_SHOWN: Final = 3  # problems in an error
_THREADS: Final = max(2, min(4, os.cpu_count() or 1))


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
                yield from as_batches(record for _, record in rows)
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
            with nullcontext() if isinstance(part, RowsPart) else reading_errors(part.file):
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
                return ignored_names(table), ready
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


@dataclass(frozen=True)
class TablePart:
    """The rows of a `pyarrow.Table`."""

    table: pa.Table
    file: None = None

    def chunks(self) -> Iterator[Chunk]:
        """Yield the rows."""
        convert = Converter(self.table.schema)
        yield from table_chunks(self.table.to_batches(BATCH_ROWS), convert, "row {}")


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
            rows = with_label_names(self.dataset, self.dataset.features)
            yield from row_chunks((self.place.format(n), row) for n, row in enumerate(rows))
            return
        columns = form["columns"]
        arrow = self.dataset.with_format("arrow", columns=columns).iter(BATCH_ROWS)
        schema = self.dataset.features.arrow_schema
        convert = Converter(pa.schema([schema.field(name) for name in columns], schema.metadata))
        tables = (batch for table in arrow for batch in table.combine_chunks().to_batches())
        yield from table_chunks(tables, convert, self.place)


@dataclass(frozen=True)
class RowsPart:
    """Rows in memory: a list, a generator, an `IterableDataset`."""

    given: Any
    file: None = None

    def chunks(self) -> Iterator[Chunk]:
        """Yield the rows."""
        rows = with_label_names(self.given, getattr(self.given, "features", None))
        yield from row_chunks((f"row {n}", row) for n, row in enumerate(rows))


Part: TypeAlias = FilePart | TablePart | DatasetPart | RowsPart


def part_in_memory(given: Any) -> Part:
    """Return the rows of an input in memory.

    Raises:
        InputError: It is not an input of rows.
    """
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
            f"the {type(given).__name__} cannot be read: {first_line(error)}"
        ) from error
    if kind == "pandas" or isinstance(given, Mapping | bytes) or not isinstance(given, Iterable):
        raise InputError(
            f"a {type(given).__name__} is no input of rows: give a path, a dataset, a table or a "
            "list of rows"
        )
    return RowsPart(given)
