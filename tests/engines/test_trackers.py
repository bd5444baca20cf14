"""Metrics of a training in trackio and in wandb, without a network (`make test-trainers`)."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from trained import ROWS, tiny_settings
from transformers import PreTrainedModel

from delia_data.training import TrainSettings

pytestmark = pytest.mark.engines

TRAIN = """
import json, sys
from delia_data.training import TrainSettings, train

def stop(step, steps, loss):
    if step == int(sys.argv[1]):
        raise KeyboardInterrupt

settings, rows, out = json.load(sys.stdin)
train(TrainSettings.from_dict(settings), rows, out, on_step=stop)
"""


@pytest.fixture
def settings(
    tmp_path: Path, make_tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: Any
) -> TrainSettings:
    return tiny_settings(tmp_path / "model", make_tiny_model(), tiny_tokenizer, save_every_steps=2)


def train_apart(settings: TrainSettings, place: Path, *, stop: int = 0, **environment: str) -> None:
    """Train in a separate process, because services keep threads and processes."""
    own = {"HOME": str(place), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(stop)],
        input=json.dumps([settings.as_dict(), ROWS, str(place / "adapter")]),
        cwd=place,
        env={**os.environ, **own, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (place / "adapter" / "FINISHED").is_file() != bool(stop), done.stderr
    assert "Traceback" not in done.stderr or "KeyboardInterrupt" in done.stderr


@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed")
def test_a_run_that_goes_on_is_one_run_in_trackio(settings: TrainSettings, tmp_path: Path) -> None:
    settings = replace(settings, report_to=("trackio",))
    kept = tmp_path / "trackio"
    train_apart(settings, tmp_path, stop=3, TRACKIO_DIR=str(kept))
    train_apart(settings, tmp_path, TRACKIO_DIR=str(kept))
    (file,) = kept.glob("*.db")
    lines = list(sqlite3.connect(file).execute("SELECT run_name, metrics FROM metrics"))
    (name,) = {name for name, _ in lines}
    assert name.startswith("adapter-")
    figures = [json.loads(text) for _, text in lines]
    steps = {each["train/global_step"] for each in figures if "train/loss" in each}
    assert steps == {1, 2, 3, 4, 5, 6}
    assert {"train/loss_task", "train/loss_pairs"} <= {key for each in figures for key in each}


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_keeps_the_figures(settings: TrainSettings, tmp_path: Path) -> None:
    train_apart(replace(settings, report_to=("wandb",)), tmp_path, WANDB_MODE="offline")
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    kept = file.read_bytes()
    assert b"train/loss_task" in kept and b"train/loss_pairs" in kept
    assert b"adapter-" in kept
