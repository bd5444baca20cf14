"""Beginning a training where another one ended: its LoRA matrices and the token's row."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from delia_data.errors import SettingsError
from delia_data.outputs import file_sha256
from delia_data.training.adapter import adapter_settings
from delia_data.training.settings import TrainSettings

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
