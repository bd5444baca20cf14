"""Valid and invalid ratios, and caches that are too small for a ratio."""

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import CACHE, TASK, TEST, pairs, picked, task_rows

from delia_data.errors import RatioError, TokenError
from delia_data.mixing import Order, config_name, mix, parse_ratio
from delia_data.records import Record
from delia_data.tasks import TaskRow


@pytest.mark.parametrize("value", [0, 4, 260, 0.5, "4", "0.5", " 2 ", 1e-3, np.float32(2)])
def test_numbers_of_at_least_0_are_ratios(value: Any) -> None:
    assert parse_ratio(value) == float(value)


@pytest.mark.parametrize(
    "value",
    [-1, -1e-9, "-1", math.nan, "nan", math.inf, "inf", -math.inf, 10**400, "four", "", "4:1"],
)
def test_other_numbers_and_texts_are_no_ratios(value: Any) -> None:
    with pytest.raises(RatioError, match="is not a number of at least 0: give one such as 4"):
        parse_ratio(value)


@pytest.mark.parametrize("value", [True, False, None, [4], "True", 1j])
def test_other_things_are_no_ratios(value: Any) -> None:
    with pytest.raises(RatioError, match="is not a number of at least 0"):
        mix(TASK, CACHE, ratio=value)


@pytest.mark.parametrize(
    ("ratio", "name"),
    [(4, "ratio-4"), (260.0, "ratio-260"), (0.5, "ratio-0.5"), (1 / 3, "ratio-0.333333333333333")],
)
def test_config_names(ratio: float, name: str) -> None:
    assert config_name(ratio) == name


def test_there_is_one_zero() -> None:
    assert config_name(parse_ratio("-0.0")) == "ratio-0"


def test_a_short_cache_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(RatioError) as caught:
        mix(task_rows(3), pairs(7), ratio=4)
    assert str(caught.value) == (
        "ratio 4 of 3 task rows needs 12 pairs, and the cache holds 7 usable ones: sample "
        "more, lower the ratio to 2.3333, or set on_short (--on-short) to 'all' or 'repeat'"
    )


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 60), count=st.integers(0, 200))
def test_the_ratio_that_the_error_names_works(rows: int, count: int) -> None:
    task = task_rows(rows)
    with pytest.raises(RatioError) as caught:
        mix(task, CACHE[:count], ratio=201)
    advised = str(caught.value).split("lower the ratio to ")[1].split(", or")[0]
    mixture = mix(task, CACHE[:count], ratio=float(advised))
    assert count - 1 <= len(picked(mixture)) <= count


def test_on_short_all_takes_what_there_is() -> None:
    mixture = mix(TASK, pairs(7), ratio=4, on_short="all")
    assert sorted(picked(mixture)) == sorted(pair.id for pair in pairs(7))
    assert mixture.manifest.rows["cache"] == 7


@pytest.mark.parametrize("on_short", ["all", "repeat"])
def test_on_short_is_nothing_where_the_cache_suffices(on_short: Any) -> None:
    plain = mix(TASK, CACHE, ratio=4)
    assert mix(TASK, CACHE, ratio=4, on_short=on_short).train.equals(plain.train)


@pytest.mark.parametrize("order", ["shuffled", "interleaved"])
def test_on_short_repeat_goes_round_the_cache(order: Order) -> None:
    mixture = mix(TASK, pairs(16), ratio=4, on_short="repeat", order=order)
    counts = Counter(picked(mixture))
    assert len(counts) == 16
    assert sorted(Counter(counts.values()).items()) == [(2, 8), (3, 8)]
    assert mixture.manifest.rows["cache"] == 40


def test_repetitions_are_spread_out() -> None:
    ids = picked(mix(TASK, pairs(20), ratio=4, on_short="repeat"))
    assert ids[:20] != ids[20:]
    assert sum(a == b for a, b in pairwise(ids)) < 10


def test_the_pairs_that_repeat_more_often_are_those_of_the_smaller_ratio() -> None:
    few = set(picked(mix(TASK, pairs(16), ratio=0.8)))
    counts = Counter(picked(mix(TASK, pairs(16), ratio=4, on_short="repeat")))
    assert {row_id for row_id, count in counts.items() if count == 3} == few


@pytest.mark.parametrize("on_short", ["error", "all", "repeat"])
def test_an_empty_cache_gives_no_mixture(on_short: Any) -> None:
    with pytest.raises(RatioError, match=r"the cache holds 0 usable pairs \(dropped: none\)"):
        mix(TASK, [], ratio=1, on_short=on_short)
    assert mix(TASK, [], ratio=0, on_short=on_short).train.num_rows == len(TASK)


def test_every_drop_has_a_reason_and_the_ratio_stays_exact() -> None:
    bad = [
        *CACHE[:5],
        CACHE[0],
        TASK[0].record,
        TEST[0].record,
        Record.pair("What is <sep>?", "A token."),
        Record.pair("Write a token.", "<sep>"),
        Record.pair("Write.", "Text.", system="Use <sep>."),
    ]
    mixture = mix(TASK, [*bad, *CACHE], ratio=20, test=TEST)
    assert mixture.manifest.dropped == {"also_in_task": 2, "duplicate": 6, "names_token": 3}
    assert sorted(picked(mixture)) == sorted(pair.id for pair in CACHE)
    with pytest.raises(RatioError, match="the cache holds 200 usable ones"):
        mix(TASK, [*bad, *CACHE], ratio=20.1, test=TEST)


def test_the_accounting_adds_up() -> None:
    cache = [*CACHE, *CACHE[:30], *(row.record for row in TASK)]
    manifest = mix(TASK, cache, ratio=5, on_short="all").manifest
    whole = mix(TASK, cache, ratio=100, on_short="all").manifest
    assert manifest.rows["cache"] == 50
    assert whole.rows["cache"] + sum(whole.dropped.values()) == len(cache)
    assert manifest.dropped == whole.dropped == {"also_in_task": 10, "duplicate": 30}


def test_without_a_token_nothing_is_dropped_for_it() -> None:
    cache = [Record.pair("What is <sep>?", "A token.")]
    task = [TaskRow(Record.pair("a question", "an answer"))]
    mixture = mix(task, cache, ratio=1, token=None)
    assert len(picked(mixture)) == 1
    assert mixture.manifest.settings["token"] is None


@pytest.mark.parametrize(
    "record",
    [
        Record.pair("no token", "an answer"),
        Record.pair("no token", "an answer that names <sep>"),
        Record.pair("another token: <json>", "an answer"),
    ],
)
def test_a_task_row_without_the_token_is_refused(record: Record) -> None:
    with pytest.raises(TokenError, match="1 of 11 task rows do not name <sep>: diversify"):
        mix([*TASK, TaskRow(record)], CACHE, ratio=1)


def test_another_token() -> None:
    task = [TaskRow(Record.pair("Use <json>.", "{}"))]
    cache = [Record.pair("What is <json>?", "A token."), Record.pair("What is <sep>?", "One.")]
    mixture = mix(task, cache, ratio=1, token="<json>")
    assert picked(mixture) == [cache[1].id]
    assert mixture.manifest.dropped == {"names_token": 1}
