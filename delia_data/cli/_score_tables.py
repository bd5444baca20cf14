"""Tables of an evaluation and of a comparison; selectivity stands first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from delia_data.cli._output import console
from delia_data.evaluation.bootstrap import Estimate
from delia_data.evaluation.comparison import Comparison, ProbeDifference
from delia_data.evaluation.scores import Evaluation, LabelScores, ProbeScores


def print_evaluation(found: Evaluation) -> None:
    """Print the shares of all probes, the labels of the first, and notes."""
    share = 100 * found.how.confidence
    console.print(
        Text(f"{found.task}: answers in the format, {share:g}% intervals by bootstrap over rows"),
        soft_wrap=True,
    )
    named = f"with {found.token}"
    head = ("probe", "selectivity", named, "strict", "without", "rows")
    print_table(head, (_shares(probe) for probe in found.probes))
    if extra := [row for probe in found.probes for row in _extra(probe)]:
        print_table(("probe", named, "score"), extra)
    first = found.probes[0]
    if first.labels:
        columns = (f"{first.probe}, {named}", "accuracy or F1", "precision", "recall", "rows")
        print_table(columns, (row for scores in first.labels for row in _labels(scores)))
    _notes(_told(found))


def print_comparison(found: Comparison, ours: str, theirs: str) -> None:
    """Print the differences of all probes, then notes."""
    share = 100 * found.how.confidence
    console.print(
        Text(f"{ours} minus {theirs}: paired {share:g}% intervals by bootstrap over rows"),
        soft_wrap=True,
    )
    head = ("probe", "selectivity", "with the token", "without it", "rows")
    print_table(head, (_difference(probe) for probe in found.probes))
    if extra := [row for probe in found.probes for row in _extra_differences(probe)]:
        print_table(("probe", "with the token", "difference"), extra)
    told = [f"{probe.probe}: {note}" for probe in found.probes for note in probe.notes]
    _notes([*found.notes, *told])


def _shares(probe: ProbeScores) -> list[str]:
    return [
        probe.probe,
        signed(probe.selectivity),
        percent(probe.in_format),
        f"{probe.strict.value:.0%}",
        percent(probe.without_token),
        str(probe.rows),
    ]


def _extra(probe: ProbeScores) -> Iterator[list[str]]:
    """Scores that say more than the share in the format does."""
    if probe.score is not None and probe.score != probe.in_format:
        yield [probe.probe, "the task's own", _plain(probe.score)]
    for name, estimate in probe.translation.items():
        yield [probe.probe, name, _plain(estimate)]


def _labels(scores: LabelScores) -> Iterator[list[str]]:
    yield [f"{scores.key}, accuracy", percent(scores.accuracy), "", "", str(scores.rows)]
    macro = (scores.macro_f1, scores.macro_precision, scores.macro_recall)
    yield [f"{scores.key}, macro", *map(_plain, macro), ""]
    for each in scores.labels:
        values = (each.f1, each.precision, each.recall)
        yield [f"  {each.label}", *map(_plain, values), str(each.expected)]


def _told(found: Evaluation) -> Iterator[str]:
    yield from found.notes
    for probe in found.probes:
        yield from (f"{probe.probe}: {note}" for note in probe.notes)
        if not probe.wants_format:
            yield f"{probe.probe}: here no answer in the format is wanted"
    if cut := [f"{p.cut[0]} of {p.rows} ({p.probe})" for p in found.probes if p.cut[0]]:
        yield (
            f"answers with {found.token} that were cut off, and seldom are whole: "
            f"{', '.join(cut)}; a higher --max-tokens may change their share"
        )
    for scores in found.probes[0].labels:
        yield from (f"{scores.key}: undefined is {reason}" for reason in scores.undefined)


def _difference(probe: ProbeDifference) -> list[str]:
    return [
        probe.probe,
        signed(probe.selectivity),
        signed(probe.in_format),
        signed(probe.without_token),
        str(probe.rows),
    ]


def _extra_differences(probe: ProbeDifference) -> Iterator[list[str]]:
    """Differences that say more than that of the share in the format does."""
    if probe.score is not None and probe.score != probe.in_format:
        yield [probe.probe, "the task's own", signed(probe.score)]
    for name, found in (("accuracy", probe.accuracy), ("macro F1", probe.macro_f1)):
        for key, estimate in found.items():
            yield [probe.probe, f"{key}: {name}", signed(estimate)]
    for name, estimate in probe.translation.items():
        yield [probe.probe, name, signed(estimate)]


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


def interval(estimate: Estimate | None) -> str:
    """Format a number with its interval in two places; a number that rounds to 0 has no sign."""
    if estimate is None:
        return "undefined"
    value, low, high = (
        f"{round(number, 2) + 0.0:.2f}" for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"


def _notes(notes: Iterable[str]) -> None:
    for note in dict.fromkeys(notes):
        console.print(Text(f"note: {note}"), soft_wrap=True)


def signed(found: Estimate) -> str:
    """Format a difference with its sign and its interval."""
    return f"{found.value:+.2f} [{found.low:.2f}, {found.high:.2f}]"


def percent(found: Estimate) -> str:
    """Format a share in percent with its interval."""
    return f"{found.value:.0%} [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def _plain(found: Estimate | None) -> str:
    if found is None:
        return "undefined"
    digits = 1 if found.value > 1 else 2
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"
