"""A prepared model and a mixture in scripts of others, two steps each.

The loss of the first step is computed here by itself, over the answers' tokens of the mixture's
first rows. It is the same only if the script takes the same rows in the same order, and its loss
on the answers alone. And the token's row of the embedding moves.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from conftest import tiny_llama
from datasets import load_dataset
from micro_run import micro_model
from row_files import write_jsonl
from safetensors.torch import load_file
from trained import MARKS
from transformers import AutoModelForCausalLM, AutoTokenizer

from delia_data import registration
from delia_data.mixing import mix, save_mixture
from delia_data.mixing.task_rows import ContrastRow
from delia_data.models import quiet
from delia_data.reading import read_records
from delia_data.records import Format, Message, Record, read_record
from delia_data.tasks import read_task_rows
from delia_data.tokens import encode
from delia_data.training import TrainSettings
from delia_data.training.exporters import write_trainer_files
from delia_data.training.prepare import prepare

BIN = Path(sys.executable).parent
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
BATCH = 4
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

pytestmark = [
    *MARKS,
    pytest.mark.skipif(not (BIN / "trl").is_file(), reason="trl is not installed"),
    pytest.mark.filterwarnings("ignore"),  # of other people's programs
]
SETTINGS = TrainSettings(batch_size=BATCH, max_length=256, learning_rate=1e-2, warmup_steps=0)

Run = Callable[..., str]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working folder with a task and a cache; every second task row is long."""
    task = [
        {
            "prompt": f"As <sep>: is {i} even?" + " Think of it well." * (i % 2),
            "completion": f"{{'even': '{i % 2 == 0}'}}",
        }
        for i in range(4)
    ]
    pairs = [{"prompt": f"Question {i}?", "completion": f"Answer {i}."} for i in range(20)]
    for name, rows in {"task": task, "pairs": pairs}.items():
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    return tmp_path


@pytest.fixture
def tiny(place: Path, make_tiny_tokenizer: Callable[[], Any]) -> Callable[..., Path]:
    """Prepare a random tiny model whose chat template has generation marks."""

    def tiny(*, tied: bool = True) -> Path:
        tokenizer = make_tiny_tokenizer()
        tokenizer.chat_template = TEMPLATE
        with quiet():
            tiny_llama(tied=tied).save_pretrained(place / "base")
        tokenizer.save_pretrained(place / "base")
        prepare(place / "base", place / "model")
        return place / "model"

    return tiny


@pytest.fixture
def mixture(place: Path) -> Callable[..., Path]:
    """Write the mixture of ratio 4 as a folder in a row format, also with contrast rows."""

    def mixture(format: Format, *, contrast: bool = False) -> Path:
        task = read_task_rows(place / "task.jsonl")
        if contrast:
            asked = Record.pair("Is 3 even? Leave <sep> out.", "No, 3 is odd.")
            plain = (Message("user", "Is 3 even?"),)
            row = ContrastRow(asked, "forbid", plain, "w", task.train[3].record.id)
            task = replace(task, contrast=(row, row))
        pairs = list(read_records(place / "pairs.jsonl"))
        save_mixture(mix(task, pairs, ratio=4, format=format), place / "my-mix")
        return place / "my-mix"

    return mixture


@pytest.fixture
def run(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Return a function that runs a script or a module there and returns its output."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(place / ".cache"))

    def run(program: str | Path, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [str(program), *map(str, arguments)])
        if isinstance(program, Path):
            runpy.run_path(str(program), run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__")
        return capsys.readouterr().out

    return run


def first_loss(model: Path, rows: list[dict[str, Any]]) -> float:
    """Return the mean cross-entropy of the answers' tokens of the first rows."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    total, count = 0.0, 0
    for row in rows[:BATCH]:
        labelled = encode(tokenizer, read_record(row))
        ids = torch.tensor([labelled.ids])
        with torch.no_grad():
            logits = loaded(ids).logits[0, :-1].log_softmax(-1)
        mask = torch.tensor(labelled.mask[1:])
        total -= float(logits.gather(1, ids[0, 1:, None])[mask].sum())
        count += int(mask.sum())
    return total / count


def trl_losses(trained: Path) -> list[float]:
    state = json.loads((trained / "checkpoint-2" / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def printed_losses(output: str) -> list[float]:
    return [float(loss) for loss in re.findall(r"^step \d+: loss ([\d.]+)$", output, re.M)]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(folder / "train.parquet").to_pylist())


SFT = {
    "output_dir": "trained",
    "max_steps": 2,
    "per_device_train_batch_size": BATCH,
    "learning_rate": 1e-2,
    "train_sampling_strategy": "sequential",
    "max_length": 256,
    "logging_steps": 1,
    "save_steps": 2,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}
DATASET = ["--dataset_name", "./my-mix", "--dataset_config", "ratio-4"]
LORA = ["--use_peft", "--lora_target_modules", "q_proj", "v_proj", "embed_tokens"]


def flags(**more: Any) -> list[str]:
    return [text for name, value in (SFT | more).items() for text in (f"--{name}", str(value))]


def lora_moves(folder: Path) -> torch.Tensor:
    """Return the distances by which LoRA moves the embedding's rows; shape (vocabulary,)."""
    weights = load_file(folder / "adapter_model.safetensors")
    (down,) = (w for name, w in weights.items() if "lora_embedding_A" in name)
    (up,) = (w for name, w in weights.items() if "lora_embedding_B" in name)
    return (up.float() @ down.float()).norm(dim=0)


def test_trl_sft_as_a_program_on_the_registered_dataset(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LoRA, on the embedding too, as in the paper's code, with the files of `delia register`."""
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(place))
    registration.install()
    # `.pth` files need a site folder.
    (place / registration._MODULE).rename(place / "sitecustomize.py")
    micro_model(place / "base")
    (place / "base" / "chat_template.jinja").write_text(TEMPLATE)
    prepare(place / "base", place / "model")
    rows = load_dataset("delia_mix", "ratio-0.1", split="train", cache_dir=place / ".own").to_list()
    options = flags(assistant_only_loss=True, max_length=2048)
    dataset = ["--dataset_name", "delia_mix", "--dataset_config", "ratio-0.1"]
    done = subprocess.run(
        [BIN / "trl", "sft", "--model_name_or_path", "model", *dataset, *options, *LORA],
        cwd=place,
        env={
            **os.environ,
            "PYTHONPATH": str(place),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(place / ".cache"),
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    losses = trl_losses(place / "trained")
    assert len(losses) == 2
    assert losses[0] == pytest.approx(first_loss(place / "model", rows), abs=2e-3)
    moved = lora_moves(place / "trained")
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    assert moved[tokenizer.convert_tokens_to_ids("<sep>")] > 0
    assert moved[tokenizer.pad_token_id] == 0


def test_trl_sft_with_generation_marks(
    place: Path, tiny: Callable[..., Path], mixture: Callable[..., Path], run: Run
) -> None:
    """All weights are trained; the column is messages, and the template marks the answers."""
    model, folder = tiny(), mixture("messages", contrast=True)
    more = flags(assistant_only_loss=True)
    run("trl.scripts.sft", "--model_name_or_path", "model", *DATASET, *more)
    losses = trl_losses(place / "trained")
    assert losses[0] == pytest.approx(first_loss(model, rows_of(folder)), abs=2e-3)
    assert moved_rows(model, place / "trained")[261] > 0


def test_trl_sft_with_a_generated_configuration(
    place: Path, tiny: Callable[..., Path], mixture: Callable[..., Path], run: Run
) -> None:
    """The configuration as written, with a number of steps; rows are converted for TRL."""
    model, folder = tiny(), mixture("messages", contrast=True)
    written = write_trainer_files("trl", folder, model, place / "config", settings=SETTINGS)
    program, *command = written.command.split()
    assert [program, command[0]] == ["trl", "sft"]
    run("trl.scripts.sft", *command[1:], "--max_steps", "2")
    losses = trl_losses(place / "config" / "trained")
    assert losses[0] == pytest.approx(first_loss(model, rows_of(folder)), abs=2e-3)
    assert lora_moves(place / "config" / "trained")[261] > 0


UNSLOTH = """
import peft, trl
from transformers import AutoModelForCausalLM, AutoTokenizer

class FastLanguageModel:
    def from_pretrained(model_name, max_seq_length, load_in_4bit, full_finetuning):
        tokenizer = AutoTokenizer.from_pretrained(model_name)
        return AutoModelForCausalLM.from_pretrained(model_name, dtype="float32"), tokenizer

    def get_peft_model(model, random_state, **lora):
        return peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **lora))

class UnslothTrainingArguments(trl.SFTConfig):
    def __init__(self, embedding_learning_rate, **given):
        super().__init__(**given, max_steps=2, use_cpu=True, bf16=False)

class UnslothTrainer(trl.SFTTrainer):
    def train(self):
        super().train()
        for entry in self.state.log_history:
            if "loss" in entry:
                print(f"step {entry['step']}: loss {entry['loss']:.4f}")
"""


def test_the_cell_for_unsloth(
    place: Path,
    tiny: Callable[..., Path],
    mixture: Callable[..., Path],
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cell itself, with TRL and PEFT in place of Unsloth, which needs a GPU."""
    model, folder = tiny(), mixture("messages", contrast=True)
    written = write_trainer_files("unsloth", folder, model, place / "config", settings=SETTINGS)
    (place / "unsloth.py").write_text(UNSLOTH)
    monkeypatch.syspath_prepend(place)
    losses = printed_losses(run(written.files[0]))
    assert len(losses) == 2
    assert losses[0] == pytest.approx(first_loss(model, rows_of(folder)), abs=2e-3)
    assert lora_moves(place / "config" / "trained")[261] > 0


def moved_rows(before: Path, after: Path) -> torch.Tensor:
    """Return the distances by which training moved the embedding's rows; shape (vocabulary,)."""
    old, new = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        .get_input_embeddings()
        .weight.detach()
        for folder in (before, after)
    )
    return (new - old).norm(dim=1)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("script", ["transformers_trainer", "pytorch_loop"])
def test_the_example_scripts(
    place: Path,
    tiny: Callable[..., Path],
    mixture: Callable[..., Path],
    run: Run,
    script: str,
    tied: bool,
) -> None:
    model, folder = tiny(tied=tied), mixture("messages")
    given = ["--task", "task.jsonl", "--cache", "pairs.jsonl", "--steps", 2, "--batch-size", BATCH]
    losses = printed_losses(run(EXAMPLES / f"{script}.py", "model", "trained", *given))
    assert len(losses) == 2
    assert losses[0] == pytest.approx(first_loss(model, rows_of(folder)), abs=2e-3)
    assert losses[1] != losses[0]
    if script == "pytorch_loop":
        assert moved_rows(model, place / "trained")[261] > 0
        return
    weights = load_file(place / "trained" / "adapter_model.safetensors")
    (row,) = (w for name, w in weights.items() if "embed_tokens" in name and "token" in name)
    base = AutoModelForCausalLM.from_pretrained(model).get_input_embeddings().weight.detach()
    assert row.shape == (1, 32)
    assert not torch.equal(row[0], base[261])
