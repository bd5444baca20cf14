"""A task's answers are scored as the task says."""

import pytest

from delia_data.errors import InputError
from delia_data.evaluation.scores import score_texts
from delia_data.tasks import Scoring, bundled_task

EXPECTED = ["Yes.", "no"]


@pytest.mark.parametrize(
    ("scoring", "answers", "scores"),
    [
        ("exact", [" yes", "No, never"], [1, 0]),
        ("translation", ["Yes.", "xx"], [1, 0]),
        (lambda answer, expected: len(answer) / 10, ["12345", ""], [0.5, 0]),
    ],
)
def test_every_scoring(scoring: Scoring, answers: list[str], scores: list[float]) -> None:
    assert score_texts(scoring, (), EXPECTED, answers) == scores


def test_objects_with_the_tasks_keys() -> None:
    task = bundled_task()
    expected = [row.answer for row in task.test[:3]]
    answers = [expected[0], "Sure: {'thought': 'x', 'hallucination': 'no'}!", "{'thought': 1}"]
    assert score_texts(task.scoring, task.keys, expected, answers) == [1, 1, 0]


def test_what_cannot_be_scored() -> None:
    with pytest.raises(InputError, match="1 answers for 2 rows"):
        score_texts("exact", (), EXPECTED, ["x"])
    with pytest.raises(InputError, match=r"gave 3.0 for answer 0: it must give 0 to 1"):
        score_texts(lambda *_: 3.0, (), EXPECTED, ["x", "y"])
