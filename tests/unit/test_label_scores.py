"""Accuracy, precision, recall and F1 computed by hand, with undefined scores."""

from __future__ import annotations

import pytest

from delia_data.errors import InputError
from delia_data.evaluation.bootstrap import Estimate, Resampling
from delia_data.evaluation.scores import macro_f1_difference, score_labels

HOW = Resampling(resamples=500)
# expected   yes yes yes no  no  no  no  maybe
# answered   yes no  -   no  no  yes -   yes
EXPECTED = ["yes", "yes", "yes", "no", "no", "no", "no", "maybe"]
ANSWERED = ["yes", "no", None, "no", "no", "yes", None, "yes"]


def value(estimate: Estimate | None) -> float:
    assert estimate is not None
    assert estimate.low <= estimate.value <= estimate.high
    return estimate.value


def test_by_hand() -> None:
    scores = score_labels(EXPECTED, ANSWERED, HOW, key="verdict")
    assert (scores.key, scores.rows) == ("verdict", 8)
    assert value(scores.accuracy) == pytest.approx(3 / 8)
    assert value(scores.accuracy_in_format) == pytest.approx(3 / 6)
    by_name = {label.label: label for label in scores.labels}
    assert sorted(by_name) == ["maybe", "no", "yes"]
    yes, no, maybe = (by_name[name] for name in ("yes", "no", "maybe"))
    assert (yes.expected, yes.answered) == (3, 3)
    assert value(yes.precision) == pytest.approx(1 / 3)
    assert value(yes.recall) == pytest.approx(1 / 3)
    assert value(yes.f1) == pytest.approx(1 / 3)
    assert (no.expected, no.answered) == (4, 3)
    assert value(no.precision) == pytest.approx(2 / 3)
    assert value(no.recall) == pytest.approx(2 / 4)
    assert value(no.f1) == pytest.approx(4 / 7)
    assert (maybe.expected, maybe.answered) == (1, 0)
    assert maybe.precision is None
    assert value(maybe.recall) == 0
    assert value(maybe.f1) == 0
    assert scores.macro_precision is None
    assert value(scores.macro_recall) == pytest.approx((1 / 3 + 1 / 2 + 0) / 3)
    assert value(scores.macro_f1) == pytest.approx((1 / 3 + 4 / 7 + 0) / 3)
    assert scores.undefined == ("precision of 'maybe': no answer says it",)


def test_all_answers_are_right() -> None:
    scores = score_labels(["a", "b"] * 10, ["a", "b"] * 10, HOW)
    assert value(scores.accuracy) == value(scores.macro_f1) == value(scores.macro_precision) == 1
    assert scores.accuracy.low == pytest.approx(0.025 ** (1 / 20))
    assert not scores.undefined


def test_no_answer_has_a_label() -> None:
    scores = score_labels(["a", "b"], [None, None], HOW)
    assert value(scores.accuracy) == 0
    assert scores.accuracy_in_format is None
    assert scores.macro_precision is None
    assert value(scores.macro_f1) == 0
    assert scores.undefined == (
        "accuracy in the format: no answer is in it",
        "precision of 'a': no answer says it",
        "precision of 'b': no answer says it",
    )


def test_a_label_that_no_row_expects() -> None:
    scores = score_labels(["a", "a"], ["a", "b"], HOW, labels=["b", "c"])
    b, c = scores.labels[1:]
    assert value(b.precision) == 0
    assert b.recall is None
    assert value(b.f1) == 0
    assert (c.precision, c.recall, c.f1) == (None, None, None)
    assert value(scores.macro_f1) == pytest.approx(2 / 3)  # of "a" alone
    assert "recall of 'b': no row expects it" in scores.undefined


def test_the_difference_of_two_systems() -> None:
    worse = [None, *ANSWERED[1:]]
    found = macro_f1_difference(EXPECTED, ANSWERED, worse, HOW)
    # "yes" falls from 1/3 to 0, the others stay
    assert value(found) == pytest.approx(1 / 9)
    same = macro_f1_difference(EXPECTED, ANSWERED, ANSWERED, HOW)
    assert same == Estimate(0, 0, 0, 8)


def test_errors() -> None:
    with pytest.raises(InputError, match="1 answers for 2 labels"):
        score_labels(["a", "b"], ["a"], HOW)
    with pytest.raises(InputError, match="no labels to score"):
        score_labels([], [], HOW)
