"""Processes that never import us load a folder of `delia mix`, and `delia://`.

`test_other_trainers.py` trains on both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BIN = Path(sys.executable).parent
TASK_ROWS = 4
PAIRS = 40
ROWS = 5 * TASK_ROWS  # of ratio 4

pytestmark = pytest.mark.integration

LOAD = """
import json, sys
from datasets import load_dataset

assert "delia_data" not in sys.modules
arguments = json.loads(sys.argv[1])
splits = load_dataset(*arguments.pop("names"), **arguments)
print(json.dumps({name: list(rows) for name, rows in splits.items()}))
"""
EXPECTED = """
import json, sys
import delia_data
from datasets import load_dataset

splits = load_dataset("delia_mix", **json.loads(sys.argv[1]))
print(json.dumps({name: list(rows) for name, rows in splits.items()}))
"""

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working folder with a task and a cache."""
    task = [
        {"prompt": f"As <sep>: is {i} even?", "completion": f"{{'even': '{i % 2 == 0}'}}"}
        for i in range(TASK_ROWS)
    ]
    cache = [{"prompt": f"Question {i}?", "completion": f"Answer {i}."} for i in range(PAIRS)]
    for name, rows in {"task": task, "pairs": cache}.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text, "utf-8")
    return tmp_path


@pytest.fixture
def run(place: Path) -> Callable[..., str]:
    """Runs a command there, with caches of its own and without a network; gives its output."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("FSSPEC")},
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(place / ".cache" / "huggingface"),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "XDG_CACHE_HOME": str(place / ".cache"),
        "DELIA_CACHE": "",
        "FSSPEC_CONFIG_DIR": str(place / "no-settings"),
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }

    def run(*command: str | Path, **more: str) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=place,
            env=environment | more,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    return run


@pytest.fixture
def load(run: Callable[..., str]) -> Callable[..., Rows]:
    """`load_dataset` in a process that does not import us."""

    def load(*names: str, environment: dict[str, str] | None = None, **arguments: Any) -> Rows:
        given = json.dumps({"names": names, **arguments})
        found: Rows = json.loads(run(sys.executable, "-c", LOAD, given, **(environment or {})))
        return found

    return load


@pytest.fixture
def expected(run: Callable[..., str]) -> Rows:
    """What `load_dataset("delia_mix", ratio=4)` gives where the package is imported."""
    given = json.dumps({"ratio": 4, "task": "task.jsonl", "cache": "pairs.jsonl"})
    rows: Rows = json.loads(run(sys.executable, "-c", EXPECTED, given))
    assert {name: len(split) for name, split in rows.items()} == {"train": ROWS}
    return rows


@pytest.fixture
def mixed(run: Callable[..., str], place: Path) -> Path:
    """A folder that `delia mix` wrote."""
    run(BIN / "delia", "mix", "task.jsonl", "pairs.jsonl", "delia_mix_folder", "--ratio", "4")
    return place / "delia_mix_folder"


class TestLoad:
    def test_a_folder_of_delia_mix(
        self, load: Callable[..., Rows], mixed: Path, expected: Rows
    ) -> None:
        assert load("./delia_mix_folder", "ratio-4") == expected
        assert load("./delia_mix_folder", "ratio-4", streaming=True) == expected

    @pytest.mark.parametrize("streaming", [False, True])
    def test_delia_urls(
        self, load: Callable[..., Rows], place: Path, expected: Rows, streaming: bool
    ) -> None:
        url = f"delia://ratio-4/task=task.jsonl/cache={place}/pairs.jsonl/train.parquet"
        assert load("parquet", data_files=url, streaming=streaming) == expected
        assert load("parquet", data_files={"train": [url]}, streaming=streaming) == expected

    def test_settings_beside_the_url(self, load: Callable[..., Rows], expected: Rows) -> None:
        url, settings = "delia://ratio-4/train.parquet", {"task": "task.jsonl"}
        options = {"delia": {**settings, "cache": "pairs.jsonl"}}
        assert load("parquet", data_files=url, storage_options=options) == expected
        environment = {"FSSPEC_DELIA_TASK": "task.jsonl", "FSSPEC_DELIA_CACHE": "pairs.jsonl"}
        assert load("parquet", data_files=url, environment=environment) == expected

    def test_several_at_once_make_one(self, place: Path, run: Callable[..., str]) -> None:
        url = f"delia://ratio-4/task={place}/task.jsonl/cache={place}/pairs.jsonl/train.parquet"
        code = (
            "import subprocess, sys\n"
            "command = [sys.executable, '-c', sys.argv[1], sys.argv[2]]\n"
            "runs = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]\n"
            "outputs = {run.communicate()[0] for run in runs}\n"
            "assert all(run.returncode == 0 for run in runs)\n"
            "assert len(outputs) == 1\n"
        )
        given = json.dumps({"names": ["parquet"], "data_files": url, "streaming": True})
        run(sys.executable, "-c", code, LOAD, given)
        mixtures = place / ".cache" / "delia_data" / "mixtures"
        assert len([path for path in mixtures.iterdir() if not path.name.startswith(".")]) == 1
