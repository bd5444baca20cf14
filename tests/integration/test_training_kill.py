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
    """Starts `training/sft.py` as a program; dropout draws numbers at every step."""
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
    script = Path(sys.modules["delia_data.training"].__file__ or "").with_name("sft.py")

    def start(out: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, script, "rows.jsonl", out, "--recipe", "mine.yaml"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
            **options,
        )

    return start


def finished(process: subprocess.Popen[str]) -> list[str]:
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return [line.split(":")[0] for line in printed.splitlines() if line.startswith("step ")]


def test_a_killed_training_goes_on_to_the_same_losses(launch: Launch, tmp_path: Path) -> None:
    assert len(finished(launch("unbroken"))) == 30
    process = launch("broken")
    assert process.stdout is not None
    assert any(line.startswith("step 13 ") for line in process.stdout)
    process.kill()
    process.communicate(timeout=300)
    assert not is_finished(tmp_path / "broken")
    steps = finished(launch("broken"))
    assert 0 < len(steps) <= 30 - 9, "it began anew"
    assert steps[-1] == "step 30 of 30"
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
    lines = [line for line in errors.splitlines() if line.startswith("sft.py: ")]
    assert len(lines) == 1 and "cannot be written" in lines[0] and "free some space" in lines[0]
    assert "Traceback" not in errors
    assert not is_finished(tmp_path / "out")
    assert finished(launch("out"))[-1] == "step 30 of 30"


def test_a_wrong_argument_is_one_line(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("rnak: 4\n")
    process = launch("out")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 2
    assert errors == "sft.py: mine.yaml: unknown key 'rnak', did you mean 'rank'?\n"
    assert not (tmp_path / "out").exists()
