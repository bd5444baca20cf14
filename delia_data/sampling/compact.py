"""From the journal of a run to Parquet: pairs and rejected rows, in the order they were asked.

Only the places of the lines are held in memory, 40 bytes each; the lines themselves are read
again, a group at a time.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from delia_data._batches import batches
from delia_data.outputs import JsonlLog, atomic_path
from delia_data.records import Record, write_record
from delia_data.sampling.rows import Sampled

_Numbers = np.ndarray[Any, np.dtype[np.int64]]

_GROUP: Final = 10_000
_MESSAGE: Final = pa.struct([("role", pa.string()), ("content", pa.string())])
_SPENT: Final = [
    ("row_id", pa.string()),
    ("tokens", pa.int64()),
    ("prompt_tokens", pa.int64()),
    ("cost", pa.float64()),
]
_PAIRS: Final = pa.schema([("messages", pa.list_(_MESSAGE)), ("source_id", pa.string()), *_SPENT])
_REJECTED: Final = pa.schema(
    [
        ("reason", pa.string()),
        ("error", pa.string()),
        ("query", pa.string()),
        ("answer", pa.string()),
        *_SPENT,
    ]
)


def pairs_file(folder: Path, generation: int) -> Path:
    """Where the kept pairs of a generation lie."""
    return folder / f"pairs-{generation:05}.parquet"


def rejected_file(folder: Path, generation: int) -> Path:
    """Where the rejected rows of a generation lie."""
    return folder / f"rejected-{generation:05}.parquet"


def journals(folder: Path, generation: int) -> list[JsonlLog[Sampled]]:
    """Return the logs of a generation in the order they were written; append to the last one.

    Version 0.1.0 began a new log every 100,000 rows and in every run.
    """
    stem = f"sampled-{generation:05}-"
    files = sorted(
        folder.glob(f"{stem}*.jsonl"), key=lambda path: int(path.stem.removeprefix(stem))
    )
    hint = "and its query is asked again; or sample into another folder"
    return [
        JsonlLog(file, Sampled, if_damaged=hint) for file in files or [folder / f"{stem}000.jsonl"]
    ]


def compact(folder: Path, generation: int, *, keep_rejected: bool) -> None:
    """Write the journal of a generation as Parquet; the pairs come last, and make it done.

    Args:
        folder: The cache folder.
        generation: Number of the generation.
        keep_rejected: Write the texts of rejected rows too.

    Raises:
        OutputError: The disk is full or gone.
    """
    logs = journals(folder, generation)
    places, order = _places(logs)
    kept = places[order, 4] == 1
    with ExitStack() as stack:
        opened = [(log, stack.enter_context(log.path.open("rb"))) for log in logs]
        rows = _rows(opened, places, order[~kept])
        _write(
            rejected_file(folder, generation),
            _REJECTED,
            (_rejected_row(row, keep_rejected) for row in rows),
        )
        _write(
            pairs_file(folder, generation),
            _PAIRS,
            (_pair_row(row) for row in _rows(opened, places, order[kept])),
        )


def _places(logs: list[JsonlLog[Sampled]]) -> tuple[_Numbers, _Numbers]:
    """Where the lines are: number, log, start, length, whether kept; and the order to read them.

    Of a row that failed, and was asked again, only the latest line counts.
    """
    places = array("q")
    latest: dict[str, int] = {}  # of rows that failed: the line that tells of it
    superseded = []
    lines = ((number, *line) for number, log in enumerate(logs) for line in log.read())
    for count, (log_number, row, start, length) in enumerate(lines):
        places.extend((row.number, log_number, start, length, row.rejected is None))
        if row.id in latest:
            superseded.append(latest.pop(row.id))
        if row.error is not None:
            latest[row.id] = count
    table = np.frombuffer(places, np.int64).reshape(-1, 5)
    order = np.argsort(table[:, 0], kind="stable")
    return table, order[~np.isin(order, superseded)] if superseded else order


def _rows(
    opened: list[tuple[JsonlLog[Sampled], BinaryIO]], places: _Numbers, order: _Numbers
) -> Iterator[Sampled]:
    for begin in range(0, len(order), _GROUP):
        for _, number, start, length, _ in places[order[begin : begin + _GROUP]].tolist():
            log, file = opened[number]
            yield log.parse(os.pread(file.fileno(), length, start), start)


def _write(path: Path, schema: pa.Schema, rows: Iterator[dict[str, Any]]) -> None:
    with atomic_path(path) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
        for group in batches(rows, _GROUP):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def _spent(row: Sampled) -> dict[str, Any]:
    return {
        "row_id": row.id,
        "tokens": row.tokens,
        "prompt_tokens": row.prompt_tokens,
        "cost": row.cost,
    }


def _pair_row(row: Sampled) -> dict[str, Any]:
    record = Record.pair(row.query, row.answer)
    return {**write_record(record), "source_id": record.id, **_spent(row)}


def _rejected_row(row: Sampled, with_texts: bool) -> dict[str, Any]:
    texts = {"query": row.query, "answer": row.answer} if with_texts else {}
    return {"reason": row.rejected, "error": row.error, **texts, **_spent(row)}
