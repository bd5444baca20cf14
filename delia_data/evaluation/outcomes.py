"""What each answer comes to: in the format or not, with which label, with which score.

answered row ── the task's format and scoring ──▶ outcome      one line of rows.jsonl
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from delia_data.errors import FormatError
from delia_data.evaluation.answers import score_texts
from delia_data.evaluation.asked_task import AskedTask
from delia_data.evaluation.asking import AnsweredRow
from delia_data.outputs import atomic_path


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """What the answers of one row come to.

    Attributes:
        with_token: Whether the answer with the token is in the format.
        with_token_strict: Whether it is so with nothing mended.
        without_token: Whether the answer without the token is in the format.
        without_token_strict: Whether it is so with nothing mended.
        score: The task's own score of the answer with the token, 0 to 1; None where a function
            scores that is not known here.
        labels: By key, the expected label and the one of the answer with the token, None where
            it has none.
    """

    with_token: bool
    with_token_strict: bool
    without_token: bool
    without_token_strict: bool
    score: float | None = None
    labels: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)

    @property
    def selectivity(self) -> int:
        """In the format with the token, minus in it without: 1, 0 or -1."""
        return self.with_token - self.without_token


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """One row of a probe with its answers, and what they come to."""

    answered: AnsweredRow
    outcome: RowOutcome


def read_answers(task: AskedTask, rows: Sequence[AnsweredRow]) -> list[ScoredRow]:
    """Read the answers of rows as the task says.

    Raises:
        InputError: A scoring function of the user's gives something else than 0 to 1.
    """
    scores: Sequence[float | None] = [None] * len(rows)
    if task.scoring is not None:
        expected, answers = [row.expected for row in rows], [row.with_token for row in rows]
        scores = score_texts(task.scoring, task.form.keys, expected, answers)
    return [
        ScoredRow(row, _outcome(task, row, score)) for row, score in zip(rows, scores, strict=True)
    ]


def write_scored_rows(path: str | os.PathLike[str], rows: Sequence[ScoredRow]) -> None:
    """Write rows as JSON Lines."""
    with atomic_path(path) as part, part.open("w", encoding="utf-8") as file:
        for row in rows:
            line = {**asdict(row.answered), "outcome": asdict(row.outcome)}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_scored_rows(path: str | os.PathLike[str]) -> list[ScoredRow]:
    """Read what `write_scored_rows` wrote.

    Raises:
        FormatError: A line is something else.
    """
    adapter = TypeAdapter(ScoredRow)
    rows = []
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                answered = json.loads(line)
                outcome = answered.pop("outcome", None)
                rows.append(adapter.validate_python({"answered": answered, "outcome": outcome}))
            except (ValueError, ValidationError, AttributeError) as error:
                raise FormatError(f"{path}:{number} is no evaluated row: evaluate again") from error
    return rows


def _outcome(task: AskedTask, row: AnsweredRow, score: float | None) -> RowOutcome:
    named, bare = task.form.read(row.with_token), task.form.read(row.without_token)
    known = task.form.read(row.expected)
    answered = {} if named is None else named.labels
    expected = {} if known is None else known.labels
    return RowOutcome(
        with_token=named is not None,
        with_token_strict=named is not None and named.strict,
        without_token=bare is not None,
        without_token_strict=bare is not None and bare.strict,
        score=score,
        labels={key: (label, answered.get(key)) for key, label in expected.items()},
    )
