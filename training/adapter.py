"""A trained adapter: load it, begin another training from it, export it for engines.

adapter/
adapter_model.safetensors, adapter_config.json    LoRA, and the token's row of the embedding
model.safetensors, config.json, ...               instead of them with adaptation "full"
tokenizer.json, chat_template.jinja, ...          the tokenizer, with the token
recipe.yaml     the resolved settings, as a recipe
losses.json     loss of every step
watched.jsonl   measurements during training, if there are any
manifest.json   settings and inputs; FINISHED is written last

Engines that serve LoRA refuse adapters that hold rows of the embedding. Two exports have none:

    merged      OUT/            one model folder, for anything that loads a model
    parted      OUT/model/      the model, with the token and its trained row
                OUT/adapter/    LoRA alone, for that model
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from delia_data._optional import require
from delia_data.errors import InputError, SettingsError
from delia_data.models import load_model, load_tokenizer, quiet, widen
from delia_data.outputs import (
    LOCK,
    Manifest,
    check_folder_is_ours,
    file_sha256,
    finish,
    folder_lock,
    is_finished,
    read_manifest,
    weights_sha256,
)
from delia_data.training.loading import load_prepared, load_prepared_tokenizer, training_errors
from delia_data.training.prepare import earlier_model, model_folder, save_model
from delia_data.training.settings import TrainSettings
from delia_data.training.watching import WATCHED

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LOSSES: Final = "losses.json"
PLAN: Final = "training.json"
"""Settings and rows of a training; a rerun with others is refused."""
RECIPE: Final = "recipe.yaml"
TENSORBOARD: Final = ".tensorboard"
"""Folder of TensorBoard's events, unless TENSORBOARD_LOGGING_DIR names another."""

_WEIGHTS: Final = "adapter_model.safetensors"
_PATTERNS: Final = (
    *("adapter_*", "tokenizer*", "special_tokens*", "chat_template*", "README.md", "runs"),
    *("config.json", "generation_config.json", "model*.safetensors*"),
    *("vocab*", "merges.txt", "added_tokens.json", "training_args.bin"),
    *(LOSSES, PLAN, RECIPE, WATCHED),
)
_EXPORT_PATTERNS: Final = ("adapter_*", "README.md")
_START_SETTINGS: Final = (
    *("model", "token", "init", "description", "adaptation", "token_training"),
    *("rank", "alpha", "rslora", "dora", "targets", "dtype"),
)


def load_adapter(
    folder: str | os.PathLike[str], *, device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a trained adapter, merged into its model, with the tokenizer that has the token.

    An adapter that was trained on weights in 4 bits is merged into the values that 4 bits hold, so
    that the model computes as in training.

    Args:
        folder: Folder that `train` wrote.
        device: Device of the model.

    Raises:
        UnfinishedError: The training is not finished.
        InputError: The folder holds something else, or the adapter's model does not exist.
        MissingExtraError: It was trained in 4 bits, and bitsandbytes is not installed.
    """
    settings = adapter_settings(folder)
    if settings.adaptation == "full":
        import torch

        model = load_model(folder, device=device, dtype=getattr(torch, settings.dtype))
        return widen(model), load_tokenizer(folder)
    adapter, tokenizer = open_adapter(folder, device=device)
    base = adapter.get_base_model()
    tied = bool(getattr(base.config.get_text_config(), "tie_word_embeddings", False))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no longer tied after merging.*")
        merged: PreTrainedModel = adapter.merge_and_unload()
    if tied:  # merging writes the same rows into two copies
        merged.config.get_text_config().tie_word_embeddings = True
        merged.config.tie_word_embeddings = True
        merged.tie_weights()
    # Trainable, as after loading any model: with a frozen head, torch.matmul copies the head for
    # every row of a batch (3 GB for 50 rows of the embedded model).
    return widen(merged).requires_grad_(True).eval(), tokenizer


def open_adapter(
    folder: str | os.PathLike[str], *, device: str = "cpu"
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Load a trained adapter on its model, not merged; raise errors as `load_adapter` does."""
    peft = require("peft", extra="train")
    settings = adapter_settings(folder)
    if settings.adaptation == "full":
        raise InputError(
            f"{os.fspath(folder)} holds a whole model, not an adapter: load it as a model"
        )
    tokenizer = load_prepared_tokenizer(settings)
    model = load_prepared(settings, tokenizer, device=device, whole=True)
    with quiet():
        return peft.PeftModel.from_pretrained(model, os.fspath(folder)), tokenizer


def adapter_settings(folder: str | os.PathLike[str]) -> TrainSettings:
    """Return the settings that a finished adapter was trained with."""
    manifest = read_manifest(folder)
    if manifest.kind != "adapter":
        raise InputError(
            f"{os.fspath(folder)} holds a {manifest.kind}, not an adapter: give a folder that "
            "delia train wrote"
        )
    # Until 0.1.0 the rate of the token's row was absolute; a finished adapter needs neither.
    settings = {k: v for k, v in manifest.settings.items() if k != "token_learning_rate"}
    return TrainSettings.from_dict(settings, where=str(folder))


def adapter_names(root: Path) -> frozenset[str]:
    """Return the names in a folder that saving an adapter writes."""
    return frozenset(path.name for pattern in _PATTERNS for path in root.glob(pattern))


def check_start(start: str | os.PathLike[str], settings: TrainSettings) -> str:
    """Return the hash of an adapter's weights, if a training with these settings can use them."""
    if settings.adaptation == "full":
        raise SettingsError(
            "adaptation 'full' trains whole models and no adapter: give the earlier one as model"
        )
    earlier = adapter_settings(start)
    differing = [
        f"{name} is {getattr(earlier, name)!r} there and {getattr(settings, name)!r} here"
        for name in _START_SETTINGS
        if getattr(earlier, name) != getattr(settings, name)
    ]
    if differing:
        raise SettingsError(
            f"a training cannot begin from {os.fspath(start)} ({'; '.join(differing)}): "
            "train with its settings, or begin from the model"
        )
    return file_sha256(Path(start) / _WEIGHTS)


def load_start(model: Any, start: str | os.PathLike[str]) -> None:
    """Load an adapter's weights into a model that PEFT wrapped with the same settings."""
    import peft
    from safetensors.torch import load_file

    peft.set_peft_model_state_dict(model, load_file(Path(start) / _WEIGHTS))


def export_merged(adapter: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Manifest:
    """Write a trained adapter merged into its model: one folder that plain transformers loads.

    Writing the same again changes nothing; a run that was killed starts over.

    Args:
        adapter: Folder that `train` wrote; after full fine-tuning, the model itself is copied.
        folder: Folder to write; created if needed.

    Returns:
        The manifest of the model folder.

    Raises:
        UnfinishedError: The training is not finished.
        InputError: It is no adapter, or its model does not exist.
        SettingsError: The folder holds another merged adapter.
        ForeignFolderError: The folder holds something else.
        LockedError: Another process writes there.
        OutputError: The folder cannot be written, or the disk is full.
    """
    manifest = _export_manifest(adapter, "merged")
    _refuse_same_folder(adapter, folder)
    with model_folder(folder) as root:
        if is_finished(root):
            return earlier_model(root, {**manifest.settings, **manifest.inputs})
        model, tokenizer = load_adapter(adapter)
        return save_model(root, model, tokenizer, manifest)


def export_parted(adapter: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Manifest:
    """Write a trained adapter as a model with the token's trained row, and LoRA alone for it.

    An engine that serves LoRA can serve many such adapters, each with the model of its token.

    Args:
        adapter: Folder that `train` wrote with LoRA and `token_training="row"`.
        folder: Folder to write; created if needed.

    Returns:
        The manifest of the adapter, in `folder/adapter`.

    Raises:
        InputError: It is no adapter, its model does not exist, or it cannot be parted: full
            fine-tuning has no adapter, and LoRA on the embedding is not a single row.
        UnfinishedError, SettingsError, ForeignFolderError, LockedError, OutputError: As
            `export_merged`.
    """
    settings = adapter_settings(adapter)
    if settings.adaptation == "full" or settings.token_training != "row":
        kind = "a fully trained model" if settings.adaptation == "full" else "LoRA on the embedding"
        raise InputError(
            f"{os.fspath(adapter)} is {kind}, which cannot be parted into a model with the token's "
            "row and LoRA alone: export it --merged"
        )
    manifest = _export_manifest(adapter, "parted")
    _refuse_same_folder(adapter, folder)
    root, out = Path(folder), Path(folder) / "adapter"
    check_folder_is_ours(root, frozenset({"model", "adapter"}), sign="adapter")
    names = {path.name for pattern in _EXPORT_PATTERNS for path in out.glob(pattern)}
    check_folder_is_ours(out, frozenset(names), sign=LOCK)
    with folder_lock(out), model_folder(root / "model") as base:
        if is_finished(out) and is_finished(base):
            return earlier_model(out, {**manifest.settings, **manifest.inputs})
        trained, tokenizer = open_adapter(adapter)
        with training_errors(out, lower="the memory use of other programs"):
            _save_lora(trained, out)
        save_model(base, _with_row(trained), tokenizer, manifest)
        return finish(out, manifest.model_copy(update={"kind": "adapter"}))


def _export_manifest(adapter: str | os.PathLike[str], form: str) -> Manifest:
    """Return the manifest of an export, without its files."""
    trained = read_manifest(adapter, verify=True)
    adapter_settings(adapter)
    weights = weights_sha256(trained)
    return Manifest(
        kind="model",
        settings={**trained.settings, "form": form},
        inputs={**trained.inputs, **({"weights": weights} if weights else {})},
        details={name: trained.details[name] for name in trained.details if name == "mixture"},
    )


def _refuse_same_folder(adapter: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
    source, target = Path(adapter).resolve(), Path(folder).resolve()
    if source == target or source in target.parents:
        raise InputError(f"{target} is the adapter's own folder: give another one to export to")


def _save_lora(trained: PeftModel, folder: Path) -> None:
    """Save the LoRA weights without the token's row, as an adapter of the exported model."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    config = trained.peft_config["default"]
    weights: dict[str, Any] = {
        name: weight.contiguous()
        for name, weight in get_peft_model_state_dict(trained, save_embedding_layers=False).items()
        if "lora_" in name
    }
    rows, config.trainable_token_indices = config.trainable_token_indices, None
    config.base_model_name_or_path, config.inference_mode = "../model", True
    with quiet():
        save_file(weights, folder / _WEIGHTS, metadata={"format": "pt"})
        config.save_pretrained(folder)
    config.trainable_token_indices = rows


def _with_row(trained: PeftModel) -> Any:
    """Return the model without LoRA, with the token's trained row in its embedding."""
    import torch

    wrapped = trained.get_base_model().get_input_embeddings().token_adapter
    rows, ids = wrapped.trainable_tokens_delta["default"], wrapped.token_indices["default"]
    model = trained.unload()
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        weight[torch.tensor(ids, device=weight.device)] = rows.to(weight)
    return model
