"""Grades of answers, row by row.

A leak is a mark of the format (`AnswerFormat.marks`) in an answer that the untrained model's answer
to the same prompt does not have; after a request for other JSON, quotes and braces are no marks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from delia_data.errors import FormatError, InputError
from delia_data.evaluation.answer_format import (
    CONTENT,
    JSON_MARKS,
    AnswerFormat,
    parse_answer,
    plain_label,
)
from delia_data.evaluation.generation import MODEL, UNTRAINED, AnsweredRow
from delia_data.evaluation.keep import satisfies
from delia_data.evaluation.probes import EvalTask
from delia_data.outputs import atomic_path
from delia_data.tasks import chrf, exact


@dataclass(frozen=True, slots=True)
class Outcome:
    """The grades of one answer.

    Attributes:
        strict: Whether it is in the format as it is.
        loose: Whether it counts loosely (`AnswerFormat.parses`).
        marks: Its marks of the format, sorted.
        right: 1 if it is right, 0 if not, or the task's score between; None for requests that are
            not of the task, or if the task's scoring is unknown.
        labels: Expected label and label of the answer, by key; None if the answer has none.
    """

    strict: bool
    loose: bool
    marks: tuple[str, ...]
    right: float | None = None
    labels: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """One request with its answers and their grades.

    Attributes:
        answered: The request and its answers.
        outcomes: The grades by system.
        saved: Prompt tokens saved against the full instruction; None if unknown.
        similarity: Similarity of the answer to the untrained model's, if it was measured.
        agreement: By system, agreement of its answer with the greedy one to the system prompt that
            the token stands for, 0 to 1; for `INSTRUCTED` that of the row's own answer, which the
            same prompt gave by sampling.
    """

    answered: AnsweredRow
    outcomes: Mapping[str, Outcome]
    saved: int | None = None
    similarity: float | None = None
    agreement: Mapping[str, float] = field(default_factory=dict)

    @property
    def leaks(self) -> bool | None:
        """Whether the answer shows the format and the untrained one does not; None if unknown."""
        ours, theirs = (self.outcomes.get(system) for system in (MODEL, UNTRAINED))
        if ours is None or theirs is None:
            return None
        return is_leak(self.answered.probe, ours.marks, theirs.marks)


def is_leak(probe: str, marks: Iterable[str], untrained: Iterable[str]) -> bool:
    """Return whether an answer with these marks leaks, given those of the untrained model's."""
    ignored = JSON_MARKS if probe == "other-json" else frozenset()
    return bool(set(marks) - set(untrained) - ignored)


def obeys(marks: Iterable[str]) -> bool:
    """Return whether an answer with these marks is not in a format that the prompt forbids."""
    return not set(marks) - {CONTENT}


def grade_answers(task: EvalTask, rows: Sequence[AnsweredRow]) -> list[ScoredRow]:
    """Grade the answers of rows as the task says.

    Raises:
        InputError: A user's scoring function returns a number outside 0 to 1.
    """
    return [
        ScoredRow(row, {name: _outcome(task, row, text) for name, text in row.answers.items()})
        for row in rows
    ]


def _outcome(task: EvalTask, row: AnsweredRow, text: str) -> Outcome:
    form = task.form
    marks = tuple(sorted(form.marks(text)))
    if not row.expected:
        right = float(satisfies(text, row.constraints)) if row.constraints else None
        return Outcome(False, False, marks, right)
    answer, reference = form.read(text), form.read(row.expected)
    answered = {} if answer is None else answer.labels
    expected = {} if reference is None else reference.labels
    labels = {key: (label, answered.get(key)) for key, label in expected.items()}
    if labels and not callable(task.scoring):
        right = float(all(ours == label for label, ours in labels.values()))
    elif task.scoring is not None and not task.system:
        right = score_answer(task, text, row.expected)
    else:
        right = None
    strict = answer is not None and answer.strict
    return Outcome(strict, form.parses(text), marks, right, labels)


def score_answer(task: EvalTask, answer: str, expected: str) -> float:
    """Score an answer by the task's scoring, from 0 to 1.

    Raises:
        InputError: A user's function returns a number outside 0 to 1.
    """
    match task.scoring:
        case "json":
            return float(parse_answer(answer, task.form.keys) is not None)
        case "exact":
            return exact(answer, expected)
        case "translation":
            return chrf(answer, expected)
    assert callable(task.scoring)
    value = float(task.scoring(answer, expected))
    if not 0 <= value <= 1:
        raise InputError(f"the task's scoring gave {value} for {answer!r}: it must give 0 to 1")
    return value


def agreement(form: AnswerFormat, answer: str, other: str) -> float | None:
    """Return how far two answers agree, 0 to 1; None for free text, which embeddings compare.

    Objects agree in the share of keys with equal values, labels if they are equal; case, spaces and
    a final period make no difference. An answer that is not in the format agrees with no other.
    """
    if form.kind not in ("json", "label"):
        return None
    first, second = form.read(answer), form.read(other)
    if first is None or second is None:
        return 0.0
    if form.kind == "label":
        return float(plain_label(answer) == plain_label(other))
    equal = [plain_label(first.value[k]) == plain_label(second.value[k]) for k in form.keys]
    return sum(equal) / len(equal)


def write_scored_rows(path: str | os.PathLike[str], rows: Sequence[ScoredRow]) -> None:
    """Write rows as JSON Lines."""
    with atomic_path(path) as part, part.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")


def read_scored_rows(path: str | os.PathLike[str]) -> list[ScoredRow]:
    """Read the rows that `write_scored_rows` wrote.

    Raises:
        FormatError: A line is something else.
    """
    adapter = TypeAdapter(ScoredRow)
    rows = []
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                rows.append(adapter.validate_json(line))
            except ValidationError as error:
                raise FormatError(
                    f"{path}:{number} is not an evaluated row: run delia evaluate again"
                ) from error
    return rows
