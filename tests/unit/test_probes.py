"""Probes: rows with the token and without it, requests of the package, tasks from folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from wordings import save_task

from delia_data.diversify import diversify, undiversified
from delia_data.diversify.contrast import contrast_phrasings, fill_phrasing
from delia_data.errors import FormatError, InputError, UnfinishedError
from delia_data.evaluation import PROBES, EvalTask, Probe, make_probes
from delia_data.outputs import Manifest, finish, read_manifest
from delia_data.records import Message, Record
from delia_data.tasks import Task, TaskRows, Wording, bundled_task, bundled_wordings, make_task

TASK = bundled_task()
WORDINGS = bundled_wordings()


def asked(task: Task = TASK, wordings: list[Wording] = WORDINGS) -> EvalTask:
    return EvalTask.of(task, diversify(task, wordings))


def last(turns: tuple[Message, ...]) -> str:
    return turns[-1].content


@pytest.fixture(scope="module")
def probes() -> dict[str, Probe]:
    return {probe.name: probe for probe in make_probes(asked(), PROBES)}


def test_held_out_prompts_name_the_token_once_and_plain_prompts_never(
    probes: dict[str, Probe],
) -> None:
    assert list(probes) == list(PROBES)
    known = {row.id: row.answer for row in TASK.test}
    by_id = {wording.id: wording for wording in WORDINGS}
    for name in ("held-out", "plain", "forbid", "mention"):
        assert {row.id: row.expected for row in probes[name].rows} == known
        for row in probes[name].rows:
            assert last(row.prompt).count("<sep>") == (name != "plain")
            assert row.query in last(row.prompt)
    for row in probes["held-out"].rows:
        wording = by_id[row.wording_id or ""]
        assert (wording.split, last(row.prompt)) == ("test", wording.fill(row.query))
        assert last(row.full) == f"{TASK.instruction}\n\n{row.query}"


def test_forbidding_and_mentioning_use_all_held_out_phrasings(probes: dict[str, Probe]) -> None:
    plain = {row.id: last(row.prompt) for row in probes["plain"].rows}
    for name in ("forbid", "mention"):
        phrasings = contrast_phrasings(name, "test")  # type: ignore[arg-type]
        for number, row in enumerate(probes[name].rows):
            phrasing = phrasings[number % len(phrasings)]
            assert last(row.prompt) == fill_phrasing(phrasing, plain[row.id], "<sep>")


def test_requests_of_the_package(probes: dict[str, Probe]) -> None:
    sizes = {
        name: len(probes[name].rows) for name in ("unrelated", "other-json", "token", "general")
    }
    assert sizes == {"unrelated": 40, "other-json": 10, "token": 10, "general": 60}
    for name in sizes:
        texts = [last(row.prompt) for row in probes[name].rows]
        assert len(set(texts)) == len({row.id for row in probes[name].rows}) == len(texts)
        assert all(text.count("<sep>") == (name == "token") for text in texts)
        assert not any(row.expected for row in probes[name].rows)
    for row in probes["other-json"].rows:
        assert "JSON" in last(row.prompt)
        assert not any(key in last(row.prompt) for key in TASK.keys)
    assert all(row.constraints for row in probes["general"].rows)


def test_more_rows_include_fewer_rows() -> None:
    few, many = (make_probes(asked(), rows=rows, seed=3) for rows in (7, 31))
    for small, large in zip(few, many, strict=True):
        if small.name in ("held-out", "plain", "forbid"):
            assert len(small.rows) == 7
            assert large.rows[:7] == small.rows
        else:
            assert large.rows == small.rows
    other = make_probes(asked(), rows=7, seed=4)
    assert {row.id for row in other[0].rows} != {row.id for row in few[0].rows}


def test_earlier_turns_are_kept() -> None:
    turns = [Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Hello")]
    rows = [
        Record((*turns, Message("user", f"Question {i}"), Message("assistant", answer)))
        for i, answer in enumerate(["yes", "no"] * 3)
    ]
    task = make_task(name="t", train=rows[:4], test=rows[4:], instruction="Say it. Yes or no.")
    rows_worded = TaskRows(
        train=(),
        test=tuple(replace(row, record=replace(row.record)) for row in undiversified(task).test),
    )
    names = ["held-out", "plain", "forbid", "mention"]
    for probe in make_probes(EvalTask.of(task, rows_worded), names, seed=1):
        for row in probe.rows:
            assert list(row.prompt[:3]) == turns
            assert row.query.startswith("Question")
            if probe.name == "held-out":
                assert list(row.full[:3]) == turns


def test_a_folder_equals_its_task(tmp_path: Path) -> None:
    read = EvalTask.read(save_task(tmp_path / "task", TASK, WORDINGS))
    made = asked()
    assert read.held_out == made.held_out
    assert (read.form, read.token, read.sha256) == (made.form, made.token, made.sha256)
    assert (read.name, read.scoring) == (TASK.name, "json")
    assert read.instruction == TASK.instruction
    assert make_probes(read, PROBES) == make_probes(made, PROBES)


def test_a_scoring_function_is_not_in_a_folder(tmp_path: Path) -> None:
    folder = save_task(
        tmp_path / "task", replace(TASK, scoring=lambda answer, expected: 0.5), WORDINGS
    )
    assert EvalTask.read(folder).scoring is None
    known = EvalTask.read(folder, scoring=lambda answer, expected: 0.5)
    assert callable(known.scoring)


def test_errors(tmp_path: Path) -> None:
    task = asked()
    with pytest.raises(InputError, match="probe 'free' is unknown: use one of held-out, plain"):
        make_probes(task, ["free"])
    with pytest.raises(InputError, match="no probe was given"):
        make_probes(task, [])
    with pytest.raises(InputError, match="0 rows are too few"):
        make_probes(task, rows=0)
    with pytest.raises(InputError, match="has no held-out rows"):
        asked(replace(TASK, test=()))
    with pytest.raises(InputError, match="differ from the 99 of task"):
        EvalTask.of(replace(TASK, test=TASK.test[1:]), diversify(TASK, WORDINGS))
    row = replace(task.held_out[0], worded=replace(task.held_out[0].worded, plain=None))
    with pytest.raises(InputError, match="has no plain form: diversify the task again"):
        make_probes(replace(task, held_out=(row,)), ["plain"])


def test_invalid_folders(tmp_path: Path) -> None:
    folder = save_task(tmp_path / "task", TASK, WORDINGS)
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
