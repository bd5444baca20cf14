"""A mock engine that records its requests, and a short way to sample with it."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from delia_data.engines import MockEngine, Prices, Request
from delia_data.outputs import Manifest
from delia_data.sampling import Query, sample
from delia_data.sampling.store import SampledRow, _logs

QUERIES = [Query(f"Tell me about number {i}.", "explain") for i in range(100)]


def text_of(request: Request) -> str:
    return request.messages[-1].content


class RecordingEngine:
    """A mock engine that records its requests."""

    def __init__(
        self,
        answer: Callable[[str], str] = lambda query: f"An answer to {query!r}",
        fail: Callable[[str], bool] = lambda query: False,
        shuffle: int = 1,
        prices: Prices | None = None,
    ) -> None:
        self.requests: list[Request] = []
        self.answer = answer
        self.fail = fail
        self.engine = MockEngine(self._answer, self._fail, shuffle=shuffle, prices=prices)

    @property
    def queries(self) -> list[str]:
        return [text_of(request) for request in self.requests]

    def _fail(self, request: Request) -> bool:
        self.requests.append(request)
        assert len(self.requests) < 1000, "the same queries are requested again and again"
        return self.fail(text_of(request))

    def _answer(self, request: Request) -> str:
        return self.answer(text_of(request))


def interrupted_after(count: int, answer: Callable[[str], str]) -> Callable[[str], str]:
    """Return a function that answers, and from then on behaves as a process that is killed."""
    left = iter(range(count))

    def dying(text: str) -> str:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return answer(text)

    return dying


def run(asked: RecordingEngine, folder: Path, **options: Any) -> Manifest:
    """Sample with only the filters that every cache has."""
    given = {"queries": QUERIES, "target": 20, "filters": (), **options}
    return sample(asked.engine, folder=folder, **given)


def lines(folder: Path) -> list[SampledRow]:
    return [row for log in _logs(folder, 0) for row, *_ in log.read()]


def texts(queries: Iterable[Query]) -> list[str]:
    return sorted(query.text for query in queries)
