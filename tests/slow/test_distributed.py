"""Training in two processes: the losses and the adapter of one, also after a kill."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import tiny_llama
from safetensors.torch import load_file
from trained import MARKS, row, tiny_settings
from transformers import PreTrainedTokenizerBase

from delia_data.outputs import read_manifest
from delia_data.training import TrainSettings, train
from delia_data.training.watching import read_watched

pytestmark = [pytest.mark.slow, pytest.mark.release, *MARKS[1:]]

TIMEOUT_S = 240
"""Processes that wait for one another would wait forever; a training here takes 20 seconds."""

CONFIGS = files("delia_data.training") / "accelerate"


ROWS = [
    *(row(f"Is {i} even? <sep>", f"{{'even': {i % 2 == 0}}}", "task") for i in range(6)),
    *(row(f"Tell me about {i}. " * (1 + i % 3), f"It is {i}.", "cache") for i in range(7)),
]
"""Thirteen rows: the last step has a single row, so one process has none."""


SCRIPT = Path(__file__).parents[1] / "train_on_cpus.py"


@pytest.fixture
def settings(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase) -> TrainSettings:
    return tiny_settings(
        tmp_path / "model",
        tiny_llama(),
        tiny_tokenizer,
        micro_batch_tokens=60,  # several micro-batches a step
        dtype="float32",
        save_every_steps=3,
    )


def launch(
    config: str, script: list[str], settings: TrainSettings, folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `accelerate launch` of `delia train` in two processes on CPUs."""
    rows, recipe, accelerate = (
        folder.with_name(name) for name in ("rows.jsonl", "recipe.yaml", "accelerate.yaml")
    )
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    recipe.write_text(yaml.safe_dump(settings.as_dict()))
    values = yaml.safe_load((CONFIGS / config).read_text(encoding="utf-8"))
    accelerate.write_text(yaml.safe_dump(values | {"use_cpu": True, "num_processes": 2}))
    options = ["--config_file", str(accelerate), "--main_process_port", "0"]
    launched = subprocess.Popen(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", *options, *script),
            *(str(rows), str(folder), "--recipe", str(recipe)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        start_new_session=True,  # so that its own processes end with it
    )
    try:
        out, errors = launched.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(launched.pid, signal.SIGKILL)
        out, errors = launched.communicate()
        pytest.fail(f"still running after {TIMEOUT_S} s:\n{out}\n{errors}")
    return subprocess.CompletedProcess(launched.args, launched.returncode, out, errors)


def losses(folder: Path) -> list[dict[str, float]]:
    return list(json.loads((folder / "losses.json").read_text()))


@pytest.mark.parametrize(
    ("config", "pairs_loss"), [("ddp.yaml", "kl"), ("fsdp.yaml", "ce"), ("fsdp.yaml", "kl")]
)
def test_two_processes_train_the_adapter_of_one_also_after_a_kill(
    settings: TrainSettings, tmp_path: Path, config: str, pairs_loss: Any
) -> None:
    settings = replace(settings, pairs_loss=pairs_loss)
    alone = tmp_path / "alone"
    train(settings, ROWS, alone)

    both = tmp_path / "both"
    killed = launch(config, [str(SCRIPT)], settings, both, KILL_AFTER="5")
    assert "training: 5 of 8" in killed.stdout, killed.stderr
    assert killed.returncode != 0
    assert ("sharded" in killed.stdout) is (config == "fsdp.yaml")
    assert not (both / "manifest.json").exists()

    script = ["-m", "delia_data", "train"] if config == "ddp.yaml" else [str(SCRIPT)]
    again = launch(config, script, settings, both)
    assert again.returncode == 0, again.stderr
    # By one process. Output of the other may stand before a step on its line.
    assert re.findall(r"training: (\d+) of 8", again.stdout) == ["4", "5", "6", "7", "8"]
    assert again.stdout.count("adapter in") == 1

    one, two = losses(alone), losses(both)
    assert [entry.keys() for entry in one] == [entry.keys() for entry in two]
    for entry, other in zip(one, two, strict=True):
        assert list(other.values()) == pytest.approx(list(entry.values()), abs=1e-4)
    assert read_manifest(both, verify=True).rows == {"task": 6, "cache": 7}
    whole, gathered = (load_file(each / "adapter_model.safetensors") for each in (alone, both))
    assert whole.keys() == gathered.keys()
    for name, weight in whole.items():
        assert torch.allclose(gathered[name], weight, atol=2e-3), name
    assert not (both / ".checkpoints").exists()


def test_two_processes_measure_and_keep_the_checkpoint_of_one(
    settings: TrainSettings, tmp_path: Path
) -> None:
    pairs = [row(f"Say {i}.", f"Here is {i}.", "cache") for i in range(5)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    settings = replace(
        settings,
        save_every_steps=None,
        watch_every_steps=2,
        watch_pairs=str(tmp_path / "pairs.jsonl"),
        best_by="keep",
        patience=2,
    )
    alone = train(settings, ROWS, tmp_path / "alone")
    assert alone.details["planned_steps"] > alone.details["steps"] == 6
    killed = launch("ddp.yaml", [str(SCRIPT)], settings, tmp_path / "both", KILL_AFTER="5")
    assert killed.returncode != 0
    again = launch("ddp.yaml", ["-m", "delia_data", "train"], settings, tmp_path / "both")
    assert again.returncode == 0, again.stderr
    one, two = (read_watched(tmp_path / name) for name in ("alone", "both"))
    assert len(one) == len(two) == 4
    for point, other in zip(one, two, strict=True):
        assert other == pytest.approx(point, abs=1e-4)
    details = read_manifest(tmp_path / "both", verify=True).details
    assert (details["best_step"], details["steps"]) == (2, 6)


def test_the_bundled_configurations() -> None:
    read = {path.name: yaml.safe_load(path.read_text()) for path in CONFIGS.iterdir()}
    assert set(read) == {"ddp.yaml", "fsdp.yaml"}
    for name, values in read.items():
        assert ("fsdp_config" in values) is (name == "fsdp.yaml")
        assert values["mixed_precision"] == "no"
