"""What is asked next: the stream of requests that keeps an engine busy, and no busier.

    queries ──▶ [asked before? skip] ──▶ request ──▶ engine ──▶ completion
                                           ▲                       │
                                           └── failed: once more ◀─┴─▶ settled

As many requests are on their way as pairs are missing: when all are kept the target is met
exactly, and a rejected one makes place for the next query at once. So the rows that are asked are
the shortest beginning of the queries that holds the target, whatever the engine's order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from delia_data.engines.base import Completion, Request
from delia_data.errors import EngineError
from delia_data.sampling.asking import Asking, Limits, Spending, query_id
from delia_data.sampling.keys import KeySet
from delia_data.sampling.queries import Queries
from delia_data.sampling.store import PairStore, row_key

_WATCHED = 32  # latest requests, of which more than half failing means a dead engine


@dataclass(frozen=True, slots=True)
class Asked:
    """A request on its way.

    Attributes:
        number: Its place in the order of the run.
        query: The query's text.
        request: What the engine gets.
        tries: Times that it was asked before.
        reserved: Tokens and dollars that are set aside for it.
    """

    number: int
    query: str
    request: Request
    tries: int = 0
    reserved: tuple[int, float] = (0, 0.0)


class Asker:
    """Gives requests until the target is met, and takes their completions.

    Attributes:
        kept: Pairs that are kept so far; whoever judges the completions counts it up.
        stopped: Why no more is asked: `"queries"` ran out, the `"budget"` is spent, or what
            `stop` was given; None before that, and where the target is met.
    """

    def __init__(
        self,
        queries: Queries,
        asking: Asking,
        store: PairStore,
        *,
        target: int,
        seed: int,
        max_tokens: int,
        spending: Spending,
        limits: Limits,
    ) -> None:
        """Begin where the store's earlier runs stopped."""
        self.kept = store.kept
        self.stopped: str | None = None
        self._target = target
        self._limits = limits
        self._max_tokens = max_tokens
        self._spending = spending
        self._failed = 0
        self._latest: deque[Completion] = deque(maxlen=_WATCHED)
        self._waiting = _rows(queries, asking, store.asked, seed)
        self._again: deque[Asked] = deque()
        self._asked: dict[str, Asked] = {}

    @property
    def unanswered(self) -> int:
        """How many requests are on their way."""
        return len(self._asked)

    def requests(self) -> Iterator[Request | None]:
        """The stream of requests; None where a completion must come before the next."""
        while self.kept < self._target:
            if self.stopped is None and self.kept + len(self._asked) < self._target:
                asked = self._next()
                if asked is not None:
                    self._asked[asked.request.id] = asked
                    yield asked.request
                    continue
            if not self._asked:
                return
            yield None

    def stop(self, reason: str) -> None:
        """Ask no more; what is on its way is taken."""
        self.stopped = self.stopped or reason

    def settle(self, completion: Completion) -> Asked | None:
        """Take a completion.

        Returns:
            What was asked; None where it failed and is asked again.

        Raises:
            EngineError: Too many requests failed.
        """
        asked = self._asked.pop(completion.id)
        self._latest.append(completion)
        self._spending.settle(asked.reserved, completion)
        if completion.finish != "error":
            return asked
        self._check_alive()
        if asked.tries < self._limits.retries:
            self._again.append(replace(asked, tries=asked.tries + 1))
            return None
        self._failed += 1
        if self._failed > self._limits.failures:
            raise EngineError(
                f"{self._failed} requests failed for good, the last one because of "
                f"{completion.error}: mend it or allow more failures; what is sampled stays"
            )
        return asked

    def _next(self) -> Asked | None:
        """The next request that can be paid; None where there is none, or none now."""
        asked = self._again.popleft() if self._again else next(self._waiting, None)
        if asked is None:
            if not self._asked:
                self.stop("queries")
            return None
        reserved = self._spending.reserve(asked.request, self._max_tokens)
        if reserved is None:
            self._again.appendleft(asked)
            if not self._asked:
                self.stop("budget")
            return None
        return replace(asked, reserved=reserved)

    def _check_alive(self) -> None:
        errors = [c.error for c in self._latest if c.finish == "error"]
        if len(self._latest) == _WATCHED and len(errors) * 2 > _WATCHED:
            raise EngineError(
                f"{len(errors)} of the latest {_WATCHED} requests failed ({errors[-1]}): "
                "mend the engine and run again; what is sampled stays"
            )


def _rows(queries: Queries, asking: Asking, before: KeySet, seed: int) -> Iterator[Asked]:
    """Every row in its order, but those that were asked before; equal queries count once."""
    seen = KeySet()
    number = -1
    for query in queries:
        key = row_key(query_id(query.text))
        if key in seen:
            continue
        seen.add(key)
        for answer in range(asking.answers_per_query):
            number += 1
            request = asking.request(query, answer, seed)
            if (row_key(request.id) if answer else key) not in before:
                yield Asked(number, query.text, request)
