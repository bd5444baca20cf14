"""A tiny model on disk, rows for it, and the trained model as it is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from delia_data.records import Record, write_record
from delia_data.training import TrainSettings

__all__ = ["ROWS", "logits_of", "row", "seen_trainers", "tiny_settings"]


def row(question: str, answer: str, source: str) -> dict[str, Any]:
    return {**write_record(Record.pair(question, answer)), "source": source}


ROWS = [
    *(row(f"Is {i} even? <sep>", f"{{'even': {i % 2 == 0}}}", "task") for i in range(6)),
    *(row(f"Tell me about {i}.", f"It is a number, {i}.", "cache") for i in range(6)),
]


def tiny_settings(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **over: Any
) -> TrainSettings:
    """Settings that train a model of seconds; it is saved in the folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    values: dict[str, Any] = {
        "model": str(folder),
        "rank": 4,
        "targets": ("all-linear",),
        "dropout": 0.0,
        "learning_rate": 1e-2,
        "token_learning_rate": 5e-2,
        "epochs": 2,
        "batch_size": 4,
        "warmup_steps": 0,
    }
    return TrainSettings(**{**values, **over})


@contextmanager
def seen_trainers() -> Iterator[list[Any]]:
    """The trainers that are at work inside the block, each with its model in memory."""
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
    """Logits of sequences of one length, in float32, of shape (rows, length, vocabulary)."""
    model.eval()
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor(ids)).logits.float()
    return logits
