"""A model's identity is the same from its files and from memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from delia_data import models
from delia_data.models import identify, identify_files, load_model, load_tokenizer

Make = Callable[..., PreTrainedModel]


@pytest.fixture
def saved(
    make_tiny_model: Make, tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> Callable[..., Path]:
    def save(*, tied: bool = True, **how: Any) -> Path:
        make_tiny_model(tied=tied).save_pretrained(tmp_path / "model", **how)
        tiny_tokenizer.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that were fully loaded."""
    seen: list[Any] = []

    def spy(*given: Any, **options: Any) -> PreTrainedModel:
        seen.append(given)
        return load_model(*given, **options)

    monkeypatch.setattr(models, "load_model", spy)
    return seen


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("how", [{}, {"max_shard_size": "20KB"}], ids=["whole", "shards"])
@pytest.mark.parametrize("dtype", [None, torch.float32, "float16", "auto"])
def test_files_have_the_identity_of_the_loaded_model(
    saved: Callable[..., Path], loads: list[Any], tied: bool, how: dict[str, Any], dtype: Any
) -> None:
    folder = saved(tied=tied, **how)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == bool(how)
    loaded_in = {None: torch.bfloat16, "float16": torch.float16, "auto": torch.float32}
    tokenizer = load_tokenizer(folder)
    there = identify(load_model(folder, dtype=loaded_in.get(dtype, dtype)), tokenizer)
    assert identify_files(folder, tokenizer, dtype=dtype) == there
    assert there["name"] == "model"
    assert not loads, "the model was loaded whole"


def test_one_number_makes_another_model(saved: Callable[..., Path]) -> None:
    folder = saved()
    tokenizer = load_tokenizer(folder)
    before = identify_files(folder, tokenizer)
    model = load_model(folder, dtype=torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] += 1
    model.save_pretrained(folder)
    assert identify_files(folder, tokenizer)["weights_sha256"] != before["weights_sha256"]


def test_files_that_name_weights_otherwise_are_loaded(
    saved: Callable[..., Path], loads: list[Any]
) -> None:
    from safetensors.torch import load_file, save_file

    folder = saved()
    weights = load_file(folder / "model.safetensors")
    renamed = {key.removeprefix("model."): weight for key, weight in weights.items()}
    tokenizer = load_tokenizer(folder)
    before = identify_files(folder, tokenizer)
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    assert identify_files(folder, tokenizer) == before
    assert loads


@pytest.mark.parametrize(
    ("capability", "dtype"), [("AVX2", torch.float32), ("AVX512", torch.bfloat16)]
)
def test_identity_does_not_depend_on_the_type_the_processor_computes_in(
    saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capability: str, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    folder = saved()
    tokenizer = load_tokenizer(folder)
    model = load_model(folder)
    assert model.dtype == dtype
    identity = identify(load_model(folder, dtype=torch.bfloat16), tokenizer)
    assert identify(model, tokenizer) == identity
    assert identify_files(folder, tokenizer) == identity


def test_widening_keeps_the_identity_of_weights_in_several_types(
    saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    folder = saved()
    tokenizer, model = load_tokenizer(folder), load_model(folder, dtype=torch.bfloat16)
    norm = model.model.norm
    norm.weight = torch.nn.Parameter(norm.weight.float() + 2**-20)
    identity = identify(model, tokenizer)
    wide = models.widen(model)
    assert {weight.dtype for weight in wide.parameters()} == {torch.float32}
    assert identify(wide, tokenizer) == identity
