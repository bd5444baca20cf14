"""Compare two evaluations on the rows that both asked.

A row is resampled with the answers of both systems, so its difficulty cancels: the interval of the
difference is paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from delia_data.errors import InputError
from delia_data.evaluation.bootstrap import (
    Estimate,
    Resampling,
    bootstrap,
    bootstrap_mean,
)
from delia_data.evaluation.scores import RowOutcome, ScoredRow, macro_f1_difference
from delia_data.evaluation.translation import CorpusMetric


@dataclass(frozen=True, slots=True)
class ProbeDifference:
    """One probe of two systems: the first minus the second, on shared rows.

    Attributes:
        probe: Its name.
        rows: Rows that both were asked.
        selectivity: Difference of the selectivities, -2 to 2.
        in_format: Difference of the shares in the format with the token.
        strict: The same with nothing mended.
        without_token: Difference of the shares in the format without the token.
        score: Difference of the task's own scores, where both are known.
        accuracy: Difference of the accuracies of labels, by key.
        macro_f1: Difference of the macro F1 of labels, by key.
        translation: Difference of corpus scores, by metric.
        notes: What a reader should know of it.
    """

    probe: str
    rows: int
    selectivity: Estimate
    in_format: Estimate
    strict: Estimate
    without_token: Estimate
    score: Estimate | None = None
    accuracy: Mapping[str, Estimate] = field(default_factory=dict)
    macro_f1: Mapping[str, Estimate] = field(default_factory=dict)
    translation: Mapping[str, Estimate] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of two systems.

    Attributes:
        probes: Probe by probe.
        how: How intervals were made.
        notes: What a reader should know of it.
    """

    probes: tuple[ProbeDifference, ...]
    how: Resampling
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        return asdict(self)


def compare(
    ours: Sequence[ScoredRow],
    theirs: Sequence[ScoredRow],
    how: Resampling | None = None,
    *,
    metrics: Sequence[CorpusMetric] = (),
    notes: Sequence[str] = (),
) -> Comparison:
    """Compare two systems that were asked the same rows.

    Args:
        ours: Rows of the first.
        theirs: Rows of the second, which is taken off.
        how: How intervals are made.
        metrics: Corpus scores of translations.
        notes: What a reader should know.

    Raises:
        InputError: They have no rows in common.
    """
    second = {(row.answered.probe, row.answered.id): row for row in theirs}
    names = list(dict.fromkeys(row.answered.probe for row in ours))
    pairs = {
        name: [
            (row, second[name, row.answered.id])
            for row in ours
            if row.answered.probe == name and (name, row.answered.id) in second
        ]
        for name in names
    }
    if not any(pairs.values()):
        raise InputError(
            f"the two have no rows in common, of {len(ours)} and {len(theirs)}: evaluate the same "
            "task with the same probes"
        )
    by = how or Resampling()
    left = [row.answered.probe for row in ours if (row.answered.probe, row.answered.id) in second]
    told = list(notes)
    alone = len(ours) - len(left), len(theirs) - len(left)
    if any(alone):
        told.append(f"{alone[0]} and {alone[1]} rows were asked of one of the two alone: left out")
    differences = [_differ(name, both, by, metrics) for name, both in pairs.items() if both]
    return Comparison(tuple(differences), by, tuple(told))


def _differ(
    name: str,
    pairs: Sequence[tuple[ScoredRow, ScoredRow]],
    how: Resampling,
    metrics: Sequence[CorpusMetric],
) -> ProbeDifference:
    found = [(ours.outcome, theirs.outcome) for ours, theirs in pairs]

    def of(value: Callable[[RowOutcome], float], wide: float = 1.0) -> Estimate:
        differences = [value(ours) - value(theirs) for ours, theirs in found]
        return bootstrap_mean(differences, how, bounds=(-wide, wide))

    keys = [key for key in found[0][0].labels if all(key in o.labels for p in found for o in p)]
    scored = all(outcome.score is not None for pair in found for outcome in pair)
    reworded = sum(a.answered.question != b.answered.question for a, b in pairs)
    return ProbeDifference(
        probe=name,
        rows=len(pairs),
        selectivity=of(lambda outcome: outcome.selectivity, 2.0),
        in_format=of(lambda outcome: outcome.with_token),
        strict=of(lambda outcome: outcome.with_token_strict),
        without_token=of(lambda outcome: outcome.without_token),
        score=of(lambda outcome: outcome.score or 0.0) if scored else None,
        accuracy={key: of(partial(_is_right, key)) for key in keys},
        macro_f1=dict(_f1_differences(found, keys, how)),
        translation={m.name: _corpus_difference(m, pairs, how) for m in metrics},
        notes=(f"{reworded} of {len(pairs)} rows were put in other words",) if reworded else (),
    )


def _is_right(key: str, outcome: RowOutcome) -> float:
    expected, answered = outcome.labels[key]
    return float(expected == answered)


def _f1_differences(
    found: Sequence[tuple[RowOutcome, RowOutcome]], keys: Sequence[str], how: Resampling
) -> Iterator[tuple[str, Estimate]]:
    for key in keys:
        expected = [ours.labels[key][0] for ours, _ in found]
        first, second = ([pair[i].labels[key][1] for pair in found] for i in (0, 1))
        difference = macro_f1_difference(expected, first, second, how)
        if difference is not None:
            yield key, difference


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
    found = bootstrap(
        np.hstack(counts),
        lambda sums: metric.score(sums[:, :half], rows) - metric.score(sums[:, half:], rows),
        how,
    )
    if found is None:
        raise InputError(f"{metric.name} gave no number for {rows} translations")
    return found
