"""What DELIA is compared with: the same training on other data."""

from __future__ import annotations

from delia_data.training.baselines.ablations import METHODS, Method, training_data

__all__ = ["METHODS", "Method", "training_data"]
