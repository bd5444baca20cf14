"""Answers on disk: a line each, there as soon as it is given.

A line is written at once, so that a kill takes nothing that was answered; a last line that a kill
cut short is dropped when the log is opened again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from delia_data.engines.base import Completion, Engine, Request, Sampling
from delia_data.errors import EngineError, InputError
from delia_data.evaluation.probes import Probe, ProbeRow
from delia_data.outputs import (
    LOCK,
    JsonlLog,
    check_folder_is_ours,
    check_same_settings,
    folder_lock,
    write_json,
)
from delia_data.ranking import row_seed
from delia_data.records import Message, content_id

ASKING: Final = "asking.json"
ANSWERS: Final = "answers.jsonl"
_FAILURES: Final = 16  # questions that may fail before nothing more is asked


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        id: Content id of the turns that were asked.
        text: The answer.
        tokens: Tokens of it; 0 where the engine does not tell.
        cut: Whether it was cut off.
    """

    id: str
    text: str
    tokens: int
    cut: bool


def answer_log(path: Path) -> JsonlLog[Answer]:
    """Return the log of answers in a file, which need not exist."""
    return JsonlLog(path, Answer, if_damaged="and its question is asked again")


def read_answer_log(path: Path) -> dict[str, Answer]:
    """Read the answers in a file by id.

    Raises:
        OutputError: A line is damaged.
    """
    return {answer.id: answer for answer, *_ in answer_log(path).read()}


PromptBuilder: TypeAlias = Callable[[Sequence[Message], str], tuple[Message, ...]]
"""Makes the turns that are asked of the turns of a probe and the row's bare query, as baselines
without training do. It is called for the turns with the token and for those without."""


@dataclass(frozen=True, slots=True)
class AnsweredRow:
    """One row of a probe, and what was answered to it.

    Attributes:
        probe: Name of the probe.
        id: Content id of the task's row.
        question: The user's last turn as it was asked, naming the token.
        plain: The same without the token.
        source: The row's query, in no wording.
        expected: The row's own answer.
        with_token: The answer to `question`.
        without_token: The answer to `plain`.
        with_cut: Whether the answer was cut off at `max_tokens`.
        without_cut: The same for the other one.
        wants_format: Whether the answer to `question` should be in the format.
    """

    probe: str
    id: str
    question: str
    plain: str
    source: str
    expected: str
    with_token: str
    without_token: str
    with_cut: bool = False
    without_cut: bool = False
    wants_format: bool = True


def generate_answers(
    engine: Engine,
    probes: Sequence[Probe],
    folder: str | os.PathLike[str],
    *,
    max_tokens: int = 96,
    build: PromptBuilder | None = None,
    prompts: str = "",
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[AnsweredRow]:
    """Ask every row of every probe with the token and without it.

    Args:
        engine: What answers.
        probes: What is asked.
        folder: Where answers are kept; a rerun asks only for those that are missing.
        max_tokens: Tokens of an answer at most.
        build: Changes the prompts, where one does.
        prompts: What `build` is called; answers under another name are not mixed with these.
        on_progress: Called with the questions answered so far and their number in all; equal
            questions count once.

    Returns:
        The answers, probe by probe, in the order of the rows.

    Raises:
        InputError: There is nothing to ask.
        SettingsError: The folder holds answers of another model, or to other prompts.
        ForeignFolderError: The folder holds something else.
        LockedError: Another process asks there.
        EngineError: Some questions failed; the others' answers stay.
    """
    root = Path(folder)
    check_folder_is_ours(root, frozenset({ASKING, ANSWERS}), sign=LOCK)
    with folder_lock(root):
        return generate_answers_unlocked(
            engine,
            probes,
            root,
            max_tokens=max_tokens,
            build=build,
            prompts=prompts,
            on_progress=on_progress,
        )


def generate_answers_unlocked(
    engine: Engine,
    probes: Sequence[Probe],
    root: Path,
    *,
    max_tokens: int,
    build: PromptBuilder | None,
    prompts: str,
    on_progress: Callable[[int, int], None],
) -> list[AnsweredRow]:
    """Do what `generate_answers` does, in a folder that is held already."""
    settings = {
        "system": engine.describe(),
        "prompts": prompts,
        "max_tokens": max_tokens,
    }
    asked = [(probe, row, *_turns(row, build)) for probe in probes for row in probe.rows]
    if not asked:
        raise InputError("the probes have no rows: give at least one")
    if (root / ASKING).is_file():
        check_same_settings(root, json.loads((root / ASKING).read_text("utf-8")), settings)
    else:
        write_json(root / ASKING, settings)
    requests: dict[str, Request] = {}
    for _, _, *both in asked:
        for turns in both:
            key = content_id(turns)
            requests[key] = Request(key, turns, row_seed(0, key, "evaluate"))
    answers = _answers(engine, requests, root / ANSWERS, max_tokens, on_progress)
    return [_answered(*each, answers) for each in asked]


def _turns(
    row: ProbeRow, build: PromptBuilder | None
) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    if build is None:
        return row.prompt, row.plain
    return build(row.prompt, row.query), build(row.plain, row.query)


def _answers(
    engine: Engine,
    requests: dict[str, Request],
    file: Path,
    max_tokens: int,
    on_progress: Callable[[int, int], None],
) -> dict[str, Answer]:
    failed: list[Completion] = []
    known = read_answer_log(file)
    with answer_log(file) as log:
        missing = [request for key, request in requests.items() if key not in known]
        done = len(requests) - len(missing)
        on_progress(done, len(requests))

        def waiting() -> Iterator[Request]:
            for request in missing:
                if len(failed) >= _FAILURES:
                    return
                yield request

        sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=max_tokens)
        for completion in engine.generate(waiting(), sampling) if missing else ():
            if completion.finish == "error":
                failed.append(completion)
                continue
            cut = completion.finish == "length"
            answer = Answer(completion.id, completion.text, completion.tokens, cut)
            log.append(answer)
            known[answer.id] = answer
            done += 1
            on_progress(done, len(requests))
        if failed:
            raise EngineError(
                f"{len(failed)} questions failed, the last one because of {failed[-1].error}: "
                f"mend it and run again, and only the {len(requests) - done} that are missing "
                "are asked"
            )
        return {key: known[key] for key in requests}


def _answered(
    probe: Probe,
    row: ProbeRow,
    prompt: tuple[Message, ...],
    plain: tuple[Message, ...],
    answers: dict[str, Answer],
) -> AnsweredRow:
    named, bare = answers[content_id(prompt)], answers[content_id(plain)]
    return AnsweredRow(
        probe=probe.name,
        id=row.id,
        question=_last_user(prompt),
        plain=_last_user(plain),
        source=row.query,
        expected=row.expected,
        with_token=named.text,
        without_token=bare.text,
        with_cut=named.cut,
        without_cut=bare.cut,
        wants_format=probe.wants_format,
    )


def _last_user(turns: Sequence[Message]) -> str:
    return next(turn.content for turn in reversed(turns) if turn.role == "user")
