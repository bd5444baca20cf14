"""Scores of answers: graded row by row, then selectivity, shares, labels and the task's score.

    answered row ── the task's format and scoring ──▶ outcome      one line of rows.jsonl
    outcomes of a probe ── bootstrap over rows ──▶ ProbeScores     evaluation.json

Labels: an answer that is not in the format has no label. It is a miss for the expected label, and
a false positive for no label. An undefined number is None, never 0, and `undefined` says why:

    precision   no answer has the label           tp + fp = 0
    recall      no row expects the label          tp + fn = 0
    F1          neither                           2 tp + fp + fn = 0

Macro averages are over the labels that rows expect; one is undefined if it is for any of them. An
F1 has no exact bound: if no answer errs, its interval has no width, and the interval of the
accuracy is more informative.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from delia_data.errors import FormatError, InputError
from delia_data.evaluation.answer_format import parse_answer
from delia_data.evaluation.bootstrap import Estimate, Numbers, Resampling, bootstrap, bootstrap_mean
from delia_data.evaluation.generation import AnsweredRow
from delia_data.evaluation.probes import EvalTask
from delia_data.evaluation.translation import CorpusMetric, score_corpus
from delia_data.outputs import atomic_path, from_json
from delia_data.tasks import Scoring, chrf, exact

_SHARE: Final = (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """The grades of one row's answers.

    Attributes:
        with_token: Whether the answer with the token is in the format.
        with_token_strict: Whether it is so without any repair.
        without_token: Whether the answer without the token is in the format.
        without_token_strict: Whether it is so without any repair.
        score: The task's score of the answer with the token, 0 to 1; None if the task is scored
            by a function that is not known here.
        labels: By key, the expected label and the label of the answer with the token, which is
            None if the answer has none.
    """

    with_token: bool
    with_token_strict: bool
    without_token: bool
    without_token_strict: bool
    score: float | None = None
    labels: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)

    @property
    def selectivity(self) -> int:
        """In the format with the token, minus in the format without it: 1, 0 or -1."""
        return self.with_token - self.without_token


class Metric(NamedTuple):
    """A metric that is the mean of one number per row.

    Attributes:
        name: Its field in `ProbeScores` and `ProbeDifference`.
        value: Computes the number of a row; None if the row has none. The metric is None if any
            row has none.
        low: Lowest number a row can have.
        high: Highest number a row can have.
    """

    name: str
    value: Callable[[RowOutcome], float | None]
    low: float = 0.0
    high: float = 1.0


METRICS: Final = (
    Metric("selectivity", lambda row: row.selectivity, low=-1.0),
    Metric("in_format", lambda row: row.with_token),
    Metric("strict", lambda row: row.with_token_strict),
    Metric("without_token", lambda row: row.without_token),
    Metric("without_token_strict", lambda row: row.without_token_strict),
    Metric("score", lambda row: row.score),
)
"""Metrics of every probe, for single systems and for differences of two.

To add one, append a row here, add a field of its name to `ProbeScores` and `ProbeDifference`, and
add its column in `cli/_score_tables.py`.
"""


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """One row of a probe with its answers and their grades."""

    answered: AnsweredRow
    outcome: RowOutcome


def grade_answers(task: EvalTask, rows: Sequence[AnsweredRow]) -> list[ScoredRow]:
    """Grade the answers of rows as the task says.

    Raises:
        InputError: A user's scoring function returns a number outside 0 to 1.
    """
    scores: Sequence[float | None] = [None] * len(rows)
    if task.scoring is not None:
        expected, answers = [row.expected for row in rows], [row.with_token for row in rows]
        scores = score_texts(task.scoring, task.form.keys, expected, answers)
    return [
        ScoredRow(row, _outcome(task, row, score)) for row, score in zip(rows, scores, strict=True)
    ]


def _outcome(task: EvalTask, row: AnsweredRow, score: float | None) -> RowOutcome:
    named, plain = task.form.read(row.with_token), task.form.read(row.without_token)
    reference = task.form.read(row.expected)
    answered = {} if named is None else named.labels
    expected = {} if reference is None else reference.labels
    return RowOutcome(
        with_token=named is not None,
        with_token_strict=named is not None and named.strict,
        without_token=plain is not None,
        without_token_strict=plain is not None and plain.strict,
        score=score,
        labels={key: (label, answered.get(key)) for key, label in expected.items()},
    )


def score_texts(
    scoring: Scoring, keys: Sequence[str], expected: Sequence[str], answers: Sequence[str]
) -> list[float]:
    """Score one answer per row, each from 0 to 1.

    Args:
        scoring: `"json"` counts objects with the task's keys, `"exact"` answers equal to the
            expected one, `"translation"` gives chrF, and a function takes the answer and the
            expected answer.
        keys: Keys of the object, for `"json"`.
        expected: The rows' own answers.
        answers: The answers to score.

    Raises:
        InputError: The numbers of answers and rows differ, or a function returns a number outside
            0 to 1.
    """
    if len(expected) != len(answers):
        raise InputError(f"{len(answers)} answers for {len(expected)} rows: give one per row")
    scores = []
    for place, (answer, right) in enumerate(zip(answers, expected, strict=True)):
        if callable(scoring):
            value = float(scoring(answer, right))
        elif scoring == "json":
            value = float(parse_answer(answer, keys) is not None)
        else:
            value = exact(answer, right) if scoring == "exact" else chrf(answer, right)
        if not 0 <= value <= 1:
            raise InputError(
                f"the task's scoring gave {value} for answer {place}: it must give 0 to 1"
            )
        scores.append(value)
    return scores


def write_scored_rows(path: str | os.PathLike[str], rows: Sequence[ScoredRow]) -> None:
    """Write rows as JSON Lines."""
    with atomic_path(path) as part, part.open("w", encoding="utf-8") as file:
        for row in rows:
            line = {**asdict(row.answered), "outcome": asdict(row.outcome)}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


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
                answered = json.loads(line)
                outcome = answered.pop("outcome", None)
                rows.append(adapter.validate_python({"answered": answered, "outcome": outcome}))
            except (ValueError, ValidationError, AttributeError) as error:
                raise FormatError(
                    f"{path}:{number} is not an evaluated row: run delia evaluate again"
                ) from error
    return rows


@dataclass(frozen=True, slots=True)
class LabelScore:
    """The scores of one label; None if undefined.

    Attributes:
        label: The label, in plain form.
        expected: Rows that expect it.
        answered: Answers that have it.
        precision: Share of the answers with the label that are right.
        recall: Share of the rows that expect the label whose answer has it.
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
    """The scores of a key that has labels; None if undefined.

    Attributes:
        key: The key of the answer's object; `"answer"` if the answer is the label.
        rows: Rows with a known label.
        accuracy: Share of all rows with the right label; an answer without a label is wrong.
        accuracy_in_format: The same share of the rows whose answer has a label.
        macro_precision: Mean over the labels that rows expect.
        macro_recall: Mean over the same labels.
        macro_f1: Mean over the same labels.
        labels: The scores of each label.
        undefined: Undefined numbers, with the reason.
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
        answered: The label of each answer, in plain form; None if it has none.
        how: Settings of the intervals.
        key: Key of the label in the answer's object.
        labels: Labels to report even if no row expects them.

    Raises:
        InputError: There are no rows, or the numbers of labels and answers differ.
    """
    if len(expected) != len(answered):
        raise InputError(f"{len(answered)} answers for {len(expected)} labels: give one per row")
    if not expected:
        raise InputError("there are no labels to score: give at least one")
    pairs = list(zip(expected, answered, strict=True))

    def share(right: Sequence[bool]) -> Estimate | None:
        return bootstrap_mean(right, how, bounds=_SHARE) if right else None

    def one(name: str) -> LabelScore:
        return LabelScore(
            label=name,
            expected=sum(e == name for e, _ in pairs),
            answered=sum(a == name for _, a in pairs),
            precision=share([e == a for e, a in pairs if a == name]),
            recall=share([e == a for e, a in pairs if e == name]),
            f1=bootstrap(_counts(expected, answered, [name]), _macro(_f1), how),
        )

    scores = [one(name) for name in sorted({*expected, *labels})]
    undefined = [] if any(answered) else ["accuracy in the format: no answer is in it"]
    for score in scores:
        if score.precision is None:
            undefined.append(f"precision of {score.label!r}: no answer says it")
        if score.recall is None:
            undefined.append(f"recall of {score.label!r}: no row expects it")
    table = _counts(expected, answered, sorted(set(expected)))
    return LabelScores(
        key=key,
        rows=len(expected),
        accuracy=bootstrap_mean([e == a for e, a in pairs], how, bounds=_SHARE),
        accuracy_in_format=share([e == a for e, a in pairs if a is not None]),
        macro_precision=bootstrap(table, _macro(_precision), how),
        macro_recall=bootstrap(table, _macro(_recall), how),
        macro_f1=bootstrap(table, _macro(_f1), how),
        labels=tuple(scores),
        undefined=tuple(undefined),
    )


def macro_f1_difference(
    expected: Sequence[str],
    ours: Sequence[str | None],
    theirs: Sequence[str | None],
    how: Resampling,
) -> Estimate | None:
    """Return the macro F1 of the first system minus that of the second, on the same rows.

    Args:
        expected: The label of each row.
        ours: The labels of the first system's answers.
        theirs: The labels of the second system's answers.
        how: Settings of the interval; a resample draws both answers to a row together.
    """
    names = sorted(set(expected))
    table = np.hstack([_counts(expected, answered, names) for answered in (ours, theirs)])
    of, half = _macro(_f1), 3 * len(names)
    return bootstrap(table, lambda sums: of(sums[:, :half]) - of(sums[:, half:]), how)


def _counts(
    expected: Sequence[str], answered: Sequence[str | None], labels: Sequence[str]
) -> NDArray[np.float64]:
    """Count true positives, false positives and false negatives: shape (rows, 3 * labels)."""
    rows = [
        [float(hit) for name in labels for hit in (e == a == name, e != name == a, a != name == e)]
        for e, a in zip(expected, answered, strict=True)
    ]
    return np.asarray(rows)


_Formula: TypeAlias = Callable[[Numbers, Numbers, Numbers], Numbers]


def _divided(top: Numbers, bottom: Numbers) -> Numbers:
    undefined = np.full(top.shape, np.nan)
    return np.asarray(np.divide(top, bottom, out=undefined, where=bottom > 0))


def _precision(tp: Numbers, fp: Numbers, _: Numbers) -> Numbers:
    return _divided(tp, tp + fp)


def _recall(tp: Numbers, _: Numbers, fn: Numbers) -> Numbers:
    return _divided(tp, tp + fn)


def _f1(tp: Numbers, fp: Numbers, fn: Numbers) -> Numbers:
    return _divided(2 * tp, 2 * tp + fp + fn)


def _macro(of: _Formula) -> Callable[[Numbers], Numbers]:
    """Return the mean of a formula over labels; NaN if it is undefined for one of them."""

    def mean(sums: Numbers) -> Numbers:
        counts = sums.reshape(len(sums), -1, 3)
        return np.asarray(of(*np.moveaxis(counts, 2, 0)).mean(axis=1))

    return mean


@dataclass(frozen=True, slots=True)
class ProbeScores:
    """The scores of one probe. Shares are 0 to 1, each with its interval.

    Attributes:
        probe: Its name.
        rows: Its rows.
        selectivity: Share in the format with the token, minus the share without it on the same
            rows, -1 to 1.
        in_format: Share of answers in the format, with the token (paper, Table 2).
        strict: Share of answers in the format without any repair, with the token.
        without_token: Share in the format without the token.
        without_token_strict: Share in the format without any repair, without the token.
        cut: Answers that were cut off, with the token and without it; they are seldom complete.
        score: Mean of the task's score with the token, if it is known.
        labels: Accuracy, precision, recall and F1 of each key with labels, with the token.
        translation: Corpus scores with the token, by the metric's name.
        wants_format: Whether an answer with the token should be in the format.
        notes: Notes for the reader.
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
    """The scores of one system on one task.

    Attributes:
        task: The task's name.
        token: The special token.
        form: The answer format (`AnswerFormat.as_dict`).
        system: The system: engine, model, prompts, max_tokens.
        probes: The scores, probe by probe.
        how: Settings of the intervals.
        notes: Notes for the reader.
    """

    task: str
    token: str
    form: Mapping[str, Any]
    system: Mapping[str, Any]
    probes: tuple[ProbeScores, ...]
    how: Resampling = field(default_factory=Resampling)
    notes: tuple[str, ...] = ()

    def probe(self, name: str) -> ProbeScores:
        """Return the scores of a probe.

        Raises:
            InputError: The probe was not evaluated.
        """
        for probe in self.probes:
            if probe.probe == name:
                return probe
        known = ", ".join(probe.probe for probe in self.probes)
        raise InputError(f"probe {name!r} was not evaluated: use one of {known}")

    def as_dict(self) -> dict[str, Any]:
        """Return the evaluation as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "the evaluation") -> Evaluation:
        """Build an evaluation from the result of `as_dict`.

        Raises:
            FormatError: A value is missing or has the wrong type.
        """
        return from_json(cls, values, where)


def score(
    rows: Sequence[ScoredRow],
    task: EvalTask,
    *,
    system: Mapping[str, Any] | None = None,
    how: Resampling | None = None,
    metrics: Sequence[CorpusMetric] = (),
    notes: Mapping[str, Sequence[str]] | None = None,
) -> Evaluation:
    """Score graded rows.

    Args:
        rows: The rows, probe by probe (`grade_answers`).
        task: The task.
        system: Description of the system, for the record.
        how: Settings of the intervals.
        metrics: Corpus scores of translations.
        notes: Notes by probe; under `""` on all.

    Returns:
        The scores, in the order of the probes.

    Raises:
        InputError: There are no rows.
    """
    if not rows:
        raise InputError("there are no answers to score: generate some first")
    notes, how = notes or {}, how or Resampling()
    probes = [
        _score_probe(name, list(group), task, how, metrics, tuple(notes.get(name, ())))
        for name, group in groupby(rows, key=lambda row: row.answered.probe)
    ]
    return Evaluation(
        task=task.name,
        token=task.token,
        form=task.form.as_dict(),
        system=dict(system or {}),
        probes=tuple(probes),
        how=how,
        notes=tuple(notes.get("", ())),
    )


def _score_probe(
    name: str,
    rows: Sequence[ScoredRow],
    task: EvalTask,
    how: Resampling,
    metrics: Sequence[CorpusMetric],
    notes: tuple[str, ...],
) -> ProbeScores:
    outcomes, answered = [row.outcome for row in rows], [row.answered for row in rows]
    means: dict[str, Any] = {}
    for metric in METRICS:
        values = [value for row in outcomes if (value := metric.value(row)) is not None]
        if len(values) == len(rows):
            bounds = (metric.low, metric.high)
            means[metric.name] = bootstrap_mean(values, how, bounds=bounds)
    texts = (
        [row.source for row in answered],
        [row.with_token for row in answered],
        [row.expected for row in answered],
    )
    return ProbeScores(
        probe=name,
        rows=len(rows),
        cut=(sum(row.with_cut for row in answered), sum(row.without_cut for row in answered)),
        labels=tuple(_labels(outcomes, task.form.labels, how)),
        translation={corpus.name: score_corpus(corpus, *texts, how) for corpus in metrics},
        wants_format=answered[0].wants_format,
        notes=notes,
        **means,
    )


def _labels(
    outcomes: Sequence[RowOutcome], known: Mapping[str, Sequence[str]], how: Resampling
) -> Iterator[LabelScores]:
    for key, names in known.items():
        pairs = [each.labels[key] for each in outcomes if key in each.labels]
        if pairs:
            expected, answered = zip(*pairs, strict=True)
            yield score_labels(expected, answered, how, key=key, labels=names)
