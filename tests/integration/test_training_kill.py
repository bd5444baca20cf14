"""A training that was killed goes on to the losses of one that was not; a full disk is one line."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trained import ROWS, tiny_settings
from transformers import PreTrainedModel

from delia_data.outputs import is_finished, read_manifest
from delia_data.training.settings import as_recipe

pytestmark = pytest.mark.integration

Launch = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def launch(
    tmp_path: Path, make_tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: Any
) -> Launch:
    """Starts `delia train` as a program; dropout draws numbers at every step."""
    settings = tiny_settings(
        tmp_path / "model",
        make_tiny_model(),
        tiny_tokenizer,
        epochs=10,
        dropout=0.2,
        save_every_steps=3,
        schedule="cosine",
    )
    (tmp_path / "mine.yaml").write_text(as_recipe(replace(settings)))
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


def steps_of(printed: list[str]) -> list[int]:
    """The steps that are shown: the first one, and one for every tenth."""
    lines = [line.split() for line in printed if line.startswith("training: ")]
    assert all(line[3].rstrip(",;") == "30" for line in lines)
    return [int(line[1]) for line in lines]


def finished(process: subprocess.Popen[str]) -> list[int]:
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return steps_of(printed.splitlines())


def test_a_killed_training_goes_on_to_the_same_losses(launch: Launch, tmp_path: Path) -> None:
    assert finished(launch("unbroken"))[-1] == 30
    process = launch("broken")
    assert process.stdout is not None
    assert any(line.startswith("training: 15 of 30") for line in process.stdout)
    process.kill()
    process.communicate(timeout=300)
    assert not is_finished(tmp_path / "broken")
    steps = finished(launch("broken"))
    assert steps[0] > 9, "it began anew"
    assert steps[-1] == 30
    one, other = (
        json.loads((tmp_path / name / "losses.json").read_text()) for name in ("unbroken", "broken")
    )
    assert one == other
    one, other = (read_manifest(tmp_path / name, verify=True) for name in ("unbroken", "broken"))
    assert one.files["adapter_model.safetensors"] == other.files["adapter_model.safetensors"]


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    launch: Launch, tmp_path: Path
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
    assert finished(launch("out"))[-1] == 30


def test_a_wrong_argument_is_one_line(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("rnak: 4\n")
    process = launch("out")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 2
    assert errors == "delia: mine.yaml: unknown key 'rnak', did you mean 'rank'?\n"
    assert not (tmp_path / "out").exists()
