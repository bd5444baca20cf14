"""Generate answers to the rows of probes; an interrupted run resumes.

    folder/
        asking.json      settings that the answers depend on: engine, model, prompts, max_tokens
        answers.jsonl    one line per answer, appended as soon as it is generated

An answered question is never asked again: not after a kill, not for another probe, not for more
rows. The untrained model's answers are in the same log, under its name. Decoding is greedy
(temperature 0).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

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
Baselines without training use one."""


MODEL: Final = "model"
UNTRAINED: Final = "untrained"
INSTRUCTED: Final = "instructed"
SYSTEMS: Final = {
    MODEL: "model",
    UNTRAINED: "untrained",
    INSTRUCTED: "untrained, full instruction",
}
"""Titles of the evaluated system and of its two bounds: the untrained model, and the untrained
model that is given the full instruction in place of the token."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One line of `answers.jsonl`.

    Attributes:
        id: Content id of the turns that were sent.
        text: The answer.
        tokens: Tokens of the answer; 0 if the engine does not count them.
        cut: Whether the answer was cut off at `max_tokens`.
        system: `MODEL` or `UNTRAINED`. Lines of earlier versions have none: they are of `MODEL`.
    """

    id: str
    text: str
    tokens: int
    cut: bool
    system: str = MODEL


@dataclass(frozen=True, slots=True)
class AnsweredRow:
    """One request of a probe with its answers.

    Attributes:
        probe: Name of the probe.
        id: Content id of the row.
        question: The last user turn.
        source: The row's query without a wording.
        expected: The row's own answer; empty for requests that are not of the task.
        answers: The answers by system, of `SYSTEMS`.
        cut: Systems whose answer was cut off at `max_tokens`.
        constraints: Constraints on the answer, for the probe `general`.
    """

    probe: str
    id: str
    question: str
    source: str
    expected: str
    answers: Mapping[str, str]
    cut: tuple[str, ...] = ()
    constraints: Mapping[str, Any] = field(default_factory=dict)


def answer_log(path: Path) -> JsonlLog[Answer]:
    """Return the log of answers in a file, which need not exist."""
    return JsonlLog(path, Answer, if_damaged="and its question is asked again")


def read_answer_log(path: Path, system: str = MODEL) -> dict[str, Answer]:
    """Read the answers of a system in a file by id.

    Raises:
        OutputError: A line is damaged.
    """
    return {a.id: a for a, *_ in answer_log(path).read() if a.system == system}


def generate_answers(
    engine: Engine,
    probes: Sequence[Probe],
    folder: str | os.PathLike[str],
    *,
    untrained: Engine | Mapping[str, Answer] | None = None,
    max_tokens: int = 96,
    max_thinking_tokens: int | None = None,
    build: PromptBuilder | None = None,
    prompts: str = "",
    locked: bool = False,
    reuse: Sequence[str | os.PathLike[str]] = (),
    on_progress: Callable[[float, float], None] = lambda done, of: None,
) -> list[AnsweredRow]:
    """Answer every request of every probe.

    Args:
        engine: The engine.
        probes: The probes.
        folder: Folder of the answers; a rerun generates only those that are missing.
        untrained: Engine of the untrained model, or its answers by the ids of prompts.
        max_tokens: Greatest number of tokens in an answer.
        max_thinking_tokens: Greatest number of tokens in the thoughts before it (`Sampling`).
        build: Changes the prompts of `engine`.
        prompts: Name of `build`; a folder holds answers to prompts of one name.
        locked: Whether the caller has checked and locked the folder.
        reuse: Folders of the same system's answers; equal requests take theirs.
        on_progress: Called with the number of questions done and in all. Equal questions count
            once.

    Returns:
        The answers, probe by probe, in the order of the rows.

    Raises:
        InputError: The probes have no rows.
        SettingsError: The folder, or one of `reuse`, holds answers of another model, or to other
            prompts.
        ForeignFolderError: The folder holds something else.
        LockedError: Another process works in the folder.
        EngineError: Some questions failed; the other answers are kept.
    """
    root = Path(folder)
    if not locked:
        check_folder_is_ours(root, frozenset({ASKING, ANSWERS}), sign=LOCK)
    reference = None if isinstance(untrained, Mapping) else untrained
    rows = [(probe.name, row) for probe in probes for row in probe.rows]
    if not rows:
        raise InputError("the probes have no rows: give at least one")
    turns_of = {
        MODEL: [build(row.prompt, row.query) if build else row.prompt for _, row in rows],
        UNTRAINED: [row.prompt for _, row in rows],
        INSTRUCTED: [row.full for _, row in rows],
    }
    engines, wanted = {MODEL: engine}, {MODEL: _requests(turns_of[MODEL])}
    if reference is not None:
        engines[UNTRAINED] = reference
        wanted[UNTRAINED] = _requests([*turns_of[UNTRAINED], *turns_of[INSTRUCTED]])
    sampling = Sampling(0.0, 1.0, max_tokens, max_thinking_tokens)
    settings = {"system": engine.describe(), "prompts": prompts, "max_tokens": max_tokens}
    if max_thinking_tokens is not None:
        settings["max_thinking_tokens"] = max_thinking_tokens
    with nullcontext() if locked else folder_lock(root):
        _check_settings(root, settings, reference)
        for other in map(Path, reuse):
            earlier = json.loads((other / ASKING).read_text(encoding="utf-8"))
            check_same_settings(other, earlier, settings)
        files = [Path(other) / ANSWERS for other in reuse]
        answers: dict[str, Mapping[str, Answer]] = {}
        if isinstance(untrained, Mapping):
            answers[UNTRAINED] = untrained
        before, total = 0, sum(map(len, wanted.values()))
        for system, requests in wanted.items():
            answers[system] = _generate(
                engines[system],
                requests,
                system,
                partial(_report, on_progress, before, total),
                file=root / ANSWERS,
                reuse=files,
                sampling=sampling,
            )
            before += len(requests)
    answers[INSTRUCTED] = answers.get(UNTRAINED, {})
    answered = []
    for number, (name, row) in enumerate(rows):
        by_system = {
            system: answer
            for system in SYSTEMS
            if (turns := turns_of[system][number])
            and (answer := answers.get(system, {}).get(content_id(turns)))
        }
        answered.append(
            AnsweredRow(
                probe=name,
                id=row.id,
                question=next(
                    t.content for t in reversed(turns_of[MODEL][number]) if t.role == "user"
                ),
                source=row.query,
                expected=row.expected,
                answers={system: answer.text for system, answer in by_system.items()},
                cut=tuple(system for system, answer in by_system.items() if answer.cut),
                constraints=row.constraints,
            )
        )
    return answered


def _report(
    on_progress: Callable[[float, float], None], before: int, total: int, done: float
) -> None:
    on_progress(before + done, total)


def _check_settings(root: Path, settings: dict[str, Any], reference: Engine | None) -> None:
    """Refuse other settings than those of earlier answers, and write them down.

    A reference may be added to a folder that has none.
    """
    file = root / ASKING
    earlier = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if reference is not None:
        settings[UNTRAINED] = reference.describe()
    elif UNTRAINED in earlier:
        settings[UNTRAINED] = earlier[UNTRAINED]
    if earlier:
        check_same_settings(root, {UNTRAINED: settings.get(UNTRAINED), **earlier}, settings)
    write_json(file, settings)


def _requests(prompts: Sequence[tuple[Message, ...]]) -> list[Request]:
    """Return a request for each prompt, once; a prompt without turns is left out."""
    by_id = {content_id(turns): turns for turns in prompts if turns}
    return [Request(key, turns, row_seed(0, key, "evaluate")) for key, turns in by_id.items()]


def _generate(
    engine: Engine,
    requests: Sequence[Request],
    system: str,
    on_progress: Callable[[float], None],
    *,
    file: Path,
    reuse: Sequence[Path],
    sampling: Sampling,
) -> dict[str, Answer]:
    failed: list[Completion] = []
    answers = read_answer_log(file, system)
    reusable = {
        key: answer for other in reuse for key, answer in read_answer_log(other, system).items()
    }
    shared = {r.id: reusable[r.id] for r in requests if r.id in reusable and r.id not in answers}
    answers |= shared
    missing = [request for request in requests if request.id not in answers]
    done = len(requests) - len(missing)
    show_done = with_parts(engine, len(requests), on_progress)
    show_done(done)

    def stream() -> Iterator[Request]:
        for request in missing:
            if len(failed) >= _MOST_FAILURES:
                return
            yield request

    with answer_log(file) as log:
        if shared:
            log.append(*shared.values())
        for completion in engine.generate(stream(), sampling) if missing else ():
            if completion.finish == "error":
                failed.append(completion)
                continue
            cut = completion.finish == "length"
            answer = Answer(completion.id, completion.text, completion.tokens, cut, system)
            log.append(answer)
            answers[answer.id] = answer
            done += 1
            show_done(done)
    if failed:
        raise EngineError(
            f"{len(failed)} questions failed, the last one because of {failed[-1].error}: "
            f"fix the cause and rerun; only the {len(requests) - done} missing questions are asked"
        )
    return answers
