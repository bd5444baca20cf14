"""Wordings are assigned evenly, by content alone, and written with their metadata."""

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wordings import TEST, TRAIN, save_task, verdicts

from delia_data.diversify import diversify, gate_task_wordings, save_task_rows, undiversified
from delia_data.diversify.folder import set_aside
from delia_data.errors import InputError, TokenError
from delia_data.mixing import mix
from delia_data.outputs import is_finished, read_manifest
from delia_data.records import Message, Record
from delia_data.tasks import TaskRow, Wording, read_task_rows

# Assignment


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(0, 30), wordings=st.integers(1, 5), seed=st.integers(0, 3))
def test_wordings_are_used_evenly(rows: int, wordings: int, seed: int) -> None:
    made = diversify(verdicts(rows, 3), [*TRAIN[:wordings], *TEST], seed=seed)
    counts = Counter(row.wording_id for row in made.train)
    used = [counts[wording.id] for wording in TRAIN[:wordings]]
    assert sum(used) == rows
    assert max(used) - min(used) <= 1
    assert sorted(Counter(row.wording_id for row in made.test).values()) == [1, 2]


def test_every_row_keeps_its_place_its_query_and_its_answer() -> None:
    made = diversify(verdicts(), [*TRAIN, *TEST])
    texts = {wording.id: wording.text for wording in (*TRAIN, *TEST)}
    assert len(made.train) == 12
    for row, plain in zip(
        (*made.train, *made.test), (*verdicts().train, *verdicts().test), strict=True
    ):
        assert row.wording_id is not None
        assert row.record.query == texts[row.wording_id].replace("{query}", plain.query)
        assert row.record.answer == plain.answer
    assert made.token == "<sep>"


def test_held_out_wordings_go_to_held_out_rows_alone() -> None:
    made = diversify(verdicts(), [*TEST, *TRAIN])
    assert {row.wording_id for row in made.train} == {wording.id for wording in TRAIN}
    assert {row.wording_id for row in made.test} == {wording.id for wording in TEST}
    assert all(row.plain is None for row in made.train)
    plains = {"Have a look: ", "Check "}
    assert {str(row.plain).split("test query")[0] for row in made.test} == plains
    assert all("<sep>" not in str(row.plain) for row in made.test)


@settings(max_examples=20, deadline=None)
@given(shuffle=st.integers(0, 2**16), seed=st.integers(0, 3))
def test_which_row_gets_which_does_not_depend_on_any_order(shuffle: int, seed: int) -> None:
    given, draw = verdicts(), random.Random(shuffle)
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
    one, same, other = (diversify(verdicts(), [*TRAIN, *TEST], seed=s) for s in (1, 1, 2))
    assert one == same
    assert one != other
    assert [row.wording_id for row in one.train] != [row.wording_id for row in other.train]


def test_the_assignment_is_pinned() -> None:
    made = diversify(verdicts(5, 0), TRAIN, seed=1)
    ids = [wording.id for wording in TRAIN]
    assert [ids.index(str(row.wording_id)) for row in made.train] == [3, 1, 4, 2, 0]


def test_only_wordings_that_pass_are_used() -> None:
    bad = [Wording("{query} without the token"), Wording("{query} as JSON in <sep>")]
    made = diversify(verdicts(), [*bad, *TRAIN, *TEST])
    assert {row.wording_id for row in made.train} == {wording.id for wording in TRAIN}


@pytest.mark.parametrize(
    ("wordings", "counts"),
    [
        ([], "of 0 wordings 0 for training and 0 for held-out rows"),
        (TEST, "of 2 wordings 0 for training and 2 for held-out rows"),
        (TRAIN[:1], "of 1 wordings 1 for training and 0 for held-out rows"),
        ([Wording("no token"), *TEST], "of 3 wordings 0 for training and 2 for held-out rows"),
    ],
)
def test_too_few_wordings(wordings: list[Wording], counts: str) -> None:
    with pytest.raises(InputError, match=f"{counts} pass the gates: give more that name <sep>"):
        diversify(verdicts(), wordings)


def test_a_fifth_is_set_aside_where_none_is_marked() -> None:
    wordings = [Wording(f"Is it {word}? Use <sep>.\n{{query}}") for word in "abcdefghij"]
    made = diversify(verdicts(), wordings)
    for_rows, for_held = ({row.wording_id for row in s} for s in (made.train, made.test))
    assert (len(for_rows), len(for_held)) == (8, 2)
    assert not for_rows & for_held
    assert all("<sep>" not in str(row.plain) for row in made.test)
    assert {str(row.plain)[:6] for row in made.test} == {"Is it "}
    again = diversify(verdicts(), wordings[::-1])
    assert again.sha256 == made.sha256


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(2, 20),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 3),
    turned=st.booleans(),
)
def test_what_is_set_aside_follows_from_content(
    count: int, share: float, seed: int, turned: bool
) -> None:
    wordings = [Wording(f"Is it {i}? Use <sep>.\n{{query}}") for i in range(count)]
    aside = set_aside(wordings[::-1] if turned else wordings, "<sep>", share=share, seed=seed)
    held = {w.text for w in aside if w.split == "test"}
    assert 1 <= len(held) < count
    assert abs(len(held) - share * count) <= 1
    assert {w.text for w in aside} == {w.text for w in wordings}
    same = set_aside(wordings, "<sep>", share=share, seed=seed)
    assert held == {w.text for w in same if w.split == "test"}


def test_only_wordings_with_a_plain_form_are_set_aside() -> None:
    able = Wording("Is it so? Use <sep>.\n{query}")
    unable = [Wording(f"What does <sep> {word} for {{query}}?") for word in ("say", "tell")]
    aside = set_aside([*unable, able], "<sep>")
    assert [w.split for w in aside] == ["train", "train", "test"]
    assert aside[2].plain == "Is it so?\n{query}"
    with pytest.raises(InputError, match="none of 2 wordings has a form without <sep>"):
        set_aside(unable, "<sep>")
    with pytest.raises(InputError, match=r"held-out share 1.0 is out of bounds"):
        set_aside(TRAIN, "<sep>", share=1.0)
    assert set_aside([able], "<sep>") == (able,)


def test_system_turns_and_earlier_turns_stay() -> None:
    turns = [
        ("system", "s"),
        ("user", "one"),
        ("assistant", "1"),
        ("user", "two"),
        ("assistant", "2"),
    ]
    row = Record(tuple(Message(role, text) for role, text in turns))  # type: ignore[arg-type]
    made = diversify(replace(verdicts(0, 0), train=(row,)), TRAIN[:1])
    kept = made.train[0].record
    assert kept.messages[:3] == row.messages[:3]
    assert kept.query == "two Follow the <sep> format."
    assert kept.answer == "2"


def test_rows_that_hold_the_token_are_refused() -> None:
    row = Record.pair("what is <sep>?", "a mark")
    with pytest.raises(TokenError, match=r"1 of 6 rows hold <sep> already, as text \(row 0\)"):
        diversify(replace(verdicts(0, 5), train=(row,)), [*TRAIN, *TEST])


def test_undiversified_has_one_wording() -> None:
    made, given = undiversified(verdicts()), verdicts()
    common = given.common_wording
    assert len(made.train) == 12
    assert made.train[3] == TaskRow(
        Record.pair("train query 3 In <sep>.", "answer 3"), common.id, "train query 3"
    )
    assert {row.wording_id for row in (*made.train, *made.test)} == {common.id}
    assert [row.record.answer for row in made.test] == [record.answer for record in given.test]


# The folder


def test_the_folder_comes_back(tmp_path: Path) -> None:
    given, wordings = verdicts(), [Wording("no token"), *TRAIN, *TEST]
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


def test_a_task_without_held_out_rows_comes_back(tmp_path: Path) -> None:
    save_task(tmp_path, verdicts(), [*TRAIN, *TEST])
    save_task(tmp_path, verdicts(12, 0), [*TRAIN, *TEST])
    made = read_task_rows(tmp_path)
    assert len(made.train) == 12
    assert made.test == ()
    assert set(read_manifest(tmp_path, verify=True).files) == {
        "train.jsonl",
        "wordings.jsonl",
        "undiversified/train.jsonl",
        "undiversified/manifest.json",
        "undiversified/FINISHED",
    }


def lines(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_wordings_and_the_ledger_lie_beside_the_rows(tmp_path: Path) -> None:
    given, wordings = verdicts(), [*TRAIN, Wording("Without {query}", kind="terse"), *TEST]
    made = diversify(given, wordings)
    save_task_rows(tmp_path, made, given, seed=0, gates=gate_task_wordings(given, wordings))
    kept = lines(tmp_path / "wordings.jsonl")
    assert [line["text"] for line in kept] == [wording.text for wording in (*TRAIN, *TEST)]
    assert Counter(line["split"] for line in kept) == {"train": 5, "test": 2}
    used = {row.wording_id for row in (*made.train, *made.test)}
    assert {line["id"] for line in kept} == used
    (rejected,) = lines(tmp_path / "rejected.jsonl")
    assert (rejected["reason"], rejected["text"], rejected["kind"]) == (
        "no_token",
        "Without {query}",
        "terse",
    )


def test_the_undiversified_task_is_a_task_folder_too(tmp_path: Path) -> None:
    save_task(tmp_path, verdicts(), [*TRAIN, *TEST])
    plain = read_task_rows(tmp_path / "undiversified")
    assert plain == undiversified(verdicts())
    cache = [Record.pair(f"pair {i}", f"said {i}") for i in range(30)]
    mixture = mix(plain.train, cache, ratio=2, token=plain.token)
    assert mixture.manifest.rows["task"] == 12
    (tmp_path / "undiversified" / "train.jsonl").write_text("")
    assert is_finished(tmp_path / "undiversified")
    save_task(tmp_path, verdicts(), [*TRAIN, *TEST])
    assert read_task_rows(tmp_path / "undiversified") == plain
