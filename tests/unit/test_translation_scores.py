"""Scores of translations: sacrebleu's own numbers, resampled, in evaluations and comparisons."""

from __future__ import annotations

import pytest
import sacrebleu

from delia_data.errors import InputError
from delia_data.evaluation import AnsweredRow, EvalTask, Resampling, compare, grade_answers, score
from delia_data.evaluation.answer_format import AnswerFormat
from delia_data.evaluation.translation import load_metrics, score_corpus

HOW = Resampling(resamples=200)
SOURCES = [
    "The dog sleeps under the table.",
    "It is raining in the town today.",
    "Good morning to all of you!",
    "Where is the old harbour, please?",
]
REFERENCES = [
    "Hundurinn sefur undir borðinu núna.",
    "Það rignir í bænum í dag.",
    "Góðan daginn, öll sömul!",
    "Hvar er gamla höfnin, takk?",
]
ANSWERS = [
    "Hundurinn svaf undir borðinu.",
    "Það rignir í bænum í dag.",
    "Góðan dag öll sömul",
    "Hvar er höfnin, takk?",
]


@pytest.mark.parametrize(("name", "own"), [("chrf", sacrebleu.CHRF), ("bleu", sacrebleu.BLEU)])
def test_corpus_scores_equal_those_of_sacrebleu(name: str, own: type) -> None:
    """chrF is computed here and BLEU by sacrebleu; both equal sacrebleu on a corpus."""
    (metric,) = load_metrics([name])
    found = score_corpus(metric, [(SOURCES, ANSWERS, REFERENCES)], HOW)
    assert found.value == pytest.approx(own().corpus_score(ANSWERS, [REFERENCES]).score)
    assert found.low < found.value < found.high
    same = score_corpus(metric, [(SOURCES, REFERENCES, REFERENCES)], HOW)
    assert (same.value, same.low, same.high) == pytest.approx((100, 100, 100))


def test_resamples_are_scored_as_corpora() -> None:
    for metric in load_metrics(["chrf", "bleu"]):
        counts = metric.counts(SOURCES, ANSWERS, REFERENCES)
        drawn = [0, 2, 2, 3]
        (found,) = metric.score(counts[drawn].sum(axis=0, keepdims=True), 4)
        (whole,) = metric.score(
            metric.counts(
                [SOURCES[i] for i in drawn],
                [ANSWERS[i] for i in drawn],
                [REFERENCES[i] for i in drawn],
            ).sum(axis=0, keepdims=True),
            4,
        )
        assert found == pytest.approx(whole)


def scored(answers: list[str]) -> tuple[EvalTask, list[AnsweredRow]]:
    rows = [
        AnsweredRow("held-out", f"{i:032x}", "q <sep>", source, expected, {"model": answer})
        for i, (source, expected, answer) in enumerate(
            zip(SOURCES, REFERENCES, answers, strict=True)
        )
    ]
    form = AnswerFormat.of(REFERENCES, keys=(), scoring="translation")
    task = EvalTask("t", "<sep>", form, ("any",), "translation", "")  # type: ignore[arg-type]
    return task, rows


def test_evaluation_and_comparison() -> None:
    metrics = load_metrics(["chrf", "bleu"])
    task, rows = scored(ANSWERS)
    ours = grade_answers(task, rows)
    scores = score(ours, task, how=HOW, metrics=metrics)
    assert list(scores.translation) == ["chrF", "BLEU"]
    numbers = scores.numbers["model"]
    assert numbers["follow"].value == 1  # every answer is a line
    assert 0 < numbers["right"].value < 1
    perfect = grade_answers(*scored(REFERENCES))
    found = compare(perfect, ours, HOW, metrics=metrics)
    for name in ("chrF", "BLEU"):
        difference = found.translation[name].value
        assert difference == pytest.approx(100 - scores.translation[name].value)
    same = compare(ours, ours, HOW, metrics=metrics)
    assert same.translation["BLEU"].low == same.translation["BLEU"].high == 0


def test_errors() -> None:
    with pytest.raises(InputError, match="metric 'rouge' is unknown: use one of chrf, bleu"):
        load_metrics(["rouge"])
    with pytest.raises(InputError, match="chrf has no checkpoint"):
        load_metrics(["chrf=x"])
