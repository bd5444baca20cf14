"""The interface of every engine: requests in, completions out.

    requests ──▶ engine.generate(requests, sampling) ──▶ completions, in any order
       ▲                                                      │
       └── the next request, or None: wait for a completion ◀─┘

An engine takes a request when it has room for one and yields a completion as soon as it has one,
so it never idles while requests are waiting and never holds more than it works on. Each request
carries the seed of its row (`ranking.row_seed`), so rows do not depend on the batch they run in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Protocol, runtime_checkable

from delia_data.outputs import Number, Settings, setting
from delia_data.records import Message

Finish = Literal["stop", "length", "error"]
Role = Literal["assistant", "user"]
_THINKING_TOKENS: Final = 2_048


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt.

    Attributes:
        id: Content id of the row.
        messages: The turns so far. When `role` is `"user"`: empty, only a system turn, or a
            conversation that ends with an answer.
        seed: Random seed of the row, less than 2**63.
        role: Role whose turn the model writes. For `"user"` the prompt ends where the chat template
            starts the user's turn.
        prefill: Beginning of the user's turn. The model continues it, and the completion's text
            includes it.
        max_tokens: Maximum number of tokens to generate, in place of that of the sampling
            parameters.
    """

    id: str
    messages: tuple[Message, ...]
    seed: int
    role: Role = "assistant"
    prefill: str = ""
    max_tokens: int | None = None

    def limit(self, sampling: Sampling) -> int:
        """Return the maximum number of tokens to generate."""
        return self.max_tokens or sampling.max_tokens


@dataclass(frozen=True, slots=True)
class Sampling(Settings):
    """Sampling parameters. The defaults are those of the paper's code.

    Raises:
        InputError: A value is out of range.
    """

    temperature: Number = setting(0.7, "Sampling temperature; 0 is greedy decoding.", ge=0)
    top_p: Number = setting(
        0.95,
        "Probability mass of the tokens to sample from, greater than 0 and at most 1.",
        gt=0,
        le=1,
    )
    max_tokens: int = setting(512, "Maximum number of tokens in an answer, without thoughts.", ge=1)
    max_thinking_tokens: int | None = setting(
        None,
        "Maximum number of tokens in the thoughts before an answer. Default: 2,048 if the chat "
        "template asks the model to think.",
        ge=1,
    )

    def total_tokens(self, *, thinks: bool) -> int:
        """Return the maximum number of tokens in thoughts and answer together.

        Args:
            thinks: Whether the model is known to think before it answers.
        """
        thoughts = self.max_thinking_tokens or (_THINKING_TOKENS if thinks else 0)
        return self.max_tokens + thoughts

    def as_dict(self) -> dict[str, Any]:
        """Return the parameters that were set, as a manifest holds them."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Completion:
    """The result of one request.

    Attributes:
        id: Id of the request.
        text: The answer without special tokens and without reasoning; empty if the request failed.
        tokens: Number of generated tokens, including the end token and any reasoning; 0 if the
            server does not report it.
        finish: `"stop"` if the model ended the answer, `"length"` if the token limit cut it off,
            `"error"` if the request failed.
        error: Reason of the failure, if the request failed.
        prompt_tokens: Number of tokens in the prompt; 0 if the engine does not report it.
        cost: Cost in dollars: 0.0 if nothing is charged, None if the price is unknown.
        reasoning: Whether the model reasoned before the answer. The reasoning is not in `text`.
        thoughts: The reasoning, if the engine received it; empty otherwise.
        final: Whether a failed request would fail again, so that a retry is useless.
    """

    id: str
    text: str
    tokens: int
    finish: Finish
    error: str | None = None
    prompt_tokens: int = 0
    cost: float | None = 0.0
    reasoning: bool = False
    final: bool = False
    thoughts: str = ""


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of an engine in dollars.

    Attributes:
        prompt_token: Price of one prompt token.
        completion_token: Price of one generated token.
    """

    prompt_token: float
    completion_token: float


FREE: Final = Prices(0.0, 0.0)
"""The prices of an engine that runs the model on this machine."""


@runtime_checkable
class Engine(Protocol):
    """Anything that turns prompts into text.

    Attributes:
        prices: Prices of the engine; None if unknown.
        writes_users: Whether the engine accepts requests with `role="user"`.
    """

    prices: Prices | None
    writes_users: bool

    def generate(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Completion]:
        """Answer every request exactly once, in any order.

        Args:
            requests: The requests. The engine takes them one by one, and never more than it has
                room for. None means that no request is available before the next completion: the
                engine works on what it has, yields a completion, and then asks again. None never
                comes while the engine holds no request.
            sampling: Sampling parameters.

        Yields:
            One completion per request. A request that fails yields a completion whose `finish` is
            `"error"`; the other requests continue.

        Raises:
            EngineError: No request can be answered anymore, for example because the server is
                down, the key is wrong, or the quota is used up. Finished completions were yielded.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Return the entries for a manifest: the engine's name and the model's identity."""
        ...

    def close(self) -> None:
        """Free processes, connections, and memory. The engine must not be used afterwards."""
        ...


class RequestStream:
    """The requests of one `generate` call, as an engine takes them.

    Attributes:
        ended: Whether all requests were taken.
    """

    def __init__(self, requests: Iterable[Request | None]) -> None:
        self._requests = iter(requests)
        self.ended = False

    def take(self, limit: int) -> list[Request]:
        """Return the requests that are available now, at most `limit`."""
        taken: list[Request] = []
        while len(taken) < limit and not self.ended:
            try:
                request = next(self._requests)
            except StopIteration:
                self.ended = True
                break
            if request is None:
                break
            taken.append(request)
        return taken


def with_parts(
    engine: Engine, total: float, update: Callable[[float], None], *, requests: int = 1
) -> Callable[[float], None]:
    """Report progress within a batch too, if the engine reports it.

    Args:
        engine: The engine.
        total: The amount in all.
        update: Takes the amount done, with parts of requests. It never falls, although the answers
            in progress may turn out not to count.
        requests: Number of requests that make one of the amount.

    Returns:
        A function to call with the amount done, without parts.
    """
    done = shown = 0.0

    def report(amount: float) -> None:
        nonlocal shown
        shown = max(shown, min(amount, total))
        update(shown)

    def show(count: float) -> None:
        nonlocal done
        done = count
        report(count)

    if hasattr(engine, "on_part"):
        engine.on_part = lambda part: report(done + part / requests)
    return show
