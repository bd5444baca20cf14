"""What a training leaves behind, and how it is loaded again.

adapter/
adapter_model.safetensors, adapter_config.json    LoRA, and the token's row of the embedding
model.safetensors, config.json, ...               in their place with adaptation "full"
tokenizer.json, chat_template.jinja, ...          the tokenizer, with the token
recipe.yaml     the settings as they were resolved; a recipe like any other
losses.json     loss of every step
watched.jsonl   what was measured on the way, where it was asked for
manifest.json   what it depends on; FINISHED comes last
"""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from delia_data._optional import require
from delia_data.errors import InputError, SettingsError
from delia_data.models import load_model, load_tokenizer, quiet
from delia_data.outputs import (
    LOCK,
    Manifest,
    canonical_json,
    check_folder_is_ours,
    file_sha256,
    finish,
    folder_lock,
    is_finished,
    read_manifest,
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
"""What the training was begun with; a rerun with other settings or rows is refused."""
RECIPE: Final = "recipe.yaml"
TENSORBOARD: Final = ".tensorboard"
"""Where TensorBoard's events go, unless TENSORBOARD_LOGGING_DIR says otherwise."""

_PATTERNS: Final = (
    *("adapter_*", "tokenizer*", "special_tokens*", "chat_template*", "README.md", "runs"),
    *("config.json", "generation_config.json", "model*.safetensors*"),
    *("vocab*", "merges.txt", "added_tokens.json", "training_args.bin"),
    *(LOSSES, PLAN, RECIPE, WATCHED),
)


def load_adapter(
    folder: str | os.PathLike[str], *, device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a trained adapter, merged into its model, with the tokenizer that has the token.

    An adapter that was trained on weights in 4 bits is merged into what these hold, so that the
    model computes what it did in training.

    Args:
        folder: What `train` wrote.
        device: Where to put the model.

    Raises:
        UnfinishedError: The training has not come to its end.
        InputError: The folder holds something else, or the model is gone.
        MissingExtraError: It was trained in 4 bits, and bitsandbytes is not installed.
    """
    settings = adapter_settings(folder)
    if settings.adaptation == "full":
        import torch

        model = load_model(folder, device=device, dtype=getattr(torch, settings.dtype))
        return model, load_tokenizer(folder)
    trained, tokenizer = open_adapter(folder, device=device)
    base = trained.get_base_model()
    tied = bool(getattr(base.config.get_text_config(), "tie_word_embeddings", False))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no longer tied after merging.*")
        merged: PreTrainedModel = trained.merge_and_unload()
    if tied:  # merging writes the same rows into two copies
        merged.config.get_text_config().tie_word_embeddings = True
        merged.config.tie_word_embeddings = True
        merged.tie_weights()
    # Trainable again, as a model that was just loaded is: with a frozen head torch.matmul copies
    # the head for every row of a batch (3 GB for 50 rows of the embedded model).
    return merged.requires_grad_(True).eval(), tokenizer


def open_adapter(
    folder: str | os.PathLike[str], *, device: str = "cpu"
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Load a trained adapter beside its model, not merged.

    Raises:
        UnfinishedError: The training has not come to its end.
        InputError: The folder holds no adapter, or its model is gone.
        MissingExtraError: It was trained in 4 bits, and bitsandbytes is not installed.
    """
    peft = require("peft", extra="train")
    settings = adapter_settings(folder)
    if settings.adaptation == "full":
        raise InputError(f"{os.fspath(folder)} holds a whole model, not an adapter: load it so")
    tokenizer = load_prepared_tokenizer(settings)
    model = load_prepared(settings, tokenizer, device=device, whole=True)
    with quiet():
        return peft.PeftModel.from_pretrained(model, os.fspath(folder)), tokenizer


def adapter_settings(folder: str | os.PathLike[str]) -> TrainSettings:
    """Give the settings that a finished adapter was trained with.

    Raises:
        UnfinishedError: The training has not come to its end.
        InputError: The folder holds something else.
    """
    manifest = read_manifest(folder)
    if manifest.kind != "adapter":
        raise InputError(
            f"{os.fspath(folder)} holds a {manifest.kind}, not an adapter: "
            "give what delia train wrote"
        )
    return TrainSettings.from_dict(manifest.settings, where=str(folder))


def adapter_names(root: Path) -> frozenset[str]:
    """Names that an adapter's folder may hold: those that saving one writes."""
    if not root.is_dir():
        return frozenset()
    return frozenset(path.name for pattern in _PATTERNS for path in root.glob(pattern))


_WEIGHTS: Final = "adapter_model.safetensors"
_SHARED: Final = (
    *("model", "token", "init", "description", "adaptation", "token_training"),
    *("rank", "alpha", "targets", "dtype"),
)


def check_start(start: str | os.PathLike[str], settings: TrainSettings) -> str:
    """Give the hash of an adapter's weights, if a training with these settings can begin from it.

    Args:
        start: What `train` wrote.
        settings: Resolved settings of the training that is to begin.

    Raises:
        SettingsError: Its settings are others where they must be the same, or whole models are
            trained, of which one is given as `model`.
        UnfinishedError: The earlier training has not come to its end.
        InputError: The folder holds something else.
    """
    if settings.adaptation == "full":
        raise SettingsError(
            "adaptation 'full' trains whole models and no adapter: give the earlier one as model"
        )
    earlier = adapter_settings(start)
    differing = [
        f"{name} is {getattr(earlier, name)!r} there and {getattr(settings, name)!r} here"
        for name in _SHARED
        if getattr(earlier, name) != getattr(settings, name)
    ]
    if differing:
        raise SettingsError(
            f"a training cannot begin from {os.fspath(start)} ({'; '.join(differing)}): "
            "train with its settings, or begin from the model"
        )
    return file_sha256(Path(start) / _WEIGHTS)


def load_start(model: Any, start: str | os.PathLike[str]) -> None:
    """Put an adapter's weights into a model that peft has wrapped alike."""
    import peft
    from safetensors.torch import load_file

    peft.set_peft_model_state_dict(model, load_file(Path(start) / _WEIGHTS))


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
        with training_errors(place, lower="what else this machine runs"):
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
