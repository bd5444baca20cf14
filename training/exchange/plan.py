"""What a configuration for another trainer is made from, and what every trainer's module gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from delia_data.records import Format
from delia_data.training.settings import TrainSettings

MICRO_BATCH: Final = 8
"""Rows computed at once where the settings leave it open, or fewer if the batch is smaller."""


@dataclass(frozen=True, slots=True)
class ExchangePlan:
    """A mixture, a prepared model and settings, resolved.

    Attributes:
        settings: The settings; `batch_size` is a number, `targets` are names of modules.
        model: Folder of the prepared model.
        token_ids: The special tokens and their ids.
        embedding: Name of the module of the input embedding.
        end_of_turn: Text of the token with which an answer ends.
        eos: Text of the tokenizer's end-of-sequence token.
        family: `"gemma"` or `"llama2"`, whose chat formats have no system turn of their own; None
            for any other.
        system_turns: Whether the chat template takes a system turn.
        rows: File of the training rows.
        format: Their row format.
        out: Folder of the configuration; what is trained goes beside it.
    """

    settings: TrainSettings
    model: Path
    token_ids: dict[str, int]
    embedding: str
    end_of_turn: str
    eos: str
    family: str | None
    system_turns: bool
    rows: Path
    format: Format
    out: Path

    @property
    def batch(self) -> int:
        """Rows of an optimiser step."""
        assert self.settings.batch_size is not None
        return self.settings.batch_size

    @property
    def micro_batch(self) -> int:
        """Rows computed at once: a divisor of the batch."""
        wanted = min(self.settings.micro_batch_size or MICRO_BATCH, self.batch)
        return next(size for size in range(wanted, 0, -1) if self.batch % size == 0)

    @property
    def accumulation(self) -> int:
        """Times that many rows in a step."""
        return self.batch // self.micro_batch

    @property
    def loader(self) -> str:
        """Name under which `load_dataset` reads the rows."""
        return "parquet" if self.rows.suffix == ".parquet" else "json"

    @property
    def trained(self) -> Path:
        """Where the trainer leaves its adapter."""
        return self.out / "trained"


class Exchanger(Protocol):
    """A module for one trainer."""

    FORMATS: tuple[Format, ...]
    """Row formats that the trainer reads as they are; the first is what others are turned into."""

    def files(self, plan: ExchangePlan) -> dict[str, str]:
        """Texts of the files, by their names."""
        ...

    def command(self, plan: ExchangePlan) -> str:
        """What starts the training."""
        ...

    def notes(self, plan: ExchangePlan) -> list[str]:
        """What of the settings the trainer cannot do, in words."""
        ...
