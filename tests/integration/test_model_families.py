"""Model families of today, tiny and random: two steps of training, then an evaluation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from chat_models import marked_tokenizer, shipped_template
from safetensors.torch import load_file
from trained import MARKS, ROWS, losses, seen_trainers
from transformers import AutoModelForCausalLM
from wordings import save_task

from delia_data.errors import SettingsError, TokenError
from delia_data.evaluation import EvalTask, evaluate, open_system
from delia_data.models import quiet
from delia_data.tasks import bundled_task, bundled_wordings
from delia_data.training import TrainSettings, train
from delia_data.training.adapter import load_adapter

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

MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen3": ("Qwen3Config", "qwen3", {}),
    "qwen3_5": ("Qwen3_5TextConfig", "qwen3_5_think", LINEAR),
    "gptoss": ("GptOssConfig", "gptoss", EXPERTS),
    "gemma3": ("Gemma3TextConfig", "gemma3", {"sliding_window": 64}),
    "llama3": ("LlamaConfig", "llama3", {}),
    "phi4": ("Phi3Config", "", {}),
    "qwen3_moe": ("Qwen3MoeConfig", "qwen3", MOE),
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
    return EvalTask.read(save_task(folder, few, bundled_wordings()))


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
    settings = settings_of(model, template_options=options, dropout=0.0)
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


def weights(adapter: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = load_file(adapter / "adapter_model.safetensors")
    return loaded


def test_experts_are_trained(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model", "qwen3_moe")
    with pytest.raises(SettingsError, match="set dropout to 0"):
        train(settings_of(model), ROWS, tmp_path / "refused")
    settings = settings_of(model, dropout=0.0, optimizer="adafactor", rslora=True)
    train(settings, ROWS, tmp_path / "adapter")
    trained = weights(tmp_path / "adapter")
    changed = {name for name, weight in trained.items() if "lora_B" in name and weight.any()}
    for layer in range(2):
        inner = {name for name in changed if f"layers.{layer}.mlp.experts" in name}
        assert len(inner) == 2, "gate_up_proj and down_proj of all experts"
        assert all(
            weight.shape[0] == 8
            for name, weight in trained.items()
            if "experts" in name and "lora_A" in name
        )
    before = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    after, _ = load_adapter(tmp_path / "adapter")
    for name in ("gate_up_proj", "down_proj"):
        old, new = (getattr(each.model.layers[0].mlp.experts, name) for each in (before, after))
        assert [bool((a != b).any()) for a, b in zip(old, new, strict=True)] == [True] * 4


def test_variants_of_lora_and_the_optimizer_are_used(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model", "llama3")
    train(settings_of(model, dora=True, rslora=True), ROWS, tmp_path / "dora")
    config = json.loads((tmp_path / "dora" / "adapter_config.json").read_text())
    assert (config["use_dora"], config["use_rslora"]) == (True, True)
    assert any("lora_magnitude_vector" in name for name in weights(tmp_path / "dora"))
    with seen_trainers() as seen:
        train(settings_of(model, optimizer="sgd"), ROWS, tmp_path / "sgd")
    assert type(seen[0].optimizer.optimizer).__name__ == "SGD"
    with pytest.raises(SettingsError, match="did you mean 'adafactor'"):
        train(settings_of(model, optimizer="adafactr"), ROWS, tmp_path / "refused")


def test_a_mode_that_rows_cannot_have_is_refused(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model", "qwen3_5")
    with pytest.raises(TokenError, match="--template-option enable_thinking=false"):
        train(settings_of(model), ROWS, tmp_path / "adapter")
