"""Tasks are read from folders and files, and hashed by content."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from wordings import contrast_task, save_task

from delia_data.diversify import diversify
from delia_data.engines import MockEngine, Request
from delia_data.errors import FormatError, InputError, TokenError, UnfinishedError
from delia_data.outputs import Manifest, finish
from delia_data.records import Record
from delia_data.sampling import read_cache
from delia_data.tasks import (
    BUNDLED_TASKS,
    TaskRow,
    TaskRows,
    Wording,
    bundled_task,
    bundled_wordings,
    read_task,
    read_task_rows,
)
from delia_data.training.data import open_training_rows

ROWS = TaskRows(
    train=(
        TaskRow(Record.pair("one <sep>", "1"), "w1"),
        TaskRow(Record.pair("two <sep>", "2"), None),
    ),
    test=(TaskRow(Record.pair("three <sep>", "3"), "w2", "three"),),
)


def write_folder(folder: Path, rows: TaskRows, token: str = "<sep>") -> None:
    folder.mkdir(exist_ok=True)
    for name, split in (("train", rows.train), ("test", rows.test)):
        if split:
            text = "".join(f"{json.dumps(row.as_row())}\n" for row in split)
            (folder / f"{name}.jsonl").write_text(text)
    finish(folder, Manifest(kind="task", settings={"token": token}))


@pytest.mark.parametrize("name", BUNDLED_TASKS)
def test_a_bundled_task_goes_through_a_folder(tmp_path: Path, name: str) -> None:
    task, wordings = bundled_task(name), bundled_wordings(name)
    made = diversify(task, wordings, seed=1)
    save_task(tmp_path, task, wordings, seed=1)
    assert read_task_rows(tmp_path) == made
    assert len(made.train) == len(made.test) == 100
    assert all(row.plain for row in made.test)
    assert made.sha256 == read_task_rows(tmp_path).sha256


def test_rows_come_back_with_wording_and_plain(tmp_path: Path) -> None:
    write_folder(tmp_path, ROWS)
    assert read_task_rows(tmp_path) == ROWS
    assert read_task_rows(str(tmp_path)) == ROWS


def test_the_token_comes_from_the_folder(tmp_path: Path) -> None:
    write_folder(tmp_path, ROWS, token="<json>")
    assert read_task_rows(tmp_path).token == read_task_rows(tmp_path, token="<json>").token
    with pytest.raises(TokenError, match=r"the task's token is '<json>', and '<sep>' was given"):
        read_task_rows(tmp_path, token="<sep>")


@pytest.mark.parametrize("read", [read_task_rows, read_task, read_cache, open_training_rows])
def test_a_folder_that_diversify_began_names_the_command(
    tmp_path: Path, read: Callable[[str], object]
) -> None:
    def broken(request: Request) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        contrast_task(tmp_path, MockEngine(broken), contrast=1)
    assert {path.name for path in tmp_path.iterdir()} >= {"answers", ".lock"}
    with pytest.raises(UnfinishedError, match=r"an unfinished task: .*; rerun delia diversify"):
        read(str(tmp_path))


def test_another_kind_of_folder_is_refused(tmp_path: Path) -> None:
    finish(tmp_path, Manifest(kind="cache"))
    with pytest.raises(InputError, match="holds a cache, not a task: give a task folder"):
        read_task_rows(tmp_path)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_file_holds_training_rows(tmp_path: Path, name: str) -> None:
    rows = [
        {"prompt": "one <sep>", "completion": "1", "wording_id": "w1"},
        {"instruction": "two <sep>", "input": "", "output": "2"},
    ]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (tmp_path / name).write_text(lines if name == "rows.jsonl" else json.dumps(rows))
    assert read_task_rows(tmp_path / name) == TaskRows(ROWS.train, (), "<sep>")
    assert read_task_rows(tmp_path / name, token="<json>").token == "<json>"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a"}, "column 'completion' must hold"),
        ({"prompt": "a", "completion": "b", "wording_id": 3}, "column 'wording_id' must hold text"),
        ({"prompt": "a", "completion": "b", "plain": ["c"]}, "column 'plain' must hold text"),
        ({"question": "a"}, r"the row's columns \(question\) fit no known format"),
    ],
)
def test_a_bad_row_is_named_with_its_place(
    tmp_path: Path, row: dict[str, object], message: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"prompt": "a", "completion": "b"}}\n{json.dumps(row)}\n')
    with pytest.raises(FormatError, match=message) as caught:
        read_task_rows(file)
    assert f"{file}:2: " in str(caught.value)


@pytest.mark.parametrize(
    "changed",
    [
        replace(ROWS, token="<json>"),
        replace(ROWS, train=ROWS.train[:1]),
        replace(ROWS, test=()),
        TaskRows((*ROWS.train, *ROWS.test), ()),
        replace(ROWS, train=(ROWS.train[0], replace(ROWS.train[1], wording_id="w1"))),
    ],
)
def test_the_hash_of_rows_sees_every_change_but_their_order(changed: TaskRows) -> None:
    assert changed.sha256 != ROWS.sha256
    assert replace(ROWS, train=ROWS.train[::-1]).sha256 == ROWS.sha256


def test_the_hash_of_a_task_sees_every_change() -> None:
    task = bundled_task()
    changed = [
        task,
        replace(task, name="another"),
        replace(task, instruction="another"),
        replace(task, description="another"),
        replace(task, common_wording=Wording("another {query} <sep>")),
        replace(task, keys=("another",)),
        replace(task, keywords=("another",)),
        replace(task, token="<json>"),
        replace(task, train=task.train[1:]),
        replace(task, train=(*task.train, task.test[0]), test=task.test[1:]),
    ]
    assert len({other.sha256 for other in changed}) == len(changed)


def test_a_wording_is_filled_once() -> None:
    wording = Wording("In <sep>: {query}", plain="So: {query}")
    assert wording.fill("what is {query}?") == "In <sep>: what is {query}?"
    assert wording.fill_plain("what is {query}?") == "So: what is {query}?"
    with pytest.raises(InputError, match="has no plain form: add one as 'plain'"):
        Wording("In <sep>: {query}").fill_plain("what?")


def test_the_id_of_a_wording_is_that_of_its_text() -> None:
    wording = Wording("In <sep>: {query}")
    assert wording.id == Wording("In <sep>: {query}", "test", "role", "{query}").id
    assert wording.id != Wording("In <sep>:  {query}").id
    assert len(wording.id) == 16


@pytest.mark.parametrize("load", [bundled_task, bundled_wordings])
def test_an_unknown_bundled_task(load: object) -> None:
    assert callable(load)
    with pytest.raises(InputError, match=r"no task '\.\./etc' is bundled: use one of halluci"):
        load("../etc")
