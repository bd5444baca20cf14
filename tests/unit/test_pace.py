"""How fast an API is asked, on a clock of the test's own."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delia_data.engines._pace import Pace, backoff_s
from delia_data.errors import InputError


@settings(deadline=None, max_examples=40)
@given(
    rpm=st.integers(1, 5000),
    pauses=st.lists(st.floats(0, 90), max_size=400),
)
def test_no_minute_holds_more_requests_than_allowed(rpm: int, pauses: list[float]) -> None:
    pace, now, sent = Pace(rpm=rpm), 0.0, []
    for pause in [*pauses, *[0.0] * 200]:
        now += pause
        now += pace.wait_s(now)
        assert pace.wait_s(now) == 0
        pace.sent(now)
        sent.append(now)
    first = 0
    for last, at in enumerate(sent):
        while at - sent[first] >= 60 - 1e-6:
            first += 1
        assert last - first + 1 <= rpm


@pytest.mark.parametrize("rpm", [1, 10, 600, 5000])
def test_what_is_allowed_is_used(rpm: int) -> None:
    pace, now, count = Pace(rpm=rpm), 0.0, 0
    while now < 600:
        now += pace.wait_s(now)
        pace.sent(now)
        count += 1
    assert count >= 0.95 * rpm * 10


def test_tokens_are_paced_by_what_was_really_used() -> None:
    pace, now, used = Pace(tpm=60_000), 0.0, 0
    while now < 600:
        now += pace.wait_s(now, 900)
        pace.sent(now, 900)
        pace.correct(now, 300 - 900)
        used += 300
    assert 0.9 * 600_000 <= used <= 1.02 * 600_000


def test_the_limit_doubles_until_the_first_refusal() -> None:
    pace = Pace(64)
    seen = [pace.limit]
    for _ in range(3):
        for _ in range(int(pace.limit)):
            pace.answered(0)
        seen.append(pace.limit)
    assert seen == [8, 16, 32, 64]
    pace.answered(0)
    assert pace.limit == 64


def test_the_refusals_of_one_round_lower_the_limit_once() -> None:
    pace = Pace(8)
    for _ in range(8):
        pace.refused(0, now=0.0)
    assert pace.limit == pytest.approx(5.6)
    pace.refused(1, now=0.0)
    assert pace.limit == pytest.approx(3.92)


def test_the_limit_grows_slowly_after_a_refusal() -> None:
    pace = Pace(64)
    pace.refused(0, now=0.0)
    before = pace.limit
    for _ in range(2 * math.ceil(before)):
        pace.answered(1)
    assert before + 0.8 < pace.limit < before + 1.2


@given(events=st.lists(st.sampled_from(["answered", "refused", "stale"]), max_size=300))
def test_the_limit_stays_between_one_and_the_concurrency(events: list[str]) -> None:
    pace = Pace(12)
    for event in events:
        if event == "answered":
            pace.answered(pace.round)
        else:
            pace.refused(pace.round - (event == "stale"), now=0.0)
        assert 1 <= pace.limit <= 12


def test_what_it_is_asked_to_wait_it_waits() -> None:
    pace = Pace(8)
    pace.refused(0, now=100.0, retry_after_s=20.0)
    assert pace.wait_s(100.0) == 20
    pace.refused(0, now=101.0, retry_after_s=1.0)
    assert pace.wait_s(110.0) == 10
    assert pace.wait_s(120.0) == 0


def test_refusals_without_an_answer_in_between_pause_everything() -> None:
    pace = Pace(8)
    pace.refused(0, now=0.0)
    assert pace.wait_s(0.0) == 0
    waits = []
    for _ in range(200):
        pace.refused(pace.round, now=0.0)
        waits.append(pace.wait_s(0.0))
    assert waits == sorted(waits)
    assert 20 < waits[-1] <= 60
    pace.answered(pace.round)
    pace.refused(pace.round, now=1000.0)
    assert pace.wait_s(1000.0) == 0


def test_the_bound_of_a_pause_doubles() -> None:
    for tries in range(12):
        draws = [backoff_s(tries) for _ in range(400)]
        bound = min(60, 0.5 * 2**tries)
        assert all(0 <= wait <= bound for wait in draws)
        assert max(draws) > 0.9 * bound
        assert min(draws) < 0.1 * bound


@pytest.mark.parametrize(
    ("options", "named"),
    [({"concurrency": 0}, "concurrency"), ({"rpm": 0.5}, "rpm"), ({"tpm": 0}, "tpm")],
)
def test_limits_that_cannot_be_meant_are_refused(options: dict[str, float], named: str) -> None:
    with pytest.raises(InputError, match=named):
        Pace(**options)  # type: ignore[arg-type]
