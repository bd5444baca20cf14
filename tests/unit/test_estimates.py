"""An estimate from a few rows contains the values of the whole run."""

from pathlib import Path

import pytest
from recording_engine import QUERIES, RecordingEngine, text_of

from delia_data.engines import MockEngine, Prices, Request, Sampling
from delia_data.errors import EngineError, InputError
from delia_data.sampling import Interval, Query, estimate, sample, self_queries
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
    measured = estimate(engine, MANY, target=400, filters=[empty])
    manifest = sample(engine, MANY, tmp_path, target=400, filters=())
    details = manifest.details
    assert within(measured.rows, manifest.rows["asked"])
    assert within(measured.tokens, details["tokens"])
    assert within(measured.prompt_tokens, details["prompt_tokens"])
    assert within(measured.dollars, details["cost_usd"])
    assert measured.probed == 50
    assert measured.kept + sum(measured.rejected.values()) == 50
    assert measured.available == 800
    # The run's tokens take their time at the speed of the probe.
    assert measured.hours.low < measured.hours.value < measured.hours.high
    assert measured.hours.low / measured.hours.value == pytest.approx(
        measured.tokens.low / measured.tokens.value
    )


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
    measured = estimate(MockEngine(prices=None), QUERIES, target=10, filters=())
    assert measured.dollars is None


def test_generated_queries_are_part_of_the_estimate(tmp_path: Path) -> None:
    def answer(request: Request) -> str:
        if request.role == "user":
            return f"the river number {request.seed} and tell why it matters to people there?"
        return "one two three"

    engine = MockEngine(answer, prices=Prices(0.0, 0.01))
    queries = self_queries(engine, tmp_path)
    measured = estimate(engine, queries, target=100, filters=(), rows=20)
    tokens, dollars = queries.spent
    assert len(queries) >= 20
    assert measured.available is None
    assert measured.tokens.value == pytest.approx(100 * (3 + tokens / len(queries)))
    assert measured.dollars is not None
    assert measured.dollars.value == pytest.approx(100 * (0.03 + dollars / len(queries)))


def test_few_queries_make_a_small_probe() -> None:
    measured = estimate(MockEngine(), QUERIES[:3], target=2, filters=())
    assert (measured.probed, measured.available) == (3, 3)
    assert measured.rows.value == 2


def test_rows_that_all_fail_are_an_error() -> None:
    with pytest.raises(EngineError, match=r"requests failed \(the mock engine failed on purpose"):
        estimate(MockEngine(fail=lambda _: True), QUERIES, target=10, filters=())
    with pytest.raises(InputError, match=r"no answer was accepted \(50 nothing\)"):
        estimate(MockEngine(), QUERIES, target=10, filters=[lambda *_: "nothing"])
    with pytest.raises(InputError, match="there are no queries"):
        estimate(MockEngine(), [], target=10, filters=(), sampling=Sampling())
