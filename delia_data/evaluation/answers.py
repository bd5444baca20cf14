"""Scores of answers to a task's rows, in the way that the task says."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from delia_data.errors import InputError
from delia_data.evaluation.formatted_text import parse_answer
from delia_data.records import Record
from delia_data.tasks import Scoring, Task, chrf, exact


def score_answers(task: Task, rows: Sequence[Record], answers: Sequence[str]) -> list[float]:
    """Score one answer for each row.

    Args:
        task: The task, which says how: `json` counts an answer that is an object with the task's
            keys, `exact` one that is the expected one, `translation` gives chrF, and a function
            of the user's gets the answer and the expected one.
        rows: Rows of the task, worded or not.
        answers: What was answered to them.

    Returns:
        A score for each, 0 to 1.

    Raises:
        InputError: There are not as many answers as rows, or a function of the user's gives
            something else than 0 to 1.
    """
    return score_texts(task.scoring, task.keys, [row.answer for row in rows], answers)


def score_texts(
    scoring: Scoring, keys: Sequence[str], expected: Sequence[str], answers: Sequence[str]
) -> list[float]:
    """Score one answer for each expected one; see `score_answers`.

    Args:
        scoring: How.
        keys: Keys of the object, for `json`.
        expected: The rows' own answers.
        answers: What was answered.

    Raises:
        InputError: As `score_answers`.
    """
    if len(expected) != len(answers):
        raise InputError(f"{len(answers)} answers for {len(expected)} rows: give one a row")
    scores = [
        _score(scoring, keys, answer, right)
        for answer, right in zip(answers, expected, strict=True)
    ]
    for place, score in enumerate(scores):
        if not 0 <= score <= 1:
            raise InputError(
                f"the task's scoring gave {score} for answer {place}: it must give 0 to 1"
            )
    return scores


def mean_score(task: Task, rows: Sequence[Record], answers: Sequence[str]) -> float:
    """The mean score of answers.

    Raises:
        InputError: As `score_answers`; or there are no answers.
    """
    if not answers:
        raise InputError("there are no answers to score: give at least one")
    return fmean(score_answers(task, rows, answers))


def _score(scoring: Scoring, keys: Sequence[str], answer: str, expected: str) -> float:
    if callable(scoring):
        return float(scoring(answer, expected))
    if scoring == "json":
        return float(parse_answer(answer, keys) is not None)
    return exact(answer, expected) if scoring == "exact" else chrf(answer, expected)
