"""Dual-stage mixed fine-tuning (Dong et al. 2024): the task first, then general data.

    stage 1   task rows, one wording, the recipe's epochs
    stage 2   pairs, with a tenth of the task rows among them, the recipe's epochs

Their share of domain data in the second stage is 1/256 of tens of thousands of rows; of a hundred
rows that is none, so that a tenth is taken, at least one row. Both stages are one run in a fixed
order with one constant learning rate, which no trainer here shuffles: the optimiser's state is
carried from the first stage to the second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from delia_data.training.baselines.ablations import mixed_rows
from delia_data.training.baselines.baseline import Baseline, Material, Training
from delia_data.training.baselines.repetition import repeated, shuffled
from delia_data.training.settings import TrainSettings

_SHARE: Final = 0.1  # of the task rows that come again in the second stage


def dmt_stages(
    material: Material,
) -> tuple[tuple[Mapping[str, Any], ...], tuple[Mapping[str, Any], ...]]:
    """The rows of the first stage, and those of the second."""
    rows = mixed_rows("no_wordings", material)
    task = tuple(row for row in rows if row["source"] == "task")
    pairs = tuple(row for row in rows if row["source"] == "cache")
    again = shuffled(task, seed=material.seed)[: max(1, math.floor(_SHARE * len(task)))]
    return task, tuple(shuffled([*pairs, *again], seed=material.seed))


def _dmt(material: Material, settings: TrainSettings) -> Training:
    stages = dmt_stages(material)
    rows = [
        row
        for stage in stages
        for row in repeated(stage, round(settings.epochs * len(stage)), seed=material.seed)
    ]
    return Training(tuple(rows), replace(settings, epochs=1.0))


DMT = Baseline(
    "dmt",
    "DMT",
    "two stages: the task's rows, then pairs with a tenth of the task's rows",
    _dmt,
    uses=frozenset({"rows", "ratio", "seed"}),
    trains_on="both",
)
