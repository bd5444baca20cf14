"""The request schedule: which requests an engine gets, in which order, and when to stop.

    queries ──▶ [asked before? skip] ──▶ request ──▶ engine ──▶ completion
                                           ▲                       │
                                           └── failed: repeat ◀────┴──▶ settled

The number of rows in progress, those that wait for a judge included, never exceeds the number of
missing pairs. The target is therefore met exactly, and a rejected pair makes room for the next
query at once. The requested rows are the shortest prefix of the queries that contains the target,
independent of the order of the engine's answers.

A row of several turns is a chain of requests: the engine gets the next one, for the user's turn or
for the answer to it, once the filters accept the latest answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final, TypeAlias

from delia_data.engines.base import Completion, Engine, Request, setting
from delia_data.errors import EngineError, InputError
from delia_data.ranking import row_seed
from delia_data.records import Message, Rejection, content_id, encodable
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

_JUDGED_AT_ONCE: Final = 64  # rows
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


Checks: TypeAlias = Generator[
    tuple[Judge, str, str], tuple[Rejection | None, float | None], Rejection | None
]


@dataclass(slots=True)
class PendingRequest:
    """A row in progress, and the request that the engine has for it, or gets next.

    Attributes:
        number: Position in the order of the run.
        query: The query.
        request: The request.
        turns: Number of answers in the row.
        tries: Number of failed tries of the request so far.
        following: Request after this one, if the row has further turns and no filter rejects it.
    """

    number: int
    query: Query
    request: Request
    turns: int = 1
    tries: int = 0
    following: Request | None = field(default=None, init=False)
    _row: SampledRow | None = field(default=None, init=False)

    @property
    def requests(self) -> int:
        """Number of requests that the row still needs if no filter rejects it."""
        done = 0 if self._row is None else 1 + len(self._row.followups)
        return 2 * self.turns - 1 - done

    def receive(self, completion: Completion) -> None:
        """Add the completion of the request to the row, and set the request that follows."""
        text = encodable(completion.text)
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
        if completion.thoughts:
            row.thoughts = "\n\n".join(filter(None, (row.thoughts, completion.thoughts)))
        self.following = None
        if completion.finish == "error" or not self.requests:
            return
        asked, row_id = self.request, f"{row.id}/{len(row.followups) + 1}"
        seed = row_seed(asked.seed, row_id, "sample")
        if asked.role == "user":
            self.following = Request(row_id, (*asked.messages, Message("user", text)), seed)
        else:
            self.following = follow_up_request(asked, text, row_id, seed)

    def checks(self, completion: Completion, filters: Sequence[Filter]) -> Checks:
        """Apply the filters to the latest turn.

        Filters get the user's last turn and the answer to it; those that compare pairs get the
        query and all that follows, once the row is complete.

        Yields:
            A judge with the request and the answer that it sees; takes its verdict and its cost.

        Returns:
            The reason of the first filter that rejects the turn, or None.
        """
        row, asked = self._row, self.request
        assert row is not None
        if asked.role == "user":
            if completion.finish == "error":
                return Rejection("failed")
            fault = follow_up_fault(asked, completion.text, completion.finish)
            return Rejection(USER_TURN, fault) if fault else None
        query = asked.messages[-1].content
        found: str | Rejection | None
        for check in filters:
            if isinstance(check, Judge):
                said = query
                if row.followups:  # it needs to know what was said before
                    said = "\n\n".join([row.query, row.answer, *row.followups[:-1]])
                found, cost = yield check, said, completion.text
                row.cost = _sum(row.cost, cost)
            elif self.turns > 1 and isinstance(check, StatefulFilter):
                if self.requests:
                    continue
                found = check(row.query, replace(completion, text=row.text))
            else:
                found = check(query, completion)
            if found:
                return Rejection(found) if isinstance(found, str) else found
        return None

    def conclude(self, rejection: Rejection | None) -> SampledRow | None:
        """Return the finished row, or None if the conversation continues with the next request."""
        row = self._row
        assert row is not None
        if rejection is not None:
            reason, detail = rejection
            if self.turns > 1:
                turn = f"turn {1 + (1 + len(row.followups)) // 2}"
                detail = f"{turn}: {detail}" if detail else turn
            row.rejected, row.detail = reason, detail or None
        elif self.following is not None:
            self.request, self.tries = self.following, 0
            return None
        return row


def _sum(cost: float | None, more: float | None) -> float | None:
    return None if cost is None or more is None else cost + more


RowState: TypeAlias = tuple[PendingRequest, SampledRow | None]
"""A row in progress, and the finished row, or None if the conversation continues."""


class FilterQueue:
    """Applies filters to completions; rows that a judge sees wait for one another."""

    def __init__(self, filters: Sequence[Filter]) -> None:
        """Set the filters in order."""
        self._filters = filters
        self._waiting: list[tuple[PendingRequest, Checks, tuple[Judge, str, str]]] = []

    def __len__(self) -> int:
        """Return the number of rows that wait for a judge."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether as many rows wait as a judge sees at once."""
        return len(self) >= _JUDGED_AT_ONCE

    def add(self, row: PendingRequest, completion: Completion) -> list[RowState]:
        """Take the completion of a row; return nothing if the row waits for a judge."""
        row.receive(completion)
        return list(self._advance(row, row.checks(completion, self._filters), None))

    def judge(self) -> Iterator[RowState]:
        """Yield the rows that wait, in order, each as soon as its verdict is known.

        Raises:
            EngineError: The judge failed; the rows with a verdict were yielded.
        """
        while self._waiting:
            judge = self._waiting[0][2][0]
            asked = [each for each in self._waiting if each[2][0] is judge]
            self._waiting = [each for each in self._waiting if each[2][0] is not judge]
            for place, *verdict in judge.verdicts([(said, text) for *_, (_, said, text) in asked]):
                row, checks, _ = asked[place]
                yield from self._advance(row, checks, (verdict[0], verdict[1]))

    def _advance(self, row: PendingRequest, checks: Checks, verdict: Any) -> Iterator[RowState]:
        try:
            question = checks.send(verdict)
        except StopIteration as end:
            yield row, row.conclude(end.value)
        else:
            self._waiting.append((row, checks, question))


class RequestScheduler:
    """Yields requests until the store holds the target, and turns their completions into rows.

    Attributes:
        stopped: Why no further requests are made: the `"queries"` ran out, the `"budget"` is
            spent, or the reason given to `stop`. None while running, and if the target is met.
        queue: The filters, and the rows that wait for a judge.
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
        queue: FilterQueue,
        turns: int = 1,
    ) -> None:
        """Continue where the earlier runs of the store stopped."""
        self.stopped: str | None = None
        self._store = store
        self.queue = queue
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
        """Number of rows that the engine has not answered, or that wait for a judge."""
        return len(self._pending) + len(self.queue)

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

    def settle(self, completion: Completion) -> Iterator[SampledRow]:
        """Take a completion, and yield the rows that are finished now.

        A request that failed is repeated. If a judge sees the rows, many wait for it.

        Raises:
            EngineError: Too many requests failed, or the judge failed.
        """
        row = self._pending.pop(completion.id)
        self._latest.append(completion)
        if completion.finish == "error":
            self._budget.settle(completion)
            self._check_health()
            if row.tries < self._limits.retries and not completion.final:
                row.tries += 1
                self._ready.append(row)
                return
            self._failures += 1
            if self._failures > self._limits.failures:
                raise EngineError(
                    f"{self._failures} rows failed after all retries, the last one because of "
                    f"{completion.error}: fix the cause or allow more failures; finished rows stay"
                )
        done = self.queue.add(row, completion)
        if completion.finish != "error":
            self._budget.settle(completion, row.following)
        yield from self._finished(done)
        if not done and row.turns == 1:
            self._store.put_aside(completion)
        expected = self._store.counts.kept + len(self.queue)
        if self.queue.full or (not self._pending and expected >= self._target):
            yield from self.judge()

    def judge(self) -> Iterator[SampledRow]:
        """Yield the rows that wait for a judge and are finished by its verdict.

        Raises:
            EngineError: The judge failed.
        """
        if len(self.queue):
            yield from self._finished(self.queue.judge())
            self._store.clear_aside()

    def _finished(self, rows: Iterable[RowState]) -> Iterator[SampledRow]:
        for row, finished in rows:
            if finished is None:
                self._ready.appendleft(row)  # before rows that the budget cannot pay yet
                continue
            if row.following is not None:
                self._budget.release(row.following)
            yield finished

    def _next(self) -> PendingRequest | None:
        """Return the next affordable request; None if no request can be made now."""
        if self._ready:
            request: PendingRequest | None = self._ready.popleft()
        else:
            request = None if self.stopped else next(self._waiting, None)
        if request is None:
            if not self.pending:
                self.stop("queries")
            return None
        if self._budget.reserve(request.request, self._max_tokens, request.requests):
            return request
        self._ready.appendleft(request)
        if not self.pending:
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
