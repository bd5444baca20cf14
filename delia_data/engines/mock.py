"""The engine for tests: instant, deterministic, and as faulty as a test needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from delia_data.engines.base import (
    FREE,
    Completion,
    Finish,
    Prices,
    Request,
    RequestStream,
    Sampling,
)
from delia_data.ranking import rank

_NOUNS: Final = """river lamp paper stone window garden letter bread winter music table bridge apple
silver morning cloud street mirror candle orange harbor valley island pencil carpet engine"""
_WORDS: Final = _NOUNS.split()


def _random_sentence(request: Request) -> str:
    """Return a sentence that depends only on the request's seed."""
    words = [_WORDS[rank(request.seed, str(i), "mock") % len(_WORDS)] for i in range(12)]
    return f"{' '.join(words).capitalize()}."


@dataclass
class MockEngine:
    """Answers without a model.

    Attributes:
        answer: Function that returns the text for a request; by default twelve words chosen with
            its seed.
        fail: Function that returns whether a request fails; by default none does.
        stall_s: Seconds to wait before each completion.
        shuffle: Maximum number of requests to hold. Completions of each group of this many requests
            come in a different order; 1 keeps the order of the requests.
        prices: Prices that the engine pretends to charge; nothing by default.
        writes_users: Whether the engine accepts requests with `role="user"`.
    """

    answer: Callable[[Request], str] = _random_sentence
    fail: Callable[[Request], bool] = lambda _: False
    stall_s: float = 0.0
    shuffle: int = 1
    prices: Prices | None = FREE
    writes_users: bool = True

    @classmethod
    def load(cls, model: str) -> MockEngine:
        """Return an engine with the defaults; the model is ignored."""
        return cls()

    def generate(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Completion]:
        """Answer every request once; truncate an answer after `max_tokens` words."""
        stream = RequestStream(requests)
        while not stream.ended:
            group = stream.take(self.shuffle)
            for request in sorted(group, key=lambda r: rank(r.seed, r.id, "mock order")):
                if self.stall_s:
                    time.sleep(self.stall_s)
                yield self._complete(request, sampling)

    def describe(self) -> dict[str, Any]:
        """Name the engine. There are no weights to hash."""
        return {"engine": "mock", "model": {"name": "mock"}}

    def close(self) -> None:
        """Do nothing: the engine holds nothing."""

    def _complete(self, request: Request, sampling: Sampling) -> Completion:
        prompt = sum(len(turn.content.split()) for turn in request.messages)
        if self.fail(request):
            return Completion(
                request.id, "", 0, "error", "the mock engine failed on purpose", prompt
            )
        words = f"{request.prefill}{self.answer(request)}".split(" ")
        shown = words[: request.limit(sampling)]
        finish: Finish = "stop" if len(shown) == len(words) else "length"
        cost = None
        if self.prices is not None:
            cost = prompt * self.prices.prompt_token + len(shown) * self.prices.completion_token
        return Completion(request.id, " ".join(shown), len(shown), finish, None, prompt, cost)
