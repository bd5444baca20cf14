"""No training: the model as it is, the new token's row being random, a mean, or a description's.

The paper's Table 1 has the last two as *random init* and *mean embedding* (Welch et al. 2020).
"""

from __future__ import annotations

from dataclasses import replace

from delia_data.training.baselines.baseline import Baseline, Material, Training
from delia_data.training.settings import TrainSettings


def _original(_: Material, settings: TrainSettings) -> Training:
    return Training((), settings)


def _random(material: Material, settings: TrainSettings) -> Training:
    return Training((), replace(settings, init="normal", seed=material.seed))


def _described(material: Material, settings: TrainSettings) -> Training:
    described = replace(settings, init="description", description=material.task.description)
    return Training((), described)


ORIGINAL = Baseline(
    "original",
    "Original model",
    "no training; the token begins as the recipe says",
    _original,
    uses=frozenset(),
)
RANDOM_INIT = Baseline(
    "random_init",
    "Random init",
    "no training; the token's row is drawn from a normal distribution",
    _random,
    uses=frozenset({"seed"}),
)
MEAN_EMBEDDING = Baseline(
    "mean_embedding",
    "Mean embedding",
    "no training; the token's row is the mean of its description's",
    _described,
    uses=frozenset(),
)
