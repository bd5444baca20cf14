"""What must always hold of a mixture (docs/design.md, invariants 1 to 4 and 8)."""

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from delia_data.errors import (
    ForeignFolderError,
    FormatError,
    InputError,
    LockedError,
    RatioError,
    TokenError,
)
from delia_data.files import folder_lock
from delia_data.manifest import is_finished, read_manifest
from delia_data.mixing import (
    Mixture,
    Order,
    config_name,
    mix,
    parse_ratio,
    save_mixture,
    schema,
)
from delia_data.records import FORMATS, Format, Message, Record, read_record
from delia_data.tasks import TaskRow


def task_rows(count: int, *, split: str = "train") -> list[TaskRow]:
    return [
        TaskRow(
            Record.pair(f"{split} question {i}? Follow the <sep> format.", f"{{'answer': {i}}}"),
            f"wording-{i % 3}",
        )
        for i in range(count)
    ]


def pairs(count: int) -> list[Record]:
    return [Record.pair(f"query {i}", f"answer {i}") for i in range(count)]


def picked(mixture: Mixture) -> list[str]:
    """Ids of the pairs in a mixture, in their order."""
    rows = mixture.train.select(["source", "source_id"]).to_pylist()
    return [row["source_id"] for row in rows if row["source"] == "cache"]


def shuffled(rows: Sequence[Any], seed: int) -> list[Any]:
    return random.Random(seed).sample(rows, len(rows))


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


TASK, TEST, CACHE = task_rows(10), task_rows(4, split="test"), pairs(200)
BIG_CACHE = pairs(10_000)
orders = st.sampled_from(["shuffled", "interleaved"])


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


def test_the_whole_cache_can_be_taken() -> None:
    mixture = mix(TASK, CACHE, ratio=20)
    assert sorted(picked(mixture)) == sorted(pair.id for pair in CACHE)


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
    [
        (4, "ratio-4"),
        (260.0, "ratio-260"),
        (0.5, "ratio-0.5"),
        (1 / 3, "ratio-0.333333333333333"),
    ],
)
def test_config_names(ratio: float, name: str) -> None:
    assert config_name(ratio) == name


def test_there_is_one_zero() -> None:
    assert config_name(parse_ratio("-0.0")) == "ratio-0"


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


def test_a_short_cache_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(RatioError) as caught:
        mix(task_rows(3), pairs(7), ratio=4)
    assert str(caught.value) == (
        "ratio 4 of 3 task rows needs 12 pairs, and the cache holds 7 usable ones: sample "
        "more, lower the ratio to 2.3333, or set on_short to 'all' or 'repeat'"
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
    with pytest.raises(RatioError, match="the cache holds 0 usable ones"):
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


COLUMNS = {
    "messages": ["messages"],
    "prompt_completion": ["prompt", "completion"],
    "alpaca": ["instruction", "input", "output"],
    "sharegpt": ["conversations"],
}


def test_the_table_has_every_format() -> None:
    assert set(COLUMNS) == set(FORMATS)


@pytest.mark.parametrize("format", FORMATS)
def test_columns_and_rows_of_every_format(format: Format) -> None:
    mixture = mix(TASK, CACHE, ratio=2, test=TEST, format=format)
    for table in (mixture.train, mixture.test):
        assert table is not None
        assert table.schema == schema(format)
        names = [*COLUMNS[format], "source", "source_id", "wording_id"]
        assert table.column_names == names
    known = {r.id: r for r in (*(row.record for row in TASK), *CACHE)}
    for row in mixture.train.to_pylist():
        record = read_record(row)
        assert record == known[row["source_id"]]
        assert (row["wording_id"] is None) == (row["source"] == "cache")


def test_the_order_is_the_same_in_every_format() -> None:
    ids = {
        tuple(mix(TASK, CACHE, ratio=2, format=f).train["source_id"].to_pylist()) for f in FORMATS
    }
    assert len(ids) == 1


def test_an_unknown_format() -> None:
    with pytest.raises(FormatError, match="format 'csv' is unknown"):
        mix(TASK, CACHE, ratio=1, format="csv")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "before",
    [
        (Message("system", "Be brief."),),
        (Message("user", "Hello"), Message("assistant", "Hi")),
    ],
)
def test_alpaca_loses_no_turn(before: tuple[Message, ...]) -> None:
    pair = Record((*before, *Record.pair("query", "answer").messages))
    with pytest.raises(FormatError, match=r"the cache has system turns or earlier ones"):
        mix(TASK, [pair], ratio=0.1, format="alpaca")
    assert mix(TASK, [pair], ratio=0.1).train.num_rows == 11


@pytest.mark.parametrize("ratio", [0, 1, 20])
def test_held_out_rows_are_the_tasks_and_no_pair(ratio: float) -> None:
    test = mix(TASK, CACHE, ratio=ratio, test=TEST).test
    assert test is not None
    assert set(test["source"].to_pylist()) == {"task"}
    assert sorted(test["source_id"].to_pylist()) == sorted(row.record.id for row in TEST)


def test_no_held_out_rows_give_no_split() -> None:
    assert mix(TASK, CACHE, ratio=1).test is None


def test_held_out_rows_are_not_trained_on() -> None:
    train = mix(TASK, [*CACHE, TEST[0].record], ratio=20, test=TEST).train
    assert not set(train["source_id"].to_pylist()) & {row.record.id for row in TEST}


def test_a_task_row_that_is_held_out_is_dropped_with_a_reason() -> None:
    leaked = [*TASK, TEST[1], TEST[1]]
    mixture = mix(leaked, CACHE, ratio=4, test=TEST)
    assert mixture.manifest.rows == {"task": 10, "cache": 40, "test": 4}
    assert mixture.manifest.dropped == {"task_row_is_held_out": 2}
    assert mixture.train.equals(mix(TASK, CACHE, ratio=4, test=TEST).train)
    with pytest.raises(InputError, match="no training rows that are not held out"):
        mix(TEST, CACHE, ratio=4, test=TEST)


def test_held_out_rows_name_the_token_too() -> None:
    plain = [*TEST, TaskRow(Record.pair("plainly asked", "a"))]
    with pytest.raises(TokenError, match="1 of 5 held-out rows do not name <sep>"):
        mix(TASK, CACHE, ratio=4, test=plain)
    assert mix(TASK, CACHE, ratio=4, test=plain, token=None).manifest.rows["test"] == 5


@pytest.fixture
def mixture() -> Mixture:
    return mix(TASK, CACHE, ratio=4, test=TEST)


def test_datasets_loads_the_folder(mixture: Mixture, tmp_path: Path) -> None:
    save_mixture(mixture, tmp_path / "mixture")
    loaded = load_dataset(str(tmp_path / "mixture"), "ratio-4", cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train", "test"}
    assert mixture.test is not None
    assert loaded["train"].to_list() == mixture.train.to_pylist()
    assert loaded["test"].to_list() == mixture.test.to_pylist()


def test_what_lies_in_the_folder(mixture: Mixture, tmp_path: Path) -> None:
    written = save_mixture(mixture, tmp_path)
    assert read_manifest(tmp_path, verify=True) == written
    assert written == mixture.manifest.model_copy(update={"files": written.files})
    assert set(written.files) == {"README.md", "train.parquet", "test.parquet"}
    assert visible(tmp_path) == {*written.files, "manifest.json", "FINISHED"}
    assert pq.read_table(tmp_path / "train.parquet").equals(mixture.train)


def test_the_accounting_lies_beside_it(mixture: Mixture, tmp_path: Path) -> None:
    save_mixture(mixture, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    train = pq.read_table(tmp_path / "train.parquet")
    assert manifest["rows"] == {"task": 10, "cache": 40, "test": 4}
    assert manifest["rows"]["task"] + manifest["rows"]["cache"] == train.num_rows
    assert manifest["rows"]["test"] == pq.read_table(tmp_path / "test.parquet").num_rows


def test_another_mixture_takes_the_place_of_the_first(mixture: Mixture, tmp_path: Path) -> None:
    save_mixture(mixture, tmp_path)
    smaller = mix(TASK, CACHE, ratio=2)
    save_mixture(smaller, tmp_path)
    assert set(read_manifest(tmp_path, verify=True).files) == {"README.md", "train.parquet"}
    assert pq.read_table(tmp_path / "train.parquet").num_rows == 30
    assert "ratio-2" in (tmp_path / "README.md").read_text()


def test_a_run_that_was_killed_is_written_anew(mixture: Mixture, tmp_path: Path) -> None:
    save_mixture(mixture, tmp_path)
    for name in ("FINISHED", "manifest.json"):
        (tmp_path / name).unlink()
    (tmp_path / "train.parquet").write_text("half")
    save_mixture(mixture, tmp_path)
    read_manifest(tmp_path, verify=True)


@pytest.mark.parametrize("name", ["notes.txt", "README.md", "train.parquet", "manifest.json"])
def test_a_foreign_folder_is_left_alone(mixture: Mixture, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ForeignFolderError, match=rf"holds something else \({name}\)"):
        save_mixture(mixture, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_file_in_its_place_is_left_alone(mixture: Mixture, tmp_path: Path) -> None:
    (tmp_path / "mixture").write_text("mine")
    with pytest.raises(ForeignFolderError, match="is a file: give a folder"):
        save_mixture(mixture, tmp_path / "mixture")
    assert (tmp_path / "mixture").read_text() == "mine"


def test_two_writers(mixture: Mixture, tmp_path: Path) -> None:
    with folder_lock(tmp_path), pytest.raises(LockedError):
        save_mixture(mixture, tmp_path)
    assert visible(tmp_path) == set()


def test_a_write_that_fails_is_not_finished(
    mixture: Mixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_mixture(mixture, tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
    with pytest.raises(OSError, match="No space left on device"):
        save_mixture(mixture, tmp_path)
    assert not is_finished(tmp_path)
    assert not list(tmp_path.glob("*.parquet"))
    assert not list(tmp_path.glob("**/*.part"))
