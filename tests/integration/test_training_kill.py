"""A killed training resumes to the same losses; a full disk causes an error of one line."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Delia
from trained import MARKS, ROWS

from delia_data.outputs import is_finished, read_manifest
from delia_data.training import TrainSettings
from delia_data.training.settings import as_recipe

pytestmark = MARKS

Launch = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def launch(make_settings: Callable[..., TrainSettings], tmp_path: Path) -> Launch:
    """Return a function that starts `delia train` as a program; dropout draws random numbers."""
    settings = make_settings(epochs=10, dropout=0.2, save_every_steps=3, schedule="cosine")
    (tmp_path / "mine.yaml").write_text(as_recipe(settings))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def start(out: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "delia_data", "train", "rows.jsonl", out),
                *("--recipe", "mine.yaml"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
            **options,
        )

    return start


@pytest.fixture
def finish(delia: Delia, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Return a function that runs the same command in this process, and returns the steps shown.

    The first step is shown, and every tenth.
    """
    monkeypatch.chdir(tmp_path)

    def finish(out: str) -> list[int]:
        result = delia("train", "rows.jsonl", out, "--recipe", "mine.yaml")
        assert result.code == 0, result.err
        lines = [line.split() for line in result.out.splitlines() if line.startswith("training: ")]
        assert all(line[3].rstrip(",;") == "30" for line in lines)
        return [int(line[1]) for line in lines]

    return finish


def test_a_killed_training_resumes_to_the_same_losses(
    launch: Launch, finish: Callable[[str], list[int]], tmp_path: Path
) -> None:
    process = launch("broken")
    assert process.stdout is not None
    assert any(line.startswith("training: 15 of 30") for line in process.stdout)
    process.kill()
    process.communicate(timeout=300)
    assert not is_finished(tmp_path / "broken")
    steps = finish("broken")
    assert steps[0] > 9, "it began from the start"
    assert steps[-1] == 30
    assert finish("unbroken")[-1] == 30
    one, other = (
        json.loads((tmp_path / name / "losses.json").read_text()) for name in ("unbroken", "broken")
    )
    assert one == other
    one, other = (read_manifest(tmp_path / name, verify=True) for name in ("unbroken", "broken"))
    assert one.files["adapter_model.safetensors"] == other.files["adapter_model.safetensors"]


def test_a_full_disk_is_one_line_and_the_same_command_resumes(
    launch: Launch, finish: Callable[[str], list[int]], tmp_path: Path
) -> None:
    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    process = launch("out", preexec_fn=no_large_files)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2, errors
    lines = [line for line in errors.splitlines() if line.startswith("delia: ")]
    assert len(lines) == 1 and "cannot be written" in lines[0] and "free some space" in lines[0]
    assert "Traceback" not in errors
    assert not is_finished(tmp_path / "out")
    assert finish("out")[-1] == 30
