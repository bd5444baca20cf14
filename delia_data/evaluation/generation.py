"""Answers to the rows of probes, generated one by one and resumable.

    folder/
        asking.json      settings that the answers depend on: engine, model, prompts, max_tokens
        answers.jsonl    one line per answer, appended as soon as it is generated

An answered question is never asked again: not after a kill, not for another probe, not for more
rows. Decoding is greedy (temperature 0).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from delia_data.engines.base import Completion, Engine, Request, Sampling, with_parts
from delia_data.errors import EngineError, InputError
from delia_data.evaluation.probes import Probe
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
_MOST_FAILURES: Final = 16  # failed questions after which the run stops

PromptBuilder: TypeAlias = Callable[[Sequence[Message], str], tuple[Message, ...]]
"""Takes the turns of a probe and the row's query without a wording, and returns the turns to send.
Baselines without training use one. It is called for the turns with the token and without it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One line of `answers.jsonl`.

    Attributes:
        id: Content id of the turns that were sent.
        text: The answer.
        tokens: Tokens of the answer; 0 if the engine does not count them.
        cut: Whether the answer was cut off at `max_tokens`.
    """

    id: str
    text: str
    tokens: int
    cut: bool


@dataclass(frozen=True, slots=True)
class AnsweredRow:
    """One row of a probe with its answers.

    Attributes:
        probe: Name of the probe.
        id: Content id of the task's row.
        question: The last user turn with the token.
        plain: The last user turn without the token.
        source: The row's query without a wording.
        expected: The row's own answer.
        with_token: The answer to `question`.
        without_token: The answer to `plain`.
        with_cut: Whether `with_token` was cut off at `max_tokens`.
        without_cut: Whether `without_token` was cut off.
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


def answer_log(path: Path) -> JsonlLog[Answer]:
    """Return the log of answers in a file, which need not exist."""
    return JsonlLog(path, Answer, if_damaged="and its question is asked again")


def read_answer_log(path: Path) -> dict[str, Answer]:
    """Read the answers in a file by id.

    Raises:
        OutputError: A line is damaged.
    """
    return {answer.id: answer for answer, *_ in answer_log(path).read()}


def generate_answers(
    engine: Engine,
    probes: Sequence[Probe],
    folder: str | os.PathLike[str],
    *,
    max_tokens: int = 96,
    build: PromptBuilder | None = None,
    prompts: str = "",
    on_progress: Callable[[float, float], None] = lambda done, of: None,
) -> list[AnsweredRow]:
    """Answer every row of every probe, with the token and without it.

    Args:
        engine: The engine.
        probes: The probes.
        folder: Folder of the answers; a rerun generates only those that are missing.
        max_tokens: Greatest number of tokens in an answer.
        build: Changes the prompts.
        prompts: Name of `build`; a folder holds answers to prompts of one name.
        on_progress: Called with the number of questions done and in all. Equal questions count
            once.

    Returns:
        The answers, probe by probe, in the order of the rows.

    Raises:
        InputError: The probes have no rows.
        SettingsError: The folder holds answers of another model, or to other prompts.
        ForeignFolderError: The folder holds something else.
        LockedError: Another process works in the folder.
        EngineError: Some questions failed; the other answers are kept.
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
    on_progress: Callable[[float, float], None],
) -> list[AnsweredRow]:
    """Do the same as `generate_answers` in a folder whose lock the caller holds."""
    settings = {"system": engine.describe(), "prompts": prompts, "max_tokens": max_tokens}
    turns = [
        (probe, row, with_token, without_token)
        for probe in probes
        for row in probe.rows
        for with_token, without_token in [
            (row.prompt, row.plain)
            if build is None
            else (build(row.prompt, row.query), build(row.plain, row.query))
        ]
    ]
    if not turns:
        raise InputError("the probes have no rows: give at least one")
    if (root / ASKING).is_file():
        check_same_settings(root, json.loads((root / ASKING).read_text("utf-8")), settings)
    else:
        write_json(root / ASKING, settings)
    prompts_by_id = {content_id(one): one for _, _, *both in turns for one in both}
    requests = [
        Request(key, one, row_seed(0, key, "evaluate")) for key, one in prompts_by_id.items()
    ]
    answers = _generate(engine, requests, root / ANSWERS, max_tokens, on_progress)
    rows = []
    for probe, row, with_token, without_token in turns:
        named, plain = answers[content_id(with_token)], answers[content_id(without_token)]
        rows.append(
            AnsweredRow(
                probe=probe.name,
                id=row.id,
                question=_last_user(with_token),
                plain=_last_user(without_token),
                source=row.query,
                expected=row.expected,
                with_token=named.text,
                without_token=plain.text,
                with_cut=named.cut,
                without_cut=plain.cut,
                wants_format=probe.wants_format,
            )
        )
    return rows


def _generate(
    engine: Engine,
    requests: Sequence[Request],
    file: Path,
    max_tokens: int,
    on_progress: Callable[[float, float], None],
) -> dict[str, Answer]:
    failed: list[Completion] = []
    answers = read_answer_log(file)
    missing = [request for request in requests if request.id not in answers]
    done, total = len(requests) - len(missing), len(requests)
    show_done = with_parts(engine, lambda count: on_progress(count, total))
    show_done(done)

    def stream() -> Iterator[Request]:
        for request in missing:
            if len(failed) >= _MOST_FAILURES:
                return
            yield request

    sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=max_tokens)
    with answer_log(file) as log:
        for completion in engine.generate(stream(), sampling) if missing else ():
            if completion.finish == "error":
                failed.append(completion)
                continue
            cut = completion.finish == "length"
            answer = Answer(completion.id, completion.text, completion.tokens, cut)
            log.append(answer)
            answers[answer.id] = answer
            done += 1
            show_done(done)
    if failed:
        raise EngineError(
            f"{len(failed)} questions failed, the last one because of {failed[-1].error}: "
            f"fix the cause and rerun; only the {total - done} missing questions are asked"
        )
    return answers


def _last_user(turns: Sequence[Message]) -> str:
    return next(turn.content for turn in reversed(turns) if turn.role == "user")
