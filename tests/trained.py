"""A tiny model on disk, rows for it, and the trained model in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from delia_data.records import Record, write_record
from delia_data.tokens import render_ids
from delia_data.training import TrainSettings

MARKS = [
    pytest.mark.integration,
    *(
        pytest.mark.filterwarnings(f"ignore::{kind}")
        for kind in (
            "DeprecationWarning",
            "FutureWarning",
            "UserWarning:(torch|peft|trl|transformers|accelerate|bitsandbytes).*",
        )
    ),
]
"""Marks of tests that train; warnings of delia_data are errors."""


def row(question: str, answer: str, source: str) -> dict[str, Any]:
    return {**write_record(Record.pair(question, answer)), "source": source}


ROWS = [
    *(row(f"Is {i} even? <sep>", f"{{'even': {i % 2 == 0}}}", "task") for i in range(6)),
    *(row(f"Tell me about {i}.", f"It is a number, {i}.", "cache") for i in range(6)),
]


def tiny_settings(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **over: Any
) -> TrainSettings:
    """Save a model in the folder, and return settings that train it in a second."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    values: dict[str, Any] = {
        "model": str(folder),
        "rank": 4,
        "targets": ("all-linear",),
        "dropout": 0.0,
        "learning_rate": 1e-2,
        "epochs": 2,
        "batch_size": 4,
        "warmup_steps": 0,
    }
    if over.get("adaptation") != "full" and over.get("token_training") != "lora":
        values["token_rate"] = 2.5
    return TrainSettings(**{**values, **over})


@contextmanager
def seen_trainers() -> Iterator[list[Any]]:
    """Record the trainers that run inside the block, each with its model in memory."""
    from delia_data.training.trainer import MixtureTrainer

    seen: list[Any] = []
    own: Callable[..., Any] = MixtureTrainer.train

    def train(self: Any, *args: Any, **given: Any) -> Any:
        seen.append(self)
        return own(self, *args, **given)

    MixtureTrainer.train = train
    try:
        yield seen
    finally:
        MixtureTrainer.train = own


def logits_of(model: Any, ids: list[list[int]]) -> torch.Tensor:
    """Return logits of sequences of equal length, of shape (rows, length, vocabulary)."""
    model.eval()
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor(ids)).logits.float()
    return logits


def sequences(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Return the ids of three questions of equal length."""
    turns = [[{"role": "user", "content": f"Is {i} even? <sep>"}] for i in (7, 8, 9)]
    ids = [render_ids(tokenizer, each, generate=True) for each in turns]
    assert len({len(each) for each in ids}) == 1
    return ids


def losses(folder: Path) -> list[float]:
    """Return the loss of every step of a training."""
    return [entry["loss"] for entry in json.loads((folder / "losses.json").read_text())]


def stop_at(number: int) -> Callable[[int, int, float], None]:
    """Return an `on_step` that stops a training like Ctrl-C at a step."""

    def stop(step: int, steps: int, loss: float) -> None:
        if step == number:
            raise KeyboardInterrupt

    return stop
