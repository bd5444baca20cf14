"""Scores of answers to a task's rows, in the way that the task says."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from delia_data.errors import FormatError, InputError
from delia_data.evaluation.answer_format import parse_answer
from delia_data.evaluation.bootstrap import Estimate, Resampling, Sums, bootstrap, bootstrap_mean
from delia_data.evaluation.generation import AnsweredRow
from delia_data.evaluation.probes import EvalTask
from delia_data.evaluation.translation import CorpusMetric, score_corpus
from delia_data.outputs import atomic_path
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
        _score_text(scoring, keys, answer, right)
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


def _score_text(scoring: Scoring, keys: Sequence[str], answer: str, expected: str) -> float:
    if callable(scoring):
        return float(scoring(answer, expected))
    if scoring == "json":
        return float(parse_answer(answer, keys) is not None)
    return exact(answer, expected) if scoring == "exact" else chrf(answer, expected)


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


def grade_answers(task: EvalTask, rows: Sequence[AnsweredRow]) -> list[ScoredRow]:
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


def _outcome(task: EvalTask, row: AnsweredRow, score: float | None) -> RowOutcome:
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


_SHARE: Final = (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class LabelScore:
    """The scores of one label; None where undefined.

    Attributes:
        label: The label, in plain form.
        expected: Rows that expect it.
        answered: Answers that have it.
        precision: Share of the answers with it that are right.
        recall: Share of the rows that expect it that got it.
        f1: The harmonic mean of both.
    """

    label: str
    expected: int
    answered: int
    precision: Estimate | None
    recall: Estimate | None
    f1: Estimate | None


@dataclass(frozen=True, slots=True)
class LabelScores:
    """The scores of a key that has labels; None where undefined.

    Attributes:
        key: The key of the answer's object; `"answer"` where the answer is the label.
        rows: Rows whose label is known.
        accuracy: Share of all rows with the right label; one without a label is wrong.
        accuracy_in_format: The same share of the rows whose answer has a label at all.
        macro_precision: Mean over the labels that rows expect.
        macro_recall: Mean over the same labels.
        macro_f1: Mean over the same labels.
        labels: Label by label.
        undefined: What is undefined, and why.
    """

    key: str
    rows: int
    accuracy: Estimate
    accuracy_in_format: Estimate | None
    macro_precision: Estimate | None
    macro_recall: Estimate | None
    macro_f1: Estimate | None
    labels: tuple[LabelScore, ...]
    undefined: tuple[str, ...] = ()


def score_labels(
    expected: Sequence[str],
    answered: Sequence[str | None],
    how: Resampling,
    *,
    key: str = "answer",
    labels: Sequence[str] = (),
) -> LabelScores:
    """Score labels.

    Args:
        expected: The label of each row, in plain form.
        answered: The label of each answer, in plain form; None where it has none.
        how: How intervals are made.
        key: Where the label stands.
        labels: Labels to report even where no row expects them.

    Raises:
        InputError: There are no rows, or not as many answers.
    """
    if len(expected) != len(answered):
        raise InputError(f"{len(answered)} answers for {len(expected)} labels: give one a row")
    if not expected:
        raise InputError("there are no labels to score: give at least one")
    names = sorted({*expected, *labels})
    scores = [_one(name, expected, answered, how) for name in names]
    right = [a == e for e, a in zip(expected, answered, strict=True)]
    told = [a is not None for a in answered]
    table = _counts(expected, answered, sorted(set(expected)))
    macro = {name: bootstrap(table, _macro(of), how) for name, of in _OF.items()}
    return LabelScores(
        key=key,
        rows=len(expected),
        accuracy=bootstrap_mean(right, how, bounds=_SHARE),
        accuracy_in_format=_share_or_none([r for r, t in zip(right, told, strict=True) if t], how),
        macro_precision=macro["precision"],
        macro_recall=macro["recall"],
        macro_f1=macro["F1"],
        labels=tuple(scores),
        undefined=tuple(_undefined(scores, any(told))),
    )


def macro_f1_difference(
    expected: Sequence[str],
    ours: Sequence[str | None],
    theirs: Sequence[str | None],
    how: Resampling,
) -> Estimate | None:
    """The macro F1 of two systems on the same rows, the first minus the second.

    Args:
        expected: The label of each row.
        ours: The labels of the first one's answers.
        theirs: The labels of the second one's.
        how: How the interval is made; both answers to a row are drawn together.
    """
    names = sorted(set(expected))
    table = np.hstack([_counts(expected, answered, names) for answered in (ours, theirs)])
    of, half = _macro(_f1), 3 * len(names)
    return bootstrap(table, lambda sums: of(sums[:, :half]) - of(sums[:, half:]), how)


def _one(
    name: str, expected: Sequence[str], answered: Sequence[str | None], how: Resampling
) -> LabelScore:
    pairs = list(zip(expected, answered, strict=True))
    found = bootstrap(_counts(expected, answered, [name]), _macro(_f1), how)
    return LabelScore(
        label=name,
        expected=sum(e == name for e in expected),
        answered=sum(a == name for a in answered),
        precision=_share_or_none([e == a for e, a in pairs if a == name], how),
        recall=_share_or_none([e == a for e, a in pairs if e == name], how),
        f1=found,
    )


def _share_or_none(right: Sequence[bool], how: Resampling) -> Estimate | None:
    return bootstrap_mean(right, how, bounds=_SHARE) if right else None


def _counts(
    expected: Sequence[str], answered: Sequence[str | None], labels: Sequence[str]
) -> NDArray[np.float64]:
    """Right, false and missed answers of each row, of shape (rows, 3 * labels)."""
    rows = [
        [float(hit) for name in labels for hit in (e == a == name, e != name == a, a != name == e)]
        for e, a in zip(expected, answered, strict=True)
    ]
    return np.asarray(rows)


_Formula: TypeAlias = Callable[[Sums, Sums, Sums], Sums]


def _divided(top: Sums, bottom: Sums) -> Sums:
    undefined = np.full(top.shape, np.nan)
    return np.asarray(np.divide(top, bottom, out=undefined, where=bottom > 0))


def _precision(tp: Sums, fp: Sums, _: Sums) -> Sums:
    return _divided(tp, tp + fp)


def _recall(tp: Sums, _: Sums, fn: Sums) -> Sums:
    return _divided(tp, tp + fn)


def _f1(tp: Sums, fp: Sums, fn: Sums) -> Sums:
    return _divided(2 * tp, 2 * tp + fp + fn)


_OF: Final[dict[str, _Formula]] = {"precision": _precision, "recall": _recall, "F1": _f1}


def _macro(of: _Formula) -> Callable[[Sums], Sums]:
    """The mean of a formula over labels; undefined where it is for one of them."""

    def mean(sums: Sums) -> Sums:
        counts = sums.reshape(len(sums), -1, 3)
        return np.asarray(of(*np.moveaxis(counts, 2, 0)).mean(axis=1))

    return mean


def _undefined(scores: Sequence[LabelScore], any_told: bool) -> Iterator[str]:
    if not any_told:
        yield "accuracy in the format: no answer is in it"
    for score in scores:
        if score.precision is None:
            yield f"precision of {score.label!r}: no answer says it"
        if score.recall is None:
            yield f"recall of {score.label!r}: no row expects it"


_DIFFERENCE: Final = (-1.0, 1.0)


@dataclass(frozen=True, slots=True)
class ProbeScores:
    """The scores of one probe. Shares are 0 to 1, each with its interval.

    Attributes:
        probe: Its name.
        rows: Its rows.
        selectivity: Share in the format with the token, minus the share without it on the same
            rows, -1 to 1.
        in_format: Share of answers in the format, with the token (paper, Table 2).
        strict: Share of answers in the format that needed no mending.
        without_token: Share in the format without the token.
        without_token_strict: Share in it without the token that needed no mending.
        cut: Answers that were cut off, with the token and without: they seldom are whole.
        score: Mean of the task's own score with the token, where it is known.
        labels: Accuracy, precision, recall and F1 of each key that has labels, with the token.
        translation: Corpus scores with the token, by the metric's name.
        wants_format: Whether an answer with the token should be in the format.
        notes: What a reader should know of it.
    """

    probe: str
    rows: int
    selectivity: Estimate
    in_format: Estimate
    strict: Estimate
    without_token: Estimate
    without_token_strict: Estimate
    cut: tuple[int, int]
    score: Estimate | None = None
    labels: tuple[LabelScores, ...] = ()
    translation: Mapping[str, Estimate] = field(default_factory=dict)
    wants_format: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that was measured of one system on one task.

    Attributes:
        task: The task's name.
        token: The special token.
        form: What is in the format (`AnswerFormat.as_dict`).
        system: What answered: engine, model, prompts, max_tokens.
        probes: The scores, probe by probe.
        how: How intervals were made.
        notes: What a reader should know of it.
    """

    task: str
    token: str
    form: Mapping[str, Any]
    system: Mapping[str, Any]
    probes: tuple[ProbeScores, ...]
    how: Resampling = field(default_factory=Resampling)
    notes: tuple[str, ...] = ()

    def probe(self, name: str) -> ProbeScores:
        """The scores of a probe.

        Raises:
            InputError: It was not asked.
        """
        for probe in self.probes:
            if probe.probe == name:
                return probe
        asked = ", ".join(probe.probe for probe in self.probes)
        raise InputError(f"probe {name!r} was not asked: use one of {asked}")

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """Make what `as_dict` gave, also after a way through JSON.

        Raises:
            FormatError: It is something else.
        """
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise FormatError(f"this is no evaluation: {where}: {first['msg']}") from error


def score(
    rows: Sequence[ScoredRow],
    task: EvalTask,
    *,
    system: Mapping[str, Any] | None = None,
    how: Resampling | None = None,
    metrics: Sequence[CorpusMetric] = (),
    notes: Mapping[str, Sequence[str]] | None = None,
) -> Evaluation:
    """Score rows whose answers were read.

    Args:
        rows: What was asked and answered, probe by probe (`grade_answers`).
        task: The task.
        system: What answered, for the record.
        how: How intervals are made.
        metrics: Corpus scores of translations.
        notes: What a reader should know, by probe; under `""` of all.

    Returns:
        The scores, in the order of the probes.

    Raises:
        InputError: There are no rows.
    """
    if not rows:
        raise InputError("there are no answers to score: ask some rows first")
    told, by = notes or {}, how or Resampling()
    probes = [
        _score_probe(name, list(group), task, by, metrics, tuple(told.get(name, ())))
        for name, group in groupby(rows, key=lambda row: row.answered.probe)
    ]
    return Evaluation(
        task=task.name,
        token=task.token,
        form=task.form.as_dict(),
        system=dict(system or {}),
        probes=tuple(probes),
        how=by,
        notes=tuple(told.get("", ())),
    )


def _score_probe(
    name: str,
    rows: Sequence[ScoredRow],
    task: EvalTask,
    how: Resampling,
    metrics: Sequence[CorpusMetric],
    notes: tuple[str, ...],
) -> ProbeScores:
    found, answered = [row.outcome for row in rows], [row.answered for row in rows]

    def share(field: str) -> Estimate:
        return bootstrap_mean([getattr(each, field) for each in found], how, bounds=_SHARE)

    scores = [each.score for each in found if each.score is not None]
    sources = [row.source for row in answered]
    answers, expected = [r.with_token for r in answered], [r.expected for r in answered]
    return ProbeScores(
        probe=name,
        rows=len(rows),
        selectivity=bootstrap_mean([o.selectivity for o in found], how, bounds=_DIFFERENCE),
        in_format=share("with_token"),
        strict=share("with_token_strict"),
        without_token=share("without_token"),
        without_token_strict=share("without_token_strict"),
        cut=(sum(row.with_cut for row in answered), sum(row.without_cut for row in answered)),
        score=bootstrap_mean(scores, how, bounds=_SHARE) if len(scores) == len(found) else None,
        labels=tuple(_labels(found, task.form.labels, how)),
        translation={
            metric.name: score_corpus(metric, sources, answers, expected, how) for metric in metrics
        },
        wants_format=answered[0].wants_format,
        notes=notes,
    )


def _labels(
    found: Sequence[RowOutcome], known: Mapping[str, Sequence[str]], how: Resampling
) -> Iterator[LabelScores]:
    for key, names in known.items():
        pairs = [each.labels[key] for each in found if key in each.labels]
        if pairs:
            expected, answered = zip(*pairs, strict=True)
            yield score_labels(expected, answered, how, key=key, labels=names)
