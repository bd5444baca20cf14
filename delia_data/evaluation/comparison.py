"""Compare two evaluations on the rows that both have.

A row is resampled together with the answers of both systems, so the intervals of differences are
paired: differences in difficulty between rows cancel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from delia_data.errors import InputError
from delia_data.evaluation.bootstrap import Estimate, Resampling, bootstrap, bootstrap_mean
from delia_data.evaluation.scores import METRICS, ScoredRow, macro_f1_difference
from delia_data.evaluation.translation import CorpusMetric


@dataclass(frozen=True, slots=True)
class ProbeDifference:
    """Scores of the first system minus those of the second in one probe, on shared rows.

    Attributes:
        probe: Name of the probe.
        rows: Number of shared rows.
        selectivity: Difference of the selectivities, -2 to 2.
        in_format: Difference of the shares in the format with the token.
        strict: Difference of the shares in the format with the token, without any repair.
        without_token: Difference of the shares in the format without the token.
        without_token_strict: Difference of the shares in the format without the token, without any
            repair.
        score: Difference of the task's scores; None if a row has no score.
        accuracy: Difference of the accuracies of labels, by key.
        macro_f1: Difference of the macro F1 of labels, by key.
        translation: Difference of the corpus scores, by metric.
        notes: Notes for the reader.
    """

    probe: str
    rows: int
    selectivity: Estimate
    in_format: Estimate
    strict: Estimate
    without_token: Estimate
    without_token_strict: Estimate
    score: Estimate | None = None
    accuracy: Mapping[str, Estimate] = field(default_factory=dict)
    macro_f1: Mapping[str, Estimate] = field(default_factory=dict)
    translation: Mapping[str, Estimate] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of two systems.

    Attributes:
        probes: Differences by probe.
        how: Settings of the intervals.
        notes: Notes for the reader.
    """

    probes: tuple[ProbeDifference, ...]
    how: Resampling
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return asdict(self)


def compare(
    ours: Sequence[ScoredRow],
    theirs: Sequence[ScoredRow],
    how: Resampling | None = None,
    *,
    metrics: Sequence[CorpusMetric] = (),
    notes: Sequence[str] = (),
) -> Comparison:
    """Compare two systems on the rows that both answered.

    Args:
        ours: Rows of the first system.
        theirs: Rows of the second system, whose scores are subtracted.
        how: Settings of the intervals.
        metrics: Corpus scores of translations.
        notes: Notes for the reader.

    Raises:
        InputError: The systems have no rows in common.
    """
    how = how or Resampling()
    second = {(row.answered.probe, row.answered.id): row for row in theirs}
    by_probe: dict[str, list[tuple[ScoredRow, ScoredRow]]] = {}
    for row in ours:
        if other := second.get((row.answered.probe, row.answered.id)):
            by_probe.setdefault(row.answered.probe, []).append((row, other))
    if not by_probe:
        raise InputError(
            f"the systems have no rows in common, of {len(ours)} and {len(theirs)}: evaluate the "
            "same task with the same probes"
        )
    shared = sum(map(len, by_probe.values()))
    alone = len(ours) - shared, len(theirs) - shared
    if any(alone):
        notes = (*notes, f"left out {alone[0]} and {alone[1]} rows that only one system answered")
    differences = [_difference(name, pairs, how, metrics) for name, pairs in by_probe.items()]
    return Comparison(tuple(differences), how, tuple(notes))


def _difference(
    name: str,
    pairs: Sequence[tuple[ScoredRow, ScoredRow]],
    how: Resampling,
    metrics: Sequence[CorpusMetric],
) -> ProbeDifference:
    outcomes = [(ours.outcome, theirs.outcome) for ours, theirs in pairs]
    means: dict[str, Any] = {}
    for metric in METRICS:
        values = [(metric.value(ours), metric.value(theirs)) for ours, theirs in outcomes]
        differences = [a - b for a, b in values if a is not None and b is not None]
        if len(differences) == len(pairs):
            wide = metric.high - metric.low
            means[metric.name] = bootstrap_mean(differences, how, bounds=(-wide, wide))
    accuracy, macro_f1 = {}, {}
    for key in outcomes[0][0].labels:
        if not all(key in one.labels for pair in outcomes for one in pair):
            continue
        expected = [ours.labels[key][0] for ours, _ in outcomes]
        first, second = ([pair[side].labels[key][1] for pair in outcomes] for side in (0, 1))
        right = [(a == e) - (b == e) for e, a, b in zip(expected, first, second, strict=True)]
        accuracy[key] = bootstrap_mean(right, how, bounds=(-1, 1))
        if (f1 := macro_f1_difference(expected, first, second, how)) is not None:
            macro_f1[key] = f1
    reworded = sum(a.answered.question != b.answered.question for a, b in pairs)
    return ProbeDifference(
        probe=name,
        rows=len(pairs),
        accuracy=accuracy,
        macro_f1=macro_f1,
        translation={corpus.name: _corpus_difference(corpus, pairs, how) for corpus in metrics},
        notes=(f"{reworded} of {len(pairs)} rows have other wordings",) if reworded else (),
        **means,
    )


def _corpus_difference(
    metric: CorpusMetric, pairs: Sequence[tuple[ScoredRow, ScoredRow]], how: Resampling
) -> Estimate:
    counts = [
        metric.counts(
            [row.answered.source for row in rows],
            [row.answered.with_token for row in rows],
            [row.answered.expected for row in rows],
        )
        for rows in zip(*pairs, strict=True)
    ]
    half, rows = counts[0].shape[1], len(pairs)
    difference = bootstrap(
        np.hstack(counts),
        lambda sums: metric.score(sums[:, :half], rows) - metric.score(sums[:, half:], rows),
        how,
    )
    if difference is None:
        raise InputError(f"{metric.name} is undefined for {rows} translations: evaluate more rows")
    return difference
