"""The pair store: what a cache is on disk, while it grows and when it is done.

    folder/
        plan.json        settings of the run; a rerun with others is refused
        pairs.jsonl      one finished request a line, kept or rejected; append-only
        pairs.parquet    the kept pairs, written when the run is done
        manifest.json
        FINISHED

A line is on disk before the next group of requests is asked for. A line that was cut short by a
kill has no line end; it is dropped when the run goes on, and its request is asked again.
"""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import jsonlines
import pyarrow as pa
import pyarrow.parquet as pq

from delia_data.errors import InputError, OutputError
from delia_data.files import LOCK, atomic_path, folder_lock, write_json
from delia_data.manifest import (
    Manifest,
    check_folder_is_ours,
    check_same_settings,
    finish,
    is_finished,
    read_manifest,
)
from delia_data.records import Record, read_record, read_records, write_record

__all__ = ["PairStore", "Sampled", "bundled_cache_folder", "read_cache"]

_PLAN: Final = "plan.json"
_LINES: Final = "pairs.jsonl"
_TABLE: Final = "pairs.parquet"
_NAMES: Final = frozenset({_PLAN, _LINES, _TABLE})
_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
_SCHEMA: Final = pa.schema(
    [("messages", pa.list_(_MESSAGE)), ("source_id", pa.string()), ("tokens", pa.int64())]
)


@dataclass(frozen=True, slots=True)
class Sampled:
    """One finished request.

    Attributes:
        query_id: Content id of the query.
        query: What was asked.
        answer: What the model said.
        tokens: Tokens generated.
        rejected: Why the pair is not kept; None where it is.
    """

    query_id: str
    query: str
    answer: str
    tokens: int
    rejected: str | None = None


class PairStore:
    """An open cache folder; `PairStore.open` gives one."""

    def __init__(self, folder: Path, sampled: list[Sampled], lines: BinaryIO) -> None:
        self.folder = folder
        self.sampled = sampled
        self._lines = lines

    @classmethod
    @contextmanager
    def open(cls, folder: str | os.PathLike[str], plan: dict[str, Any]) -> Iterator[PairStore]:
        """Open a folder to sample into, and go on with what is there.

        Args:
            folder: The cache folder; made where it is not there.
            plan: Every setting that a pair depends on.

        Raises:
            ForeignFolderError: The folder holds something else.
            SettingsError: It was begun with another plan.
            LockedError: Another process samples into it.
        """
        root = Path(folder)
        check_folder_is_ours(root, _NAMES, sign=LOCK)
        with folder_lock(root):
            if (root / _PLAN).is_file():
                earlier = json.loads((root / _PLAN).read_text(encoding="utf-8"))
                check_same_settings(root, earlier, json.loads(json.dumps(plan)))
            else:
                write_json(root / _PLAN, plan)
            sampled = _recover(root / _LINES)
            # Unbuffered: what cannot be written fails where it is written, not at closing.
            with (root / _LINES).open("ab", buffering=0) as lines:
                yield cls(root, sampled, cast("BinaryIO", lines))

    @property
    def kept(self) -> list[Sampled]:
        """The pairs that are kept, in the order in which they came."""
        return [row for row in self.sampled if row.rejected is None]

    @property
    def dropped(self) -> Counter[str]:
        """How many were rejected, by reason."""
        return Counter(row.rejected for row in self.sampled if row.rejected is not None)

    def append(self, rows: Iterable[Sampled]) -> None:
        """Add finished requests; they are on disk when this returns.

        Raises:
            OutputError: The disk is full or gone. What was on disk before stays.
        """
        group = list(rows)
        buffer = io.BytesIO()
        with jsonlines.Writer(buffer) as writer:
            writer.write_all(asdict(row) for row in group)
        left = buffer.getvalue()
        try:
            while left:
                left = left[self._lines.write(left) :]
            os.fsync(self._lines.fileno())
        except OSError as error:
            raise OutputError(
                f"{self.folder / _LINES} cannot be written: {error.strerror or error}"
            ) from error
        self.sampled += group

    def finish(self, manifest: Manifest, kept: list[Sampled]) -> Manifest:
        """Write the kept pairs as Parquet, then the manifest and the finish marker."""
        records = [Record.pair(row.query, row.answer) for row in kept]
        table = pa.Table.from_pylist(
            [
                {**write_record(record), "source_id": record.id, "tokens": row.tokens}
                for record, row in zip(records, kept, strict=True)
            ],
            schema=_SCHEMA,
        )
        with atomic_path(self.folder / _TABLE) as part:
            pq.write_table(table, part, compression="zstd")
        return finish(self.folder, manifest)


def read_cache(path: str | os.PathLike[str]) -> list[Record]:
    """Read the pairs of a cache folder, or of a JSON Lines or JSON file in any row format.

    Raises:
        InputError: There is nothing there, or it cannot be read.
        UnfinishedError: The folder has no finish marker.
    """
    source = Path(path)
    if source.is_file():
        return list(read_records(source))
    if not source.exists():
        raise InputError(f"{source} is not there: give a cache folder, or a .jsonl or .json file")
    manifest = read_manifest(source)
    if manifest.kind != "cache":
        raise InputError(f"{source} holds a {manifest.kind}, not a cache: give a cache folder")
    table = pq.read_table(source / _TABLE, columns=["messages"])
    return [read_record(row, "messages") for row in table.to_pylist()]


def bundled_cache_folder() -> Path:
    """Where the cache lies that comes with the package.

    Raises:
        InputError: This version carries none.
    """
    with as_file(files("delia_data") / "sampling" / "data" / "cache") as folder:
        if not is_finished(folder):
            raise InputError(
                "no cache comes with this version: sample one with delia sample, "
                "and give its folder as cache="
            )
        return folder


def _recover(file: Path) -> list[Sampled]:
    """Read the finished lines; a last one without its end is cut off the file."""
    if not file.is_file():
        return []
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with file.open("r+b") as lines:
            lines.truncate(whole)
            os.fsync(lines.fileno())
    try:
        with jsonlines.Reader(content[:whole].decode("utf-8").split("\n")) as reader:
            return [Sampled(**row) for row in reader.iter(type=dict, skip_empty=True)]
    except (jsonlines.InvalidLineError, TypeError, UnicodeDecodeError) as error:
        raise OutputError(
            f"{file} is damaged ({error}): remove the damaged line, or sample into another folder"
        ) from error
