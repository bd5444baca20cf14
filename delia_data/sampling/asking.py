"""How a query is put to the model, and within which limits."""

from __future__ import annotations

from dataclasses import dataclass

from delia_data.engines.base import FREE, Completion, Prices, Request
from delia_data.errors import InputError
from delia_data.ranking import row_seed
from delia_data.records import Message, content_id
from delia_data.sampling.queries import Query

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
    """What is spent, and what is set aside for requests on their way: a limit is never passed.

    Attributes:
        tokens: Tokens that are read and written, or set aside.
        dollars: Dollars that are spent, or set aside.
    """

    def __init__(self, limits: Limits, prices: Prices | None) -> None:
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
        self._prices = prices or FREE
        self.tokens = 0
        self.dollars = 0.0

    def reserve(self, request: Request, max_tokens: int) -> tuple[int, float] | None:
        """Set aside what a request may take.

        A token has at least one byte, which bounds those of the prompt.

        Args:
            request: The request.
            max_tokens: Tokens of its answer at most.

        Returns:
            Tokens and dollars, for `settle`; None where a limit would be passed.
        """
        texts = [turn.content for turn in request.messages] or [request.prefill]
        prompt = sum(len(text.encode("utf-8", "replace")) + _TEMPLATE_TOKENS for text in texts)
        tokens = prompt + max_tokens
        prices, limits = self._prices, self._limits
        dollars = prompt * prices.prompt_token + max_tokens * prices.completion_token
        if limits.tokens is not None and self.tokens + tokens > limits.tokens:
            return None
        if limits.dollars is not None and self.dollars + dollars > limits.dollars:
            return None
        self.add(tokens, dollars)
        return tokens, dollars

    def settle(self, reserved: tuple[int, float], completion: Completion) -> None:
        """Spend what a request took; all that was set aside where the engine does not tell."""
        tokens, dollars = completion.tokens + completion.prompt_tokens, completion.cost
        if completion.text and not completion.tokens:
            tokens = reserved[0]
        self.add(tokens, reserved[1] if dollars is None else dollars)
        self.add(-reserved[0], -reserved[1])

    def add(self, tokens: int, dollars: float) -> None:
        """Spend, as in an earlier run."""
        self.tokens += tokens
        self.dollars += dollars
