"""Training: thin LoRA fine-tuning on a mixture, with TRL and PEFT."""

from __future__ import annotations

from delia_data.training.adapter import load_adapter
from delia_data.training.settings import TrainSettings, read_recipe, recipe_names
from delia_data.training.sft import train

__all__ = ["TrainSettings", "load_adapter", "read_recipe", "recipe_names", "train"]
