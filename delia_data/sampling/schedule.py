"""The request schedule: which requests an engine gets, in which order, and when to stop.

    queries ──▶ [finished? skip] ──▶ request ──▶ engine ──▶ completion
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

from delia_data.engines.base import Completion, Engine, Request, Sampling
from delia_data.errors import EngineError, InputError
from delia_data.outputs import Settings, setting
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
class PromptOptions(Settings):
    """How a query becomes a prompt.

    Raises:
        InputError: A value is out of range.
    """

    system: str | None = setting(
        None,
        "System prompt of queries without their own. Default: that of the chat template.",
        pattern=r"\S",
    )
    exemplar: bool = setting(
        False,
        "Show the query, its reference answer, and the query again, as the paper's code does; the "
        "second answer is kept.",
    )
    answers_per_query: int = setting(1, "Number of answers to sample for each query.", ge=1)

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
        following: Request after this one, if the row has further turns and no filter rejects it.
        row: The row so far; None before the first completion.
    """

    number: int
    query: Query
    request: Request
    turns: int = 1
    tries: int = 0
    following: Request | None = field(default=None, init=False)
    row: SampledRow | None = field(default=None, init=False)

    @property
    def requests(self) -> int:
        """Number of requests that the row still needs if no filter rejects it."""
        done = 0 if self.row is None else 1 + len(self.row.followups)
        return 2 * self.turns - 1 - done

    def receive(self, completion: Completion) -> None:
        """Add the completion of the request to the row, and set the request that follows."""
        text, row = encodable(completion.text), self.row
        if row is None:
            row = self.row = SampledRow(
                self.number, self.request.id, self.query.text, text, 0, system=self.query.system
            )
        else:
            row.followups.append(text)
        row.tokens += completion.tokens
        row.prompt_tokens += completion.prompt_tokens
        row.add_cost(completion.cost)
        row.error = completion.error
        row.reasoning |= completion.reasoning
        if completion.thoughts:
            row.thoughts = "\n\n".join(filter(None, (row.thoughts, completion.thoughts)))
        self.following = None
        if self.turns > 1 and self.requests and completion.finish != "error":
            previous, row_id = self.request, f"{row.id}/{len(row.followups) + 1}"
            seed = row_seed(previous.seed, row_id, "sample")
            if previous.role == "user":
                turns = (*previous.messages, Message("user", text))
                self.following = Request(row_id, turns, seed)
            else:
                self.following = follow_up_request(previous, text, row_id, seed)


class RequestScheduler:
    """Yields requests until the store holds the target, and turns their completions into rows.

    Rows that a judge sees wait for one another: it gets many at once, while the engine waits.

    Attributes:
        stopped: Why no further requests are made: the `"queries"` ran out, the `"budget"` is
            spent, or the reason given to `stop`. None while running, and if the target is met.
    """

    def __init__(
        self,
        queries: Queries,
        prompts: PromptOptions,
        store: PairStore,
        filters: Sequence[Filter],
        *,
        target: int,
        seed: int,
        max_tokens: int,
        budget: Budget,
        limits: Limits,
        turns: int = 1,
    ) -> None:
        """Continue where the earlier runs of the store stopped."""
        self._queries, self._prompts, self._store = queries, prompts, store
        self._filters = filters
        self._target, self._seed, self._turns = target, seed, turns
        self._max_tokens = max(max_tokens, SELF_SAMPLING.max_tokens) if turns > 1 else max_tokens
        self._budget, self._limits = budget, limits
        self._failures = 0
        self._latest: deque[Completion] = deque(maxlen=_HEALTH_WINDOW)
        self._ready: deque[PendingRequest] = deque()  # to repeat or to continue
        self._pending: dict[str, PendingRequest] = {}
        self._unjudged: list[tuple[PendingRequest, Completion, int]] = []  # with the judge's index
        self.restart()

    def restart(self) -> None:
        """Continue with the first query that has no row; there may be new ones at the end."""
        self.stopped: str | None = None
        self._new_rows = self._rows()

    @property
    def pending(self) -> int:
        """Number of rows that the engine has not answered, or that wait for a judge."""
        return len(self._pending) + len(self._unjudged)

    def replay(self, answers: dict[str, Completion]) -> Iterator[SampledRow]:
        """Yield the rows of stored answers, by request id, until the target is met."""
        for row in self._rows() if answers else ():
            if not answers or self._store.counts.accepted >= self._target:
                break
            if (answer := answers.pop(row.request.id, None)) is not None:
                row.receive(answer)
                if (finished := self._filter(row, answer)) is not None:
                    yield finished
                if self._judge_is_due():
                    yield from self._judge()
        yield from self._judge()

    def run(self, engine: Engine, sampling: Sampling) -> Iterator[SampledRow]:
        """Yield rows until no further requests are made.

        Raises:
            EngineError: The engine or a judge failed, or too many requests failed.
        """
        while True:
            for completion in engine.generate(self.requests(), sampling):
                yield from self.settle(completion)
            if not self._unjudged:
                return
            yield from self.judge()

    def requests(self) -> Iterator[Request | None]:
        """Yield requests; None means that a completion must come before the next request."""
        while (accepted := self._store.counts.accepted) < self._target:
            if accepted + self.pending < self._target:
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

        A request that failed is repeated.

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
        row.receive(completion)
        if completion.finish != "error":
            self._budget.settle(completion, row.following)
        unjudged = len(self._unjudged)
        if (finished := self._filter(row, completion)) is not None:
            yield finished
        elif len(self._unjudged) > unjudged and row.turns == 1:
            self._store.put_aside(completion)
        if self._judge_is_due():
            yield from self.judge()

    def judge(self) -> Iterator[SampledRow]:
        """Yield the rows that wait for a judge and are finished by its verdict.

        Raises:
            EngineError: The judge failed; the rows with a verdict were yielded.
        """
        yield from self._judge()
        self._store.clear_aside()

    def _judge_is_due(self) -> bool:
        waiting = len(self._unjudged)
        if not waiting:
            return False
        meets_target = self._store.counts.accepted + waiting >= self._target
        return waiting >= _JUDGED_AT_ONCE or (meets_target and not self._pending)

    def _judge(self) -> Iterator[SampledRow]:
        while self._unjudged:
            place = self._unjudged[0][2]
            batch = [each for each in self._unjudged if each[2] == place]
            self._unjudged = [each for each in self._unjudged if each[2] != place]
            judge: Any = self._filters[place]
            pairs = [_judged_pair(row, completion) for row, completion, _ in batch]
            for number, rejection, cost in judge.verdicts(pairs):
                row, completion, _ = batch[number]
                assert row.row is not None
                row.row.add_cost(cost)
                if rejection is not None:
                    finished = self._conclude(row, rejection)
                else:
                    finished = self._filter(row, completion, place + 1)
                if finished is not None:
                    yield finished

    def _filter(
        self, row: PendingRequest, completion: Completion, start: int = 0
    ) -> SampledRow | None:
        """Apply the filters from one on to the latest turn; return the row if it is finished.

        Filters get the user's last turn and the answer to it; those that compare pairs get the
        query and all that follows, once the row is complete.
        """
        sampled, request = row.row, row.request
        assert sampled is not None
        if request.role == "user":
            if completion.finish == "error":
                return self._conclude(row, Rejection("failed"))
            fault = follow_up_fault(request, completion.text, completion.finish)
            return self._conclude(row, Rejection(USER_TURN, fault) if fault else None)
        query = request.messages[-1].content
        for place in range(start, len(self._filters)):
            check = self._filters[place]
            if isinstance(check, Judge):
                self._unjudged.append((row, completion, place))
                return None
            if row.turns > 1 and isinstance(check, StatefulFilter):
                if row.requests:
                    continue
                reason = check(row.query.text, replace(completion, text=sampled.text))
            else:
                reason = check(query, completion)
            if reason:
                reason = Rejection(reason) if isinstance(reason, str) else reason
                return self._conclude(row, reason)
        return self._conclude(row, None)

    def _conclude(self, row: PendingRequest, rejection: Rejection | None) -> SampledRow | None:
        """Return the finished row; None if the conversation continues with the next request."""
        sampled = row.row
        assert sampled is not None
        if rejection is None and row.following is not None:
            row.request, row.tries = row.following, 0
            self._ready.appendleft(row)  # before rows that the budget cannot pay yet
            return None
        if rejection is not None:
            reason, detail = rejection
            if row.turns > 1:
                turn = f"turn {1 + (1 + len(sampled.followups)) // 2}"
                detail = f"{turn}: {detail}" if detail else turn
            sampled.rejected, sampled.detail = reason, detail or None
        if row.following is not None:
            self._budget.release(row.following)
        return sampled

    def _next(self) -> PendingRequest | None:
        """Return the next affordable request; None if no request can be made now."""
        if self._ready:
            request: PendingRequest | None = self._ready.popleft()
        else:
            request = None if self.stopped else next(self._new_rows, None)
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

    def _rows(self) -> Iterator[PendingRequest]:
        """Yield every row in order, except finished rows and repeated queries."""
        seen: set[str] = set()
        number, finished, prompts = -1, self._store.row_ids, self._prompts
        for query in self._queries:
            key = query_id(query)
            if key in seen:
                continue
            seen.add(key)
            for answer in range(prompts.answers_per_query):
                number += 1
                if (f"{key}:{answer}" if answer else key) not in finished:
                    request = prompts.request(query, answer, self._seed)
                    yield PendingRequest(number, query, request, self._turns)


def _judged_pair(row: PendingRequest, completion: Completion) -> tuple[str, str]:
    """Return the request and the answer that a judge sees, with all turns before them."""
    sampled = row.row
    assert sampled is not None
    if not sampled.followups:
        return row.request.messages[-1].content, completion.text
    before = [sampled.query, sampled.answer, *sampled.followups[:-1]]
    return "\n\n".join(before), completion.text
