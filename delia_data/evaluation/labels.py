"""Accuracy, precision, recall and F1 of labels, of all rows and label by label.

An answer that is not in the format has no label: it is a miss for the expected label, and a
false alarm for none. Where a number is undefined it is None, never 0, and `undefined` says why:

    precision   no answer has the label           tp + fp = 0
    recall      no row expects the label          tp + fn = 0
    F1          neither                           2 tp + fp + fn = 0

The macro averages are over the labels that rows expect; one is undefined where it is for a label.
An F1 has no exact bound: where no answer errs its interval has no width, and that of the accuracy
tells more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from delia_data.errors import InputError
from delia_data.evaluation.bootstrap import Estimate, Resampling, Sums, bootstrap, bootstrap_mean

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
        accuracy_in_format=_share([r for r, t in zip(right, told, strict=True) if t], how),
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
        precision=_share([e == a for e, a in pairs if a == name], how),
        recall=_share([e == a for e, a in pairs if e == name], how),
        f1=found,
    )


def _share(right: Sequence[bool], how: Resampling) -> Estimate | None:
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
