"""Common tuning for as many optimiser steps as DELIA, without and with noise (NEFTune).

With few task rows and one epoch, common tuning takes a handful of steps where DELIA takes
hundreds. The paper compares the two as they are; here the task's rows are gone through again and
again, each pass in another order, until the steps are as many and the batches as large.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from delia_data.training.baselines.ablations import mixed_rows, training_data
from delia_data.training.baselines.baseline import (
    Baseline,
    Material,
    Training,
    optimiser_steps,
)
from delia_data.training.baselines.repetition import repeated
from delia_data.training.settings import TrainSettings, rows_a_step

_NOISE: Final = 5.0  # alpha of NEFTune, the smallest of those in its paper


def delia_steps(material: Material, settings: TrainSettings) -> tuple[int, int]:
    """Optimiser steps that DELIA takes on the same task and ratio, and rows in each."""
    m = material
    made = training_data("delia", m.task, m.wordings, m.pairs, ratio=m.ratio, seed=m.seed).manifest
    rows = made.rows["task"] + made.rows["cache"]
    return optimiser_steps(rows, settings), rows_a_step(rows, settings)


def as_long_as_delia(
    rows: tuple[Mapping[str, Any], ...], material: Material, settings: TrainSettings
) -> Training:
    """Train on rows for as many steps as DELIA takes, in batches of the same size."""
    steps, batch = delia_steps(material, settings)
    taken = repeated(rows, steps * batch, seed=material.seed)
    return Training(taken, replace(settings, epochs=1.0, batch_size=batch))


def _step_matched(material: Material, settings: TrainSettings) -> Training:
    return as_long_as_delia(mixed_rows("common", material), material, settings)


def _neftune(material: Material, settings: TrainSettings) -> Training:
    return _step_matched(material, replace(settings, neftune_alpha=_NOISE, packing=False))


STEP_MATCHED = Baseline(
    "step_matched",
    "Common instruction tuning, step-matched",
    "the task's rows alone, in one wording, for as many optimiser steps as DELIA",
    _step_matched,
    uses=frozenset({"rows", "ratio", "seed"}),
    trains_on="both",
)
NEFTUNE = Baseline(
    "neftune",
    "NEFTune, step-matched",
    f"step-matched common tuning with noise on the embeddings (alpha {_NOISE:g}; Jain et al. 2023)",
    _neftune,
    uses=frozenset({"rows", "ratio", "seed"}),
    trains_on="both",
)
