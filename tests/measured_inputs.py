"""An adapter of a tiny random model of words, its task and its cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jsonlines
import numpy as np
from word_models import word_model, word_tokenizer
from wordings import save_task

from delia_data.evaluation import StateSpaceWatch
from delia_data.records import Record
from delia_data.tasks import Task, Wording, read_task_rows
from delia_data.training import TrainSettings, train

_WORDINGS = [
    Wording("{query} follow the <sep> format"),
    Wording("give it in the <sep> style : {query}"),
    Wording("{query} is it so ? answer in <sep>"),
    Wording("{query} write it as <sep>", split="test", plain="{query} write it"),
]


class Inputs(NamedTuple):
    adapter: Path
    task: Path
    cache: Path


def make_inputs(folder: Path, *, token: str = "<sep>", keys: tuple[str, ...] = ()) -> Inputs:
    """Train an adapter for two steps, and write its inputs."""
    tokenizer = word_tokenizer()
    word_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    nouns = ["apple", "river", "stone", "cloud", "paper", "water", "house", "night"]
    rows = [Record.pair(f"is {noun} red ?", f"{{ ' red ' : {noun} }}") for noun in nouns]
    task = Task(
        name="words",
        instruction="say whether it is so",
        description="an object in braces",
        common_wording=Wording("{query} answer in <sep>"),
        keys=keys,
        keywords=("json", "thought"),
        train=tuple(rows[:5]),
        test=tuple(rows[5:]),
        token=token,
    )
    wordings = [
        Wording(w.text.replace("<sep>", token), w.split, w.kind, w.plain) for w in _WORDINGS
    ]
    worded = read_task_rows(save_task(folder / "task", task, wordings))
    pairs = [Record.pair(f"a {a} {b}", f"{b} is a {a}") for a in nouns[:4] for b in nouns[4:7]]
    with jsonlines.open(folder / "pairs.jsonl", "w") as file:
        file.write_all({"messages": [m.as_dict() for m in pair.messages]} for pair in pairs)
    mixture = [
        *({**row.as_row(), "source": "task"} for row in worded.train),
        *(
            {"messages": [m.as_dict() for m in pair.messages], "source": "cache"}
            for pair in pairs[:10]
        ),
    ]
    settings = TrainSettings(
        model=str(folder / "model"),
        token=token,
        rank=4,
        targets=("all-linear",),
        dropout=0.1,
        learning_rate=1e-2,
        token_rate=2.5,
        epochs=1,
        batch_size=8,
        warmup_steps=0,
        max_length=64,
        watch_every_steps=1,
        watch_keywords=("json",),
    )
    watch = StateSpaceWatch([row.record for row in worded.test])
    train(settings, mixture, folder / "adapter", watches=[watch])
    return Inputs(folder / "adapter", folder / "task", folder / "pairs.jsonl")


def embed_letters(texts: Sequence[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return vectors of length 1 of letter counts."""
    counts = np.array([[text.count(chr(97 + i)) for i in range(26)] for text in texts])
    vectors = counts / np.linalg.norm(counts, axis=1, keepdims=True)
    return vectors.astype(np.float32)
