"""What DELIA is compared with: the same training, evaluation and report, on something else."""

from __future__ import annotations

from delia_data.training.baselines.ablations import METHODS, Method, training_data
from delia_data.training.baselines.baseline import Baseline, Material, Prompt, Training
from delia_data.training.baselines.registry import BASELINES, baseline

__all__ = [
    "BASELINES",
    "METHODS",
    "Baseline",
    "Material",
    "Method",
    "Prompt",
    "Training",
    "baseline",
    "training_data",
]
