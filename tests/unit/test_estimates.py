"""An estimate from a few rows contains the values of the whole run."""

from pathlib import Path

import pytest
from recording_engine import QUERIES, RecordingEngine, text_of

from delia_data.engines import Completion, MockEngine, Prices, Request, Sampling
from delia_data.errors import EngineError, InputError
from delia_data.sampling import Query, sample, self_queries
from delia_data.sampling.estimates import Interval, estimate
from delia_data.sampling.filters import empty

MANY = [
    Query(f"Tell me about number {i}, {'please ' * (i % 5)}now.", "explain") for i in range(800)
]


def worded(request: Request) -> str:
    number = int(text_of(request).split("number ")[1].split(",")[0])
    return "" if number % 4 == 0 else "word " * (5 + number % 30) + str(number)


def within(interval: Interval | None, truth: float) -> bool:
    assert interval is not None
    assert interval.low <= interval.value <= interval.high
    return interval.low <= truth <= interval.high


def test_intervals_contain_the_figures_of_the_run(tmp_path: Path) -> None:
    engine = MockEngine(worded, prices=Prices(1e-6, 3e-6))
    clock = iter([0.0, 90.0])
    found = estimate(engine, MANY, target=400, filters=[empty], clock=lambda: next(clock))
    manifest = sample(engine, MANY, tmp_path, target=400, filters=())
    details = manifest.details
    assert within(found.rows, manifest.rows["asked"])
    assert within(found.tokens, details["tokens"])
    assert within(found.prompt_tokens, details["prompt_tokens"])
    assert within(found.dollars, details["cost_usd"])
    assert found.probed == 50
    assert found.kept + sum(found.rejected.values()) == 50
    assert found.available == 800
    # 90 s for the probe's tokens, and the run has more of them.
    assert found.hours.value == pytest.approx(90 / 3600 * 400 / found.kept)


def test_the_probe_is_a_uniform_sample_of_the_queries() -> None:
    asked = RecordingEngine()
    estimate(asked.engine, [*QUERIES, *QUERIES], target=10, filters=(), rows=30)
    numbers = sorted(int(query.rstrip(".").rsplit(" ", 1)[1]) for query in asked.queries)
    assert len(set(numbers)) == 30
    assert numbers[0] < 20
    assert numbers[-1] > 80
    again, other = RecordingEngine(), RecordingEngine()
    estimate(again.engine, QUERIES[::-1], target=10, filters=(), rows=30)
    estimate(other.engine, QUERIES, target=10, filters=(), rows=30, seed=1)
    assert set(again.queries) == set(asked.queries) != set(other.queries)


def test_unknown_price_gives_no_dollars() -> None:
    found = estimate(MockEngine(prices=None), QUERIES, target=10, filters=())
    assert found.dollars is None


def test_generated_queries_are_part_of_the_estimate(tmp_path: Path) -> None:
    def answer(request: Request) -> str:
        if request.role == "user":
            return f"the river number {request.seed} and tell why it matters to people there?"
        return "one two three"

    engine = MockEngine(answer, prices=Prices(0.0, 0.01))
    queries = self_queries(engine, tmp_path)
    found = estimate(engine, queries, target=100, filters=(), rows=20)
    tokens, dollars = queries.spent
    assert len(queries) >= 20
    assert found.available is None
    assert found.tokens.value == pytest.approx(100 * (3 + tokens / len(queries)))
    assert found.dollars is not None
    assert found.dollars.value == pytest.approx(100 * (0.03 + dollars / len(queries)))


def test_few_queries_make_a_small_probe() -> None:
    found = estimate(MockEngine(), QUERIES[:3], target=2, filters=())
    assert (found.probed, found.available) == (3, 3)
    assert found.rows.value == 2


def test_rows_that_all_fail_are_an_error() -> None:
    message = r"none of 50 probe rows was accepted \(the mock engine failed on purpose\)"

    def reject(query: str, completion: Completion) -> str | None:
        return completion.error and "failed"

    with pytest.raises(EngineError, match=message):
        estimate(MockEngine(fail=lambda _: True), QUERIES, target=10, filters=[reject])
    with pytest.raises(InputError, match="there are no queries"):
        estimate(MockEngine(), [], target=10, filters=(), sampling=Sampling())
