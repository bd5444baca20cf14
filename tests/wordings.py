"""A small task, wordings that pass its gates, and embeddings that need no model."""

import hashlib
from collections.abc import Sequence

import numpy as np

from delia_data.records import Record
from delia_data.sampling.embeddings import Vectors
from delia_data.sampling.similarity import words
from delia_data.tasks import Task, Wording

__all__ = ["TEST", "TEXTS", "TRAIN", "bag_of_words", "verdicts"]

TEXTS = [
    "{query} Follow the <sep> format.",
    "Please give me a verdict in <sep> about: {query}",
    "<sep> is how I want this answered. {query}",
    "You are a strict teacher; mark the paper below using <sep>.\n{query}",
    "Read {query} carefully, think twice, reply with <sep> only",
]
TRAIN = [Wording(text) for text in TEXTS]
TEST = [
    Wording("Have a look, then tell us in <sep>: {query}", "test", plain="Have a look: {query}"),
    Wording("Could somebody check {query} for me? <sep>!", "test", plain="Check {query}"),
]


def verdicts(train: int = 12, test: int = 5) -> Task:
    """A task of short rows."""
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
    """Vectors whose products tell how many words two texts share; shape (texts, 256)."""
    vectors = np.zeros((len(texts), 256), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in words(text):
            vectors[row, int(hashlib.md5(word.encode()).hexdigest(), 16) % 256] += 1
        vectors[row, 0] += not vectors[row].any()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
