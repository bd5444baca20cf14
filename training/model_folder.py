"""A model's folder as any script takes it: weights, tokenizer, chat template, manifest, marker.

The files are written into a hidden folder inside, moved to their names when all are there, and
the finish marker comes last. What a kill leaves is begun anew by the next run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from delia_data.errors import OutputError
from delia_data.models import quiet
from delia_data.outputs import (
    FINISHED,
    LOCK,
    MANIFEST,
    Manifest,
    check_folder_is_ours,
    check_same_settings,
    finish,
    folder_lock,
    read_manifest,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PART: Final = ".part"
_NAMES: Final = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template.jinja",
)
"""What saving a model and its tokenizer writes."""


@contextmanager
def model_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Hold the folder of a model for writing.

    Raises:
        ForeignFolderError: The folder holds something else.
        LockedError: Another process writes there.
        OutputError: It cannot be written.
    """
    root = Path(folder)
    known = {path.name for pattern in _NAMES for path in root.glob(pattern)}
    check_folder_is_ours(root, frozenset(known), sign=LOCK)
    with folder_lock(root):
        yield root


def earlier_model(root: Path, made: Mapping[str, Any]) -> Manifest:
    """Give the finished model that lies there, if it was made alike.

    Args:
        root: The folder, as `model_folder` gives it.
        made: Settings and inputs of the one that is to be made.

    Raises:
        SettingsError: It was made with others.
    """
    earlier = read_manifest(root, verify=True)
    check_same_settings(root, {**earlier.settings, **earlier.inputs}, made)
    return earlier


def save_model(
    root: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, manifest: Manifest
) -> Manifest:
    """Write a model into a folder that is held, in the place of the one that lies there.

    Args:
        root: The folder, as `model_folder` gives it.
        model: The model; its weights are written as safetensors.
        tokenizer: The tokenizer, with its chat template.
        manifest: What made it; the hashes of the files are filled in.

    Returns:
        The manifest as written.

    Raises:
        OutputError: The folder cannot be written, or the disk is full.
    """
    part = root / _PART
    shutil.rmtree(part, ignore_errors=True)
    try:
        from safetensors import SafetensorError

        try:
            with quiet():
                model.save_pretrained(part)
                tokenizer.save_pretrained(part)
            for name in (FINISHED, MANIFEST):
                (root / name).unlink(missing_ok=True)
            for old in [path for pattern in _NAMES for path in root.glob(pattern)]:
                old.unlink(missing_ok=True)
            for file in sorted(part.iterdir()):
                with file.open("rb") as written:
                    os.fsync(written.fileno())
                file.replace(root / file.name)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OutputError:
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OutputError(f"{root} cannot be written: {reason}; make room there") from error
    return finish(root, manifest)
