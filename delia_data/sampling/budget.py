"""Limits of a run, and the budget that enforces them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from delia_data.engines.base import FREE, Completion, Prices, Request
from delia_data.errors import InputError
from delia_data.outputs import Number, Settings, setting

_TEMPLATE_TOKENS: Final = 64  # generous bound on the tokens that a chat template adds to a turn


@dataclass(frozen=True, slots=True)
class Limits(Settings):
    """Limits of spending and of failures.

    Raises:
        InputError: A limit is negative.
    """

    dollars: Number | None = setting(
        None,
        "Maximum cost of the whole cache in dollars, earlier runs included.",
        names=["--budget-usd"],
        ge=0,
    )
    tokens: int | None = setting(
        None,
        "Maximum number of prompt and generated tokens of the whole cache.",
        names=["--budget-tokens"],
        ge=0,
    )
    retries: int = setting(
        1, "Number of retries of a failed request before its row counts as failed.", ge=0
    )
    failures: int = setting(
        100, "Number of failed rows that a run tolerates.", names=["--max-failures"], ge=0
    )


class Budget:
    """Tokens and dollars that are spent or reserved; a limit is never exceeded.

    A request that the engine has is reserved at the most it can cost, until its completion settles
    it. An engine serves one list of requests at a time, so all reservations belong to that list.

    Attributes:
        tokens: Number of tokens spent or reserved.
        dollars: Dollars spent or reserved.
    """

    def __init__(self, limits: Limits, prices: Prices | None) -> None:
        """Start with nothing spent.

        Raises:
            InputError: Dollars are limited and the engine's prices are unknown.
        """
        if limits.dollars is not None and prices is None:
            raise InputError(
                "a budget in dollars needs prices, and the prices of this model are unknown: give "
                "its prices for prompts and completions, or a budget in tokens"
            )
        self._limits = limits
        self._prices = prices or FREE
        self.tokens = 0
        self.dollars = 0.0
        self._reserved: dict[str, tuple[int, float]] = {}  # tokens and dollars by request id

    def reserve(self, request: Request, max_tokens: int, requests: int = 1) -> bool:
        """Reserve the most that a request can cost; return False if a limit would be exceeded.

        A token has at least one byte, so the bytes of the prompt bound its tokens. With `requests`
        the request begins a conversation of as many, each with the turns before it in its prompt.
        """
        if request.id in self._reserved:
            return True
        texts = [turn.content for turn in request.messages] or [request.prefill]
        prompt = sum(len(text.encode("utf-8", "replace")) + _TEMPLATE_TOKENS for text in texts)
        repeated = (max_tokens + _TEMPLATE_TOKENS) * requests * (requests - 1) // 2
        prompt, generated = requests * prompt + repeated, requests * max_tokens
        tokens = prompt + generated
        prices, limits = self._prices, self._limits
        dollars = prompt * prices.prompt_token + generated * prices.completion_token
        if limits.tokens is not None and self.tokens + tokens > limits.tokens:
            return False
        if limits.dollars is not None and self.dollars + dollars > limits.dollars:
            return False
        self.spend(tokens, dollars)
        self._reserved[request.id] = tokens, dollars
        return True

    def affordable(self, requests: Iterable[Request], max_tokens: int) -> Iterator[Request | None]:
        """Reserve and yield requests until one is too expensive even with all others settled.

        None means that a completion must come first: it may cost less than its reservation.
        """
        for request in requests:
            while not self.reserve(request, max_tokens):
                if not self._reserved:
                    return
                yield None
            yield request

    def settle(self, completion: Completion, following: Request | None = None) -> None:
        """Replace the reservation of a request with its cost, if the engine reports one.

        The request that follows in a conversation keeps the rest of the reservation.
        """
        reserved_tokens, reserved_dollars = self._reserved.pop(completion.id)
        tokens, dollars = completion.tokens + completion.prompt_tokens, completion.cost
        if completion.text and not completion.tokens:
            tokens = reserved_tokens
        if dollars is None:
            dollars = reserved_dollars
        rest = reserved_tokens - tokens, reserved_dollars - dollars
        if following is not None:
            self._reserved[following.id] = rest
        else:
            self.spend(-rest[0], -rest[1])

    def release(self, request: Request) -> None:
        """Give back the reservation of a request that is not made."""
        tokens, dollars = self._reserved.pop(request.id)
        self.spend(-tokens, -dollars)

    def spend(self, tokens: int, dollars: float) -> None:
        """Add to what is spent, such as the cost of an earlier run."""
        self.tokens += tokens
        self.dollars += dollars
