"""Answers are requested once per question, and any interruption can be resumed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from killing import lines_in, stop_when

from delia_data.diversify import diversify
from delia_data.engines import MockEngine, Request
from delia_data.errors import (
    EngineError,
    ForeignFolderError,
    InputError,
    LockedError,
    OutputError,
    SettingsError,
)
from delia_data.evaluation import AnsweredRow, EvalTask, Probe, generate_answers, make_probes
from delia_data.outputs import folder_lock
from delia_data.records import Message
from delia_data.tasks import bundled_task, bundled_wordings

TASK, WORDINGS = bundled_task(), bundled_wordings()
ASKED = EvalTask.of(TASK, diversify(TASK, WORDINGS))
JSON = "{'thought': 'x', 'hallucination': 'no'}"


def probes(rows: int = 5, *names: str) -> tuple[Probe, ...]:
    return make_probes(ASKED, names or ("held-out", "plain", "forbid"), rows=rows)


class Counting(MockEngine):
    """Answers with JSON if the request has the token, and records requests."""

    def __init__(self, **settings: object) -> None:
        super().__init__(answer=self._answer, **settings)  # type: ignore[arg-type]
        self.asked: list[str] = []

    def _answer(self, request: Request) -> str:
        self.asked.append(request.messages[-1].content)
        return JSON if "<sep>" in self.asked[-1] else f"It says: {self.asked[-1]}"


def test_every_question_is_asked_once_and_answered_in_its_place(tmp_path: Path) -> None:
    engine = Counting(shuffle=8)
    progress: list[tuple[int, int]] = []
    twice = (*probes(), *probes(5, "plain"))
    rows = generate_answers(
        engine, twice, tmp_path, on_progress=lambda *each: progress.append(each)
    )
    assert len(engine.asked) == len(set(engine.asked)) == 5 * 3
    assert progress[0] == (0, 15)
    assert progress[-1] == (15, 15)
    assert [row.probe for row in rows] == [
        name for name in ("held-out", "plain", "forbid", "plain") for _ in range(5)
    ]
    for row in rows:
        assert row.source in row.question
        named = "<sep>" in row.question
        assert row.answers == {"model": JSON if named else f"It says: {row.question}"}
        assert named == (row.probe != "plain")
    assert not any(row.cut for row in rows)


def test_the_untrained_model_answers_into_the_same_log(tmp_path: Path) -> None:
    trained, untrained = Counting(), MockEngine(answer=lambda _: "Fine.")
    rows = generate_answers(trained, probes(2), tmp_path, untrained=untrained)
    assert [row.answers.get("instructed") for row in rows] == ["Fine."] * 2 + [None] * 4
    assert {row.answers["untrained"] for row in rows} == {"Fine."}
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    keys = [(line["id"], line["system"]) for line in lines]
    assert len(keys) == len(set(keys)) == 6 + 6 + 2
    again = Counting()
    asked: list[str] = []
    other = MockEngine(answer=lambda request: asked.append(request.id) or "Else.")  # type: ignore[func-returns-value]
    assert generate_answers(again, probes(2), tmp_path, untrained=other) == rows
    assert not again.asked and not asked


def test_an_untrained_model_can_be_added_and_not_exchanged(tmp_path: Path) -> None:
    class Other(MockEngine):
        def describe(self) -> dict[str, object]:
            return {"engine": "mock", "model": {"name": "other"}}

    generate_answers(Counting(), probes(2), tmp_path)
    engine = Counting()
    generate_answers(engine, probes(2), tmp_path, untrained=MockEngine())
    assert not engine.asked
    with pytest.raises(
        SettingsError, match=r"untrained\.model\.name was 'mock' and is now 'other'"
    ):
        generate_answers(engine, probes(2), tmp_path, untrained=Other())


def test_a_log_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    first = generate_answers(Counting(), probes(2), tmp_path)
    log = tmp_path / "answers.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    log.write_text(
        "".join(
            json.dumps({k: v for k, v in line.items() if k != "system"}) + "\n" for line in lines
        )
    )
    engine = Counting()
    assert generate_answers(engine, probes(2), tmp_path) == first
    assert not engine.asked


def test_equal_requests_take_the_answers_of_another_folder(tmp_path: Path) -> None:
    def ask(engine: MockEngine, folder: str, *names: str, **more: Any) -> list[AnsweredRow]:
        made = probes(2, *names)
        return generate_answers(engine, made, tmp_path / folder, untrained=engine, **more)

    first = ask(Counting(), "first", "held-out", "unrelated")
    engine, reuse = Counting(), [tmp_path / "first"]
    second = ask(engine, "second", "unrelated", "plain", reuse=reuse)
    assert sorted(engine.asked) == sorted(2 * [row.question for row in second[-2:]])
    assert second[:-2] == first[2:]
    log = (tmp_path / "second" / "answers.jsonl").read_text()
    assert all(row.question not in log for row in first[:2]), "only requests that it makes"
    assert ask(engine, "second", "unrelated", "plain") == second, "without the other folder"
    assert len(engine.asked) == 4
    with pytest.raises(SettingsError, match=r"first was begun with .*max_tokens was 96 and is"):
        ask(engine, "third", "unrelated", reuse=reuse, max_tokens=8)


def test_more_rows_ask_only_for_new_ones_and_cut_answers_are_marked(tmp_path: Path) -> None:
    first = generate_answers(Counting(), probes(3, "held-out"), tmp_path, max_tokens=3)
    assert all(row.cut == ("model",) for row in first)
    assert first[0].answers["model"] == "{'thought': 'x', 'hallucination':"
    more = Counting()
    rows = generate_answers(more, probes(5), tmp_path, max_tokens=3)
    assert rows[:3] == first
    assert len(more.asked) == 15 - 3
    with pytest.raises(SettingsError, match="max_tokens was 3 and is now 8"):
        generate_answers(Counting(), probes(2, "held-out"), tmp_path, max_tokens=8)


def test_failures_leave_what_was_answered(tmp_path: Path) -> None:
    fails = Counting(fail=lambda request: request.id[0] in "0123")
    with pytest.raises(EngineError, match=r"questions failed, the last one because of the mock"):
        generate_answers(fails, probes(), tmp_path)
    rest = Counting()
    assert len(generate_answers(rest, probes(), tmp_path)) == 15
    assert len(rest.asked) + len(fails.asked) == 15
    assert not set(rest.asked) & set(fails.asked)
    with pytest.raises(EngineError, match="16 questions failed"):  # then it stops
        generate_answers(Counting(fail=lambda _: True), probes(20), tmp_path / "dead")


def test_prompts_are_built(tmp_path: Path) -> None:
    shown = (Message("user", "Like this."), Message("assistant", "So."))

    def build(prompt: Sequence[Message], query: str) -> tuple[Message, ...]:
        assert query in prompt[-1].content
        return (*shown, *prompt)

    engine = Counting()
    rows = generate_answers(engine, probes(2, "held-out"), tmp_path, build=build, prompts="shown")
    assert all("Like this" not in row.question for row in rows)
    assert json.loads((tmp_path / "asking.json").read_text())["prompts"] == "shown"
    with pytest.raises(SettingsError, match="prompts was 'shown' and is now ''"):
        generate_answers(engine, probes(2, "held-out"), tmp_path)


def test_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rows"):
        generate_answers(Counting(), [Probe("empty", ())], tmp_path / "new")
    with folder_lock(tmp_path / "held"), pytest.raises(LockedError):
        generate_answers(Counting(), probes(), tmp_path / "held")
    (tmp_path / "answers.jsonl").write_text("somebody's")
    with pytest.raises(ForeignFolderError, match=r"answers\.jsonl"):
        generate_answers(Counting(), probes(), tmp_path)


def test_an_answer_that_was_cut_short_is_asked_again(tmp_path: Path) -> None:
    first = generate_answers(Counting(), probes(2, "held-out"), tmp_path)
    path = tmp_path / "answers.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    again = Counting()
    assert generate_answers(again, probes(2, "held-out"), tmp_path) == first
    assert len(again.asked) == 1
    assert path.read_bytes() == whole
    path.write_bytes(whole.replace(b'"id"', b'"id', 1))
    with pytest.raises(OutputError, match=r"answers.jsonl:1: the line is damaged: remove it, and"):
        generate_answers(again, probes(2, "held-out"), tmp_path)


SCRIPT = """
import sys
from unit.test_asking import Counting, probes
from delia_data.evaluation import generate_answers
generate_answers(Counting(stall_s=0.02), probes(), sys.argv[1])
"""


def test_a_kill_takes_nothing_that_was_answered(tmp_path: Path) -> None:
    log = tmp_path / "out" / "answers.jsonl"
    stop_when(lines_in(log, 5), "-c", SCRIPT, tmp_path / "out")
    done = [json.loads(line)["id"] for line in log.read_bytes().splitlines() if line[-1:] == b"}"]
    assert 5 <= len(done) < 15
    engine = Counting()
    rows = generate_answers(engine, probes(), tmp_path / "out")
    assert len(engine.asked) == 15 - len(done)
    assert rows == generate_answers(Counting(), probes(), tmp_path / "unbroken")
