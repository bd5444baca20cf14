"""Scores of answered rows: selectivity first, then shares, labels, and the task's own score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from delia_data.errors import FormatError, InputError
from delia_data.evaluation.answer_format import ReadAnswer
from delia_data.evaluation.answers import score_texts
from delia_data.evaluation.asked_task import AskedTask
from delia_data.evaluation.asking import AnsweredRow
from delia_data.evaluation.bootstrap import Estimate, Resampling, bootstrap_mean
from delia_data.evaluation.labels import LabelScores, score_labels
from delia_data.evaluation.translation import CorpusMetric, score_corpus

__all__ = ["Evaluation", "Outcomes", "ProbeScores", "in_format", "outcomes", "score"]

_SHARE: Final = (0.0, 1.0)
_DIFFERENCE: Final = (-1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What the answers of a probe's rows come to, row by row.

    Attributes:
        with_token: The answer with the token, read; None where it is not in the format.
        without_token: The same without the token.
        expected: The row's own answer, read.
        scores: The task's own score of the answer with the token, 0 to 1; None where a function
            scores that is not known here.
    """

    with_token: tuple[ReadAnswer | None, ...]
    without_token: tuple[ReadAnswer | None, ...]
    expected: tuple[ReadAnswer | None, ...]
    scores: tuple[float, ...] | None

    @property
    def selectivity(self) -> list[float]:
        """In the format with the token, minus in it without: 1, 0 or -1 for each row."""
        pairs = zip(in_format(self.with_token), in_format(self.without_token), strict=True)
        return [named - bare for named, bare in pairs]

    def labels(self, key: str) -> tuple[list[str], list[str | None]]:
        """Labels that rows expect at a key, and those that answers have; known rows alone."""
        pairs = [
            (row.labels[key], None if answer is None else answer.labels[key])
            for row, answer in zip(self.expected, self.with_token, strict=True)
            if row is not None
        ]
        return [expected for expected, _ in pairs], [answered for _, answered in pairs]


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
    task: AskedTask,
    rows: Sequence[AnsweredRow],
    *,
    system: Mapping[str, Any] | None = None,
    how: Resampling | None = None,
    metrics: Sequence[CorpusMetric] = (),
    notes: Mapping[str, Sequence[str]] | None = None,
) -> Evaluation:
    """Score answered rows.

    Args:
        task: The task.
        rows: What was asked and answered, probe by probe.
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
        _score_probe(task, name, list(group), by, metrics, told.get(name, ()))
        for name, group in groupby(rows, key=lambda row: row.probe)
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


def outcomes(task: AskedTask, rows: Sequence[AnsweredRow]) -> Outcomes:
    """Read the answers of rows."""
    scores = None
    if task.scoring is not None:
        expected, answers = [row.expected for row in rows], [row.with_token for row in rows]
        scores = tuple(score_texts(task.scoring, task.form.keys, expected, answers))
    return Outcomes(
        with_token=tuple(task.form.read(row.with_token) for row in rows),
        without_token=tuple(task.form.read(row.without_token) for row in rows),
        expected=tuple(task.form.read(row.expected) for row in rows),
        scores=scores,
    )


def in_format(answers: Sequence[ReadAnswer | None], *, strict: bool = False) -> list[float]:
    """1 for each answer that is in the format, or in it with nothing mended; else 0."""
    return [float(a is not None and (a.strict or not strict)) for a in answers]


def _score_probe(
    task: AskedTask,
    name: str,
    rows: Sequence[AnsweredRow],
    how: Resampling,
    metrics: Sequence[CorpusMetric],
    notes: Sequence[str],
) -> ProbeScores:
    found = outcomes(task, rows)

    def share(answers: Sequence[ReadAnswer | None], *, strict: bool = False) -> Estimate:
        return bootstrap_mean(in_format(answers, strict=strict), how, bounds=_SHARE)

    texts = [[getattr(r, n) for r in rows] for n in ("source", "with_token", "expected")]
    return ProbeScores(
        probe=name,
        rows=len(rows),
        selectivity=bootstrap_mean(found.selectivity, how, bounds=_DIFFERENCE),
        in_format=share(found.with_token),
        strict=share(found.with_token, strict=True),
        without_token=share(found.without_token),
        without_token_strict=share(found.without_token, strict=True),
        cut=(sum(row.with_cut for row in rows), sum(row.without_cut for row in rows)),
        score=None if found.scores is None else bootstrap_mean(found.scores, how, bounds=_SHARE),
        labels=tuple(_labels(task, found, how)),
        translation={metric.name: score_corpus(metric, *texts, how) for metric in metrics},
        wants_format=rows[0].wants_format,
        notes=tuple(notes),
    )


def _labels(task: AskedTask, found: Outcomes, how: Resampling) -> Iterator[LabelScores]:
    for key, names in task.form.labels.items():
        expected, answered = found.labels(key)
        if expected:
            yield score_labels(expected, answered, how, key=key, labels=names)
