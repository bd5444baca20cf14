"""Tables of an evaluation and of a comparison, with selectivity first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from delia_data.cli._output import console
from delia_data.evaluation.bootstrap import Estimate
from delia_data.evaluation.comparison import Comparison, ProbeDifference
from delia_data.evaluation.scores import Evaluation, ProbeScores


def signed(estimate: Estimate) -> str:
    """Format a difference with its sign and its interval."""
    return f"{estimate.value:+.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def percent(estimate: Estimate) -> str:
    """Format a share in percent with its interval."""
    return f"{estimate.value:.0%} [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


def interval(estimate: Estimate | None, digits: int = 2) -> str:
    """Format a number with its interval; a number that rounds to 0 has no sign."""
    if estimate is None:
        return "undefined"
    value, low, high = (
        f"{round(number, digits) + 0.0:.{digits}f}"
        for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"


def _score(estimate: Estimate | None) -> str:
    """Format a score from 0 to 1 in two places, or from 0 to 100 in one."""
    return interval(estimate, 1 if estimate is not None and estimate.value > 1 else 2)


# Column, field of the scores, format.
_SCORES: Final[Sequence[tuple[str, str, Callable[[Any], str]]]] = (
    ("probe", "probe", str),
    ("selectivity", "selectivity", signed),
    ("with {token}", "in_format", percent),
    ("strict", "strict", lambda share: f"{share.value:.0%}"),
    ("without", "without_token", percent),
    ("rows", "rows", str),
)
_DIFFERENCES: Final[Sequence[tuple[str, str, Callable[[Any], str]]]] = (
    ("probe", "probe", str),
    ("selectivity", "selectivity", signed),
    ("with the token", "in_format", signed),
    ("without it", "without_token", signed),
    ("rows", "rows", str),
)


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the scores of all probes, the labels of the first, and notes."""
    confidence = 100 * evaluation.how.confidence
    _line(
        f"{evaluation.task}: answers in the format, {confidence:g}% intervals by bootstrap over "
        "rows"
    )
    named = f"with {evaluation.token}"
    head = [title.format(token=evaluation.token) for title, *_ in _SCORES]
    print_table(head, ([show(getattr(p, f)) for _, f, show in _SCORES] for p in evaluation.probes))
    extra = [
        [probe.probe, name, _score(estimate)]
        for probe in evaluation.probes
        for name, estimate in _more_scores(probe)
    ]
    if extra:
        print_table(("probe", named, "score"), extra)
    first = evaluation.probes[0]
    rows: list[list[str]] = []
    for scores in first.labels:
        macro = (scores.macro_f1, scores.macro_precision, scores.macro_recall)
        rows += [
            [f"{scores.key}, accuracy", percent(scores.accuracy), "", "", str(scores.rows)],
            [f"{scores.key}, macro", *map(_score, macro), ""],
        ]
        for label in scores.labels:
            values = (label.f1, label.precision, label.recall)
            rows.append([f"  {label.label}", *map(_score, values), str(label.expected)])
    if rows:
        head = [f"{first.probe}, {named}", "accuracy or F1", "precision", "recall", "rows"]
        print_table(head, rows)
    _print_notes(_notes(evaluation))


def print_comparison(comparison: Comparison, ours: str, theirs: str) -> None:
    """Print the differences of all probes, then notes."""
    confidence = 100 * comparison.how.confidence
    _line(f"{ours} minus {theirs}: paired {confidence:g}% intervals by bootstrap over rows")
    head = [title for title, *_ in _DIFFERENCES]
    print_table(
        head, ([show(getattr(p, f)) for _, f, show in _DIFFERENCES] for p in comparison.probes)
    )
    extra = [
        [probe.probe, name, signed(estimate)]
        for probe in comparison.probes
        for name, estimate in _more_scores(probe)
    ]
    if extra:
        print_table(("probe", "with the token", "difference"), extra)
    notes = [f"{probe.probe}: {note}" for probe in comparison.probes for note in probe.notes]
    _print_notes([*comparison.notes, *notes])


def _more_scores(probe: ProbeScores | ProbeDifference) -> Iterator[tuple[str, Estimate]]:
    """Yield scores that differ from the share in the format, by name."""
    if probe.score is not None and probe.score != probe.in_format:
        yield "the task's own", probe.score
    if isinstance(probe, ProbeDifference):
        yield from ((f"{key}: accuracy", value) for key, value in probe.accuracy.items())
        yield from ((f"{key}: macro F1", value) for key, value in probe.macro_f1.items())
    yield from probe.translation.items()


def _notes(evaluation: Evaluation) -> Iterator[str]:
    yield from evaluation.notes
    for probe in evaluation.probes:
        yield from (f"{probe.probe}: {note}" for note in probe.notes)
        if not probe.wants_format:
            yield f"{probe.probe}: answers should not be in the format here"
    if cut := [f"{p.cut[0]} of {p.rows} ({p.probe})" for p in evaluation.probes if p.cut[0]]:
        yield (
            f"answers with {evaluation.token} that were cut off and are therefore seldom "
            f"complete: {', '.join(cut)}; a higher --max-tokens may change their share"
        )
    for scores in evaluation.probes[0].labels:
        yield from (f"{scores.key}: undefined: {reason}" for reason in scores.undefined)


def print_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", left: int = 0
) -> None:
    """Print a table; with a title, columns after the first `left` are aligned to the right."""
    table = Table(
        title=Text(title) if title else None,
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for number, name in enumerate(head):
        right = title and number >= left
        table.add_column(name, overflow="fold", justify="right" if right else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _line(text: str) -> None:
    console.print(Text(text), soft_wrap=True)


def _print_notes(notes: Iterable[str]) -> None:
    for note in dict.fromkeys(notes):
        _line(f"note: {note}")
