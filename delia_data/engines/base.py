"""What every engine is: requests in, completions out.

    requests ──▶ engine.generate(requests, sampling) ──▶ completions, in any order

An engine takes requests as it needs them and gives a completion as soon as it has one. The seed
of a request belongs to its row alone (`ranking.row_seed`), so that rows are independent of each
other whatever the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from delia_data.errors import InputError
from delia_data.records import Message

__all__ = ["Completion", "Engine", "Finish", "Request", "Sampling"]

Finish = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt.

    Attributes:
        id: Content id of the row that asks.
        messages: The turns so far; the engine writes the assistant's next one.
        seed: Seed of this row's draws, below 2**63.
    """

    id: str
    messages: tuple[Message, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn. The defaults are those of the paper's code.

    Attributes:
        temperature: 0 takes the likeliest token each time.
        top_p: Smallest probability mass of the tokens that are drawn from, above 0, at most 1.
        max_tokens: Tokens of an answer at most.

    Raises:
        InputError: A value is out of its bounds.
    """

    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 512

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise InputError(f"temperature {self.temperature} is out of bounds: give 0 or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p {self.top_p} is out of bounds: give more than 0, at most 1")
        if self.max_tokens < 1:
            raise InputError(f"max_tokens {self.max_tokens} is too few: give at least 1")


@dataclass(frozen=True, slots=True)
class Completion:
    """What came of one request.

    Attributes:
        id: Id of the request.
        text: The answer, special tokens stripped by the tokenizer; empty where it failed.
        tokens: Tokens generated, the end mark included.
        finish: `"stop"` where the model ended by itself, `"length"` where it was cut off,
            `"error"` where the request failed.
        error: What went wrong, where something did.
    """

    id: str
    text: str
    tokens: int
    finish: Finish
    error: str | None = None


@runtime_checkable
class Engine(Protocol):
    """Whatever turns prompts into text."""

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        """Answer every request exactly once, in any order.

        A request that fails gives a completion whose `finish` is `"error"`; it never ends the
        others.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """What a manifest says of the engine: its name, and the model's identity."""
        ...
