"""The progress meter counts rows in constant memory."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delia_data.engines.base import with_parts
from delia_data.sampling.sampler import ProgressMeter
from delia_data.sampling.similarity import distinct
from delia_data.sampling.store import Counts, SampledRow


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Meter(ProgressMeter):
    """A meter with counts of its own."""

    def __init__(self, *, kept: int = 0, rejected: dict[str, int] | None = None, **options: Any):
        self.counts = Counts(kept, Counter(rejected or {}))
        super().__init__(self.counts, **options)

    def take(self, rows: Sequence[SampledRow]) -> None:
        for each in rows:
            self.counts.add(each)
            self.add(each)


def row(
    answer: str = "An answer.",
    rejected: str | None = None,
    *,
    tokens: int = 10,
    cost: float | None = 0.0,
) -> SampledRow:
    return SampledRow(0, "id", "q", answer, tokens, 3, cost, rejected)


def test_nothing_yet() -> None:
    progress = Meter(clock=Clock()).now()
    assert (progress.asked, progress.kept, progress.rejected) == (0, 0, {})
    assert (progress.rows_per_s, progress.tokens_per_s, progress.cost) == (0.0, 0.0, 0.0)
    assert progress.accepted_share is progress.near_duplicate_share is progress.distinct_1 is None
    assert progress.novelty is None


@settings(deadline=None)
@given(st.lists(st.sampled_from([None, "empty", "duplicate", "near_duplicate"]), max_size=30))
def test_every_row_is_counted_once(reasons: list[str | None]) -> None:
    one, groups = Meter(clock=Clock()), Meter(clock=Clock())
    rows = [row(rejected=reason) for reason in reasons]
    for single in rows:
        one.take([single])
    groups.take(rows)
    progress = one.now()
    assert progress == groups.now()
    assert progress.asked == len(reasons) == progress.kept + sum(progress.rejected.values())
    assert progress.rejected == {r: reasons.count(r) for r in sorted({r for r in reasons if r})}
    clean = len(reasons) - reasons.count("empty")
    near = reasons.count("near_duplicate") / clean if clean else None
    assert progress.near_duplicate_share == near


def test_earlier_runs_count_for_the_shares_and_not_for_the_rates() -> None:
    clock = Clock()
    meter = Meter(kept=90, rejected={"empty": 5}, clock=clock)
    clock.now += 10
    meter.take([row(), row(rejected="echo")] * 5)
    progress = meter.now()
    assert (progress.asked, progress.kept) == (105, 95)
    assert progress.rejected == {"echo": 5, "empty": 5}
    assert progress.accepted_share == 95 / 105
    assert progress.rows_per_s == 1.0
    assert progress.tokens == 100
    assert progress.prompt_tokens == 30


def test_the_rate_is_that_of_the_last_half_minute() -> None:
    clock = Clock()
    meter = Meter(recent_s=30, clock=clock)
    for _ in range(60):  # 10 rows a second for a minute
        clock.now += 1
        meter.take([row()] * 10)
    assert meter.now().rows_per_s == pytest.approx(10, rel=0.1)
    for _ in range(60):  # then one
        clock.now += 1
        meter.take([row()])
    progress = meter.now()
    assert progress.rows_per_s == pytest.approx(1, rel=0.1)
    assert progress.tokens_per_s == pytest.approx(10, rel=0.1)
    assert progress.elapsed_s == 120
    clock.now += 31
    assert meter.now().rows_per_s == 0.0


def test_unknown_cost_stays_unknown() -> None:
    meter = Meter()
    meter.take([row(cost=0.25), row(cost=0.5, rejected="echo")])
    assert meter.now().cost == 0.75
    meter.take([row(cost=None)])
    meter.take([row(cost=1.0)])
    assert meter.now().cost is None


@pytest.mark.parametrize(
    ("texts", "n", "expected"),
    [
        ([], 1, None),
        (["one"], 2, None),
        (["a a a a"], 1, 1 / 4),
        (["a a a a"], 2, 1 / 3),
        (["A b.", "a, c!"], 1, 3 / 4),
        (["a b", "b a"], 2, 1.0),
        (["a b", "a b"], 2, 1 / 2),
    ],
)
def test_distinct_n(texts: Sequence[str], n: int, expected: float | None) -> None:
    assert distinct(texts, n) == expected


def test_distinct_n_covers_the_latest_accepted_answers() -> None:
    meter = Meter(window=3, clock=Clock())
    meter.take([row("a a a a a a")])
    assert meter.now().distinct_1 == 1 / 6
    meter.take([row("all the same", rejected="echo")] * 9)
    meter.take([row("b c"), row("d e"), row("f b")])
    progress = meter.now(fresh=True)
    assert (progress.distinct_1, progress.distinct_2) == (5 / 6, 1.0)


def test_distinct_shares_are_counted_again_only_now_and_then() -> None:
    clock = Clock()
    meter = Meter(clock=clock)
    meter.take([row("a b")] * 10)
    assert meter.now().distinct_1 == 2 / 20
    meter.take([row("c")])
    assert meter.now().distinct_1 == 2 / 20
    assert meter.now(fresh=True).distinct_1 == 3 / 21
    meter.take([row("d")])
    clock.now += 5
    assert meter.now().distinct_1 == 4 / 22


def test_progress_with_parts_never_falls_and_ends_at_the_total() -> None:
    """Answers in progress may be dropped: 30 of them are done, and only 10 are kept."""

    class Engine:
        on_part = staticmethod(lambda part: None)

    engine, shown = Engine(), list[float]()
    show = with_parts(engine, 40, shown.append)  # type: ignore[arg-type]
    show(0)
    engine.on_part(30.5)
    show(10)
    engine.on_part(31)
    show(40)
    assert shown == [0, 30.5, 30.5, 40, 40]
