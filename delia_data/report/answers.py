"""Sections on answers: scores of all evaluations, and the same questions side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Final

from markupsafe import Markup

from delia_data.errors import InputError
from delia_data.evaluation.comparison import Comparison, compare
from delia_data.evaluation.evaluate import read_evaluation
from delia_data.evaluation.figures import selectivities, shares_in_format
from delia_data.evaluation.scores import Evaluation, LabelScores, ProbeScores, ScoredRow
from delia_data.outputs import canonical_json
from delia_data.ranking import rank
from delia_data.report.experiments import Example, ExampleRun, cell_examples
from delia_data.report.page import (
    Figures,
    Metric,
    Section,
    blocks,
    count,
    join,
    named,
    signed,
    signed_number,
    signed_text,
    value,
)
from delia_data.report.runs import Runs, read_first_quickstart

_PROBES: Final[Mapping[str, str]] = {
    "held-out": "Wordings that training never saw",
    "training": "Wordings of the training",
    "bare": "The bare request",
    "negative": "The request that forbids the format",
}
_NOTE: Final = (
    "Selectivity is the share of answers in the format with the token minus the share without it "
    "on the same rows, −1 to 1. It is high only if the model uses the format when the token is "
    "present and not otherwise. Brackets show intervals by bootstrap over rows."
)
_EXAMPLES_SHOWN: Final = 3
_EXAMPLES: Final = 12
_EXAMPLES_NOTE: Final = (
    "Held-out rows as they were asked, those on which the runs differ first; otherwise the order "
    "is by hash. Answers are unchanged."
)


@dataclass(frozen=True, slots=True)
class EvaluatedRun:
    """An evaluation among the runs.

    Attributes:
        label: Name of its run.
        scores: Its scores.
        rows: Its answers, row by row.
    """

    label: str
    scores: Evaluation
    rows: Sequence[ScoredRow]

    @property
    def task_key(self) -> tuple[str, str]:
        """Task and answer format: equal for evaluations that can be compared."""
        return self.scores.task, canonical_json(self.scores.form).decode()


def read_evaluated(runs: Runs) -> list[list[EvaluatedRun]]:
    """Read all evaluations among some runs, grouped by task."""
    every = [
        EvaluatedRun(
            run.label,
            *(read_evaluation if run.kind == "evaluation" else read_first_quickstart)(run.folder),
        )
        for run in runs.of("evaluation", "probe")
    ]
    every.sort(key=lambda one: one.task_key)
    return [list(group) for _, group in groupby(every, key=lambda one: one.task_key)]


def answers(runs: Runs, figures: Figures) -> Section | None:
    """Compare all evaluations, those of one task with each other."""
    groups = read_evaluated(runs)
    if not groups:
        return None
    body: list[Markup] = []
    summary, data = [], []
    tasks = [group[0].scores.task for group in groups]
    for number, group in enumerate(groups):
        if len(groups) > 1:
            again = tasks.count(tasks[number]) > 1
            body.append(blocks.heading(f"Task {tasks[number]}{f' ({number + 1})' * again}"))
        differences = dict(_differences(group))
        body.append(_figures(group, figures))
        body.extend(_tables(group, differences))
        summary.append(_summary(group, differences))
        data.append(
            {
                "task": group[0].scores.task,
                "runs": [{"run": one.label, **one.scores.as_dict()} for one in group],
                "minus_first": {name: one.as_dict() for name, one in differences.items()},
            }
        )
    metrics = [_metric(one) for group in groups for one in group][:4]
    return Section(join(body), data, summary, metrics, _NOTE)


def examples(runs: Runs, _: Figures) -> Section | None:
    """Show the answers of all runs to the same questions side by side."""
    groups = [
        (f"Task {group[0].scores.task}", list(_examples(group))) for group in read_evaluated(runs)
    ]
    groups += [
        (f"{run.label}, {experiment}", rows)
        for run in runs.of("reproduction")
        for experiment, rows in cell_examples(run.folder)
    ]
    groups = [(title, rows) for title, rows in groups if rows]
    if not groups:
        return None
    body: list[Markup] = []
    data: list[dict[str, Any]] = []
    for title, rows in groups:
        if len(groups) > 1:
            body.append(blocks.heading(title))
        rows.sort(key=lambda one: (not one.differs, rank(0, one.id, "example")))
        picked = rows[:_EXAMPLES]
        cards = [blocks.example(row) for row in picked]
        body += cards[:_EXAMPLES_SHOWN]
        if rest := cards[_EXAMPLES_SHOWN:]:
            more = f"{len(rest)} more of {named(len(rows), 'row')}"
            body.append(blocks.details(more, join(rest)))
        picked_data = [asdict(row) for row in picked]
        data.append({"title": title, "rows": len(rows), "picked": picked_data})
    return Section(join(body), data, note=_EXAMPLES_NOTE)


def _examples(group: Sequence[EvaluatedRun]) -> Iterator[Example]:
    """Yield the rows of the first probe that all runs were asked."""
    probe = group[0].scores.probes[0].probe
    tables = [
        (one.label, {r.answered.id: r for r in one.rows if r.answered.probe == probe})
        for one in group
    ]
    for row_id, first in tables[0][1].items():
        if all(row_id in table for _, table in tables):
            runs = [
                ExampleRun(
                    label,
                    table[row_id].answered.with_token,
                    table[row_id].answered.without_token,
                    table[row_id].outcome.with_token,
                    table[row_id].outcome.without_token,
                )
                for label, table in tables
            ]
            asked, token = first.answered, group[0].scores.token
            yield Example(row_id, asked.question, asked.expected, token, tuple(runs))


def _figures(group: Sequence[EvaluatedRun], figures: Figures) -> Markup:
    first = [(one.label, one.scores.probes[0]) for one in group]
    share = 100 * group[0].scores.how.confidence
    caption = f"{_title(first[0][1].probe)}; lines are {share:g}% intervals."
    shares = shares_in_format(first, group[0].scores.token)
    return blocks.figures(
        [
            figures(selectivities(first), "Selectivity", caption),
            figures(shares, "Answers in the format", caption),
        ]
    )


def _tables(
    group: Sequence[EvaluatedRun], differences: Mapping[str, Comparison]
) -> Iterator[Markup]:
    token = group[0].scores.token
    probes = dict.fromkeys(probe.probe for one in group for probe in one.scores.probes)
    for number, probe in enumerate(probes):
        yield blocks.heading(_title(probe))
        scores = [(o.label, p) for o in group for p in o.scores.probes if p.probe == probe]
        scored = any(p.score not in (None, p.in_format) for _, p in scores)
        head = ["Run", "Selectivity", f"With {token}", "Strict", "Without", "Rows"]
        rows = [
            [
                name,
                signed(p.selectivity),
                value(p.in_format, share=True),
                value(p.strict, share=True),
                value(p.without_token, share=True),
                count(p.rows),
            ]
            for name, p in scores
        ]
        if scored:
            head.insert(-1, "Task score")
            for row, (_, p) in zip(rows, scores, strict=True):
                row.insert(-1, value(p.score))
        yield blocks.table(head, rows, "numbers wide", _title(probe))
        if not scores[0][1].wants_format:
            yield blocks.paragraph("Here answers should not be in the format.", "note")
        labels = join(_label_tables(scores))
        # Readers look for the labels of the first probe; those of the others are many.
        yield blocks.details("Labels", labels) if number and labels else labels
        if metrics := list(dict.fromkeys(name for _, p in scores for name in p.translation)):
            lines = [[name, *(value(p.translation.get(m)) for m in metrics)] for name, p in scores]
            yield blocks.table(("Run", *metrics), lines, "numbers wide", "Translation")
        changed = [
            [name, *map(signed, (p.selectivity, p.in_format, p.without_token)), count(p.rows)]
            for name, comparison in differences.items()
            for p in comparison.probes
            if p.probe == probe
        ]
        if changed:
            yield blocks.heading(f"Difference from {group[0].label}, paired by row", 4)
            head = ["Run", "Selectivity", f"With {token}", "Without", "Rows"]
            yield blocks.table(head, changed, "numbers wide", "Paired differences")
    if notes := list(dict.fromkeys(_notes(group, differences))):
        yield blocks.bullets(notes, "note")


def _label_tables(scores: Sequence[tuple[str, ProbeScores]]) -> Iterator[Markup]:
    keys = dict.fromkeys(labels.key for _, probe in scores for labels in probe.labels)
    for key in keys:
        rows = [
            row
            for name, probe in scores
            for labels in probe.labels
            if labels.key == key
            for row in _label_rows(name, labels)
        ]
        yield blocks.heading(f"Labels of “{key}”, with the token", 4)
        head = ("Run", "Label", "Accuracy or F1", "Precision", "Recall", "Rows")
        yield blocks.table(head, rows, "numbers wide", f"Labels of {key}", heads=2)


def _label_rows(name: str, scores: LabelScores) -> Iterator[list[object]]:
    yield [name, "accuracy", value(scores.accuracy, share=True), "", "", count(scores.rows)]
    macro = (scores.macro_f1, scores.macro_precision, scores.macro_recall)
    yield ["", "macro mean", *map(value, macro), ""]
    for one in scores.labels:
        yield ["", one.label, *map(value, (one.f1, one.precision, one.recall)), count(one.expected)]


def _differences(group: Sequence[EvaluatedRun]) -> Iterator[tuple[str, Comparison]]:
    """Yield each run minus the first one, unless they share no rows."""
    first, *others = group
    for other in others:
        try:
            yield other.label, compare(other.rows, first.rows, first.scores.how)
        except InputError:
            continue


def _notes(group: Sequence[EvaluatedRun], differences: Mapping[str, Comparison]) -> Iterator[str]:
    for name, comparison in differences.items():
        yield from (f"{name} minus {group[0].label}: {note}" for note in comparison.notes)
    for one in group:
        yield from (f"{one.label}: {note}" for note in one.scores.notes)
        for probe in one.scores.probes:
            yield from (f"{one.label}, {probe.probe}: {note}" for note in probe.notes)
            if any(probe.cut):
                yield (
                    f"{one.label}, {probe.probe}: {probe.cut[0]} answers with the token and "
                    f"{probe.cut[1]} without were cut off, and are seldom complete"
                )


def _summary(group: Sequence[EvaluatedRun], differences: Mapping[str, Comparison]) -> str:
    """Name the run with the highest selectivity, and say whether it differs from the first."""
    probe = group[0].scores.probes[0].probe
    scores = [
        (one.label, p.selectivity) for one in group for p in one.scores.probes if p.probe == probe
    ]
    where = f"On {group[0].scores.task} ({_title(probe).lower()})"
    best, most = max(scores, key=lambda one: one[1].value)
    if len(scores) == 1:
        chance = " The interval includes 0." if most.low <= 0 <= most.high else ""
        return f"{where}, the selectivity of {best} is {signed_text(most)}.{chance}"
    even = [name for name, one in scores if one.value == most.value]
    if len(even) > 1:
        highest = signed_number(most.value)
        return f"{where}, {' and '.join(even)} share the highest selectivity, {highest}."
    text = f"{where}, {best} has the highest selectivity, {signed_text(most)}"
    near = [name for name, one in scores if name != best and one.high >= most.low]
    if near:
        names = f"{', '.join(near[:-1])} and {near[-1]}" if len(near) > 1 else near[0]
        text += f" (overlapping the interval{'s' * (len(near) > 1)} of {names})"
    first = scores[0][0]
    for one in differences[best].probes if best in differences else ():
        if one.probe == probe:
            text += f"; row by row, that is {signed_text(one.selectivity)} compared with {first}"
            if one.selectivity.low <= 0 <= one.selectivity.high:
                text += ", which includes no difference"
    return f"{text}."


def _metric(one: EvaluatedRun) -> Metric:
    estimate = one.scores.probes[0].selectivity
    ends = f"{signed_number(estimate.low)} to {signed_number(estimate.high)}"
    return Metric(f"Selectivity, {one.label}", signed_number(estimate.value), ends)


def _title(probe: str) -> str:
    return _PROBES.get(probe, probe)
