"""Columns of a mixture in every format, and its held-out rows."""

from typing import Any

import pytest
from mixtures import CACHE, TASK, TEST

from delia_data.errors import FormatError, InputError, TokenError
from delia_data.mixing import mix, schema
from delia_data.records import FORMATS, Format, Message, Record, read_record
from delia_data.tasks import TaskRow

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


@pytest.mark.parametrize("format", FORMATS)
def test_template_options_are_a_column_of_every_row(format: Format) -> None:
    options = {"enable_thinking": False}
    plain, given = (
        mix(TASK, CACHE, ratio=2, test=TEST, format=format, template_options=each)
        for each in (None, options)
    )
    for without, table in ((plain.train, given.train), (plain.test, given.test)):
        assert table is not None
        assert table.schema == schema(format, template_options=options)
        assert table["chat_template_kwargs"].to_pylist() == [options] * table.num_rows
        assert table.drop_columns("chat_template_kwargs").equals(without)
    assert given.manifest.settings == {**plain.manifest.settings, "template_options": options}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"a": []}, "cannot be a column"),
        ({"a": None}, "cannot be a column"),
        ({"a": {}}, "cannot be a column"),
        ({"messages": 1}, "give values by name"),
        ("short", "give values by name"),
    ],
)
def test_template_options_that_no_column_can_hold(options: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        mix(TASK, CACHE, ratio=1, template_options=options)


def test_the_order_is_the_same_in_every_format() -> None:
    ids = {
        tuple(mix(TASK, CACHE, ratio=2, format=f).train["source_id"].to_pylist()) for f in FORMATS
    }
    assert len(ids) == 1


@pytest.mark.parametrize(
    "before",
    [(Message("system", "Be brief."),), (Message("user", "Hello"), Message("assistant", "Hi"))],
)
def test_alpaca_loses_no_turn(before: tuple[Message, ...]) -> None:
    pair = Record((*before, *Record.pair("query", "answer").messages))
    with pytest.raises(FormatError, match=r"the cache has system turns or earlier turns"):
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
