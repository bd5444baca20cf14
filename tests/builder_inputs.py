"""Inputs of builders that several tests share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Load = Callable[..., Any]
TASK_ROWS = 7
PAIRS = 60


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def pair_rows(count: int, word: str = "answer") -> list[dict[str, Any]]:
    return [{"prompt": f"Question {i}?", "completion": f"The {word} {i}."} for i in range(count)]
