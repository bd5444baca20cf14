"""The request schedule: which requests an engine gets, in which order, and when to stop.

    queries ──▶ [asked before? skip] ──▶ request ──▶ engine ──▶ completion
                                           ▲                       │
                                           └── failed: repeat ◀────┴──▶ settled

The number of rows in progress never exceeds the number of missing pairs. The target is therefore
met exactly, and a rejected pair makes room for the next query at once. The requested rows are the
shortest prefix of the queries that contains the target, whatever order the engine answers in.

A row of several turns is a chain of requests: the engine gets the next one, for the user's turn or
for the answer to it, once the filters accept the latest answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

from delia_data.engines.base import Completion, Engine, Request, setting
from delia_data.errors import EngineError, InputError
from delia_data.ranking import row_seed
from delia_data.records import Message, Rejection, content_id
from delia_data.sampling.budget import Budget, Limits
from delia_data.sampling.filters import USER_TURN, Filter, Judge, StatefulFilter
from delia_data.sampling.generated_queries import (
    SELF_SAMPLING,
    follow_up_fault,
    follow_up_request,
)
from delia_data.sampling.queries import Queries, Query
from delia_data.sampling.store import PairStore, SampledRow
from delia_data.tokens import render_user_ids

_HEALTH_WINDOW: Final = 32  # latest requests; if more than half failed, the engine is dead


def check_turns(engine: Engine, turns: int) -> None:
    """Refuse turns that an engine cannot write.

    Raises:
        InputError: There is less than one turn, or the engine cannot write the user's.
    """
    if turns < 1:
        raise InputError(f"turns {turns} is too few: give at least 1")
    if turns == 1:
        return
    if not engine.writes_users:
        raise InputError(
            f"engine {engine.describe().get('engine')!r} cannot write the user's turns of a "
            "conversation: use transformers or vllm, or leave out turns (--turns)"
        )
    if (tokenizer := getattr(engine, "tokenizer", None)) is not None:
        exchange = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
        render_user_ids(tokenizer, exchange)


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
    """A row in progress, and the request that the engine has for it, or gets next.

    Attributes:
        number: Position in the order of the run.
        query: The query.
        request: The request.
        turns: Number of answers in the row.
        tries: Number of failed tries of the request so far.
    """

    number: int
    query: Query
    request: Request
    turns: int = 1
    tries: int = 0
    _row: SampledRow | None = field(default=None, init=False)

    @property
    def requests(self) -> int:
        """Number of requests that the row still needs if no filter rejects it."""
        done = 0 if self._row is None else 1 + len(self._row.followups)
        return 2 * self.turns - 1 - done

    def take(self, completion: Completion, filters: Sequence[Filter]) -> SampledRow | None:
        """Take the completion of the request.

        Filters get the user's last turn and the answer to it; those that compare pairs get the
        query and all that follows, once the row is complete.

        Returns:
            The finished row, with the reason of the first filter that rejects it; None if the
            conversation continues, and `request` is that of its next turn.
        """
        text = completion.text
        if not text.isascii():  # a lone surrogate cannot be written to a file
            text = text.encode("utf-8", "replace").decode("utf-8")
        row = self._row
        if row is None:
            row = self._row = SampledRow(
                self.number, self.request.id, self.query.text, text, 0, system=self.query.system
            )
        else:
            row.followups.append(text)
        row.tokens += completion.tokens
        row.prompt_tokens += completion.prompt_tokens
        row.cost = _sum(row.cost, completion.cost)
        row.error = completion.error
        row.reasoning |= completion.reasoning
        row.thoughts = "\n\n".join(filter(None, (row.thoughts, completion.thoughts))) or None
        first = next(self._faults(row, completion, filters), "")
        reason, detail = (first, "") if isinstance(first, str) else first
        for check in filters:
            if isinstance(check, Judge):
                row.cost = _sum(row.cost, check.take_cost())
        if reason and self.turns > 1:
            turn = f"turn {1 + (1 + len(row.followups)) // 2}"
            detail = f"{turn}: {detail}" if detail else turn
        row.rejected, row.detail = reason or None, detail or None
        if reason or completion.finish == "error" or not self.requests:
            return row
        asked, row_id = self.request, f"{row.id}/{len(row.followups) + 1}"
        seed = row_seed(asked.seed, row_id, "sample")
        if asked.role == "user":
            turns = (*asked.messages, Message("user", text))
            self.request = Request(row_id, turns, seed)
        else:
            self.request = follow_up_request(asked, text, row_id, seed)
        self.tries = 0
        return None

    def _faults(
        self, row: SampledRow, completion: Completion, filters: Sequence[Filter]
    ) -> Iterator[str | Rejection]:
        """Yield the reasons to reject the latest turn."""
        asked = self.request
        if asked.role == "user":
            if completion.finish == "error":
                yield "failed"
            elif fault := follow_up_fault(asked, completion.text, completion.finish):
                yield Rejection(USER_TURN, fault)
            return
        query = asked.messages[-1].content
        for check in filters:
            seen = query, completion
            if row.followups and isinstance(check, Judge):  # it needs to know what was said before
                said = [row.query, row.answer, *row.followups[:-1]]
                seen = "\n\n".join(said), completion
            elif self.turns > 1 and isinstance(check, StatefulFilter):
                if self.requests:
                    continue
                seen = row.query, replace(completion, text=row.text)
            if reason := check(*seen):
                yield reason


def _sum(cost: float | None, more: float | None) -> float | None:
    return None if cost is None or more is None else cost + more


class RequestScheduler:
    """Yields requests until the store holds the target, and turns their completions into rows.

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
        turns: int = 1,
    ) -> None:
        """Continue where the earlier runs of the store stopped."""
        self.stopped: str | None = None
        self._store = store
        self._target = target
        self._limits = limits
        self._max_tokens = max(max_tokens, SELF_SAMPLING.max_tokens) if turns > 1 else max_tokens
        self._budget = budget
        self._failures = 0
        self._latest: deque[Completion] = deque(maxlen=_HEALTH_WINDOW)
        self._waiting = new_requests(queries, prompts, store.asked, seed, turns)
        self._ready: deque[PendingRequest] = deque()  # to repeat or to continue
        self._pending: dict[str, PendingRequest] = {}

    @property
    def pending(self) -> int:
        """Number of requests that the engine has not answered."""
        return len(self._pending)

    def requests(self) -> Iterator[Request | None]:
        """Yield requests; None means that a completion must come before the next request."""
        while (kept := self._store.counts.kept) < self._target:
            if kept + self.pending < self._target:
                following = self._next()
                if following is not None:
                    self._pending[following.request.id] = following
                    yield following.request
                    continue
            if not self._pending:
                return
            yield None

    def stop(self, reason: str) -> None:
        """Begin no further rows; those in progress are completed."""
        self.stopped = self.stopped or reason

    def settle(self, completion: Completion, filters: Sequence[Filter]) -> SampledRow | None:
        """Take a completion.

        Returns:
            The finished row; None if the request failed and will be repeated, or if the row has
            further turns.

        Raises:
            EngineError: Too many requests failed.
        """
        request = self._pending.pop(completion.id)
        self._latest.append(completion)
        if completion.finish != "error":
            row = request.take(completion, filters)
            self._budget.settle(completion, None if row is not None else request.request)
            if row is None:  # before rows that the budget cannot pay yet
                self._ready.appendleft(request)
            return row
        self._budget.settle(completion)
        self._check_health()
        if request.tries < self._limits.retries and not completion.final:
            request.tries += 1
            self._ready.append(request)
            return None
        self._failures += 1
        if self._failures > self._limits.failures:
            raise EngineError(
                f"{self._failures} rows failed after all retries, the last one because of "
                f"{completion.error}: fix the cause or allow more failures; finished rows stay"
            )
        return request.take(completion, filters)

    def _next(self) -> PendingRequest | None:
        """Return the next affordable request; None if no request can be made now."""
        if self._ready:
            request: PendingRequest | None = self._ready.popleft()
        else:
            request = None if self.stopped else next(self._waiting, None)
        if request is None:
            if not self._pending:
                self.stop("queries")
            return None
        if self._budget.reserve(request.request, self._max_tokens, request.requests):
            return request
        self._ready.appendleft(request)
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
    queries: Queries, prompts: PromptOptions, asked: set[str], seed: int, turns: int = 1
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
                yield PendingRequest(number, query, prompts.request(query, answer, seed), turns)
