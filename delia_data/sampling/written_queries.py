"""Queries that a model writes: as many as are asked for, always in the same order.

    author.request(number, taken) ──▶ engine ──▶ WrittenTexts (on disk)
                                                       │ in the order of the numbers
    queries, in order ◀── new beside all before ◀── checks ◀── author.texts(completion)

An author makes prompts and finds queries in completions; what it asks for is numbered. Which
texts are taken follows from the completions in the order of their numbers, whatever order they
came in: more queries go on with the list and change nothing in it.

An engine cannot run twice at once, so that queries cannot be written while answers are sampled.
`ensure` writes them beforehand; iterating gives those that are there, and ends. Whoever samples
goes on like this:

    while short of pairs:
        queries.ensure(how many it may take)
        sample(engine, queries, ...)            # ends with "queries" where they ran out
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final, Protocol

from delia_data.engines.base import Completion, Engine, Finish, Request, Sampling
from delia_data.errors import EngineError, InputError
from delia_data.sampling.asking import Spending
from delia_data.sampling.novelty import Novelty
from delia_data.sampling.queries import Query
from delia_data.sampling.query_checks import MAX_WORDS, MIN_WORDS, fault_of, query_checks
from delia_data.sampling.written import Written, WrittenTexts
from delia_data.tokens import DEFAULT_TOKEN

_ATTEMPTS: Final = 3
_DEAD: Final = 32  # requests that fail one after the other where an engine is dead
_LEAST_YIELD: Final = 0.1  # queries a request; lower ones are not believed when planning a wave


class Author(Protocol):
    """Makes the prompts of numbered requests, and finds queries in what comes back."""

    @property
    def kind(self) -> str:
        """The `kind` of its queries."""
        ...

    @property
    def first(self) -> Sequence[Query]:
        """Queries that were there before, and come first."""
        ...

    @property
    def together(self) -> int:
        """Requests of a round; a prompt depends on what was taken before its round."""
        ...

    @property
    def rounds_ahead(self) -> int:
        """Rounds that can be asked at once, as they do not depend on each other."""
        ...

    def describe(self) -> dict[str, Any]:
        """All that its prompts depend on."""
        ...

    def request(self, number: int, taken: Sequence[Query]) -> Request:
        """The request of a number, given what was taken before its round; `first` included."""
        ...

    def texts(self, number: int, text: str) -> list[str]:
        """The texts in a completion that may be queries."""
        ...


class WrittenQueries:
    """Queries that a model writes into a folder."""

    def __init__(
        self,
        engine: Engine,
        author: Author,
        folder: str | os.PathLike[str],
        *,
        sampling: Sampling,
        token: str = DEFAULT_TOKEN,
        english: bool = True,
        rouge_l: float = 0.7,
        limit: int | None = None,
    ) -> None:
        """Set up; nothing is read or asked yet.

        Args:
            engine: What writes.
            author: What is asked of it.
            folder: Where texts are kept; a folder of its own.
            sampling: How they are drawn.
            token: The special token, which no query may name.
            english: Take English queries alone.
            rouge_l: ROUGE-L with an earlier query from which a query is not new.
            limit: Queries that are written at most, those that come first not counted. It is no
                part of the description, as a longer list begins with the shorter one.

        Raises:
            InputError: The limit is below 1.
        """
        if limit is not None and limit < 1:
            raise InputError(f"limit {limit} is too few queries: give at least 1")
        self._most = None if limit is None else len(author.first) + limit
        self._engine = engine
        self._author = author
        self._sampling = sampling
        self._checks = query_checks(token, english=english)
        self._settings = {
            "checks": {
                "english": english,
                "rouge_l": rouge_l,
                "token": token,
                "words": [MIN_WORDS, MAX_WORDS],
            }
        }
        self._texts = WrittenTexts(folder)
        self._novelty = Novelty(rouge_l)
        self._taken: list[Query] = list(author.first)
        for query in author.first:
            self._novelty.take(query.text)
        self._rejected: list[tuple[str, str]] = []
        self._judged = 0  # numbers that were judged: all below
        self._known = len(self._taken)  # queries taken before the round of that number
        self._failing = 0  # latest requests that failed, one after the other

    def describe(self) -> dict[str, Any]:
        """All that texts and order depend on: the writing model, the prompts, the checks."""
        return {
            **self._author.describe(),
            "sampling": asdict(self._sampling),
            **self._settings,
            "writer": self._engine.describe(),
        }

    def __len__(self) -> int:
        """How many queries there are so far."""
        self._read()
        return len(self._taken[: self._most])

    def __iter__(self) -> Iterator[Query]:
        """Give the queries that are there, in their order, and end."""
        self._read()
        yield from self._taken[: self._most]

    @property
    def spent(self) -> tuple[int, float]:
        """Tokens read and written for all texts, and dollars; unknown prices count as nothing."""
        self._read()
        rows = self._texts.by_number.values()
        return (
            sum(row.tokens + row.prompt_tokens for row in rows),
            sum(row.cost or 0.0 for row in rows),
        )

    @property
    def dropped(self) -> dict[str, int]:
        """How many texts were not taken, by reason."""
        self._read()
        return dict(sorted(Counter(reason for reason, _ in self._rejected).items()))

    def rejected(self) -> Iterator[tuple[str, str]]:
        """The texts that were not taken: the reason, and the text."""
        self._read()
        yield from self._rejected

    def ensure(
        self,
        count: int,
        *,
        tries: int = 20,
        spending: Spending | None = None,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Write until there are `count` queries, those that come first included.

        What is on disk is never asked for again. The engine must not be at work elsewhere.

        Args:
            count: Queries that are wanted; a few more are written.
            tries: Requests for each missing query at most, before giving up.
            spending: Where given, what may be spent; writing stops before a limit is passed.
            on_progress: Called with the number of queries so far.

        Returns:
            How many there are: fewer than `count` where the tries, the limit or the budget were
            used up.

        Raises:
            InputError: Nothing that was ever written could be used.
            EngineError: The engine failed, or so did 32 requests one after the other.
            SettingsError: The folder was begun with other settings.
        """
        count = count if self._most is None else min(count, self._most)
        with self._texts.writing(self.describe()):
            self._judge()
            most = self._judged + tries * max(0, count - len(self._taken))
            on_progress(len(self._taken))
            paid = True
            while paid and len(self._taken) < count and self._judged < most:
                paid = self._write(self._next_numbers(count), spending, on_progress)
        if paid and len(self._taken) == len(self._author.first) < count:
            raise InputError(
                f"none of {self._judged:,} texts that the model wrote can be used as a "
                f"query ({self._reasons()}): take another model, or give queries"
            )
        return len(self._taken[: self._most])

    def _read(self) -> None:
        self._texts.read(self.describe())
        self._judge()

    def _judge(self) -> None:
        """Take up all that is there up to the first number that is not."""
        while (row := self._texts.by_number.get(self._judged)) is not None:
            texts = self._author.texts(row.number, row.text)
            for text in texts[:-1]:
                self._judge_text(text, "stop")
            if texts:
                self._judge_text(texts[-1], row.finish)
            else:
                reason = "failed" if row.finish == "error" else "no_query_found"
                self._rejected.append((reason, row.text))
            self._judged += 1
            if self._judged % self._author.together == 0:
                self._known = len(self._taken)

    def _judge_text(self, text: str, finish: Finish) -> None:
        reason = fault_of(text, finish, self._checks)
        if reason is None and not self._novelty.is_new(text):
            reason = "near_duplicate"
        if reason is None:
            self._novelty.take(text)
            self._taken.append(Query(text, self._author.kind))
        else:
            self._rejected.append((reason, text))

    def _next_numbers(self, count: int) -> list[int]:
        """Numbers to ask for next: whole rounds, as many as may be needed and can be asked."""
        written = len(self._taken) - len(self._author.first)
        rate = max(written / self._judged, _LEAST_YIELD) if self._judged else 1.0
        together = self._author.together
        rounds = math.ceil((count - len(self._taken)) / rate / together)
        begin = self._judged // together
        end = begin + min(max(rounds, 1), self._author.rounds_ahead)
        return [n for n in range(begin * together, end * together) if not self._is_there(n)]

    def _is_there(self, number: int) -> bool:
        return number in self._texts.by_number

    def _write(
        self,
        numbers: Sequence[int],
        spending: Spending | None,
        on_progress: Callable[[int], None],
    ) -> bool:
        """Ask for numbers; those that fail are asked again, and at last stay failed.

        Returns:
            Whether all of them could be paid.
        """
        taken = self._taken[: self._known]
        for attempt in range(1, _ATTEMPTS + 1):
            missing = (number for number in numbers if not self._is_there(number))
            asked = {(request := self._author.request(n, taken)).id: (n, request) for n in missing}
            payable = _Payable([request for _, request in asked.values()], spending, self._sampling)
            for completion in self._engine.generate(payable, self._sampling):
                payable.settle(completion)
                failed = completion.finish == "error"
                self._failing = self._failing + 1 if failed else 0
                if self._failing == _DEAD:
                    raise EngineError(
                        f"{_DEAD} requests for queries failed one after the other "
                        f"({completion.error}): mend the engine and run again; "
                        "what was written stays"
                    )
                if failed and attempt < _ATTEMPTS:
                    continue
                self._texts.append(Written.of(asked[completion.id][0], completion))
                self._judge()
                on_progress(len(self._taken))
            if payable.ended:
                return False
        return True

    def _reasons(self) -> str:
        counts = Counter(reason for reason, _ in self._rejected)
        return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())


class _Payable:
    """Requests as long as they can be paid.

    Attributes:
        ended: Whether one could not.
    """

    def __init__(
        self, requests: Sequence[Request], spending: Spending | None, sampling: Sampling
    ) -> None:
        self.ended = False
        self._requests = requests
        self._spending = spending
        self._max_tokens = sampling.max_tokens
        self._reserved: dict[str, tuple[int, float]] = {}

    def __iter__(self) -> Iterator[Request | None]:
        for request in self._requests:
            if self._spending is not None:
                while (reserved := self._reserve(request)) is None and self._reserved:
                    yield None  # what is on its way may cost less than was set aside
                if reserved is None:
                    self.ended = True
                    return
                self._reserved[request.id] = reserved
            yield request

    def settle(self, completion: Completion) -> None:
        """Take up what a request cost."""
        if self._spending is not None:
            self._spending.settle(self._reserved.pop(completion.id), completion)

    def _reserve(self, request: Request) -> tuple[int, float] | None:
        assert self._spending is not None
        return self._spending.reserve(request, self._max_tokens)
