"""Scores of answered rows: selectivity first, then shares, labels, and the task's own score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from delia_data.errors import FormatError, InputError
from delia_data.evaluation.asked_task import AskedTask
from delia_data.evaluation.bootstrap import Estimate, Resampling, bootstrap_mean
from delia_data.evaluation.labels import LabelScores, score_labels
from delia_data.evaluation.outcomes import RowOutcome, ScoredRow
from delia_data.evaluation.translation import CorpusMetric, score_corpus

_SHARE: Final = (0.0, 1.0)
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
    task: AskedTask,
    *,
    system: Mapping[str, Any] | None = None,
    how: Resampling | None = None,
    metrics: Sequence[CorpusMetric] = (),
    notes: Mapping[str, Sequence[str]] | None = None,
) -> Evaluation:
    """Score rows whose answers were read.

    Args:
        rows: What was asked and answered, probe by probe (`read_answers`).
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
    task: AskedTask,
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
