"""The journal: finished rows as JSON lines, safe at once from a kill, within a second from a crash.

    append(rows) ──▶ one write            the process may die: the lines are there
                       └──▶ one fsync     the machine may die: a thread of its own,
                            for many      five times a second while there is something new

A line that was cut short by a kill has no line end, and is dropped by `recover`.
"""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import jsonlines

from delia_data.errors import OutputError
from delia_data.sampling.rows import Sampled

_INTERVAL_S: Final = 0.2
_SHARD_LINES: Final = 100_000
_FIELDS: Final = tuple(field.name for field in fields(Sampled))


class Journal:
    """Append-only shards of JSON lines, `<stem>-000.jsonl` and so on; one writer at a time."""

    def __init__(self, folder: Path, stem: str, *, shard_lines: int = _SHARD_LINES) -> None:
        """Begin a new shard after those that are there, once there is something to write.

        Args:
            folder: Where the shards lie.
            stem: What their names begin with.
            shard_lines: Lines of a shard, after which the next one is begun.
        """
        self._folder = folder
        self._stem = stem
        self._shard_lines = shard_lines
        self._shard = len(shards(folder, stem))
        self._lines = 0
        self._file: io.FileIO | None = None
        self._error: OSError | None = None
        self._syncing = threading.Lock()  # held while the file is synced or closed
        self._dirty = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._sync_often, name="journal", daemon=True)
        self._thread.start()

    def append(self, rows: Sequence[Sampled]) -> None:
        """Write rows. They outlive a kill when this returns, and a crash a second later.

        Raises:
            OutputError: The disk is full or gone. What was written before stays.
        """
        self._check()
        try:
            self._write(rows)
        except OSError as error:
            self._error = error
            self._check()
        self._dirty.set()

    def close(self) -> None:
        """Sync what was written, and end.

        Raises:
            OutputError: The disk is full or gone.
        """
        self._closing.set()
        self._dirty.set()
        self._thread.join()
        if self._file is not None:
            self._file.close()
            self._file = None
        self._check()

    def sync(self) -> None:
        """Return when all that was written would outlive a crash.

        Raises:
            OutputError: The disk is full or gone.
        """
        with self._syncing:
            if self._file is not None:
                try:
                    os.fsync(self._file.fileno())
                except OSError as error:
                    self._error = error
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise OutputError(
                f"{self._path()} cannot be written: {self._error.strerror or self._error}; "
                "what was written before is whole: free some space and run again"
            ) from self._error

    def _sync_often(self) -> None:
        """Sync whatever is new; the thread's own work."""
        while not self._closing.is_set():
            self._dirty.wait()
            self._closing.wait(_INTERVAL_S)
            self._dirty.clear()
            try:
                self.sync()
            except OutputError:  # told to whoever writes next, or closes
                return

    def _write(self, rows: Sequence[Sampled]) -> None:
        while rows:
            if self._file is None:
                # Unbuffered: what cannot be written fails here, not at closing.
                self._file = self._path().open("ab", buffering=0)
            some, rows = _split(rows, self._shard_lines - self._lines)
            left = memoryview(_lines_of(some))
            while left:
                left = left[self._file.write(left) or 0 :]
            self._lines += len(some)
            if self._lines == self._shard_lines:
                self.sync()
                with self._syncing:
                    self._file.close()
                    self._file, self._lines, self._shard = None, 0, self._shard + 1

    def _path(self) -> Path:
        return self._folder / f"{self._stem}-{self._shard:03}.jsonl"


def shards(folder: Path, stem: str) -> list[Path]:
    """The shards of a journal, in the order in which they were written."""
    found = folder.glob(f"{stem}-*.jsonl")
    return sorted(found, key=lambda path: int(path.stem.removeprefix(f"{stem}-")))


def recover(folder: Path, stem: str) -> Iterator[tuple[Sampled, Path, int, int]]:
    """Read a journal; a last line without its end is cut off its shard.

    Yields:
        Each row with its shard, and the line's place in it and length there, in bytes.

    Raises:
        OutputError: A line is damaged; the message names its file and number.
    """
    for shard in shards(folder, stem):
        start = 0
        with shard.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    _cut(shard, start)
                    break
                yield _row_of(line, f"{shard}:{number}"), shard, start, len(line)
                start += len(line)


def read_line(file: int, start: int, length: int) -> Sampled:
    """Read one line that `recover` found, from an open file."""
    return _row_of(os.pread(file, length, start), "a line that was read before")


def _cut(shard: Path, length: int) -> None:
    with shard.open("r+b") as file:
        file.truncate(length)
        os.fsync(file.fileno())


def _row_of(line: bytes, where: str) -> Sampled:
    try:
        return Sampled(**json.loads(line.decode()))
    except (ValueError, TypeError) as error:
        raise OutputError(
            f"{where}: the line is damaged: remove it, and its query is asked again; "
            "or sample into another folder"
        ) from error


def _split(rows: Sequence[Any], size: int) -> tuple[Sequence[Any], Sequence[Any]]:
    return rows[:size], rows[size:]


def _lines_of(rows: Sequence[Sampled]) -> bytes:
    buffer = io.BytesIO()
    with jsonlines.Writer(buffer) as writer:
        for row in rows:
            writer.write({name: getattr(row, name) for name in _FIELDS})
    return buffer.getvalue()
