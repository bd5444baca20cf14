"""Inputs of `delia://` that several tests share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Load = Callable[..., Any]
TASK_ROWS = 5
PAIRS = 30


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def pair_rows(word: str = "answer") -> list[dict[str, Any]]:
    return [{"prompt": f"Question {i}?", "completion": f"The {word} {i}."} for i in range(PAIRS)]


def made(home: Path) -> list[str]:
    """Hashes of the mixtures that are there."""
    return sorted(path.name for path in home.iterdir() if not path.name.startswith("."))
