"""Inputs of builders, and `load_dataset` with a cache of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from row_files import PAIRS, TASK_ROWS, Load, pair_rows, write_jsonl
from wordings import save_task

from delia_data.tasks import bundled_task, bundled_wordings


@pytest.fixture
def task(tmp_path: Path) -> Path:
    rows = [
        {"prompt": f"Answer in <sep>: is {i} even?", "completion": f"{{'even': '{i % 2 == 0}'}}"}
        for i in range(TASK_ROWS)
    ]
    return write_jsonl(tmp_path / "task.jsonl", rows)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "pairs.jsonl", pair_rows(PAIRS))


@pytest.fixture
def task_folder(tmp_path: Path) -> Path:
    return save_task(tmp_path / "task", bundled_task(), bundled_wordings())


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return `load_dataset` with its own cache."""

    def load(name: str, config: str | None = None, **arguments: Any) -> Any:
        return load_dataset(name, config, cache_dir=str(tmp_path / "hf"), **arguments)

    return load
