"""Task rows, pairs and mixtures that several tests share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from delia_data.mixing import Mixture, mix, save_mixture
from delia_data.records import Record
from delia_data.tasks import TaskRow


def task_rows(count: int, *, split: str = "train") -> list[TaskRow]:
    return [
        TaskRow(
            Record.pair(f"{split} question {i}? Follow the <sep> format.", f"{{'answer': {i}}}"),
            f"wording-{i % 3}",
        )
        for i in range(count)
    ]


def pairs(count: int) -> list[Record]:
    return [Record.pair(f"query {i}", f"answer {i}") for i in range(count)]


def picked(mixture: Mixture) -> list[str]:
    """Return the ids of the pairs in a mixture, in order."""
    rows = mixture.train.select(["source", "source_id"]).to_pylist()
    return [row["source_id"] for row in rows if row["source"] == "cache"]


def shuffled(rows: Sequence[Any], seed: int) -> list[Any]:
    return random.Random(seed).sample(rows, len(rows))


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


TASK, TEST, CACHE = task_rows(10), task_rows(4, split="test"), pairs(200)
BIG_CACHE = pairs(10_000)
orders = st.sampled_from(["shuffled", "interleaved"])


def save_one_row(folder: Path, question: str, token: str | None = "<sep>") -> Path:
    """Write a mixture of one task row and one pair."""
    task = [TaskRow(Record.pair(question, "an answer"))]
    save_mixture(mix(task, [Record.pair("query", "answer")], ratio=1, token=token), folder)
    return folder
