"""A tiny random model of words, a task about nouns, a cache, a recipe, and an adapter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from row_files import write_jsonl
from word_models import word_model, word_tokenizer
from wordings import save_task

from delia_data.evaluation import StateSpaceWatch
from delia_data.reading import read_records
from delia_data.records import Record, write_record
from delia_data.tasks import Task, Wording, read_task_rows
from delia_data.training import TrainSettings, train

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

    adapter: Path
    task: Path
    cache: Path
    recipe: Path


def make_inputs(
    folder: Path, *, labels: bool = False, token: str = "<sep>", keys: tuple[str, ...] = ()
) -> Inputs:
    """Write a model, a task, pairs and a recipe.

    With labels as answers 6 rows for training, 4 held out, and 60 pairs; otherwise 5, 3 and 12.
    """
    tokenizer = word_tokenizer()
    word_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    nouns, count = (NOUNS, 6) if labels else (NOUNS[:8], 5)
    rows = [
        Record.pair(
            f"is {noun} red ?", ("yes", "no")[i % 2] if labels else f"{{ ' red ' : {noun} }}"
        )
        for i, noun in enumerate(nouns)
    ]
    task = Task(
        name="words",
        instruction="say whether it is so",
        description="yes or no" if labels else "an object in braces",
        common_wording=Wording("{query} answer in <sep>"),
        keys=keys,
        keywords=("json",) if labels else ("json", "thought"),
        train=tuple(rows[:count]),
        test=tuple(rows[count:]),
        token=token,
    )
    wordings = [replace(w, text=w.text.replace("<sep>", token)) for w in _WORDINGS]
    save_task(folder / "task", task, wordings)
    firsts, seconds = (NOUNS, NOUNS[:6]) if labels else (nouns[:4], nouns[4:7])
    pairs = [
        {"prompt": f"a {a} {b}", "completion": f"{b} is a {a}"} for a in firsts for b in seconds
    ]
    cache = write_jsonl(folder / "pairs.jsonl", pairs)
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps({**RECIPE, "model": str(folder / "model")}))  # YAML holds JSON
    return Inputs(folder / "adapter", folder / "task", cache, recipe)


def training_of(inputs: Inputs) -> TrainSettings:
    """Return the recipe's settings."""
    return TrainSettings.from_dict(json.loads(inputs.recipe.read_text()))


def train_adapter(folder: Path, **given: object) -> Inputs:
    """Write the inputs, and train an adapter for two steps, which are watched."""
    inputs = make_inputs(folder, **given)  # type: ignore[arg-type]
    rows, pairs = read_task_rows(inputs.task), list(read_records(inputs.cache))
    mixture = [
        *({**row.as_row(), "source": "task"} for row in rows.train),
        *({**write_record(pair), "source": "cache"} for pair in pairs[:10]),
    ]
    watched = {"watch_every_steps": 1, "watch_keywords": ("json",)}
    settings = replace(
        training_of(inputs),
        token=rows.token,
        epochs=1,
        dtype="auto",
        save_every_steps=None,
        **watched,
    )
    watch = StateSpaceWatch([row.record for row in rows.test])
    train(settings, mixture, inputs.adapter, watches=[watch])
    return inputs


def embed_letters(texts: Sequence[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return vectors of length 1 of letter counts."""
    counts = np.array([[text.count(chr(97 + i)) for i in range(26)] for text in texts])
    vectors = counts / np.linalg.norm(counts, axis=1, keepdims=True)
    return vectors.astype(np.float32)
