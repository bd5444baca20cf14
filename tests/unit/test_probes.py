"""Probes: every row in four ways, with the token and without it; tasks read back from folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from delia_data.diversify import diversify, gate_task_wordings, save_task_rows, undiversified
from delia_data.diversify.plain import plain_form
from delia_data.errors import FormatError, InputError, UnfinishedError
from delia_data.evaluation import PROBES, EvalTask, Probe, make_probes
from delia_data.outputs import Manifest, finish, read_manifest
from delia_data.records import Message, Record
from delia_data.tasks import Task, TaskRows, Wording, bundled_task, bundled_wordings, make_task

TASK = bundled_task()
WORDINGS = bundled_wordings()


def asked(task: Task = TASK, wordings: list[Wording] = WORDINGS) -> EvalTask:
    return EvalTask.of(task, diversify(task, wordings), wordings)


def save(folder: Path, task: Task = TASK, wordings: list[Wording] = WORDINGS) -> Path:
    rows, gates = diversify(task, wordings), gate_task_wordings(task, wordings)
    save_task_rows(folder, rows, task, seed=0, gates=gates)
    return folder


def last(turns: tuple[Message, ...]) -> str:
    return turns[-1].content


@pytest.fixture(scope="module")
def probes() -> dict[str, Probe]:
    return {probe.name: probe for probe in make_probes(asked())}


def test_prompts_contain_the_token_once_and_plain_prompts_never(probes: dict[str, Probe]) -> None:
    assert list(probes) == list(PROBES)
    for probe in probes.values():
        assert len(probe.rows) == 100
        for row in probe.rows:
            assert last(row.prompt).count("<sep>") == 1
            assert "<sep>" not in last(row.plain)
            assert row.query in last(row.prompt)
            assert row.query in last(row.plain)


def test_every_probe_asks_the_same_rows(probes: dict[str, Probe]) -> None:
    known = {row.id: row.answer for row in TASK.test}
    ids = [[row.id for row in probe.rows] for probe in probes.values()]
    assert ids.count(ids[0]) == 4
    assert set(ids[0]) == set(known)
    assert all(known[row.id] == row.expected for row in probes["bare"].rows)


def test_wordings_of_each_probe(probes: dict[str, Probe]) -> None:
    by_text = {wording.id: wording for wording in WORDINGS}
    for name, split in (("held-out", "test"), ("training", "train")):
        for row in probes[name].rows:
            wording = by_text[row.wording_id or ""]
            assert wording.split == split
            assert last(row.prompt) == wording.fill(row.query)
    bare = probes["bare"].rows[0]
    assert last(bare.prompt) == f"{bare.query}\n\nFollow the <sep> format."
    assert last(bare.plain) == bare.query
    negative, held_out = probes["negative"].rows[0], probes["held-out"].rows[0]
    assert last(negative.plain) == last(held_out.plain)
    assert last(negative.prompt) == f"{last(held_out.plain)}\n\nDo NOT use the <sep> format."
    assert [probe.wants_format for probe in probes.values()] == [True, True, True, False]


def test_training_wordings_are_used_evenly(
    probes: dict[str, Probe],
) -> None:
    used = [row.wording_id for row in probes["training"].rows]
    counts = {used.count(one) for one in set(used)}
    assert max(counts) - min(counts) <= 1
    assert probes["training"].notes == (
        f"{72 - len(set(used))} of 72 training wordings have no plain form and are not used",
    )


def test_more_rows_include_fewer_rows() -> None:
    few, many = (make_probes(asked(), rows=rows, seed=3) for rows in (7, 31))
    for small, large in zip(few, many, strict=True):
        assert len(small.rows) == 7
        assert large.rows[:7] == small.rows
    other = make_probes(asked(), rows=7, seed=4)
    assert {row.id for row in other[0].rows} != {row.id for row in few[0].rows}


def test_duplicate_rows_and_names() -> None:
    twice = replace(TASK, test=(*TASK.test[:3], TASK.test[0]))
    (probe,) = make_probes(asked(twice), ["bare", "bare"])
    assert len(probe.rows) == 3


def test_earlier_turns_are_kept() -> None:
    turns = [Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Hello")]
    rows = [
        Record((*turns, Message("user", f"Question {i}"), Message("assistant", answer)))
        for i, answer in enumerate(["yes", "no"] * 3)
    ]
    task = make_task(name="t", train=rows[:4], test=rows[4:], instruction="Say it. Yes or no.")
    wordings = [
        Wording("{query}\nTell me. Follow the <sep> format.", plain="{query}\nTell me."),
        Wording("<sep>, please.\n{query}", split="test", plain="Please.\n{query}"),
    ]
    rows_worded = TaskRows(
        train=(),
        test=tuple(replace(row, record=replace(row.record)) for row in undiversified(task).test),
    )
    for probe in make_probes(EvalTask.of(task, rows_worded, wordings), seed=1):
        for row in probe.rows:
            assert list(row.prompt[:3]) == turns == list(row.plain[:3])
            assert row.query.startswith("Question")


def test_a_folder_equals_its_task(tmp_path: Path) -> None:
    read = EvalTask.read(save(tmp_path / "task"))
    made = asked()
    used = {row.worded.wording_id for row in read.held_out}
    assert read.held_out == made.held_out
    assert (read.form, read.token, read.sha256) == (made.form, made.token, made.sha256)
    assert (read.name, read.scoring) == (TASK.name, "json")
    assert used <= {wording.id for wording in read.wordings if wording.split == "test"}
    assert make_probes(read, ["held-out", "bare"]) == make_probes(made, ["held-out", "bare"])


def test_a_scoring_function_is_not_in_a_folder(tmp_path: Path) -> None:
    folder = save(tmp_path / "task", replace(TASK, scoring=lambda answer, expected: 0.5))
    assert EvalTask.read(folder).scoring is None
    known = EvalTask.read(folder, scoring=lambda answer, expected: 0.5)
    assert callable(known.scoring)


def test_errors(tmp_path: Path) -> None:
    task = asked()
    with pytest.raises(InputError, match="probe 'free' is unknown: use one of held-out, training"):
        make_probes(task, ["free"])
    with pytest.raises(InputError, match="no probe was given"):
        make_probes(task, [])
    with pytest.raises(InputError, match="0 rows are too few"):
        make_probes(task, rows=0)
    with pytest.raises(InputError, match="has no held-out rows"):
        asked(replace(TASK, test=()))
    with pytest.raises(InputError, match="differ from the 99 of task"):
        EvalTask.of(replace(TASK, test=TASK.test[1:]), diversify(TASK, WORDINGS), WORDINGS)
    plainless = [w for w in WORDINGS if w.split == "train" and not plain_form(w.text, "<sep>")]
    bare = replace(task, wordings=tuple(plainless))
    with pytest.raises(InputError, match="none of 26 training wordings has a form without <sep>"):
        make_probes(bare, ["training"])
    row = replace(task.held_out[0], worded=replace(task.held_out[0].worded, plain=None))
    with pytest.raises(InputError, match="has no plain form: diversify the task again"):
        make_probes(replace(task, held_out=(row,)), ["held-out"])


def test_invalid_folders(tmp_path: Path) -> None:
    folder = save(tmp_path / "task")
    with pytest.raises(InputError, match=r"has no wordings.jsonl"):
        EvalTask.read(folder / "undiversified")
    with pytest.raises(InputError, match="nothing is not a folder"):
        EvalTask.read(tmp_path / "nothing")
    (tmp_path / "begun").mkdir()
    with pytest.raises(UnfinishedError):
        EvalTask.read(tmp_path / "begun")
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    rows[0]["messages"][0]["content"] = "Something else <sep>"
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = read_manifest(folder)
    finish(folder, Manifest(**{**manifest.model_dump(), "files": {}}))
    with pytest.raises(FormatError, match=f"{rows[0]['wording_id']}: diversify the task again"):
        EvalTask.read(folder)
