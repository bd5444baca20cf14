"""What is trained of a model, tied and untied; and that every form of it computes the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Delia, refused
from trained import ROWS, logits_of, seen_trainers, sequences, tiny_settings
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from delia_data.errors import ForeignFolderError, InputError, SettingsError, UnfinishedError
from delia_data.outputs import read_manifest
from delia_data.tokens import add_token
from delia_data.training import TrainSettings, load_adapter, train
from delia_data.training.adapter import export_merged, export_parted

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

NEVER = 255
"""Id of a byte that is in no row."""
MakeSettings = Callable[..., TrainSettings]


@pytest.fixture
def make_settings(
    tmp_path: Path, make_tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: Any
) -> MakeSettings:
    def make(*, tied: bool, **over: Any) -> TrainSettings:
        folder = tmp_path / f"model-{tied}"
        return tiny_settings(folder, make_tiny_model(tied=tied), tiny_tokenizer, **over)

    return make


def begun(settings: TrainSettings) -> tuple[Any, Any]:
    """The model and tokenizer as training begins with them."""
    dtype = torch.float32 if settings.dtype == "float32" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(settings.model, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(settings.model)
    add_token(model, tokenizer, init=settings.init, description=settings.description, seed=0)
    return model, tokenizer


@pytest.mark.parametrize("tied", [True, False])
def test_of_the_embedding_the_tokens_row_alone_moves(
    make_settings: MakeSettings, tmp_path: Path, tied: bool
) -> None:
    settings = make_settings(tied=tied, dtype="float32")
    train(settings, ROWS, tmp_path / "adapter")
    before, tokenizer = begun(settings)
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
    before, tokenizer = begun(settings)
    after, _ = load_adapter(tmp_path / "adapter")
    moved = after.get_input_embeddings().weight - before.get_input_embeddings().weight
    change = moved.detach().abs().amax(1)
    assert change[tokenizer.convert_tokens_to_ids("<sep>")] > 1e-3
    assert change[tokenizer.encode("e")[0]] > 1e-3
    assert change[NEVER] == 0
    heads = [m.get_output_embeddings().weight.detach() for m in (before, after)]
    assert torch.equal(*heads), "a head that was tied stays as it was"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "form",
    [
        {"token_training": "row"},
        {"token_training": "lora"},
        {"adaptation": "full", "token_learning_rate": None, "learning_rate": 1e-3},
    ],
    ids=["row", "lora", "full"],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reloaded_merged_and_exported_it_computes_the_same(
    make_settings: MakeSettings, tmp_path: Path, tied: bool, form: dict[str, Any], dtype: str
) -> None:
    settings = make_settings(tied=tied, dtype=dtype, **form)
    with seen_trainers() as trainers:
        train(settings, ROWS, tmp_path / "adapter")
    untrained, tokenizer = begun(settings)
    ids = sequences(tokenizer)
    in_memory = logits_of(trainers[0].model, ids)
    scale = in_memory.abs().max()
    bound = scale * (1e-5 if dtype == "float32" else 2e-2)
    assert (logits_of(untrained, ids) - in_memory).abs().max() > 5 * bound
    reloaded, same = load_adapter(tmp_path / "adapter")
    assert same.encode("<sep>") == tokenizer.encode("<sep>")
    assert (logits_of(reloaded, ids) - in_memory).abs().max() <= bound
    export_merged(tmp_path / "adapter", tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", dtype=getattr(torch, dtype), local_files_only=True
    )
    assert plain.config.tie_word_embeddings == (tied and settings.token_training == "row")
    assert sequences(AutoTokenizer.from_pretrained(tmp_path / "merged")) == ids
    assert torch.equal(logits_of(plain, ids), logits_of(reloaded, ids))
    read_manifest(tmp_path / "merged", verify=True)


@pytest.mark.parametrize("tied", [True, False])
def test_parted_it_computes_the_same_and_holds_no_embedding(
    make_settings: MakeSettings, tmp_path: Path, tied: bool
) -> None:
    from peft import PeftModel
    from safetensors import safe_open

    settings = make_settings(tied=tied, dtype="float32")
    with seen_trainers() as trainers:
        train(settings, ROWS, tmp_path / "adapter")
    export_parted(tmp_path / "adapter", tmp_path / "parted")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "parted" / "model", dtype=torch.float32)
    ids = sequences(AutoTokenizer.from_pretrained(tmp_path / "parted" / "model"))
    with safe_open(tmp_path / "parted" / "adapter" / "adapter_model.safetensors", "pt") as file:
        assert file.keys() and all(".lora_" in name and "embed" not in name for name in file.keys())  # noqa: SIM118
    served = PeftModel.from_pretrained(base, tmp_path / "parted" / "adapter")
    in_memory = logits_of(trainers[0].model, ids)
    assert torch.allclose(
        logits_of(served, ids), in_memory, atol=1e-5 * float(in_memory.abs().max())
    )
    again = export_parted(tmp_path / "adapter", tmp_path / "parted")
    assert again == read_manifest(tmp_path / "parted" / "adapter", verify=True)


@pytest.mark.parametrize(
    ("init", "over"),
    [
        ("mean", {}),
        ("normal", {}),
        ("description", {"description": "a JSON object"}),
    ],
)
def test_the_token_begins_as_it_is_told_to(
    make_settings: MakeSettings, tmp_path: Path, init: str, over: dict[str, Any]
) -> None:
    """At a rate of 0 the row stays where it began."""
    settings = make_settings(tied=True, dtype="float32", init=init, token_learning_rate=0, **over)
    train(settings, ROWS, tmp_path / "adapter")
    model, tokenizer = load_adapter(tmp_path / "adapter")
    weight = model.get_input_embeddings().weight.detach()
    token_id = tokenizer.convert_tokens_to_ids("<sep>")
    expected = weight[:token_id].mean(0)
    if init == "description":
        expected = weight[torch.tensor(tokenizer.encode("a JSON object"))].mean(0)
    if init == "normal":
        assert not torch.allclose(weight[token_id], expected, atol=1e-3)
        begun_model, _ = begun(settings)
        expected = begun_model.get_input_embeddings().weight[token_id]
    assert torch.allclose(weight[token_id], expected, atol=1e-6)


def test_full_fine_tuning_moves_every_weight(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings(tied=True, adaptation="full", token_learning_rate=None, epochs=1)
    manifest = train(settings, ROWS, tmp_path / "adapter")
    assert manifest.settings["dtype"] == "float32", "steps are lost in bfloat16"
    before, _ = begun(replace(settings, dtype="float32"))
    after, _ = load_adapter(tmp_path / "adapter")
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    assert old.keys() == new.keys()
    assert not any(torch.equal(old[name], new[name]) for name in old)


def test_exports_that_cannot_be(make_settings: MakeSettings, tmp_path: Path, delia: Delia) -> None:
    refused(delia("export", tmp_path / "none", tmp_path / "out", "--merged"), "not a finished")
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
