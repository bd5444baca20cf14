"""What every engine is: requests in, completions out.

    requests ──▶ engine.generate(requests, sampling) ──▶ completions, in any order
       ▲                                                      │
       └── the next one, or None: nothing before an answer ◀──┘

An engine takes requests as it has room for them and gives a completion as soon as it has one, so
that it is never idle while there is something to ask, and never holds more than it works on. The
seed of a request belongs to its row alone (`ranking.row_seed`), so that rows are independent of
each other whatever the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, runtime_checkable

from delia_data.errors import InputError
from delia_data.records import Message

Finish = Literal["stop", "length", "error"]
Speaker = Literal["assistant", "user"]


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt.

    Attributes:
        id: Content id of the row that asks.
        messages: The turns so far; none, or a system turn alone, where the user is to speak.
        seed: Seed of this row's draws, below 2**63.
        speaker: Whose turn the model writes: the assistant's, or the user's, for which the prompt
            ends where the chat template lets the user speak.
        opening: Text with which the user's turn begins; the model goes on from there, and the
            completion's text has it too.
    """

    id: str
    messages: tuple[Message, ...]
    seed: int
    speaker: Speaker = "assistant"
    opening: str = ""


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
        tokens: Tokens generated, the end mark included; 0 where a server does not tell.
        finish: `"stop"` where the model ended by itself, `"length"` where it was cut off,
            `"error"` where the request failed.
        error: What went wrong, where something did.
        prompt_tokens: Tokens of the prompt, where the engine tells; else 0.
        cost: Dollars that it cost: 0.0 where nothing is charged, None where the price is not
            known.
    """

    id: str
    text: str
    tokens: int
    finish: Finish
    error: str | None = None
    prompt_tokens: int = 0
    cost: float | None = 0.0


@dataclass(frozen=True, slots=True)
class Prices:
    """What an engine charges, in dollars.

    Attributes:
        prompt_token: For a token of a prompt.
        completion_token: For a token that the model writes.
    """

    prompt_token: float
    completion_token: float


FREE: Final = Prices(0.0, 0.0)
"""The prices of an engine that computes here."""


@runtime_checkable
class Engine(Protocol):
    """Whatever turns prompts into text.

    Attributes:
        prices: What it charges; None where that is not known.
        writes_users: Whether it takes requests whose speaker is the user.
    """

    prices: Prices | None
    writes_users: bool

    def generate(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Completion]:
        """Answer every request exactly once, in any order.

        Args:
            requests: What is asked; taken one by one, never more than the engine has room for.
                None among them means that there is nothing to ask before a completion was
                taken: the engine goes on with what it has, gives the next completion, and then
                asks again. None never comes while the engine holds no request.
            sampling: How answers are drawn.

        Yields:
            A completion for each request. One that fails gives a completion whose `finish` is
            `"error"`; it never ends the others.

        Raises:
            EngineError: Nothing can be answered any more: the server is down, the key is wrong,
                the quota is gone. What was finished before has been given.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """What a manifest says of the engine: its name, and the model's identity."""
        ...

    def close(self) -> None:
        """Let go of processes, connections and memory; the engine is not used afterwards."""
        ...


class Intake:
    """The requests of one `generate`, as an engine takes them.

    Attributes:
        ended: Whether there will never be another one.
    """

    def __init__(self, requests: Iterable[Request | None]) -> None:
        """Begin to take requests."""
        self._requests = iter(requests)
        self.ended = False

    def take(self, most: int) -> list[Request]:
        """Take what can be asked now, and at most so many; fewer, or none, where there is less."""
        taken: list[Request] = []
        while len(taken) < most and not self.ended:
            try:
                request = next(self._requests)
            except StopIteration:
                self.ended = True
                break
            if request is None:
                break
            taken.append(request)
        return taken
