"""A small task, wordings that pass its gates, and embeddings that need no model."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from recording_engine import RecordingEngine

from delia_data.diversify import (
    DiversifiedTask,
    diversify,
    gate_task_wordings,
    make_task_folder,
    save_task_rows,
)
from delia_data.engines import Engine
from delia_data.engines.base import FREE
from delia_data.records import Record
from delia_data.sampling.embeddings import Vectors
from delia_data.sampling.similarity import words
from delia_data.tasks import Task, Wording

TEXTS = [
    "{query} Follow the <sep> format.",
    "Please give me a verdict in <sep> about: {query}",
    "<sep> is how I want this answered. {query}",
    "You are a strict teacher; mark the paper below using <sep>.\n{query}",
    "Read {query} carefully, think twice, reply with <sep> only",
]
TRAIN = [Wording(text) for text in TEXTS]
ANOTHER = Wording("Tell me if it holds, in <sep>. {query}", plain="Does it hold? {query}")
TEST = [
    Wording("Have a look, then tell us in <sep>: {query}", "test", plain="Have a look: {query}"),
    Wording("Could somebody check {query} for me? <sep>!", "test", plain="Check {query}"),
]


def verdicts(train: int = 12, test: int = 5) -> Task:
    """Return a task of short rows."""
    return Task(
        name="verdicts",
        instruction="Say whether it is right, as JSON.",
        description="a JSON object",
        common_wording=Wording("{query} In <sep>.", plain="{query}"),
        keys=("thought",),
        keywords=("json",),
        train=tuple(Record.pair(f"train query {i}", f"answer {i}") for i in range(train)),
        test=tuple(Record.pair(f"test query {i}", f"answer {i}") for i in range(test)),
    )


def bag_of_words(texts: Sequence[str]) -> Vectors:
    """Return vectors whose products grow with shared words; shape (texts, 256)."""
    vectors = np.zeros((len(texts), 256), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in words(text):
            vectors[row, int(hashlib.md5(word.encode()).hexdigest(), 16) % 256] += 1
        vectors[row, 0] += not vectors[row].any()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def contrast_task(
    folder: Path,
    engine: Engine | None = None,
    *,
    task: Task | None = None,
    wordings: Sequence[Wording] = (*TRAIN, ANOTHER, *TEST),
    **options: Any,
) -> DiversifiedTask:
    """Write the folder of the small task, by default with an engine that repeats the request."""
    if options.get("contrast"):  # the engine repeats the token of a question about it
        options = {"contrast_kinds": ("plain", "forbid", "mention"), **options}
    return make_task_folder(
        verdicts() if task is None else task,
        folder,
        wordings=wordings,
        embed=False,
        engine=engine or RecordingEngine(prices=FREE).engine,
        **options,
    )


def save_task(folder: Path, task: Task, wordings: Sequence[Wording], *, seed: int = 0) -> Path:
    """Write the folder of a task in given wordings."""
    rows, gates = diversify(task, wordings, seed=seed), gate_task_wordings(task, wordings)
    save_task_rows(folder, rows, task, seed=seed, gates=gates)
    return folder
