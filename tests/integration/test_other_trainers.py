"""A prepared model and a mixture in scripts that know nothing of us.

Two steps each. The loss of the first step is worked out here by itself, over the answers' tokens
of the mixture's first rows: it is the same only where the script takes the same rows in the same
order, and its loss on the answers alone. And the token's row of the embedding moves.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from delia_data.mixing import mix, save_mixture
from delia_data.models import DEFAULT_MODEL, quiet
from delia_data.reading import read_records
from delia_data.records import Format, read_record
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

pytestmark = pytest.mark.integration
needs_trl = pytest.mark.skipif(not (BIN / "trl").is_file(), reason="trl is not installed")

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
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text, "utf-8")
    return tmp_path


@pytest.fixture
def tiny(
    place: Path,
    make_tiny_model: Callable[..., Any],
    make_tiny_tokenizer: Callable[[], Any],
) -> Callable[..., Path]:
    """Prepares a random tiny model whose chat template has generation marks."""

    def tiny(*, tied: bool = True) -> Path:
        tokenizer = make_tiny_tokenizer()
        tokenizer.chat_template = TEMPLATE
        with quiet():
            make_tiny_model(tied=tied).save_pretrained(place / "base")
        tokenizer.save_pretrained(place / "base")
        prepare(place / "base", place / "model")
        return place / "model"

    return tiny


@pytest.fixture
def mixture(place: Path) -> Callable[[Format], Path]:
    """Writes the mixture of ratio 4 as a folder, in a row format."""

    def mixture(format: Format) -> Path:
        task = read_task_rows(place / "task.jsonl")
        pairs = list(read_records(place / "pairs.jsonl"))
        save_mixture(mix(task, pairs, ratio=4, format=format), place / "my-mix")
        return place / "my-mix"

    return mixture


@pytest.fixture
def run(place: Path) -> Run:
    """Runs a program there, with caches of its own and without a network; gives its output."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(place / ".cache" / "datasets"),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    return run


def first_loss(model: Path, rows: list[dict[str, Any]]) -> float:
    """Mean cross-entropy of the answers' tokens of the first rows, one row after another."""
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


def trl_losses(place: Path) -> list[float]:
    state = json.loads((place / "trained" / "checkpoint-2" / "trainer_state.json").read_text())
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
LORA = ["--use_peft", "--lora_target_modules", "q_proj", "v_proj", "embed_tokens"]


def flags(**more: Any) -> list[str]:
    return [text for name, value in (SFT | more).items() for text in (f"--{name}", str(value))]


def lora_moves(folder: Path) -> torch.Tensor:
    """How far LoRA on the embedding moves each of its rows: shape (vocabulary,)."""
    weights = load_file(folder / "adapter_model.safetensors")
    (down,) = (w for name, w in weights.items() if "lora_embedding_A" in name)
    (up,) = (w for name, w in weights.items() if "lora_embedding_B" in name)
    return (up.float() @ down.float()).norm(dim=0)


@needs_trl
def test_trl_sft_on_the_embedded_model(
    place: Path, mixture: Callable[[Format], Path], run: Run
) -> None:
    """LoRA, on the embedding too, as the paper's code has it; prompt and completion are columns."""
    prepare(DEFAULT_MODEL, place / "model")
    folder = mixture("prompt_completion")
    dataset = ["--dataset_name", "./my-mix", "--dataset_config", "ratio-4"]
    run(BIN / "trl", "sft", "--model_name_or_path", "model", *dataset, *flags(), *LORA)
    losses = trl_losses(place)
    assert len(losses) == 2
    assert losses[0] == pytest.approx(first_loss(place / "model", rows_of(folder)), abs=2e-3)
    moved = lora_moves(place / "trained")
    unused = AutoTokenizer.from_pretrained(place / "model").convert_tokens_to_ids("<file_sep>")
    assert moved[49152] > 0
    assert moved[unused] == 0


@needs_trl
def test_trl_sft_with_generation_marks(
    place: Path, tiny: Callable[..., Path], mixture: Callable[[Format], Path], run: Run
) -> None:
    """Every weight is trained; the column is messages, and the template says what is labelled."""
    model, folder = tiny(), mixture("messages")
    dataset = ["--dataset_name", "./my-mix", "--dataset_config", "ratio-4"]
    more = flags(assistant_only_loss=True)
    run(BIN / "trl", "sft", "--model_name_or_path", "model", *dataset, *more)
    losses = trl_losses(place)
    assert losses[0] == pytest.approx(first_loss(model, rows_of(folder)), abs=2e-3)
    assert moved_rows(model, place / "trained")[261] > 0


@needs_trl
def test_trl_sft_with_a_generated_configuration(
    place: Path, tiny: Callable[..., Path], mixture: Callable[[Format], Path], run: Run
) -> None:
    """As it stands, with nothing but the number of steps beside it; rows are written anew."""
    model, folder = tiny(), mixture("messages")
    settings = TrainSettings(batch_size=BATCH, max_length=256, learning_rate=1e-2, warmup_steps=0)
    written = write_trainer_files("trl", folder, model, place / "config", settings=settings)
    program, *command = written.command.split()
    run(BIN / program, *command, "--max_steps", "2")
    logged = place / "config" / "trained" / "checkpoint-2" / "trainer_state.json"
    losses = [e["loss"] for e in json.loads(logged.read_text())["log_history"] if "loss" in e]
    assert losses[0] == pytest.approx(first_loss(model, rows_of(folder)), abs=2e-3)
    assert lora_moves(place / "config" / "trained")[261] > 0


UNSLOTH = """
import sys, types
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

module = types.ModuleType("unsloth")
vars(module).update({name: globals()[name] for name in list(globals()) if "Unsloth" in name})
module.FastLanguageModel = FastLanguageModel
sys.modules["unsloth"] = module
exec(compile(open(sys.argv[1]).read(), sys.argv[1], "exec"), {"__name__": "cell"})
"""


@needs_trl
def test_the_cell_for_unsloth(
    place: Path, tiny: Callable[..., Path], mixture: Callable[[Format], Path], run: Run
) -> None:
    """The cell itself, with TRL and PEFT in the place of Unsloth, which needs a GPU."""
    model, folder = tiny(), mixture("messages")
    settings = TrainSettings(batch_size=BATCH, max_length=256, learning_rate=1e-2, warmup_steps=0)
    written = write_trainer_files("unsloth", folder, model, place / "config", settings=settings)
    losses = printed_losses(run(sys.executable, "-c", UNSLOTH, written.files[0]))
    assert len(losses) == 2
    assert losses[0] == pytest.approx(first_loss(model, rows_of(folder)), abs=2e-3)
    assert lora_moves(place / "config" / "trained")[261] > 0


def moved_rows(before: Path, after: Path) -> torch.Tensor:
    """How far training moved each row of the embedding: shape (vocabulary,)."""
    old, new = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        .get_input_embeddings()
        .weight.detach()
        for folder in (before, after)
    )
    return (new - old).norm(dim=1)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_plain_transformers_trainer(
    place: Path,
    tiny: Callable[..., Path],
    mixture: Callable[[Format], Path],
    run: Run,
    tied: bool,
) -> None:
    pytest.importorskip("peft")
    model, folder = tiny(tied=tied), mixture("messages")
    given = ["--task", "task.jsonl", "--cache", "pairs.jsonl", "--steps", "2"]
    script = EXAMPLES / "transformers_trainer.py"
    out = run(sys.executable, script, "model", "trained", *given, "--batch-size", str(BATCH))
    losses = printed_losses(out)
    assert len(losses) == 2
    assert losses[0] == pytest.approx(first_loss(model, rows_of(folder)), abs=2e-3)
    weights = load_file(place / "trained" / "adapter_model.safetensors")
    (row,) = (w for name, w in weights.items() if "embed_tokens" in name and "token" in name)
    base = AutoModelForCausalLM.from_pretrained(model).get_input_embeddings().weight.detach()
    assert row.shape == (1, 32)
    assert not torch.equal(row[0], base[261])


def test_a_plain_pytorch_loop(
    place: Path, tiny: Callable[..., Path], mixture: Callable[[Format], Path], run: Run
) -> None:
    model, folder = tiny(), mixture("messages")
    given = ["--task", "task.jsonl", "--cache", "pairs.jsonl", "--steps", "2"]
    script = EXAMPLES / "pytorch_loop.py"
    out = run(sys.executable, script, "model", "trained", *given, "--batch-size", str(BATCH))
    losses = printed_losses(out)
    assert len(losses) == 2
    assert losses[0] == pytest.approx(first_loss(model, rows_of(folder)), abs=2e-3)
    assert losses[1] != losses[0]
    assert moved_rows(model, place / "trained")[261] > 0
