"""QLoRA (arXiv 2305.14314): LoRA on weights that are kept in 4 bits, trained and exported."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trained import ROWS, logits_of, losses, seen_trainers, sequences, stop_at, tiny_settings
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from delia_data.errors import MissingExtraError
from delia_data.training import TrainSettings, load_adapter, train
from delia_data.training.adapter import export_merged, export_parted
from delia_data.training.loading import load_prepared, load_prepared_tokenizer
from delia_data.training.watching import read_watched

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

MakeSettings = Callable[..., TrainSettings]


@pytest.fixture
def make_settings(
    tmp_path: Path, make_tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: Any
) -> MakeSettings:
    def make(*, tied: bool = True, **over: Any) -> TrainSettings:
        model = make_tiny_model(tied=tied)
        given = {"adaptation": "qlora", "dtype": "float32", **over}
        return tiny_settings(tmp_path / f"model-{tied}", model, tiny_tokenizer, **given)

    return make


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "form",
    [{}, {"token_training": "lora"}, {"gradient_checkpointing": True}],
    ids=["row", "lora", "checkpointing"],
)
def test_it_is_lora_on_what_4_bits_hold(
    make_settings: MakeSettings, tmp_path: Path, tied: bool, form: dict[str, Any]
) -> None:
    settings = make_settings(tied=tied, **form)
    train(settings, ROWS, tmp_path / "packed")
    tokenizer = load_prepared_tokenizer(settings)
    rounded = load_prepared(settings, tokenizer, whole=True)
    own = AutoModelForCausalLM.from_pretrained(settings.model, dtype=torch.float32)
    moved = {
        name: (weight - dict(rounded.named_parameters())[name]).abs().max().item()
        for name, weight in own.named_parameters()
        if name.endswith(("proj.weight", "norm.weight"))
    }
    assert all((change > 0) == ("proj" in name) for name, change in moved.items())
    rounded.resize_token_embeddings(len(tokenizer) - 1)  # training adds the token itself
    rounded.save_pretrained(tmp_path / "rounded")
    AutoTokenizer.from_pretrained(settings.model).save_pretrained(tmp_path / "rounded")
    plain = replace(settings, adaptation="lora", model=str(tmp_path / "rounded"))
    train(plain, ROWS, tmp_path / "plain")
    # Adam's first steps turn rounding, which depends on the processor, into whole steps of weights
    # whose gradient is nearly 0: before them the losses agree closely, and later less so.
    packed, unpacked = losses(tmp_path / "packed"), losses(tmp_path / "plain")
    assert packed[0] == pytest.approx(unpacked[0], rel=1e-6)
    assert packed == pytest.approx(unpacked, rel=1e-3)
    assert losses(tmp_path / "packed")[-1] < losses(tmp_path / "packed")[0]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reloaded_merged_and_parted_it_computes_the_same(
    make_settings: MakeSettings, tmp_path: Path, tied: bool, dtype: str
) -> None:
    settings = make_settings(tied=tied, dtype=dtype)
    with seen_trainers() as trainers:
        train(settings, ROWS, tmp_path / "adapter")
    ids = sequences(load_prepared_tokenizer(settings))
    in_memory = logits_of(trainers[0].model, ids)
    bound = in_memory.abs().max() * (1e-5 if dtype == "float32" else 2e-2)
    reloaded, _ = load_adapter(tmp_path / "adapter")
    assert (logits_of(reloaded, ids) - in_memory).abs().max() <= bound
    if dtype == "float32":
        own = beside_its_own_weights(settings, tmp_path / "adapter")
        assert (logits_of(own, ids) - in_memory).abs().max() > 100 * bound, "4 bits are coarse"
    export_merged(tmp_path / "adapter", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", dtype=getattr(torch, dtype), local_files_only=True
    )
    assert not hasattr(merged.config, "quantization_config")
    assert torch.equal(logits_of(merged, ids), logits_of(reloaded, ids))
    export_parted(tmp_path / "adapter", tmp_path / "parted")
    base = AutoModelForCausalLM.from_pretrained(
        tmp_path / "parted" / "model", dtype=getattr(torch, dtype), local_files_only=True
    )
    base.load_adapter(str(tmp_path / "parted" / "adapter"))
    assert (logits_of(base, ids) - in_memory).abs().max() <= bound


def beside_its_own_weights(settings: TrainSettings, adapter: Path) -> Any:
    """The adapter on the model's weights as they were before 4 bits held them."""
    import peft

    plain = replace(settings, adaptation="lora")
    model = load_prepared(plain, load_prepared_tokenizer(plain))
    return peft.PeftModel.from_pretrained(model, adapter)


def test_steps_that_bfloat16_cannot_tell_are_not_lost(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    settings = make_settings(dtype="bfloat16", learning_rate=1e-5, token_learning_rate=1e-5)
    with seen_trainers() as trainers:
        train(settings, ROWS, tmp_path / "adapter")
    trained = [p for p in trainers[0].model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    row = next(p for n, p in trainers[0].model.named_parameters() if "trainable_tokens" in n)
    tokenizer = load_prepared_tokenizer(settings)
    began = load_prepared(settings, tokenizer).get_input_embeddings().weight[-1].float()
    moved = (row[0] - began).abs()
    assert moved.min() > 0
    assert moved.max() < 6 * 1e-5 * 1.5


def test_a_stopped_run_goes_on_to_the_same_losses(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    settings = make_settings(save_every_steps=2)
    train(settings, ROWS, tmp_path / "unbroken")

    with pytest.raises(KeyboardInterrupt):
        train(settings, ROWS, tmp_path / "broken", on_step=stop_at(5))
    seen: list[int] = []
    train(settings, ROWS, tmp_path / "broken", on_step=lambda step, *_: seen.append(step))
    assert seen == [5, 6]
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")


def test_a_watched_training_is_the_same_training(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    """A model that is asked in evaluation mode, and trained on."""

    class Asked:
        def measure(self, model: Any, tokenizer: Any, step: int) -> dict[str, float]:
            logits = logits_of(model, sequences(tokenizer))
            model.train()
            return {"mean": logits.mean().item()}

    settings = make_settings(dtype="bfloat16")
    train(settings, ROWS, tmp_path / "plain")
    watched = replace(settings, watch_every_steps=2, watch_keywords=("even",))
    train(watched, ROWS, tmp_path / "watched", watches=[Asked()])
    assert len(read_watched(tmp_path / "watched")) == 4
    assert losses(tmp_path / "watched") == losses(tmp_path / "plain")


def test_without_bitsandbytes_the_extra_is_named(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match=r"delia_data\[qlora\]"):
        train(make_settings(), ROWS, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
