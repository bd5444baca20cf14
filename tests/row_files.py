"""Files of rows that many tests write, and the sizes of builders' inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Load = Callable[..., Any]
TASK_ROWS = 7
PAIRS = 60


def write_jsonl(path: Path, rows: Iterable[Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, **options) + "\n" for row in rows), "utf-8")
    return path


def pair_rows(count: int, word: str = "answer") -> list[dict[str, Any]]:
    return [{"prompt": f"Question {i}?", "completion": f"The {word} {i}."} for i in range(count)]


def encode(rows: list[dict[str, Any]], kind: str) -> bytes:
    """Return the bytes of a file of some kind."""
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows)
    match kind:
        case "parquet":
            pq.write_table(table, sink)
        case "arrow":
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
        case "json":
            return json.dumps(rows, indent=1).encode()
        case "csv":
            lines = [list(rows[0]), *(row.values() for row in rows)]
            return "".join(",".join(map(json.dumps, line)) + "\r\n" for line in lines).encode()
        case _:
            return "".join(json.dumps(row) + "\n" for row in rows).encode()
    return sink.getvalue().to_pybytes()
