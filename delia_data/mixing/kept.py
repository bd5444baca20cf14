"""Rows of a cache, each with its places: what a first look keeps, in memory or on disk.

    first look ──▶ Keeper ──▶ Kept: chunks in memory, or
                              runs on disk, each cut into slots of the order:
                                  run 0:  slot 0 | slot 1 | ... | slot 127
                                  run 1:  slot 0 | slot 1 | ... | slot 127

Whoever wants the rows of a slot in order reads its piece of every run and sorts them in memory: a
bucket sort, in which every row is read once and written once, whatever the size of the cache.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from delia_data.errors import OutputError
from delia_data.mixing.engine import MEMORY_MIB
from delia_data.mixing.options import MESSAGES

Keys = np.ndarray[Any, np.dtype[np.uint64]]
"""Places of rows, of 128 bits: the higher and the lower 64 of each; shape (rows, 2)."""

SLOTS: Final = 128
_SLOT_SHIFT: Final = np.uint64(64 - SLOTS.bit_length() + 1)
_IN_MEMORY_BYTES: Final = MEMORY_MIB * 2**20 // 2
_RUN_SHARE: Final = 0.4  # of that in a run, while the one before it is being written
_GATHERED: Final = 10_000  # rows that are brought in order at once
_ROWS: Final = pa.schema([("messages", MESSAGES), ("id", pa.string())])
_STORED: Final = pa.schema([*_ROWS, ("select", pa.binary(16)), ("order", pa.binary(16))])


@dataclass(frozen=True)
class Chunk:
    """Some rows of a cache, in no order.

    Attributes:
        rows: `messages` and `id`.
        select: Places in the selection's order.
        order: Places in the mixture's order.
    """

    rows: pa.RecordBatch
    select: Keys
    order: Keys

    def where(self, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> Chunk:
        """The rows that a mask names."""
        if mask.all():
            return self
        return Chunk(self.rows.filter(pa.array(mask)), self.select[mask], self.order[mask])


def keys_of(hashes: pa.Array) -> Keys:
    """Places of rows from hashes of 16 bytes each, as an Arrow column of binary values."""
    fixed = pa.types.is_fixed_size_binary(hashes.type)
    content = np.frombuffer(hashes.buffers()[1 if fixed else 2] or b"", np.uint8)
    begin = hashes.offset * 16
    if not fixed and len(hashes):
        begin = int(np.frombuffer(hashes.buffers()[1], np.int32)[hashes.offset])
    words = content[begin : begin + 16 * len(hashes)].view("<u8").reshape(-1, 2)
    return np.ascontiguousarray(words[:, ::-1])


def _hashes_of(keys: Keys) -> pa.Array:
    """The Arrow column of which `keys_of` gives the places."""
    content = np.ascontiguousarray(keys[:, ::-1]).astype("<u8", copy=False)
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(16), len(keys), [None, pa.py_buffer(content)]
    )


def gather(
    chunks: Sequence[pa.RecordBatch], numbers: np.ndarray[Any, Any], *, in_order: bool = True
) -> pa.RecordBatch:
    """Bring rows of several chunks together; far quicker than `take` of a chunked table.

    Args:
        chunks: Batches of one schema, at least one.
        numbers: Numbers of rows, counted through all chunks; shape (rows,).
        in_order: Whether the rows must come as they were named, or chunk by chunk.
    """
    starts = np.cumsum([0, *(chunk.num_rows for chunk in chunks)])
    owner = np.searchsorted(starts, numbers, side="right") - 1
    by_chunk = np.argsort(owner, kind="stable")
    ends = np.searchsorted(owner[by_chunk], np.arange(len(chunks) + 1))
    parts = [
        chunk.take(pa.array(numbers[by_chunk[low:high]] - start))
        for chunk, start, low, high in zip(chunks, starts[:-1], ends[:-1], ends[1:], strict=True)
        if high > low
    ]
    if len(parts) < 2:
        return parts[0] if parts else chunks[0].slice(0, 0)
    joined = pa.concat_batches(parts)
    if not in_order:
        return joined
    back = np.empty(len(numbers), np.int64)
    back[by_chunk] = np.arange(len(numbers))
    return joined.take(pa.array(back))


@dataclass(frozen=True)
class Kept:
    """Rows of a cache that may be picked, for one repetition of it.

    A copy for another process holds no rows: they are written to the folder first, which must
    still be there when the other process reads them.

    Attributes:
        folder: Folder for runs, which is the caller's to remove.
        chunks: The rows in memory; none where they are on disk.
        runs: Files of rows on disk.
    """

    folder: Path
    chunks: tuple[Chunk, ...] = field(default=(), repr=False)
    runs: tuple[Path, ...] = ()

    def slot(self, number: int) -> list[Chunk]:
        """The rows on disk that stand in a slot of the order.

        Raises:
            OutputError: The files are gone.
        """
        found = []
        for run in self.runs:
            try:
                with pa.OSFile(str(run)) as file:
                    batch = pa.ipc.open_file(file).get_batch(number)
            except OSError as error:
                raise OutputError(
                    f"{run}, a temporary file of the mixture, is gone: mix again"
                ) from error
            keys = [keys_of(batch[name]) for name in ("select", "order")]
            found.append(Chunk(batch.select(_ROWS.names), *keys))
        return found

    def again(self, seed: int, repetition: int) -> Kept:
        """The same rows at the places that they have in another repetition of the cache."""
        keeper = Keeper(self.folder)
        for chunks in [self.chunks, *(self.slot(i) for i in range(SLOTS if self.runs else 0))]:
            for chunk in chunks:
                keys = [f"{repetition}:cache:{row_id}" for row_id in chunk.rows["id"].to_pylist()]
                keeper.add(replace(chunk, order=keys_of(_ranks(seed, keys))))
        return keeper.done()

    def __getstate__(self) -> dict[str, Any]:
        on_disk = (_write_run(self.folder, self.chunks),) if self.chunks else ()
        return {"folder": self.folder, "chunks": (), "runs": (*self.runs, *on_disk)}


class Keeper:
    """Keeps the rows of a cache that may yet be picked, in bounded memory."""

    def __init__(self, folder: Path, wanted: int | None = None) -> None:
        """Begin with nothing.

        Args:
            folder: Folder for runs.
            wanted: How many of the rows that come, repeated ones aside, can be picked at most; all
                of them where it is not said.
        """
        self._folder = folder
        self._wanted = wanted
        self._limit: np.uint64 | None = None
        self._chunks: list[Chunk] = []
        self._bytes = 0
        self._runs: list[Future[Path]] = []
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="delia-kept")

    def add(self, chunk: Chunk) -> None:
        """Keep some rows.

        Raises:
            OutputError: The disk is full.
        """
        if self._limit is not None:
            chunk = chunk.where(chunk.select[:, 0] <= self._limit)
        if not len(chunk.select):
            return
        self._chunks.append(chunk)
        self._bytes += chunk.rows.nbytes
        bound = _IN_MEMORY_BYTES * (_RUN_SHARE if self._runs else 1)
        if self._bytes > bound:
            self._leave_out()
            if self._bytes > bound / 2:
                self._to_disk()

    def done(self) -> Kept:
        """What was kept.

        Raises:
            OutputError: The disk is full.
        """
        if self._runs and self._chunks:
            self._to_disk()
        with self._writer:
            runs = tuple(run.result() for run in self._runs)
        return Kept(self._folder, tuple(self._chunks), runs)

    def _leave_out(self) -> None:
        """Leave out rows that are behind as many others as can be picked."""
        if self._wanted is None:
            return
        places = np.unique(np.concatenate([chunk.select[:, 0] for chunk in self._chunks]))
        if len(places) <= self._wanted:
            return
        limit = self._limit = places[max(self._wanted - 1, 0)]
        self._chunks = [chunk.where(chunk.select[:, 0] <= limit) for chunk in self._chunks]
        self._bytes = sum(chunk.rows.nbytes for chunk in self._chunks)

    def _to_disk(self) -> None:
        """Write what is there beside what goes on, once the run before is written."""
        if self._runs:
            self._runs[-1].result()
        self._runs.append(self._writer.submit(_write_run, self._folder, self._chunks))
        self._chunks, self._bytes = [], 0


def _ranks(seed: int, keys: Sequence[str]) -> pa.Array:
    """`ranking.rank` of keys, as the bytes of which `keys_of` makes numbers."""
    texts = (f"{seed}:order:{key}".encode() for key in keys)
    digests = b"".join(hashlib.md5(text, usedforsecurity=False).digest() for text in texts)
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(16), len(keys), [None, pa.py_buffer(digests)]
    )


def _write_run(folder: Path, chunks: Sequence[Chunk]) -> Path:
    """Write a file with a batch of rows for each slot."""
    path = folder / f"run-{uuid.uuid4().hex}.arrow"
    batches = [
        pa.RecordBatch.from_arrays(
            [*chunk.rows.columns, _hashes_of(chunk.select), _hashes_of(chunk.order)],
            schema=_STORED,
        )
        for chunk in chunks
    ]
    slots = np.concatenate([chunk.order[:, 0] >> _SLOT_SHIFT for chunk in chunks]).astype(np.int64)
    numbers = np.argsort(slots, kind="stable")
    ends = np.searchsorted(slots[numbers], np.arange(SLOTS + 1))
    try:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _STORED) as writer:
            for low, high in pairwise(ends):
                writer.write_batch(gather(batches, numbers[low:high], in_order=False))
    except OSError as error:
        raise OutputError(
            f"{folder} cannot hold the temporary files of the mixture ({error}): free some space, "
            "or set TMPDIR to a larger disk"
        ) from error
    return path
