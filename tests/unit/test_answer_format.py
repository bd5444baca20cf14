"""Formats of tasks by kind, and tasks whose format cannot be inferred."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from delia_data.errors import InputError
from delia_data.evaluation.answer_format import WHOLE, AnswerFormat, ReadAnswer
from delia_data.tasks import bundled_task

VERDICTS = ["{'why': 'It is.', 'wrong': 'no'}", "{'why': 'It is not.', 'wrong': 'yes'}"] * 2


def of(answers: list[str], **settings: object) -> AnswerFormat:
    return AnswerFormat.of(answers, **{"keys": (), "scoring": "exact", **settings})  # type: ignore[arg-type]


def test_objects() -> None:
    form = of(VERDICTS, keys=["why", "wrong"], scoring="json")
    assert form.as_dict() == {
        "kind": "json",
        "keys": ["why", "wrong"],
        "labels": {"why": ["it is", "it is not"], "wrong": ["no", "yes"]},
        "repaired": True,
    }
    read = form.read('Here: {"why": "So it is.", "wrong": " YES. "} I hope this helps')
    assert read == ReadAnswer(False, {"why": "so it is", "wrong": "yes"})
    mended = "{'why': 'That's it', 'wrong': 'no'}"
    assert form.read(mended) == ReadAnswer(True, {"why": "that's it", "wrong": "no"})
    whole = replace(form, repaired=False)
    assert whole.read(mended) == ReadAnswer(False, {"why": "that's it", "wrong": "no"})
    assert form.read('{"why": "x"}') is None
    assert form.read('{"why": "x", "wrong": "no", "more": 1}') is None
    assert form.read("no") is None


def test_labels_of_objects_are_recurring_values() -> None:
    task = bundled_task()
    form = of([row.answer for row in task.train], keys=task.keys)
    assert form.labels == {"hallucination": ("no", "yes")}


def test_values_that_are_not_text() -> None:
    form = of(['{"spam": true}', '{"spam": false}'] * 2, keys=["spam"])
    assert form.labels == {"spam": ("false", "true")}
    assert form.read('{"spam": true}') == form.read('{"spam": "True"}')
    assert form.read('{"spam": null}') == ReadAnswer(True, {"spam": "null"})


def test_labels() -> None:
    form = of(["positive", "negative"] * 3)
    assert form.as_dict() == {"kind": "label", "labels": {WHOLE: ["negative", "positive"]}}
    assert form.read("positive") == ReadAnswer(True, {WHOLE: "positive"})
    assert form.read(" Negative.\n") == ReadAnswer(False, {WHOLE: "negative"})
    assert form.read("It is positive") is None
    assert form.read("") is None


def test_a_line() -> None:
    form = of(["Hundurinn sefur.", "Kötturinn er hér."], scoring="translation")
    assert form.kind == "line"
    assert form.read(" Hundurinn er hér.\n") == ReadAnswer(True)
    for other in ("", "  ", "Hér:\nHundurinn", '"Hundurinn"', "„Hundurinn“", "«Hundurinn»"):
        assert form.read(other) is None
    assert form.read('Hann sagði "já"') is not None
    assert form.read('"') is not None


def test_a_pattern_overrides_other_rules() -> None:
    form = of(["- a\n- b", "- c"], rule=r"(- .+\n?)+")
    assert form.as_dict() == {"kind": "pattern", "pattern": r"(- .+\n?)+"}
    assert form.read("- one\n- two\n") == ReadAnswer(True)
    assert form.read("Here:\n- one") is None
    assert of(VERDICTS, keys=["why"], rule="x").kind == "pattern"


def test_a_function() -> None:
    form = of(["x"], rule=str.isupper)
    assert form.as_dict() == {"kind": "check", "check": "str.isupper"}
    assert form.read("ABC") == ReadAnswer(True)
    assert form.read("abc") is None


def test_free_text_needs_a_rule() -> None:
    answers = [f"Answer {i} is of its own." for i in range(4)]
    with pytest.raises(
        InputError, match=re.escape("the token means 'three bullet points'")
    ) as caught:
        of(answers, description="three bullet points")
    assert "--pattern" in str(caught.value)
    with pytest.raises(InputError, match="is not a regular expression"):
        of(answers, rule="(")
