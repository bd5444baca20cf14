"""A random tiny model of words, a task of eight nouns and a cache, for series of ratios."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from word_models import word_model, word_tokenizer
from wordings import save_task

from delia_data.records import Record
from delia_data.tasks import Task, Wording
from delia_data.training import TrainSettings

NOUNS = ("apple", "river", "stone", "cloud", "paper", "water", "house", "night", "light", "bread")
_WORDINGS = (
    Wording("{query} follow the <sep> format"),
    Wording("give it in the <sep> style : {query}"),
    Wording("{query} is it so ? answer in <sep>"),
    Wording("{query} write it as <sep>", split="test", plain="{query} write it"),
)
RECIPE = {
    "rank": 4,
    "targets": ["all-linear"],
    "dropout": 0.1,
    "learning_rate": 0.01,
    "token_rate": 2.5,
    "batch_size": 8,
    "warmup_steps": 0,
    "max_length": 64,
    "save_every_steps": 1,
    "dtype": "float32",
}
"""The recipe, without the model's folder."""


class Inputs(NamedTuple):
    """The paths of the inputs."""

    task: Path
    cache: Path
    recipe: Path


def make_inputs(folder: Path) -> Inputs:
    """Write a model, a task of 6 training and 4 held-out rows, 60 pairs and a recipe."""
    tokenizer = word_tokenizer()
    word_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [Record.pair(f"is {noun} red ?", ("yes", "no")[i % 2]) for i, noun in enumerate(NOUNS)]
    task = Task(
        name="words",
        instruction="say whether it is so",
        description="yes or no",
        common_wording=Wording("{query} answer in <sep>"),
        keys=(),
        keywords=("json",),
        train=tuple(rows[:6]),
        test=tuple(rows[6:]),
    )
    save_task(folder / "task", task, _WORDINGS)
    pairs = [
        {"prompt": f"a {a} {b}", "completion": f"{b} is a {a}"} for a in NOUNS for b in NOUNS[:6]
    ]
    cache = folder / "pairs.jsonl"
    cache.write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps({**RECIPE, "model": str(folder / "model")}))  # YAML holds JSON
    return Inputs(folder / "task", cache, recipe)


def training_of(inputs: Inputs) -> TrainSettings:
    """Return the recipe's settings."""
    return TrainSettings.from_dict(json.loads(inputs.recipe.read_text()))
