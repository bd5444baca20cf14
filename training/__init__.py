"""LoRA fine-tuning on a mixture, with TRL and PEFT."""

from __future__ import annotations

from typing import Any

from delia_data.training.adapter import load_adapter
from delia_data.training.settings import TrainSettings, read_recipe, recipe_names
from delia_data.training.sft import train

__all__ = [
    "PairsKL",
    "TrainSettings",
    "load_adapter",
    "pairs_kl",
    "read_recipe",
    "recipe_names",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in ("PairsKL", "pairs_kl"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from delia_data.training import loss  # needs torch and PEFT

    return getattr(loss, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
