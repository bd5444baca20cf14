"""Files of rows that many tests write, and the sizes of builders' inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Load = Callable[..., Any]
TASK_ROWS = 7
PAIRS = 60


def write_jsonl(path: Path, rows: Iterable[Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, **options) + "\n" for row in rows), "utf-8")
    return path


def pair_rows(count: int, word: str = "answer") -> list[dict[str, Any]]:
    return [{"prompt": f"Question {i}?", "completion": f"The {word} {i}."} for i in range(count)]
