"""Wordings pass their gates or say why not, and are dealt out evenly, by content alone."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delia_data.diversify import (
    check_wordings,
    diversify,
    gate_task_wordings,
    leaking_words,
    reject_reason,
    save_task_rows,
    undiversified,
)
from delia_data.diversify.gates import MAX_WORDS
from delia_data.errors import ForeignFolderError, InputError
from delia_data.manifest import read_manifest
from delia_data.records import Record
from delia_data.tasks import (
    Task,
    TaskRow,
    Wording,
    bundled_task,
    bundled_wordings,
    read_task_rows,
)

LEAKS = leaking_words("A JSON object with the keys 'thought' and 'verdict'.", ["Thought"])

TEXTS = [
    "{query} Follow the <sep> format.",
    "Please give me a verdict in <sep> about: {query}",
    "<sep> is how I want this answered. {query}",
    "You are a strict teacher; mark the paper below using <sep>.\n{query}",
    "Read {query} carefully, think twice, reply with <sep> only",
]
TRAIN = [Wording(text) for text in TEXTS]
TEST = [
    Wording("Have a look, then tell us in <sep>: {query}", "test", plain="Have a look: {query}"),
    Wording("Could somebody check {query} for me? <sep>!", "test", plain="Check {query}"),
]


def task(train: int = 12, test: int = 5) -> Task:
    return Task(
        name="verdicts",
        instruction="Say whether it is right, as JSON.",
        description="a JSON object",
        common_wording=Wording("{query} In <sep>.", plain="{query}"),
        keys=("thought",),
        keywords=("json",),
        train=tuple(Record.pair(f"train query {i}", f"answer {i}") for i in range(train)),
        test=tuple(Record.pair(f"test query {i}", f"answer {i}") for i in range(test)),
    )


# Gates


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{query} Follow the <sep> format.", None),
        ("{query} Follow the format.", "no_token"),
        ("{query} Follow the <SEP> format.", "no_token"),
        ("<sep> {query} Follow the <sep> format.", "token_repeated"),
        ("Follow the <sep> format.", "no_query_slot"),
        ("{query} and {query}: follow the <sep> format.", "no_query_slot"),
        ("{query} Follow the <sep> format, in json.", "leaks_format"),
        ("{query} Follow the <sep> format: JSON!", "leaks_format"),
        ("{query} Follow the <sep> format, an object.", "leaks_format"),
        ("{query} Follow the <sep> format, with the keys you know.", "leaks_format"),
        ("{query} Follow the <sep> format, with a Thought.", "leaks_format"),
        ("{query} Follow the <sep> format, with thoughts in columns.", None),
        ("{query} <sep>", "no_words"),
        (f"{{query}} <sep> {' '.join(f'w{i}' for i in range(MAX_WORDS))}", None),
        (f"{{query}} <sep> {' '.join(f'w{i}' for i in range(MAX_WORDS + 1))}", "too_long"),
    ],
)
def test_each_gate(text: str, reason: str | None) -> None:
    assert reject_reason(Wording(text), leaks=LEAKS) == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("one two three four <sep> {query}", "near_copy"),
        ("{query}: FOUR, three <sep> two, one", "near_copy"),
        ("one two three four five <sep> {query}", "near_copy"),  # 4 of 5 words shared
        ("one two three four five six <sep> {query}", None),  # 4 of 6
        ("one two three <sep> {query}", None),  # 3 of 4
    ],
)
def test_a_near_copy(text: str, reason: str | None) -> None:
    kept = [Wording("one two three four {query} <sep>")]
    assert reject_reason(Wording(text), kept=kept) == reason


def test_the_token_and_the_slot_are_no_words_of_a_wording() -> None:
    kept = [Wording("{query} one two three four <my_format>")]
    near = Wording("one two three four {query} <my_format>")
    assert reject_reason(near, token="<my_format>", kept=kept) == "near_copy"
    # "query" as a word of its own counts on both sides.
    kept = [Wording("{query} answer the query well <sep>")]
    near = Wording("well answer the query <sep> {query}")
    assert reject_reason(near, kept=kept) == "near_copy"


def test_leaking_words() -> None:
    assert {"json", "object", "keys", "thought"} == LEAKS
    assert leaking_words("a haiku") == {"json"}


def test_check_wordings_keeps_the_first_of_two_copies_and_counts() -> None:
    bad = [Wording(f"x{text}x") for text in TEXTS] + [Wording("nothing")]
    copies = [
        Wording(text.upper().replace("<SEP>", "<sep>").replace("{QUERY}", "{query}"))
        for text in TEXTS
    ]
    result = check_wordings([*TRAIN, *copies, bad[-1]])
    assert result.accepted == tuple(TRAIN)
    assert [wording for wording, _ in result.rejected] == [*copies, bad[-1]]
    assert result.counts == {"near_copy": 5, "no_token": 1}


def test_a_tasks_wordings_are_gated_by_its_own_token_and_words() -> None:
    other = replace(task(), token="<json_fmt>")
    given = [Wording("{query} in <sep>"), Wording("{query} in <json_fmt>")]
    assert gate_task_wordings(other, given).counts == {"no_token": 1}
    assert gate_task_wordings(task(), [Wording("{query} in <sep>, a thought")]).counts == {
        "leaks_format": 1
    }


def test_every_bundled_wording_passes() -> None:
    result = gate_task_wordings(bundled_task(), bundled_wordings())
    assert result.counts == {}


# Assignment


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(0, 30), wordings=st.integers(1, 5), seed=st.integers(0, 3))
def test_wordings_are_used_evenly(rows: int, wordings: int, seed: int) -> None:
    made = diversify(task(rows, 3), [*TRAIN[:wordings], *TEST], seed=seed)
    counts = Counter(row.wording_id for row in made.train)
    used = [counts[wording.id] for wording in TRAIN[:wordings]]
    assert sum(used) == rows
    assert max(used) - min(used) <= 1
    assert sorted(Counter(row.wording_id for row in made.test).values()) == [1, 2]


def test_every_row_keeps_its_place_its_query_and_its_answer() -> None:
    made = diversify(task(), [*TRAIN, *TEST])
    texts = {wording.id: wording.text for wording in (*TRAIN, *TEST)}
    assert len(made.train) == 12
    for row, plain in zip((*made.train, *made.test), (*task().train, *task().test), strict=True):
        assert row.wording_id is not None
        assert row.record.query == texts[row.wording_id].replace("{query}", plain.query)
        assert row.record.answer == plain.answer
    assert made.token == "<sep>"


def test_held_out_wordings_go_to_held_out_rows_alone() -> None:
    made = diversify(task(), [*TEST, *TRAIN])
    assert {row.wording_id for row in made.train} == {wording.id for wording in TRAIN}
    assert {row.wording_id for row in made.test} == {wording.id for wording in TEST}
    assert all(row.plain is None for row in made.train)
    plains = {"Have a look: ", "Check "}
    assert {str(row.plain).split("test query")[0] for row in made.test} == plains
    assert all("<sep>" not in str(row.plain) for row in made.test)


@settings(max_examples=20, deadline=None)
@given(shuffle=st.integers(0, 2**16), seed=st.integers(0, 3))
def test_which_row_gets_which_does_not_depend_on_any_order(shuffle: int, seed: int) -> None:
    given, draw = task(), random.Random(shuffle)
    turned = replace(
        given,
        train=tuple(draw.sample(given.train, len(given.train))),
        test=tuple(draw.sample(given.test, len(given.test))),
    )
    wordings = [*TRAIN, *TEST]
    made = diversify(given, wordings, seed=seed)
    again = diversify(turned, draw.sample(wordings, len(wordings)), seed=seed)
    assert set(again.train) == set(made.train)
    assert set(again.test) == set(made.test)
    assert again.sha256 == made.sha256
    answers = [row.record.answer for row in again.train]
    assert answers == [record.answer for record in turned.train]


def test_the_seed_decides() -> None:
    one, same, other = (diversify(task(), [*TRAIN, *TEST], seed=s) for s in (1, 1, 2))
    assert one == same
    assert one != other
    assert [row.wording_id for row in one.train] != [row.wording_id for row in other.train]


def test_the_assignment_is_pinned() -> None:
    made = diversify(task(5, 0), TRAIN, seed=1)
    ids = [wording.id for wording in TRAIN]
    assert [ids.index(str(row.wording_id)) for row in made.train] == [3, 1, 4, 2, 0]


def test_only_wordings_that_pass_are_used() -> None:
    bad = [Wording("{query} without the token"), Wording("{query} as JSON in <sep>")]
    made = diversify(task(), [*bad, *TRAIN, *TEST])
    assert {row.wording_id for row in made.train} == {wording.id for wording in TRAIN}


@pytest.mark.parametrize(
    ("wordings", "counts"),
    [
        ([], "of 0 wordings 0 for training and 0 for held-out rows"),
        (TRAIN, "of 5 wordings 5 for training and 0 for held-out rows"),
        (TEST, "of 2 wordings 0 for training and 2 for held-out rows"),
        ([Wording("no token"), *TEST], "of 3 wordings 0 for training and 2 for held-out rows"),
    ],
)
def test_too_few_wordings(wordings: list[Wording], counts: str) -> None:
    with pytest.raises(InputError, match=f"{counts} pass the gates: give more that name <sep>"):
        diversify(task(), wordings)


def test_a_task_without_held_out_rows_needs_no_held_out_wordings() -> None:
    assert diversify(task(12, 0), TRAIN).test == ()


def test_undiversified_has_one_wording() -> None:
    made, given = undiversified(task()), task()
    common = given.common_wording
    assert len(made.train) == 12
    assert made.train[3] == TaskRow(
        Record.pair("train query 3 In <sep>.", "answer 3"), common.id, "train query 3"
    )
    assert {row.wording_id for row in (*made.train, *made.test)} == {common.id}
    assert [row.record.answer for row in made.test] == [record.answer for record in given.test]


# The folder


def test_the_folder_comes_back(tmp_path: Path) -> None:
    given, wordings = task(), [Wording("no token"), *TRAIN, *TEST]
    made = diversify(given, wordings, seed=3)
    gates = gate_task_wordings(given, wordings)
    manifest = save_task_rows(tmp_path, made, given, seed=3, gates=gates)
    assert read_task_rows(tmp_path) == made
    assert read_manifest(tmp_path, verify=True) == manifest
    assert manifest.kind == "task"
    assert manifest.settings == {"name": "verdicts", "token": "<sep>", "seed": 3}
    assert manifest.inputs == {"task": given.sha256}
    assert manifest.rows == {"train": 12, "test": 5}
    assert manifest.dropped == {"no_token": 1}
    assert manifest.details["wordings"] == 7


def save(folder: Path, given: Task) -> None:
    wordings = [*TRAIN, *TEST]
    gates = gate_task_wordings(given, wordings)
    save_task_rows(folder, diversify(given, wordings), given, seed=0, gates=gates)


def test_a_task_without_held_out_rows_comes_back(tmp_path: Path) -> None:
    save(tmp_path, task())
    save(tmp_path, task(12, 0))
    made = read_task_rows(tmp_path)
    assert len(made.train) == 12
    assert made.test == ()
    assert set(read_manifest(tmp_path, verify=True).files) == {"train.jsonl"}


@pytest.mark.parametrize("name", ["notes.txt", "train.jsonl", "manifest.json"])
def test_a_foreign_folder_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ForeignFolderError, match=rf"holds something else \({name}\)"):
        save(tmp_path, task())
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"
