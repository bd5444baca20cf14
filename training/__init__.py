"""Training: thin LoRA fine-tuning on a mixture, with TRL and PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from delia_data.training.adapter import load_adapter
from delia_data.training.settings import TrainSettings, read_recipe, recipe_names

if TYPE_CHECKING:
    from delia_data.training.sft import train

__all__ = ["TrainSettings", "load_adapter", "read_recipe", "recipe_names", "train"]


def __getattr__(name: str) -> Any:
    """Import the script where it is used, so that `python -m` finds it not imported yet."""
    if name == "train":
        from delia_data.training import sft

        return sft.train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
