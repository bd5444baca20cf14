"""What every baseline is: data to train on, a way to ask, an engine that answers.

    material ──▶ training(material, settings) ──▶ rows and settings ──▶ the one trainer
             ──▶ prompt(material)             ──▶ what is asked
             ──▶ engine(...)                  ──▶ what answers         ──▶ the one evaluation

A baseline says what it does otherwise than the others; all else is the same code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from delia_data.engines import Engine
from delia_data.mixing.options import Pairs
from delia_data.records import Message
from delia_data.tasks import Task, Wording
from delia_data.training.settings import TrainSettings, rows_a_step

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Prompt = Callable[[Sequence[Message], str], tuple[Message, ...]]
"""Makes the conversation that is asked of the one that a row asks, and of the row's bare query."""

EngineMaker = Callable[["PreTrainedModel", "PreTrainedTokenizerBase", "Material", int], Engine]
"""Makes an engine of a model, its tokenizer, the material and a batch size."""


@dataclass(frozen=True, slots=True)
class Material:
    """What a baseline may draw on; no one draws on all of it.

    Attributes:
        task: The task, cut to the rows that may be trained on.
        wordings: Candidates for the methods that diversify.
        pairs: The cache, for the methods that mix any.
        ratio: Pairs for each task row.
        seed: Seed of wordings, selection, order and examples.
        examples: Rows that are shown in a prompt, for the methods that show any.
        dictionary: Translations of words, for DiPMT; made from the training rows where None.
    """

    task: Task
    wordings: tuple[Wording, ...] = ()
    pairs: Pairs = ()
    ratio: float = 0.0
    seed: int = 0
    examples: int = 4
    dictionary: Mapping[str, Sequence[str]] | None = None


@dataclass(frozen=True, slots=True)
class Training:
    """What one training is made of.

    Attributes:
        rows: Rows of a mixture in their order; none leaves the model as it is, with the token
            added and initialised.
        settings: Settings of the training, of which an untrained model takes the token's.
    """

    rows: tuple[Mapping[str, Any], ...]
    settings: TrainSettings

    @property
    def steps(self) -> int:
        """Optimiser steps that it takes."""
        return optimiser_steps(len(self.rows), self.settings)

    @property
    def trained_rows(self) -> int:
        """Rows that it goes through, each as often as it does."""
        return round(self.settings.epochs * len(self.rows))


@dataclass(frozen=True, slots=True)
class Baseline:
    """One method; DELIA itself is one.

    Attributes:
        name: Its name in grids and on the command line.
        title: Its name in tables, as the paper has it where it is in the paper.
        summary: What it is, in a line.
        training: Makes the rows and settings; None where the plain model answers, to which the
            token is the text of its name.
        prompt: Makes what turns a row's conversation into the one asked; None asks it as it is.
        engine: Makes the engine that answers; None takes the usual one.
        uses: Which axes of a grid change it.
        trains_on: Rows that one pass goes through: none, the task's, the pairs, or as many as both
            are; for an estimate of the time.
        kind: Tasks that it is for: `"any"`, or `"translation"` alone.
    """

    name: str
    title: str
    summary: str
    training: Callable[[Material, TrainSettings], Training] | None = None
    prompt: Callable[[Material], Prompt] | None = None
    engine: EngineMaker | None = None
    uses: frozenset[Literal["rows", "ratio", "seed"]] = frozenset({"rows", "seed"})
    trains_on: Literal["nothing", "task", "pairs", "both"] = "nothing"
    kind: Literal["any", "translation"] = "any"

    def trained_rows(self, rows: int, ratio: float) -> float:
        """Rows that one pass goes through, about."""
        pairs = ratio * rows
        return {"nothing": 0.0, "task": rows, "pairs": pairs, "both": rows + pairs}[self.trains_on]


def optimiser_steps(rows: int, settings: TrainSettings) -> int:
    """Optimiser steps that a training of so many rows takes; the last batch may be smaller."""
    return math.ceil(settings.epochs * math.ceil(rows / rows_a_step(rows, settings)))
