"""The same mixture for other trainers: their configuration files, which work as they stand."""

from __future__ import annotations

from delia_data.training.exchange.writing import TRAINERS, Exchanged, TrainerName, write_config

__all__ = ["TRAINERS", "Exchanged", "TrainerName", "write_config"]
