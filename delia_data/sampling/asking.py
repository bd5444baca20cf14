"""How a query is put to the model, and within which limits."""

from __future__ import annotations

from dataclasses import dataclass

from delia_data.engines.base import Prices, Request, Sampling
from delia_data.errors import InputError
from delia_data.ranking import row_seed
from delia_data.records import Message, content_id
from delia_data.sampling.queries import Query

__all__ = ["Asking", "Limits", "Spending", "query_id"]

_TEMPLATE_TOKENS = 64
"""What a chat template adds to a prompt, generously."""


def query_id(query: str) -> str:
    """Content id of a query: 32 hexadecimal digits."""
    return content_id([Message("user", query)])


@dataclass(frozen=True, slots=True)
class Asking:
    """How a query is put to the model.

    Attributes:
        system: What the system's turn says; None leaves it to the chat template.
        exemplar: Ask as the paper's code does: the query, its reference answer, and the same
            query again; the second answer is kept.
        answers_per_query: How many answers are drawn for each query.

    Raises:
        InputError: A value is out of its bounds.
    """

    system: str | None = None
    exemplar: bool = False
    answers_per_query: int = 1

    def __post_init__(self) -> None:
        if self.answers_per_query < 1:
            raise InputError(f"answers_per_query {self.answers_per_query} is too few: give 1")
        if self.system is not None and not self.system.strip():
            raise InputError("the system prompt is empty: give some words, or none at all")

    def request(self, query: Query, answer: int, seed: int) -> Request:
        """Word the request for one answer to a query.

        Args:
            query: The query.
            answer: Number of the answer, from 0.
            seed: Seed of the run.

        Raises:
            InputError: An exemplar is wanted, and the query has no reference answer.
        """
        row_id = query_id(query.text)
        if answer:
            row_id = f"{row_id}:{answer}"
        turns = [Message("user", query.text)]
        if self.exemplar:
            if query.reference is None:
                raise InputError(
                    f"the query {query.text[:60]!r} has no reference answer to show: give rows "
                    "with answers, or ask without an exemplar"
                )
            turns = [*turns, Message("assistant", query.reference), *turns]
        if self.system is not None:
            turns.insert(0, Message("system", self.system))
        return Request(row_id, tuple(turns), row_seed(seed, row_id, "sample"))


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may spend, and how much may go wrong.

    Attributes:
        dollars: Dollars that the whole cache may cost, earlier runs included.
        tokens: Tokens that may be read and written for it.
        retries: Times that a failed request is asked again before it is recorded as failed.
        failures: Rows that may fail for good before the run ends.

    Raises:
        InputError: A limit is negative.
    """

    dollars: float | None = None
    tokens: int | None = None
    retries: int = 1
    failures: int = 100

    def __post_init__(self) -> None:
        for name in ("dollars", "tokens", "retries", "failures"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InputError(f"the limit of {name} is {value}: give 0 or more")


class Spending:
    """What is spent, and what is set aside for requests on their way: a limit is never passed."""

    def __init__(self, limits: Limits, prices: Prices | None, sampling: Sampling) -> None:
        """Begin with nothing spent.

        Raises:
            InputError: Dollars are limited, and the engine's prices are not known.
        """
        if limits.dollars is not None and prices is None:
            raise InputError(
                "a budget in dollars needs prices, and those of this model are not known: give "
                "its prices for prompts and completions, or a budget in tokens"
            )
        self._limits = limits
        self._prices = prices or Prices(0.0, 0.0)
        self._most = sampling.max_tokens
        self.tokens = 0
        self.dollars = 0.0

    def most(self, request: Request) -> tuple[int, float]:
        """Tokens and dollars that a request may take: a token has at least one byte."""
        texts = [turn.content for turn in request.messages]
        prompt = sum(len(text.encode("utf-8", "replace")) + _TEMPLATE_TOKENS for text in texts)
        prices = self._prices
        dollars = prompt * prices.prompt_token + self._most * prices.completion_token
        return prompt + self._most, dollars

    def allows(self, most: tuple[int, float]) -> bool:
        """Whether so much more stays within the limits."""
        tokens, dollars = most
        limits = self._limits
        return (limits.tokens is None or self.tokens + tokens <= limits.tokens) and (
            limits.dollars is None or self.dollars + dollars <= limits.dollars
        )

    def add(self, tokens: int, dollars: float) -> None:
        """Spend, or set aside; negative numbers give back."""
        self.tokens += tokens
        self.dollars += dollars
