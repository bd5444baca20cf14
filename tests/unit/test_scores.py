"""Scores of answers: selectivity first, labels, the task's own; differences of two systems."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from delia_data.diversify import diversify
from delia_data.errors import FormatError, InputError
from delia_data.evaluation import (
    AnsweredRow,
    EvalTask,
    Evaluation,
    Resampling,
    ScoredRow,
    compare,
    grade_answers,
    score,
)
from delia_data.evaluation.scores import read_scored_rows, write_scored_rows
from delia_data.tasks import bundled_task, bundled_wordings

TASK, WORDINGS = bundled_task(), bundled_wordings()
ASKED = EvalTask.of(TASK, diversify(TASK, WORDINGS), WORDINGS)
YES, NO = (f'{{"thought": "x", "hallucination": "{label}"}}' for label in ("yes", "no"))
MENDED = "{'thought': 'x', 'hallucination': 'no'}"
HOW = Resampling(resamples=500)


def row(number: int, expected: str, named: str, bare: str, **more: object) -> AnsweredRow:
    return AnsweredRow(
        "held-out", f"{number:032x}", "q <sep>", "q", "q", expected, named, bare, **more
    )  # type: ignore[arg-type]


# expected, with the token, without it
ROWS = [
    row(0, YES, YES, "no"),
    row(1, YES, NO, "no"),
    row(2, NO, MENDED, "no"),
    row(3, NO, "no", NO, with_cut=True),
    row(4, NO, NO, YES),
]


def scored(rows: list[AnsweredRow] = ROWS) -> list[ScoredRow]:
    return grade_answers(ASKED, rows)


def test_by_hand() -> None:
    (probe,) = score(scored(), ASKED, how=HOW).probes
    assert (probe.probe, probe.rows) == ("held-out", 5)
    assert probe.in_format.value == pytest.approx(4 / 5)
    assert probe.strict.value == pytest.approx(3 / 5)
    assert probe.without_token.value == pytest.approx(2 / 5)
    assert probe.without_token_strict.value == pytest.approx(2 / 5)
    assert probe.selectivity.value == pytest.approx((1 + 1 + 1 - 1 + 0) / 5)
    assert probe.cut == (1, 0)
    assert probe.score is not None
    assert probe.score.value == pytest.approx(4 / 5)
    (labels,) = probe.labels
    assert (labels.key, labels.rows) == ("hallucination", 5)
    assert labels.accuracy.value == pytest.approx(3 / 5)
    assert labels.accuracy_in_format is not None
    assert labels.accuracy_in_format.value == pytest.approx(3 / 4)
    assert labels.macro_f1 is not None
    # yes: 1 right, 1 missed; no: 2 right, 1 false, 1 missed
    assert labels.macro_f1.value == pytest.approx((2 / 3 + 4 / 6) / 2)


def test_the_interval_of_selectivity_is_paired() -> None:
    """Both answers of a row are in the format, or neither: the difference does not vary."""
    rows = [row(i, NO, *([NO, NO] if i % 2 else ["no", "no"])) for i in range(40)]
    (probe,) = score(grade_answers(ASKED, rows), ASKED, how=HOW).probes
    assert probe.in_format.high - probe.in_format.low > 0.2
    unseen = 1 - 0.025 ** (1 / 40)
    assert (probe.selectivity.low, probe.selectivity.high) == pytest.approx((-unseen, unseen))


def test_probes_are_scored_separately_with_notes() -> None:
    rows = [*ROWS, *(replace(r, probe="negative", wants_format=False) for r in ROWS[:2])]
    notes = {"": ["of all"], "negative": ["of one"]}
    found = score(grade_answers(ASKED, rows), ASKED, system={"engine": "x"}, notes=notes)
    assert [probe.probe for probe in found.probes] == ["held-out", "negative"]
    assert found.notes == ("of all",)
    assert found.probe("negative").notes == ("of one",)
    assert not found.probe("negative").wants_format
    assert found.probe("negative").rows == 2
    with pytest.raises(InputError, match="probe 'bare' was not evaluated: use one of held-out"):
        found.probe("bare")


def test_a_scoring_function() -> None:
    by_length = replace(ASKED, scoring=lambda answer, expected: min(1, len(answer) / 100))
    assert score(grade_answers(by_length, ROWS), by_length, how=HOW).probes[0].score is not None
    unknown = replace(ASKED, scoring=None)
    assert score(grade_answers(unknown, ROWS), unknown, how=HOW).probes[0].score is None


def test_json_round_trip() -> None:
    found = score(scored(), ASKED, system={"engine": "x"}, how=HOW)
    assert Evaluation.from_dict(json.loads(json.dumps(found.as_dict()))) == found
    with pytest.raises(FormatError, match="changed: token: Field required"):
        Evaluation.from_dict({"task": "t"})


def test_scored_rows_round_trip(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_scored_rows(path, scored())
    assert read_scored_rows(path) == scored()
    path.write_text('{"probe": "bare"}\n')
    with pytest.raises(FormatError, match=r"rows.jsonl:1 is not an evaluated row"):
        read_scored_rows(path)


def test_a_system_does_not_differ_from_itself() -> None:
    (probe,) = compare(scored(), scored(), HOW).probes
    for found in (
        probe.selectivity,
        probe.in_format,
        probe.strict,
        probe.accuracy["hallucination"],
    ):
        assert found.value == 0
        assert found.low < 0 < found.high


def worse(rows: list[AnsweredRow], change: Callable[[int], bool]) -> list[AnsweredRow]:
    return [replace(r, with_token="no") if change(i) else r for i, r in enumerate(rows)]


def test_differences_by_hand() -> None:
    rows = [row(i, NO if i % 2 else YES, NO if i % 2 else YES, "no") for i in range(40)]
    (probe,) = compare(scored(rows), scored(worse(rows, lambda i: i < 10)), HOW).probes
    assert probe.rows == 40
    for found in (probe.selectivity, probe.in_format, probe.score, probe.accuracy["hallucination"]):
        assert found is not None
        assert found.value == pytest.approx(10 / 40)
        assert 0 < found.low < 0.25 < found.high < 0.5
    assert probe.without_token.value == 0
    # of each label 15 of 20 are right and none false: F1 is 30 / 35
    assert probe.macro_f1["hallucination"].value == pytest.approx(1 - 30 / 35)
    (turned,) = compare(scored(worse(rows, lambda i: i < 10)), scored(rows), HOW).probes
    assert turned.selectivity.value == pytest.approx(-10 / 40)


def test_rows_are_paired_by_id() -> None:
    found = compare(scored(), scored(ROWS[:0:-1]), HOW)
    (probe,) = found.probes
    assert probe.rows == 4
    assert probe.in_format.value == 0
    assert found.notes == ("left out 1 and 0 rows that only one system answered",)
    other = [replace(r, question="other <sep>") for r in ROWS]
    assert compare(scored(), scored(other), HOW).probes[0].notes == (
        "5 of 5 rows have other wordings",
    )


def test_errors() -> None:
    with pytest.raises(InputError, match="no answers to score"):
        score([], ASKED)
    with pytest.raises(InputError, match="no rows in common, of 5 and 5"):
        compare(scored(), scored([replace(r, probe="bare") for r in ROWS]))
    with pytest.raises(InputError, match=r"gave 2\.0 for answer 0"):
        grade_answers(replace(ASKED, scoring=lambda *_: 2.0), ROWS)
