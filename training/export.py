"""A trained adapter for engines: merged into one model, or parted into a model and plain LoRA.

Engines that serve LoRA refuse adapters that hold rows of the embedding. Two forms have none:

    merged      OUT/            one model folder; whatever loads a model loads it
    parted      OUT/model/      the model, with the token and its trained row
                OUT/adapter/    LoRA alone, for that model
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from delia_data.errors import InputError
from delia_data.models import quiet
from delia_data.outputs import (
    LOCK,
    Manifest,
    canonical_json,
    check_folder_is_ours,
    finish,
    folder_lock,
    is_finished,
    read_manifest,
)
from delia_data.training.adapter import adapter_settings, load_adapter, open_adapter
from delia_data.training.faults import in_one_line
from delia_data.training.model_folder import earlier_model, model_folder, save_model

if TYPE_CHECKING:
    from peft import PeftModel

_MODEL: Final = "model"
_ADAPTER: Final = "adapter"
_ADAPTER_FILES: Final = ("adapter_*", "README.md")


def export_merged(adapter: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Manifest:
    """Write a trained adapter merged into its model: one folder that plain transformers loads.

    The same again changes nothing; a run that was killed is begun anew.

    Args:
        adapter: What `train` wrote; of a full fine-tuning, the model itself.
        folder: Where to; made where it is not there.

    Returns:
        The manifest of the model folder.

    Raises:
        UnfinishedError: The training has not come to its end.
        InputError: It is no adapter, or its model is gone.
        SettingsError: The folder holds what another adapter was merged into.
        ForeignFolderError: The folder holds something else.
        LockedError: Another process writes there.
        OutputError: The folder cannot be written, or the disk is full.
    """
    told = _told(adapter, "merged")
    _refuse_same_place(adapter, folder)
    with model_folder(folder) as root:
        if is_finished(root):
            return earlier_model(root, {**told.settings, **told.inputs})
        model, tokenizer = load_adapter(adapter)
        return save_model(root, model, tokenizer, told)


def export_parted(adapter: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Manifest:
    """Write a trained adapter as a model with the token's trained row, and LoRA alone beside it.

    Many such adapters can be served at once by an engine that takes LoRA, each with the model
    that has its token.

    Args:
        adapter: What `train` wrote with LoRA and `token_training="row"`.
        folder: Where to; made where it is not there.

    Returns:
        The manifest of the adapter, in `folder/adapter`.

    Raises:
        InputError: It is no adapter, its model is gone, or it cannot be parted: a full
            fine-tuning has no adapter, and LoRA on the embedding is no single row.
        UnfinishedError, SettingsError, ForeignFolderError, LockedError, OutputError: As
            `export_merged`.
    """
    settings = adapter_settings(adapter)
    if settings.adaptation == "full" or settings.token_training != "row":
        what = "a full fine-tuning" if settings.adaptation == "full" else "LoRA on the embedding"
        raise InputError(
            f"{os.fspath(adapter)} is {what}, which cannot be parted into a model with the token's "
            "row and LoRA alone: export it --merged"
        )
    told = _told(adapter, "parted")
    _refuse_same_place(adapter, folder)
    root = Path(folder)
    check_folder_is_ours(root, frozenset({_MODEL, _ADAPTER}), sign=_ADAPTER)
    place = root / _ADAPTER
    known = {path.name for pattern in _ADAPTER_FILES for path in place.glob(pattern)}
    check_folder_is_ours(place, frozenset(known), sign=LOCK)
    with folder_lock(place), model_folder(root / _MODEL) as base:
        if is_finished(place) and is_finished(base):
            return earlier_model(place, {**told.settings, **told.inputs})
        trained, tokenizer = open_adapter(adapter)
        with in_one_line(place, lower="what else this machine runs"):
            _save_lora(trained, place)
        save_model(base, _with_row(trained), tokenizer, told)
        return finish(place, told.model_copy(update={"kind": "adapter"}))


def _told(adapter: str | os.PathLike[str], form: str) -> Manifest:
    """The manifest of an export, without its files."""
    trained = read_manifest(adapter, verify=True)
    adapter_settings(adapter)
    return Manifest(
        kind="model",
        settings={**trained.settings, "form": form},
        inputs={**trained.inputs, "weights": _weights_hash(trained)},
    )


def _weights_hash(trained: Manifest) -> str:
    """Hash of the trained weights: of the one file that holds them, or of all that do."""
    files = {name: sha for name, sha in trained.files.items() if name.endswith(".safetensors")}
    return hashlib.sha256(canonical_json(files)).hexdigest()


def _refuse_same_place(adapter: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
    one, other = Path(adapter).resolve(), Path(folder).resolve()
    if one == other or one in other.parents:
        raise InputError(f"{other} is the adapter's own folder: give another one to export to")


def _save_lora(trained: PeftModel, place: Path) -> None:
    """Save the LoRA matrices without the token's row, as an adapter of the model beside it."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    config = trained.peft_config["default"]
    weights: dict[str, Any] = {
        name: weight.contiguous()
        for name, weight in get_peft_model_state_dict(trained, save_embedding_layers=False).items()
        if "lora_" in name
    }
    rows, config.trainable_token_indices = config.trainable_token_indices, None
    config.base_model_name_or_path, config.inference_mode = f"../{_MODEL}", True
    with quiet():
        save_file(weights, place / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(place)
    config.trainable_token_indices = rows


def _with_row(trained: PeftModel) -> Any:
    """The model without LoRA, the token's trained row in its embedding."""
    import torch

    wrapped = trained.get_base_model().get_input_embeddings().token_adapter
    rows, ids = wrapped.trainable_tokens_delta["default"], wrapped.token_indices["default"]
    model = trained.unload()
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        weight[torch.tensor(ids, device=weight.device)] = rows.to(weight)
    return model
