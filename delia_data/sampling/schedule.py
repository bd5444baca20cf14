"""The request schedule: which requests an engine gets, in which order, and when to stop.

    queries ──▶ [asked before? skip] ──▶ request ──▶ engine ──▶ completion
                                           ▲                       │
                                           └── failed: repeat ◀────┴──▶ settled

The number of pending requests never exceeds the number of missing pairs. The target is therefore
met exactly, and a rejected pair makes room for the next query at once. The requested rows are the
shortest prefix of the queries that contains the target, whatever order the engine answers in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from delia_data.engines.base import Completion, Request, setting
from delia_data.errors import EngineError, InputError
from delia_data.ranking import row_seed
from delia_data.records import Message, content_id
from delia_data.sampling.budget import Budget, Limits
from delia_data.sampling.filters import Filter, Judge
from delia_data.sampling.queries import Queries, Query
from delia_data.sampling.store import PairStore, SampledRow

_HEALTH_WINDOW: Final = 32  # latest requests; if more than half failed, the engine is dead


@lru_cache(maxsize=1)  # a new request needs the id of its query twice
def query_id(query: Query) -> str:
    """Return the content id of a query: 32 hexadecimal digits."""
    system = [Message("system", query.system)] if query.system else []
    return content_id([*system, Message("user", query.text)])


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """How a query becomes a prompt.

    Raises:
        InputError: A value is out of range.
    """

    system: str | None = setting(
        None, "System prompt of queries without their own. Default: that of the chat template."
    )
    exemplar: bool = setting(
        False,
        "Show the query, its reference answer, and the query again, as the paper's code does; the "
        "second answer is kept.",
    )
    answers_per_query: int = setting(1, "Number of answers to sample for each query.")

    def __post_init__(self) -> None:
        if self.answers_per_query < 1:
            raise InputError(
                f"answers_per_query {self.answers_per_query} is too few: give at least 1"
            )
        if self.system is not None and not self.system.strip():
            raise InputError("the system prompt is empty: give a text, or leave it out")

    def request(self, query: Query, answer: int, seed: int) -> Request:
        """Build the request for one answer to a query.

        Args:
            query: The query.
            answer: Number of the answer, from 0.
            seed: Seed of the run.

        Raises:
            InputError: `exemplar` is set and the query has no reference answer.
        """
        row_id = query_id(query)
        if answer:
            row_id = f"{row_id}:{answer}"
        turns = [Message("user", query.text)]
        if self.exemplar:
            if query.reference is None:
                raise InputError(
                    f"the query {query.text[:60]!r} has no reference answer to show: give rows "
                    "with answers, or leave out exemplar"
                )
            turns = [*turns, Message("assistant", query.reference), *turns]
        if system := query.system or self.system:
            turns.insert(0, Message("system", system))
        return Request(row_id, tuple(turns), row_seed(seed, row_id, "sample"))


@dataclass(slots=True)
class PendingRequest:
    """A request that the engine has, or gets next.

    Attributes:
        number: Position in the order of the run.
        query: The query.
        request: The request.
        tries: Number of failed tries so far.
    """

    number: int
    query: Query
    request: Request
    tries: int = 0

    def row(self, completion: Completion, filters: Sequence[Filter]) -> SampledRow:
        """Return the finished row, with the reason of the first filter that rejects it."""
        text = completion.text
        if not text.isascii():  # a lone surrogate cannot be written to a file
            text = text.encode("utf-8", "replace").decode("utf-8")
        reasons = (reason for check in filters if (reason := check(self.query.text, completion)))
        first = next(reasons, "")
        reason, detail = (first, "") if isinstance(first, str) else first
        cost = completion.cost
        for check in filters:
            if isinstance(check, Judge):
                spent = check.take_cost()
                cost = None if cost is None or spent is None else cost + spent
        return SampledRow(
            self.number,
            self.request.id,
            self.query.text,
            text,
            completion.tokens,
            completion.prompt_tokens,
            cost,
            reason or None,
            completion.error,
            completion.reasoning,
            self.query.system,
            completion.thoughts or None,
            detail or None,
        )


class RequestScheduler:
    """Yields requests until the store holds the target, and takes their completions.

    Attributes:
        stopped: Why no further requests are made: the `"queries"` ran out, the `"budget"` is
            spent, or the reason given to `stop`. None while running, and if the target is met.
    """

    def __init__(
        self,
        queries: Queries,
        prompts: PromptOptions,
        store: PairStore,
        *,
        target: int,
        seed: int,
        max_tokens: int,
        budget: Budget,
        limits: Limits,
    ) -> None:
        """Continue where the earlier runs of the store stopped."""
        self.stopped: str | None = None
        self._store = store
        self._target = target
        self._limits = limits
        self._max_tokens = max_tokens
        self._budget = budget
        self._failures = 0
        self._latest: deque[Completion] = deque(maxlen=_HEALTH_WINDOW)
        self._waiting = new_requests(queries, prompts, store.asked, seed)
        self._retries: deque[PendingRequest] = deque()
        self._pending: dict[str, PendingRequest] = {}

    @property
    def pending(self) -> int:
        """Number of requests that the engine has not answered."""
        return len(self._pending)

    def requests(self) -> Iterator[Request | None]:
        """Yield requests; None means that a completion must come before the next request."""
        while (kept := self._store.counts.kept) < self._target:
            if self.stopped is None and kept + self.pending < self._target:
                following = self._next()
                if following is not None:
                    self._pending[following.request.id] = following
                    yield following.request
                    continue
            if not self._pending:
                return
            yield None

    def stop(self, reason: str) -> None:
        """Make no further requests; completions of pending requests are still taken."""
        self.stopped = self.stopped or reason

    def settle(self, completion: Completion) -> PendingRequest | None:
        """Take a completion.

        Returns:
            Its request; None if the request failed and will be repeated.

        Raises:
            EngineError: Too many requests failed.
        """
        request = self._pending.pop(completion.id)
        self._latest.append(completion)
        self._budget.settle(completion)
        if completion.finish != "error":
            return request
        self._check_health()
        if request.tries < self._limits.retries and not completion.final:
            request.tries += 1
            self._retries.append(request)
            return None
        self._failures += 1
        if self._failures > self._limits.failures:
            raise EngineError(
                f"{self._failures} rows failed after all retries, the last one because of "
                f"{completion.error}: fix the cause or allow more failures; finished rows stay"
            )
        return request

    def _next(self) -> PendingRequest | None:
        """Return the next affordable request; None if no request can be made now."""
        request = self._retries.popleft() if self._retries else next(self._waiting, None)
        if request is None:
            if not self._pending:
                self.stop("queries")
            return None
        if self._budget.reserve(request.request, self._max_tokens):
            return request
        self._retries.appendleft(request)
        if not self._pending:
            self.stop("budget")
        return None

    def _check_health(self) -> None:
        errors = [c.error for c in self._latest if c.finish == "error"]
        if len(self._latest) == _HEALTH_WINDOW and len(errors) * 2 > _HEALTH_WINDOW:
            raise EngineError(
                f"{len(errors)} of the latest {_HEALTH_WINDOW} requests failed ({errors[-1]}): "
                "fix the engine and run again; finished rows stay"
            )


def new_requests(
    queries: Queries, prompts: PromptOptions, asked: set[str], seed: int
) -> Iterator[PendingRequest]:
    """Yield every row in order, except rows asked before and repeated queries."""
    seen: set[str] = set()
    number = -1
    for query in queries:
        key = query_id(query)
        if key in seen:
            continue
        seen.add(key)
        for answer in range(prompts.answers_per_query):
            number += 1
            if (f"{key}:{answer}" if answer else key) not in asked:
                yield PendingRequest(number, query, prompts.request(query, answer, seed))
