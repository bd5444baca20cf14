"""The weights that each form of training changes; reloaded and exported, a model is the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Delia, refused
from trained import MARKS, ROWS, logits_of, losses, seen_trainers, sequences, stop_at
from transformers import AutoModelForCausalLM, AutoTokenizer

from delia_data.errors import ForeignFolderError, InputError, SettingsError, UnfinishedError
from delia_data.outputs import read_manifest
from delia_data.tokens import add_token
from delia_data.training import TrainSettings, load_adapter, train
from delia_data.training.adapter import export_merged, export_parted
from delia_data.training.loading import load_prepared, load_prepared_tokenizer
from delia_data.training.watching import read_watched

pytestmark = MARKS

NEVER = 255
"""Id of a byte that is in no row."""
MakeSettings = Callable[..., TrainSettings]
QLORA = {"adaptation": "qlora", "dtype": "float32"}


def initial(settings: TrainSettings) -> tuple[Any, Any]:
    """Return the model and tokenizer as training begins with them."""
    model = AutoModelForCausalLM.from_pretrained(settings.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(settings.model)
    add_token(model, tokenizer, init=settings.init, description=settings.description, seed=0)
    return model, tokenizer


@pytest.mark.parametrize("tied", [True, False])
def test_of_the_embedding_the_tokens_row_alone_moves(
    make_settings: MakeSettings, tmp_path: Path, tied: bool
) -> None:
    settings = make_settings(tied=tied, dtype="float32")
    train(settings, ROWS, tmp_path / "adapter")
    before, tokenizer = initial(settings)
    after, _ = load_adapter(tmp_path / "adapter")
    token_id = tokenizer.convert_tokens_to_ids("<sep>")
    old, new = (m.get_input_embeddings().weight.detach() for m in (before, after))
    assert torch.equal(new[:token_id], old[:token_id])
    assert (new[token_id] - old[token_id]).abs().max() > 0.05
    old, new = (m.get_output_embeddings().weight.detach() for m in (before, after))
    assert torch.equal(new[:token_id], old[:token_id])
    assert torch.equal(new[token_id], old[token_id]) != tied, "an untied head is not trained"


@pytest.mark.parametrize("tied", [True, False])
def test_lora_on_the_embedding_moves_the_rows_that_occur(
    make_settings: MakeSettings, tmp_path: Path, tied: bool
) -> None:
    """As the paper's code has it: other rows move as well, but none that no row names."""
    settings = make_settings(tied=tied, dtype="float32", token_training="lora")
    train(settings, ROWS, tmp_path / "adapter")
    before, tokenizer = initial(settings)
    after, _ = load_adapter(tmp_path / "adapter")
    moved = after.get_input_embeddings().weight - before.get_input_embeddings().weight
    change = moved.detach().abs().amax(1)
    assert change[tokenizer.convert_tokens_to_ids("<sep>")] > 1e-3
    assert change[tokenizer.encode("e")[0]] > 1e-3
    assert change[NEVER] == 0
    heads = [m.get_output_embeddings().weight.detach() for m in (before, after)]
    assert torch.equal(*heads), "a head that was tied stays as it was"


FORMS = {
    "row": {"token_training": "row"},
    "lora": {"token_training": "lora"},
    "full": {"adaptation": "full", "learning_rate": 1e-3},
    "qlora": {"adaptation": "qlora"},
}


@pytest.mark.parametrize(
    ("tied", "dtype"), [(True, "float32"), (False, "float32"), (True, "bfloat16")]
)
@pytest.mark.parametrize("form", FORMS)
def test_reloaded_and_exported_the_model_computes_the_same(
    make_settings: MakeSettings, tmp_path: Path, tied: bool, dtype: str, form: str
) -> None:
    settings = make_settings(tied=tied, dtype=dtype, **FORMS[form])
    with seen_trainers() as trainers:
        train(settings, ROWS, tmp_path / "adapter")
    untrained, tokenizer = initial(settings)
    ids = sequences(tokenizer)
    in_memory = logits_of(trainers[0].model, ids)
    bound = in_memory.abs().max() * (1e-5 if dtype == "float32" else 2e-2)
    assert (logits_of(untrained, ids) - in_memory).abs().max() > 5 * bound
    reloaded, same = load_adapter(tmp_path / "adapter")
    assert same.encode("<sep>") == tokenizer.encode("<sep>")
    assert (logits_of(reloaded, ids) - in_memory).abs().max() <= bound
    export_merged(tmp_path / "adapter", tmp_path / "merged")
    merged = load(tmp_path / "merged", dtype)
    assert merged.config.tie_word_embeddings == (tied and form != "lora")
    assert not hasattr(merged.config, "quantization_config")
    assert sequences(AutoTokenizer.from_pretrained(tmp_path / "merged")) == ids
    assert (logits_of(merged, ids) - logits_of(reloaded, ids)).abs().max() <= bound
    read_manifest(tmp_path / "merged", verify=True)
    if form in ("row", "qlora"):
        parted = export_parted(tmp_path / "adapter", tmp_path / "parted")
        served = load(tmp_path / "parted" / "model", dtype)
        served.load_adapter(str(tmp_path / "parted" / "adapter"))
        assert (logits_of(served, ids) - in_memory).abs().max() <= bound
        names = lora_names(tmp_path / "parted" / "adapter")
        assert names and all(".lora_" in name and "embed" not in name for name in names)
        assert export_parted(tmp_path / "adapter", tmp_path / "parted") == parted


def load(folder: Path, dtype: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), local_files_only=True
    )


def lora_names(folder: Path) -> list[str]:
    from safetensors.torch import load_file

    return [*load_file(folder / "adapter_model.safetensors")]


@pytest.mark.parametrize(
    ("init", "over"),
    [("mean", {}), ("normal", {}), ("description", {"description": "a JSON object"})],
)
def test_the_tokens_initial_row(
    make_settings: MakeSettings, tmp_path: Path, init: str, over: dict[str, Any]
) -> None:
    """At a rate of 0 the row stays where it began."""
    settings = make_settings(tied=True, dtype="float32", init=init, token_rate=0, **over)
    train(settings, ROWS, tmp_path / "adapter")
    model, tokenizer = load_adapter(tmp_path / "adapter")
    weight = model.get_input_embeddings().weight.detach()
    token_id = tokenizer.convert_tokens_to_ids("<sep>")
    expected = weight[:token_id].mean(0)
    if init == "description":
        expected = weight[torch.tensor(tokenizer.encode("a JSON object"))].mean(0)
    if init == "normal":
        assert not torch.allclose(weight[token_id], expected, atol=1e-3)
        untrained, _ = initial(settings)
        expected = untrained.get_input_embeddings().weight[token_id]
    assert torch.allclose(weight[token_id], expected, atol=1e-6)


def test_full_fine_tuning_moves_every_weight(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings(tied=True, adaptation="full", epochs=1)
    manifest = train(settings, ROWS, tmp_path / "adapter")
    assert manifest.settings["dtype"] == "float32", "steps are lost in bfloat16"
    before, _ = initial(settings)
    after, _ = load_adapter(tmp_path / "adapter")
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    assert old.keys() == new.keys()
    assert not any(torch.equal(old[name], new[name]) for name in old)


def test_exports_that_are_refused(
    make_settings: MakeSettings, tmp_path: Path, delia: Delia
) -> None:
    refused(delia("export", tmp_path / "none", tmp_path / "out", "--merged"), "does not exist")
    settings = make_settings(tied=True, token_training="lora", epochs=1)
    train(settings, ROWS, tmp_path / "a")
    train(replace(settings, seed=1), ROWS, tmp_path / "b")
    with pytest.raises(InputError, match="LoRA on the embedding, which cannot be parted"):
        export_parted(tmp_path / "a", tmp_path / "out")
    with pytest.raises(InputError, match="the adapter's own folder"):
        export_merged(tmp_path / "a", tmp_path / "a" / "merged")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("dear")
    with pytest.raises(ForeignFolderError):
        export_merged(tmp_path / "a", tmp_path / "mine")
    export_merged(tmp_path / "a", tmp_path / "out")
    assert export_merged(tmp_path / "a", tmp_path / "out").kind == "model"
    with pytest.raises(SettingsError, match="seed was 0 and is now 1"):
        export_merged(tmp_path / "b", tmp_path / "out")
    with pytest.raises(InputError, match="holds a model, not an adapter"):
        export_merged(tmp_path / "out", tmp_path / "twice")
    (tmp_path / "out" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UnfinishedError, match="is not what its manifest says"):
        export_merged(tmp_path / "a", tmp_path / "out")


def test_the_command_exports_both_forms(
    make_settings: MakeSettings, tmp_path: Path, delia: Delia
) -> None:
    train(make_settings(tied=True, epochs=1), ROWS, tmp_path / "adapter")
    merged = delia("export", tmp_path / "adapter", tmp_path / "merged", "--merged", "--json")
    assert json.loads(merged.out)["model"] == str(tmp_path / "merged")
    parted = delia("export", tmp_path / "adapter", tmp_path / "parted")
    assert parted.code == 0 and "adapter in" in parted.out
    assert read_manifest(tmp_path / "parted" / "model", verify=True).kind == "model"


@pytest.mark.parametrize("form", FORMS)
def test_pairs_keep_every_form_near_the_untrained_model_also_after_a_stop(
    make_settings: MakeSettings, tmp_path: Path, form: str
) -> None:
    """A resumed full fine-tuning compares with the model as it was, not with the checkpoint."""
    dtype = "float32" if form != "qlora" else "bfloat16"
    values = {"tied": True, "dtype": dtype, "save_every_steps": 2, **FORMS[form]}
    settings = make_settings(**values, pairs_loss="kl")
    train(settings, ROWS, tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        train(settings, ROWS, tmp_path / "broken", on_step=stop_at(5))
    train(settings, ROWS, tmp_path / "broken")
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")
    logged = json.loads((tmp_path / "unbroken" / "losses.json").read_text())
    assert 0 < logged[-1]["loss_pairs"] < 1 < logged[0]["loss_task"]


# QLoRA (arXiv 2305.14314): LoRA on weights that are kept in 4 bits


@pytest.mark.parametrize(
    "form",
    [
        {"tied": True},
        {"tied": False, "token_training": "lora"},
        {"tied": True, "gradient_checkpointing": True},
    ],
    ids=["row", "lora", "checkpointing"],
)
def test_qlora_is_lora_on_the_values_that_4_bits_hold(
    make_settings: MakeSettings, tmp_path: Path, form: dict[str, Any]
) -> None:
    settings = make_settings(**QLORA, **form)
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


def test_steps_smaller_than_bfloat16_resolves_are_kept(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    settings = make_settings(
        adaptation="qlora", dtype="bfloat16", learning_rate=1e-5, token_rate=5e-4
    )
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


def test_a_model_that_generates_during_training_trains_the_same(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    """A watch puts the model into evaluation mode, and back."""

    class Generating:
        def measure(self, model: Any, tokenizer: Any, step: int) -> dict[str, float]:
            logits = logits_of(model, sequences(tokenizer))
            model.train()
            return {"mean": logits.mean().item()}

    settings = make_settings(adaptation="qlora", dtype="bfloat16")
    train(settings, ROWS, tmp_path / "plain")
    watched = replace(settings, watch_every_steps=2, watch_keywords=("even",))
    train(watched, ROWS, tmp_path / "watched", watches=[Generating()])
    assert len(read_watched(tmp_path / "watched")) == 4
    assert losses(tmp_path / "watched") == losses(tmp_path / "plain")
