"""Inputs of `delia://`, and a home of its own for its mixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from filesystem_inputs import TASK_ROWS, Load, pair_rows, write_jsonl
from fsspec.config import conf

from delia_data.filesystem import DeliaFileSystem


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our own cache, in a hidden folder as `~/.cache` is, with none of fsspec's settings."""
    monkeypatch.setenv("DELIA_CACHE", str(tmp_path / ".cache"))
    monkeypatch.delitem(conf, "delia", raising=False)
    return tmp_path / ".cache" / "mixtures"


@pytest.fixture
def task(tmp_path: Path) -> Path:
    rows = [{"prompt": f"As <sep>: is {i} even?", "completion": "yes"} for i in range(TASK_ROWS)]
    return write_jsonl(tmp_path / "task.jsonl", rows)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "pairs.jsonl", pair_rows())


@pytest.fixture
def folder(task: Path, cache: Path) -> str:
    """The mixture of ratio 4, as a path."""
    return f"ratio-4/task={task}/cache={cache}"


@pytest.fixture
def fs() -> DeliaFileSystem:
    return DeliaFileSystem()


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """`load_dataset` with a cache of its own."""

    def load(name: str, **arguments: Any) -> Any:
        return load_dataset(name, cache_dir=str(tmp_path / "hf"), **arguments)

    return load
