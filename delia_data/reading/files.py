"""Read the rows of a file of each kind, local or behind a URL, compressed or not."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq

from delia_data.errors import FormatError, InputError
from delia_data.reading.tables import (
    BATCH_ROWS,
    SCHEMA,
    SURROGATE,
    Chunk,
    Converter,
    JsonError,
    Place,
    check_surrogates,
    first_line,
    parse_json,
    row_chunks,
    table_chunks,
)
from delia_data.records import detect_format

KINDS: Final = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".csv": "csv",
}
SUFFIXES: Final = tuple(KINDS)
COMPRESSIONS: Final = {".gz": "gzip", ".zst": "zstd"}
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
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::|://)")
_SPACED_QUOTE: Final = re.compile(r'(^|,)[ \t]+"')
_QUOTED: Final = re.compile(r'[ \t]+"')
_BLOCK_BYTES: Final = 4 << 20
_MOST_BRACKETS: Final = 2_000  # per line; pyarrow's stack overflows at a nesting of about 15,000


@dataclass(frozen=True)
class FilePart:
    """The rows of a file, given by its path or URL."""

    file: str

    def chunks(self) -> Iterator[Chunk]:
        """Yield the rows."""
        if not is_url(self.file):
            _check_content(self.file)
        match kind_of(self.file)[0]:
            case "parquet":
                yield from _parquet_chunks(self.file)
            case "arrow":
                yield from _arrow_chunks(self.file)
            case "csv":
                yield from row_chunks(_csv_rows(self.file))
            case "json":
                yield from _json_chunks(self.file)
            case _:
                with _open(self.file) as opened:
                    yield from _line_chunks(opened, self.file)


def _parquet_chunks(file: str) -> Iterator[Chunk]:
    with _open_seekable(file) as opened, pq.ParquetFile(opened) as parquet:
        convert = Converter(parquet.schema_arrow)
        yield from table_chunks(
            parquet.iter_batches(BATCH_ROWS), convert, f"{as_pattern(file)}: row {{}}"
        )


def _arrow_chunks(file: str) -> Iterator[Chunk]:
    is_plain = not is_url(file) and kind_of(file)[1] is None
    with _open_seekable(file) as opened:
        source = pa.memory_map(file) if is_plain else pa.PythonFile(opened, "r")
        try:
            reader = pa.ipc.open_stream(source)
            tables: Iterable[pa.RecordBatch] = reader
        except pa.ArrowInvalid:
            reader = pa.ipc.open_file(source)
            tables = map(reader.get_batch, range(reader.num_record_batches))
        convert = Converter(reader.schema)
        cut = (
            batch.slice(start, BATCH_ROWS)
            for batch in map(_validate, tables)
            for start in range(0, batch.num_rows, BATCH_ROWS)
        )
        yield from table_chunks(cut, convert, f"{as_pattern(file)}: row {{}}")


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

    surrogates = SURROGATE.search(text) is not None

    def rows() -> Iterator[Place]:
        for index, row in enumerate(value):
            where = f"{file}[{index}]"
            if isinstance(row, dict):
                yield where, check_surrogates(row) if surrogates else row
            else:
                yield where, FormatError("the row is not a JSON object: correct or remove it")

    yield from row_chunks(rows())


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
            return check_surrogates(row) if SURROGATE.search(text) else row
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
            pyarrow.json.ParseOptions(SCHEMA, unexpected_field_behavior="infer"),
        )
        table.validate(full=True)
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    return table if table.num_rows == lines else None


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


def is_url(text: str) -> bool:
    """Return whether a text is a URL, which may also be the name of a file that exists."""
    return _URL.match(text) is not None


def link_of_chain(url: str) -> tuple[str, str]:
    """Split a chained URL into the part with the path, and the rest.

    In `zip://rows/a.csv::s3://bucket/b.zip` that is the first part. In `simplecache::s3://...` it
    is the last part, and the rest is empty.
    """
    first, separator, rest = url.partition("::")
    return (first, separator + rest) if "://" in first else (url, "")


def kind_of(name: str) -> tuple[str | None, str | None]:
    """Return the kind of a file and its compression, by its ending in any case."""
    stem, ending = os.path.splitext(link_of_chain(name)[0].lower())
    compression = COMPRESSIONS.get(ending)
    if compression:
        ending = os.path.splitext(stem)[1]
    return KINDS.get(ending), compression


def _check_content(file: str) -> None:
    """Refuse a file that begins like a file of another kind."""
    with open(file, "rb") as opened:
        head = opened.read(64)
    kind, compression = kind_of(file)
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
        if compression := kind_of(file)[1]:
            unpacked: Any = pa.CompressedInputStream(opened, compression)
            opened = stack.enter_context(io.BufferedReader(unpacked))
        yield opened


@contextmanager
def _open_seekable(file: str) -> Iterator[IO[bytes]]:
    """Open a file for random access; a compressed file is unpacked into a temporary file."""
    with _open(file) as opened:
        if kind_of(file)[1] is None:
            yield opened
            return
        with tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(opened, unpacked, 1 << 20)
            unpacked.seek(0)
            yield unpacked


class reading_errors:  # noqa: N801  (a context manager that reads like a function)
    """Translate errors of a file into an `InputError` with one line that names it."""

    def __init__(self, file: str | None) -> None:
        self.file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self.file is None or error is None:
            if isinstance(error, pa.ArrowException):
                raise InputError(f"the rows cannot be read: {first_line(error)}") from error
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
            reason = said or getattr(error, "strerror", None) or first_line(error).rstrip(".")
            raise InputError(f"{self.file} cannot be read: {reason}; check the file") from error
        if isinstance(error, ValueError | NotImplementedError) and is_url(self.file):
            raise InputError(f"{self.file} cannot be read: {first_line(error)}") from error


def as_pattern(file: str) -> str:
    """Return a name for `str.format`, with its braces doubled."""
    return file.replace("{", "{{").replace("}", "}}")
