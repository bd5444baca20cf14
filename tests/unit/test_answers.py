"""A task's answers are scored as the task says."""

from dataclasses import replace

import pytest

from delia_data.errors import InputError
from delia_data.evaluation.scores import mean_score, score_answers
from delia_data.records import Record
from delia_data.tasks import Scoring, bundled_task, make_task

ROWS = [Record.pair("a", "Yes."), Record.pair("b", "no")]
TASK = make_task(name="t", train=ROWS, instruction="Say it.", stands_for="one word")


@pytest.mark.parametrize(
    ("scoring", "answers", "scores"),
    [
        ("exact", [" yes", "No, never"], [1, 0]),
        ("translation", ["Yes.", "xx"], [1, 0]),
        (lambda answer, expected: len(answer) / 10, ["12345", ""], [0.5, 0]),
    ],
)
def test_every_way(scoring: Scoring, answers: list[str], scores: list[float]) -> None:
    task = replace(TASK, scoring=scoring)
    assert score_answers(task, ROWS, answers) == scores
    assert mean_score(task, ROWS, answers) == sum(scores) / 2


def test_objects_with_the_tasks_keys() -> None:
    task = bundled_task()
    rows = task.test[:3]
    answers = [rows[0].answer, "Sure: {'thought': 'x', 'hallucination': 'no'}!", "{'thought': 1}"]
    assert score_answers(task, rows, answers) == [1, 1, 0]


def test_what_cannot_be_scored() -> None:
    with pytest.raises(InputError, match="1 answers for 2 rows"):
        score_answers(TASK, ROWS, ["x"])
    with pytest.raises(InputError, match=r"gave 3.0 for answer 0: it must give 0 to 1"):
        score_answers(replace(TASK, scoring=lambda *_: 3.0), ROWS, ["x", "y"])
    with pytest.raises(InputError, match="there are no answers"):
        mean_score(TASK, [], [])
