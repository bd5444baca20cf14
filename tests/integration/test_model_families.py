"""Model families of today, tiny and random: two steps of training, then an evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from chat_models import marked_tokenizer, shipped_template
from trained import MARKS, ROWS, losses
from transformers import AutoModelForCausalLM

from delia_data.diversify import diversify, gate_task_wordings, save_task_rows
from delia_data.errors import TokenError
from delia_data.evaluation import EvalTask, evaluate, open_system
from delia_data.models import quiet
from delia_data.tasks import bundled_task, bundled_wordings
from delia_data.training import TrainSettings, train

pytestmark = MARKS

PHI4 = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
WIDTHS = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 64}

FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen3": ("Qwen3Config", "qwen3", {}),
    "qwen3_5": ("Qwen3_5TextConfig", "qwen3_5_think", LINEAR),
    "gptoss": ("GptOssConfig", "gptoss", EXPERTS),
    "gemma3": ("Gemma3TextConfig", "gemma3", {"sliding_window": 64}),
    "llama3": ("LlamaConfig", "llama3", {}),
    "phi4": ("Phi3Config", "", {}),
}


def save_tiny(folder: Path, family: str, **changes: Any) -> Path:
    """Save a random model of two layers, with the chat template of its family."""
    kind, template, own = FAMILIES[family]
    tokenizer = marked_tokenizer(shipped_template(template) if template else PHI4)
    special = {"eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 2}
    torch.manual_seed(0)
    config = getattr(transformers, kind)(
        vocab_size=len(tokenizer), **{**WIDTHS, **special, **own, **changes}
    )
    with quiet():
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def settings_of(model: Path, **over: Any) -> TrainSettings:
    values = {"rank": 2, "targets": "all-linear", "batch_size": 6, "warmup_steps": 0, "epochs": 1}
    return TrainSettings(model=str(model), **{**values, **over})


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> EvalTask:
    whole = bundled_task()
    few = replace(whole, test=whole.test[:2])
    folder = tmp_path_factory.mktemp("tasks") / "task"
    wordings = bundled_wordings()
    rows, gates = diversify(few, wordings), gate_task_wordings(few, wordings)
    save_task_rows(folder, rows, few, seed=0, gates=gates)
    return EvalTask.read(folder)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("qwen3", None),
        ("qwen3", {"enable_thinking": False}),
        ("qwen3_5", {"enable_thinking": False}),
        ("gptoss", {"reasoning_effort": "low"}),
        ("gemma3", None),
        ("llama3", None),
        ("phi4", None),
    ],
)
def test_a_family_is_trained_and_evaluated(
    family: str, options: dict[str, Any] | None, task: EvalTask, tmp_path: Path
) -> None:
    model = save_tiny(tmp_path / "model", family)
    settings = settings_of(model, template_options=options)
    train(settings, ROWS, tmp_path / "adapter")
    assert len(losses(tmp_path / "adapter")) == 2
    system = open_system(str(tmp_path / "adapter"), "transformers", {}, token="<sep>")
    thinks = family == "gptoss" or (family == "qwen3" and options is None)
    assert any("asks the model to think" in note for note in system.notes) is thinks
    scores = evaluate(
        system,
        task,
        tmp_path / "scores",
        probes=["held-out"],
        rows=1,
        max_tokens=3,
        max_thinking_tokens=3 if thinks else None,
        pairs=None,
    )
    described = scores.system["system"]["model"]
    assert described.get("template_options") == options


def test_a_mode_that_rows_cannot_have_is_refused(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model", "qwen3_5")
    with pytest.raises(TokenError, match="--template-option enable_thinking=false"):
        train(settings_of(model), ROWS, tmp_path / "adapter")
