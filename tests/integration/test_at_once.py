"""Concurrent processes, killed processes, and workers of a DataLoader."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from datasets.distributed import split_dataset_by_node
from row_files import write_jsonl

import delia_data  # noqa: F401  (registers delia_mix)

TASK_ROWS, PAIRS = 12, 600
SETTINGS: dict[str, Any] = {"ratio": 50, "task": "task.jsonl", "cache": "pairs.jsonl"}

pytestmark = pytest.mark.integration

BUILD = """
import hashlib, json, os, signal, sys
import delia_data
from datasets import load_dataset
from delia_data.builders.delia_mix import DeliaMix
from delia_data.mixing import store

store._STORED_BYTES = 0
settings, kill = json.loads(sys.argv[1]), sys.argv[2]
began, made = DeliaMix._split_generators, DeliaMix._generate_tables

def begin(self, manager):
    with open("builds.log", "a") as log:
        log.write("one\\n")
    parts = began(self, manager)
    if kill == "planned":
        os.kill(os.getpid(), signal.SIGKILL)
    return parts

def make(self, shards):
    for table in made(self, shards):
        yield table
        if kill == "first table":
            os.kill(os.getpid(), signal.SIGKILL)
    if kill == "last table":
        os.kill(os.getpid(), signal.SIGKILL)

DeliaMix._split_generators, DeliaMix._generate_tables = begin, make
rows = load_dataset("delia_mix", split="train", cache_dir="hf", **settings).to_list()
print(len(rows), hashlib.sha256(json.dumps(rows).encode()).hexdigest())
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a task and a cache."""
    monkeypatch.chdir(tmp_path)
    task = [{"prompt": f"As <sep>: is {i} even?", "completion": "{}"} for i in range(TASK_ROWS)]
    cache = [{"prompt": f"Question {i}?", "completion": f"Answer {i}."} for i in range(PAIRS)]
    for name, rows in {"task": task, "pairs": cache}.items():
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    return tmp_path


@pytest.fixture
def start(place: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a process that builds the mixture, or reads it."""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "DELIA_CACHE": str(place / "delia"),
        "TMPDIR": str(place),
    }

    def start(kill: str = "never") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", BUILD, json.dumps(SETTINGS), kill],
            cwd=place,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def output(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-4000:]
    return out


def test_three_at_once_build_one(start: Callable[..., Any], place: Path) -> None:
    outputs = {output(process) for process in [start() for _ in range(3)]}
    assert len(outputs) == 1
    assert outputs.pop().startswith(f"{TASK_ROWS * 51} ")
    assert (place / "builds.log").read_text() == "one\n"


@pytest.mark.parametrize("moment", ["planned", "first table", "last table"])
def test_one_that_is_killed_is_built_anew(
    start: Callable[..., Any], place: Path, moment: str
) -> None:
    killed = start(moment)
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    rows = output(start())
    assert rows.startswith(f"{TASK_ROWS * 51} ")
    assert (place / "builds.log").read_text() == "one\n" * 2
    assert output(start()) == rows
    assert (place / "builds.log").read_text() == "one\n" * 2


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
class TestWorkers:
    """Every row once, for any number of workers."""

    @pytest.fixture(params=["in memory", "in a file"], autouse=True)
    def size(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        if request.param == "in a file":
            monkeypatch.setattr("delia_data.mixing.store._STORED_BYTES", 0)

    @pytest.mark.parametrize("start", ["fork", "spawn"])
    @pytest.mark.parametrize("streaming", [True, False])
    def test_of_a_data_loader(self, place: Path, start: str, streaming: bool) -> None:
        data = pytest.importorskip("torch.utils.data")
        rows = load_dataset(
            "delia_mix", split="train", streaming=streaming, cache_dir=str(place / "hf"), **SETTINGS
        )
        loader = data.DataLoader(
            rows, batch_size=32, num_workers=2, collate_fn=list, multiprocessing_context=start
        )
        found = [row for batch in loader for row in batch]
        assert _counts(found) == _counts(rows)
        assert len(found) == TASK_ROWS * 51

    def test_of_nodes(self, place: Path) -> None:
        rows = load_dataset("delia_mix", split="train", streaming=True, **SETTINGS)
        parts = [list(split_dataset_by_node(rows, rank, 4)) for rank in range(4)]
        assert all(parts)
        assert [row for part in parts for row in part] != list(rows)
        assert _counts([row for part in parts for row in part]) == _counts(rows)


def _counts(rows: Any) -> Counter[str]:
    return Counter(json.dumps(row) for row in rows)
