"""`delia register`: programs that do not import the package know its names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from row_files import write_jsonl

TASK_ROWS = 4
PAIRS = 40
ROWS = 5 * TASK_ROWS  # of ratio 4

pytestmark = pytest.mark.integration

LOAD = """
import json, sys

assert "delia_data" not in sys.modules
from datasets import load_dataset

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
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    return tmp_path


@pytest.fixture
def run(place: Path) -> Callable[..., str]:
    """Run a command in the folder, with its own caches and no network; return its output."""
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
def expected(run: Callable[..., str]) -> Rows:
    """Rows of `load_dataset("delia_mix", ratio=4)` with the package imported."""
    given = json.dumps({"ratio": 4, "task": "task.jsonl", "cache": "pairs.jsonl"})
    rows: Rows = json.loads(run(sys.executable, "-c", EXPECTED, given))
    assert {name: len(split) for name, split in rows.items()} == {"train": ROWS}
    return rows


class TestRegister:
    """Tests in a separate environment, which has the packages of this one."""

    @pytest.fixture
    def python(self, place: Path) -> Path:
        venv.create(place / "env", symlinks=True, with_pip=False)
        (packages,) = (place / "env").glob("lib/python*/site-packages")
        line = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
        (packages / "parent.pth").write_text(line, "utf-8")
        return place / "env" / "bin" / "python"

    def test_the_names_are_known_until_it_is_undone(
        self, python: Path, run: Callable[..., str], expected: Rows
    ) -> None:
        arguments = {"task": "task.jsonl", "cache": "pairs.jsonl"}
        given = json.dumps({"names": ["delia_mix", "ratio-4"], **arguments})
        done = json.loads(run(python, "-m", "delia_data", "register", "--json"))
        assert done["registered"] and Path(done["files"][0]).is_file()
        assert json.loads(run(python, "-c", LOAD, given)) == expected
        doctor = json.loads(run(python, "-m", "delia_data", "doctor", "--json"))
        assert doctor["registered_at_start"] == done["files"]
        undone = json.loads(run(python, "-m", "delia_data", "register", "--remove", "--json"))
        assert undone["files"] == done["files"]
        assert not list(Path(done["files"][0]).parent.glob("*delia_data_register*"))
        code = "import sys, datasets; assert 'delia_data' not in sys.modules"
        run(python, "-c", code)

    def test_a_removed_package_does_not_disturb(
        self, python: Path, run: Callable[..., str]
    ) -> None:
        (file,) = json.loads(run(python, "-m", "delia_data", "register", "--json"))["files"]
        (Path(file).parent / "parent.pth").unlink()
        run(python, "-c", "import json")
        Path(file).with_name("_delia_data_register.py").unlink()
        assert run(python, "-c", "print('quiet')") == "quiet\n"
