"""Store the rows of a cache with their content ids, to read them once and take any of them.

    file, folder ──▶ batches of messages + ids ──▶ Arrow file in the cache home, memory-mapped
    rows         ──▶ batches of messages + ids ──▶ memory; an unnamed temporary file when large

The Arrow file is named by the hash of the input's bytes. A second ratio of the same cache maps
that file, without parsing or hashing text, and reads only the rows that it takes. Memory holds a
few bytes per row and the rows of one window. The rest are pages of a mapped file, which the system
can reclaim, so only the disk limits the size of a cache.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import mmap
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from delia_data._version import __version__
from delia_data.errors import InputError, OutputError
from delia_data.outputs import cache_home, canonical_json, known_sha256
from delia_data.ranking import md5
from delia_data.reading import MESSAGES, Report, open_source

Numbers = np.ndarray[Any, np.dtype[np.int64]]
"""Row numbers from 0, over all batches; shape (rows,)."""

SCHEMA: Final = pa.schema([("messages", MESSAGES), ("id", pa.binary(16))])

_STORED_BYTES: Final = 1 << 20  # smaller files are as fast to read again
_IN_MEMORY_BYTES: Final = 256 << 20
_WINDOW_BYTES: Final = 32 << 20  # larger is slower: new memory takes time
_WINDOWS: Final = 64  # of a large file, with windows four times as large: each one sweeps the file
_NGRAM_WORDS: Final = 13
_UNUSED_S: Final = 30 * 86_400
_ABANDONED_S: Final = 86_400
_ROWS: Final = "rows.arrow"
_READ: Final = "read.json"
_PART: Final = ".part"


@dataclass(frozen=True, eq=False)
class CacheRows:
    """The rows of a cache with their ids, in the order of the input.

    Attributes:
        batches: Columns `messages` and `id`, the content id in binary (16 bytes).
        dropped: Counts of dropped rows of the input, by reason.
        read: Other details of the reader, such as ignored columns.
        path: Arrow file of the rows; None for rows in memory.
        unnamed: Whether the rows are in a temporary file that only this process can read.
    """

    batches: tuple[pa.RecordBatch, ...] = field(repr=False)
    dropped: Mapping[str, int] = field(default_factory=dict)
    read: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    unnamed: bool = False

    @cached_property
    def ids(self) -> pa.FixedSizeBinaryArray:
        """Content ids in binary; shape (rows,)."""
        return pa.concat_arrays([batch["id"] for batch in self.batches] or [_NO_IDS])

    @property
    def has_longer_rows(self) -> bool:
        """Whether a row has more than a question and its answer."""
        longest = (pc.max(pc.list_value_length(batch["messages"])) for batch in self.batches)
        return any((length.as_py() or 0) > 2 for length in longest)

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return sum(batch.num_rows for batch in self.batches)

    def with_source_ids(self, begin: int, end: int) -> Iterator[pa.RecordBatch]:
        """Yield `messages` and `source_id` of the rows from `begin` to before `end`."""
        for batch in self.batches:
            first = min(max(begin, 0), batch.num_rows)
            some = batch.slice(first, max(end - first, 0))
            if some.num_rows:
                columns = {"messages": some["messages"], "source_id": hex_texts(some["id"])}
                yield pa.RecordBatch.from_pydict(columns)
            begin, end = begin - batch.num_rows, end - batch.num_rows

    def rows_with_token(self, tokens: Sequence[str]) -> Numbers:
        """Return the rows in which a turn contains one of the tokens, ascending.

        The result is saved next to the Arrow file, because it takes a search through all text.
        """
        if self.path is None:
            return self._search(tokens)
        name = hashlib.sha256(canonical_json(list(tokens))).hexdigest()[:32]
        saved = self.path.with_name(f"token-{name}.npy")
        with suppress(OSError, ValueError, EOFError):
            rows: Numbers = np.load(saved)
            return rows
        rows = self._search(tokens)
        with suppress(OSError):
            part = saved.with_name(f".{os.getpid()}-{saved.name}")
            np.save(part, rows)
            part.replace(saved)
        return rows

    def rows_with_ngram(self, runs: frozenset[tuple[str, ...]]) -> Numbers:
        """Return the rows in which a turn contains one of the n-grams, ascending."""
        rows = (row["messages"] for batch in self.batches for row in batch.to_pylist())
        hits = [
            number
            for number, messages in enumerate(rows)
            if not runs.isdisjoint(ngrams(message["content"] for message in messages))
        ]
        return np.array(hits, np.int64)

    def _search(self, tokens: Sequence[str]) -> Numbers:
        rows, start = [np.empty(0, np.int64)], 0
        for batch in self.batches:
            contents = batch["messages"].flatten().field("content")
            text = _text_of(contents)
            named = [token for token in tokens if token.encode() in text]  # usually none
            for token in named:
                turns = pc.indices_nonzero(pc.match_substring(contents, token))
                parents = pc.list_parent_indices(batch["messages"]).take(turns)
                rows.append(parents.to_numpy().astype(np.int64) + start)
            start += batch.num_rows
        return np.unique(np.concatenate(rows))

    def __reduce__(self) -> tuple[Any, ...]:
        if self.unnamed:
            raise OutputError(
                f"{cache_home()} cannot be written, and other processes need the rows of the "
                "cache there: set DELIA_CACHE to a folder that can be written, or use one process"
            )
        if self.path is None:
            return CacheRows, (self.batches, self.dropped, self.read)
        return _map, (self.path,)


_WORD: Final = re.compile(r"\w+")
_NO_IDS: Final = pa.nulls(0, pa.binary(16))  # pa.array imports pandas


def open_cache(given: Any, strict: bool = False) -> CacheRows:
    """Return the rows of a cache.

    Args:
        given: Cache in any form that `mix` accepts, or open rows.
        strict: Refuse rows that would be dropped.

    Raises:
        InputError: The cache cannot be read.
        FormatError: A row is wrong.
        OutputError: The disk is full.
    """
    if isinstance(given, CacheRows):
        return given
    source = open_source(given, strict=strict)
    rows = store_rows(source.batches(), source.report, source.files, strict)
    skipped = source.report.skipped
    return replace(rows, read={**rows.read, "skipped": list(skipped)}) if skipped else rows


def store_rows(
    batches: Iterable[pa.RecordBatch],
    report: Report,
    files: Sequence[Path] = (),
    strict: bool = False,
) -> CacheRows:
    """Return the rows of a source with their ids, from the cache home if it has them.

    Args:
        batches: Valid rows, column `messages`; not read if the cache home has them.
        report: Report of the reader, complete when `batches` is exhausted.
        files: Files of the rows; empty for rows from elsewhere.
        strict: Whether the reader refuses rows instead of dropping them.

    Raises:
        OutputError: The disk is full.
    """
    home = cache_home() / "sources"
    key = _key(files, strict)
    if files:
        with suppress(OSError, ValueError):  # missing, or truncated by a crash of the machine
            stored = _map(home / key / _ROWS)
            os.utime(home / key / _ROWS)
            return stored
    rows, first, size = map(_with_ids, batches), [], 0
    for batch in rows:
        first.append(batch)
        size += batch.nbytes
        if size > (_STORED_BYTES if files else _IN_MEMORY_BYTES):
            break
    else:
        return CacheRows(tuple(first), dict(report.dropped), report.details())
    with _new_file(home / key if files else None) as file:
        _write(file, chain(first, rows))
        if not isinstance(file.name, str):
            buffer = pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            batches = _batches_of(pa.ipc.open_file(buffer))
            return CacheRows(batches, dict(report.dropped), report.details(), unnamed=True)
        if _key(files, strict) != key:
            raise InputError(f"{files[0].parent} changed while it was read: run the command again")
        details = report.details()
        details.pop("skipped", None)  # of this folder, not of the files
        read = {"dropped": dict(report.dropped), "read": details}
        (home / key / _READ).write_text(json.dumps(read), "utf-8")
        Path(file.name).replace(home / key / _ROWS)
    _remove_old(home)
    return _map(home / key / _ROWS)


@contextmanager
def _new_file(folder: Path | None) -> Iterator[IO[bytes]]:
    """Open a new file in a folder, or a temporary file if the folder cannot be written.

    The file is not flushed to disk. If a crash of the machine truncates it, it cannot be opened
    and is written again.
    """
    file: IO[bytes]
    with ExitStack() as stack:
        try:
            if folder is None:
                raise OSError
            folder.mkdir(parents=True, exist_ok=True)
            file = tempfile.NamedTemporaryFile(dir=folder, suffix=_PART, delete=False)  # noqa: SIM115
            stack.callback(Path(file.name).unlink, missing_ok=True)
        except OSError:
            file = tempfile.TemporaryFile()  # noqa: SIM115  (no name: it ends with the process)
        yield stack.enter_context(file)


def _key(files: Sequence[Path], strict: bool) -> str:
    """Return a hash of the files' order, kinds and bytes, and of strictness."""
    content = [[file.name, known_sha256(file)] for file in files]
    return hashlib.sha256(canonical_json([__version__, strict, content])).hexdigest()


def _map(path: Path) -> CacheRows:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    read = json.loads(path.with_name(_READ).read_text("utf-8"))
    return CacheRows(_batches_of(reader), read["dropped"], read["read"], path)


def _batches_of(reader: pa.RecordBatchFileReader) -> tuple[pa.RecordBatch, ...]:
    return tuple(reader.get_batch(number) for number in range(reader.num_record_batches))


def _write(file: IO[bytes], batches: Iterable[pa.RecordBatch]) -> None:
    with _disk_errors():
        writer = pa.ipc.new_file(file, SCHEMA)
    for batch in batches:  # raises the errors of the reader
        with _disk_errors():
            writer.write_batch(batch)
    with _disk_errors():
        writer.close()
        file.flush()


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"the rows of the cache cannot be written ({error}): free some space, or set "
            "DELIA_CACHE and TMPDIR to folders on a larger disk"
        ) from error


def _remove_old(home: Path) -> None:
    """Remove rows that no mixture has used for 30 days, and files of killed processes."""
    for path in (*home.glob(f"*/{_ROWS}"), *home.glob(f"*/*{_PART}")):
        with suppress(OSError):
            age = time.time() - path.stat().st_mtime
            if path.name == _ROWS and age > _UNUSED_S:
                shutil.rmtree(path.parent)
            elif path.name != _ROWS and age > _ABANDONED_S:
                path.unlink()


def _with_ids(batch: pa.RecordBatch) -> pa.RecordBatch:
    messages = batch["messages"]
    if messages.type != MESSAGES:
        messages = messages.cast(MESSAGES)
    return pa.RecordBatch.from_arrays([messages, content_ids(messages)], schema=SCHEMA)


def content_ids(messages: pa.ListArray) -> pa.FixedSizeBinaryArray:
    """Return `records.content_id` of every row, in binary."""
    turns, kind = messages.flatten(), pa.large_binary()
    role, content = (turns.field(name).cast(kind) for name in ("role", "content"))
    length = pc.binary_length(content).cast(pa.string()).cast(kind)
    spelled = pc.binary_join_element_wise(role, length, content, pa.scalar(b":", kind))
    _, offsets, text = spelled.buffers()
    turn_ends = np.frombuffer(offsets, np.int64, len(turns) + 1, spelled.offset * 8)
    rows = messages.offsets.to_numpy()
    ends = turn_ends[rows - rows[0]].tolist() if len(rows) else []
    view = memoryview(text or b"")
    digests = b"".join([md5(view[i:j], usedforsecurity=False).digest() for i, j in pairwise(ends)])
    return binary_ids(digests)


def binary_ids(content: bytes) -> pa.FixedSizeBinaryArray:
    """Return concatenated ids of 16 bytes as an Arrow array."""
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(16), len(content) // 16, [None, pa.py_buffer(content)]
    )


def hex_of(ids: pa.FixedSizeBinaryArray) -> bytes:
    """Return ids as concatenated hexadecimal digits, 32 per id."""
    content = ids.buffers()[1]
    return binascii.hexlify(content.slice(16 * ids.offset, 16 * len(ids)) if content else b"")


def hex_texts(ids: pa.FixedSizeBinaryArray) -> pa.StringArray:
    """Return ids as texts of 32 hexadecimal digits."""
    offsets = np.arange(0, 32 * len(ids) + 1, 32, dtype=np.int32)
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(hex_of(ids)))


def take_in_windows(
    batches: Sequence[pa.RecordBatch], numbers: Numbers
) -> Iterator[tuple[Numbers, pa.RecordBatch]]:
    """Yield rows in the order of their numbers, in windows of limited memory.

    A window reads its rows in the order of the file, so that one sweep reads those that are not in
    the page cache.

    Args:
        batches: Batches of one schema, at least one.
        numbers: Row numbers over all batches.

    Yields:
        The numbers of a window, and its rows in one batch.
    """
    starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
    size = sum(batch.nbytes for batch in batches)
    some_bytes = max(_WINDOW_BYTES, min(size // _WINDOWS, 4 * _WINDOW_BYTES))
    window = max(1_000, some_bytes * int(starts[-1]) // max(size, 1))
    for begin in range(0, len(numbers), window):
        some = numbers[begin : begin + window]
        by_number = np.argsort(some)
        ends = np.searchsorted(some[by_number], starts)
        parts = [
            batch.take(pa.array(some[by_number[low:high]] - start))
            for batch, start, (low, high) in zip(batches, starts[:-1], pairwise(ends), strict=True)
            if high > low
        ]
        back = np.empty(len(some), np.int64)
        back[by_number] = np.arange(len(some))
        together = pa.concat_batches(parts)
        del parts
        yield some, together.take(pa.array(back))


def ngrams(texts: Iterable[str]) -> frozenset[tuple[str, ...]]:
    """Return the n-grams of 13 words in texts, without case and punctuation."""
    runs = set()
    for text in texts:
        words = _WORD.findall(text.casefold())
        runs |= {tuple(words[i : i + _NGRAM_WORDS]) for i in range(len(words) - _NGRAM_WORDS + 1)}
    return frozenset(runs)


def _text_of(contents: pa.StringArray) -> bytes:
    """Return the concatenated text of all values."""
    _, offsets, values = contents.buffers()
    if values is None or not len(contents):
        return b""
    ends = np.frombuffer(offsets, np.int32)
    low, high = int(ends[contents.offset]), int(ends[contents.offset + len(contents)])
    text: bytes = values.slice(low, high - low).to_pybytes()
    return text
