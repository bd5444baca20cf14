"""Invariants of a mixture: ratio, order, counts."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import BIG_CACHE, CACHE, TASK, TEST, orders, pairs, picked, shuffled, task_rows

from delia_data.errors import InputError
from delia_data.mixing import Order, mix, save_mixture
from delia_data.records import FORMATS, Format, Record
from delia_data.tasks import TaskRow


@settings(max_examples=30, deadline=None)
@given(
    ratio=st.floats(0, 12) | st.integers(0, 12) | st.sampled_from([0.05, 0.15, 0.25, 1.5]),
    rows=st.integers(1, 15),
    order=orders,
)
def test_the_ratio_is_exact(ratio: float, rows: int, order: Order) -> None:
    mixture = mix(task_rows(rows), CACHE, ratio=ratio, order=order)
    wanted = round(ratio * rows)
    counts = Counter(mixture.train["source"].to_pylist())
    assert counts == Counter({"task": rows, "cache": wanted})
    assert len(set(picked(mixture))) == wanted
    assert mixture.manifest.rows == {"task": rows, "cache": wanted, "test": 0}


def test_every_task_row_is_there_once() -> None:
    rows = mix(TASK, CACHE, ratio=3).train.to_pylist()
    ids = [(r["source_id"], r["wording_id"]) for r in rows if r["source"] == "task"]
    assert sorted(ids) == sorted((row.record.id, row.wording_id) for row in TASK)


@settings(max_examples=12, deadline=None)
@given(small=st.floats(0, 20), large=st.floats(0, 20), seed=st.integers(0, 5), order=orders)
def test_ratios_are_nested(small: float, large: float, seed: int, order: Order) -> None:
    small, large = sorted((small, large))
    few, many = (mix(TASK, CACHE, ratio=r, seed=seed, order=order) for r in (small, large))
    assert set(picked(few)) <= set(picked(many))


@settings(max_examples=15, deadline=None)
@given(
    shuffle=st.integers(0, 2**16),
    ratio=st.sampled_from([0, 1.3, 7]),
    seed=st.integers(0, 3),
    order=orders,
    format=st.sampled_from(FORMATS),
)
def test_the_order_of_the_inputs_is_nothing(
    shuffle: int, ratio: float, seed: int, order: Order, format: Format
) -> None:
    given = mix(TASK, CACHE, ratio=ratio, seed=seed, test=TEST, order=order, format=format)
    turned = mix(
        shuffled(TASK, shuffle),
        shuffled(CACHE, shuffle + 1),
        ratio=ratio,
        seed=seed,
        test=shuffled(TEST, shuffle + 2),
        order=order,
        format=format,
    )
    assert turned.train.equals(given.train)
    assert turned.test is not None
    assert turned.test.equals(given.test)
    assert turned.manifest == given.manifest


def test_the_order_of_equal_questions_in_other_wordings_is_nothing() -> None:
    record = TASK[0].record
    task = [TaskRow(record, f"w{i}") for i in range(5)]
    assert mix(task[::-1], CACHE, ratio=2).train.equals(mix(task, CACHE, ratio=2).train)


def test_saved_bytes_are_the_same(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        mixture = mix(
            shuffled(TASK, seed), shuffled(CACHE, seed), ratio=4, test=shuffled(TEST, seed)
        )
        save_mixture(mixture, tmp_path / name)
    files = ["FINISHED", "README.md", "manifest.json", "test.parquet", "train.parquet"]
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize(
    ("order", "rows"),
    [
        ("shuffled", ["query 0", "train 1", "query 1", "train 0", "query 5", "query 3"]),
        ("interleaved", ["train 1", "query 0", "query 1", "train 0", "query 5", "query 3"]),
    ],
)
def test_picks_and_order_are_pinned(order: Order, rows: list[str]) -> None:
    turns = mix(task_rows(2), pairs(6), ratio=2, seed=1, order=order).train["messages"]
    questions = [messages[0]["content"] for messages in turns.to_pylist()]
    assert [q.split("?")[0].replace(" question", "") for q in questions] == rows


@pytest.mark.parametrize("order", ["shuffled", "interleaved"])
def test_the_seed_decides_picks_and_order(order: Order) -> None:
    one, other = (mix(TASK, CACHE, ratio=5, seed=seed, order=order) for seed in (1, 2))
    assert set(picked(one)) != set(picked(other))
    full = [picked(mix(TASK, CACHE, ratio=20, seed=seed, order=order)) for seed in (1, 2)]
    assert full[0] != full[1]


def test_every_setting_is_in_the_manifest() -> None:
    manifest = mix(TASK, CACHE, ratio="4", seed=3, order="interleaved", format="alpaca").manifest  # type: ignore[arg-type]
    assert manifest.kind == "mixture"
    assert manifest.settings == {
        "ratio": 4.0,
        "seed": 3,
        "order": "interleaved",
        "on_short": "error",
        "format": "alpaca",
        "select": "uniform",
        "token": "<sep>",
    }


@pytest.mark.parametrize(
    "changed",
    [
        {"task": TASK[:9]},
        {"task": [*TASK[:9], TaskRow(TASK[9].record, "another-wording")]},
        {"cache": CACHE[:199]},
        {"test": TEST[:3]},
        {"task": [*TASK, TEST[0]], "test": TEST[1:]},
    ],
)
def test_the_inputs_hashes_see_every_change(changed: dict[str, Any]) -> None:
    def inputs(task: Any = TASK, cache: Any = CACHE, test: Any = TEST) -> dict[str, str]:
        return mix(task, cache, ratio=1, test=test).manifest.inputs

    assert inputs(**changed) != inputs()
    assert inputs(**{name: rows[::-1] for name, rows in changed.items()}) == inputs(**changed)


@pytest.mark.parametrize("seed", range(3))
def test_one_more_pair_changes_at_most_one_pick_of_500(seed: int) -> None:
    before = picked(mix(TASK, BIG_CACHE, ratio=50, seed=seed))
    for i in range(4):
        grown = [*BIG_CACHE, Record.pair(f"one more {i}", "answer")]
        after = picked(mix(TASK, grown, ratio=50, seed=seed))
        assert len(before) == len(after) == 500
        assert len(set(before) & set(after)) >= 499


def test_a_pick_gives_way_only_to_a_new_pair() -> None:
    before = set(picked(mix(TASK, BIG_CACHE[:5000], ratio=50)))
    after = set(picked(mix(TASK, BIG_CACHE, ratio=50)))
    new = {pair.id for pair in BIG_CACHE[5000:]}
    assert len(before - after) == len(after - before) > 100
    assert after - before <= new


def test_selection_is_uniform_over_the_cache() -> None:
    place = {pair.id: i for i, pair in enumerate(BIG_CACHE)}
    places = [place[row_id] for row_id in picked(mix(TASK, BIG_CACHE, ratio=100))]
    counts = [sum(1 for p in places if p // 2500 == quarter) for quarter in range(4)]
    assert all(200 < count < 300 for count in counts)


@settings(max_examples=12, deadline=None)
@given(ratio=st.floats(0, 15), seed=st.integers(0, 5))
def test_interleaved_gives_each_task_row_its_share(ratio: float, seed: int) -> None:
    mixture = mix(TASK, CACHE, ratio=ratio, seed=seed, order="interleaved")
    sources = mixture.train["source"].to_pylist()
    assert sources[0] == "task"
    shares = [len(run) for run in " ".join(sources).split("task")[1:]]
    counts = [share // len("cache ") for share in shares]
    assert len(counts) == len(TASK)
    assert sum(counts) == round(ratio * len(TASK))
    assert max(counts) - min(counts) <= 1


def test_shuffled_mixes_both_evenly() -> None:
    sources = mix(task_rows(100), pairs(400), ratio=4).train["source"].to_pylist()
    halves = sources[:250].count("task"), sources[250:].count("task")
    assert min(halves) > 30


def test_neither_order_is_that_of_the_inputs() -> None:
    ids = [pair.id for pair in CACHE]
    for order in ("shuffled", "interleaved"):
        mixture = mix(TASK, CACHE, ratio=20, order=order)
        assert sorted(picked(mixture)) == sorted(ids)
        assert picked(mixture) != ids
        assert mixture.train["source_id"].to_pylist()[0] != TASK[0].record.id


@pytest.mark.parametrize(("name", "value"), [("order", "sorted"), ("on_short", "skip")])
def test_unknown_choices(name: str, value: str) -> None:
    with pytest.raises(InputError, match=f"{name} '{value}' is unknown: use one of "):
        mix(TASK, CACHE, ratio=1, **{name: value})  # type: ignore[arg-type]


def test_a_task_needs_rows() -> None:
    with pytest.raises(InputError, match="has no training rows"):
        mix([], CACHE, ratio=0)
