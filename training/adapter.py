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

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

from delia_data._optional import require
from delia_data.errors import InputError
from delia_data.models import load_model, load_tokenizer, quiet
from delia_data.outputs import read_manifest
from delia_data.training.loading import load_prepared, load_prepared_tokenizer
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
