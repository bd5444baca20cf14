"""Chapter: what was answered with the token and without it, selectivity first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from delia_data.errors import InputError
from delia_data.evaluation._html import details, element, escape, table
from delia_data.evaluation.comparison import Comparison, compare
from delia_data.evaluation.figures import selectivities, shares_in_format
from delia_data.evaluation.page import Tile
from delia_data.evaluation.scores import LabelScores, ProbeScores
from delia_data.report.chapter import Figures, Found
from delia_data.report.evaluated import Evaluated, read_evaluated
from delia_data.report.numbers import count, signed, signed_number, signed_text, value
from delia_data.report.runs import Runs

_PROBES: Final[Mapping[str, str]] = {
    "held-out": "Wordings that training never saw",
    "training": "Wordings of the training",
    "bare": "The bare request",
    "negative": "The request that forbids the format",
}
_NOTE: Final = (
    "Selectivity is the share of answers in the format with the token minus the share without it "
    "on the same rows, −1 to 1: it tells a format that hangs on the token from one that is "
    "everywhere. In brackets are intervals by bootstrap over rows."
)


def answers(runs: Runs, figures: Figures) -> Found | None:
    """Compare all evaluations, those of one task with each other."""
    every = sorted(read_evaluated(runs), key=lambda one: one.about)
    if not every:
        return None
    body: list[str] = []
    told, data = [], []
    groups = [list(group) for _, group in groupby(every, key=lambda one: one.about)]
    for number, group in enumerate(groups):
        if len(groups) > 1:
            heading = f"Task {group[0].scores.task}"
            again = [one.scores.task for one in every].count(group[0].scores.task) > len(group)
            body.append(element("h3", escape(f"{heading} ({number + 1})" if again else heading)))
        differences = dict(_differences(group))
        body.append(_figures(group, figures))
        body.extend(_tables(group, differences))
        told.append(_told(group, differences))
        data.append(_data(group, differences))
    tiles = [_tile(one) for group in groups for one in group][:4]
    return Found("".join(body), data, told, tiles, _NOTE)


def _figures(group: Sequence[Evaluated], figures: Figures) -> str:
    first = [(one.label, one.scores.probes[0]) for one in group]
    name = _named(first[0][1].probe)
    share = 100 * group[0].scores.how.confidence
    caption = f"{name}; lines are {share:g}% intervals."
    drawn = (
        figures(selectivities(first), "Selectivity", caption),
        figures(shares_in_format(first, group[0].scores.token), "Answers in the format", caption),
    )
    return element("div", "".join(drawn), kind="figures")


def _tables(group: Sequence[Evaluated], differences: Mapping[str, Comparison]) -> Iterator[str]:
    token = group[0].scores.token
    probes = dict.fromkeys(probe.probe for one in group for probe in one.scores.probes)
    for probe in probes:
        yield element("h3", escape(_named(probe)))
        found = [(o.label, p) for o in group for p in o.scores.probes if p.probe == probe]
        scored = any(p.score not in (None, p.in_format) for _, p in found)
        head = ["Run", "Selectivity", f"With {token}", "Unmended", "Without", "Rows"]
        rows = [[name, *_shares(p)] for name, p in found]
        if scored:
            head.insert(-1, "Task’s own score")
            for row, (_, p) in zip(rows, found, strict=True):
                row.insert(-1, value(p.score))
        yield table(head, rows, kind="numbers wide", name=_named(probe))
        if not found[0][1].wants_format:
            yield element("p", "Here no answer in the format is wanted.", kind="note")
        labels = "".join(_label_tables(found))
        # Those of the first probe are what a reader looks for; of the others there are many.
        yield labels if probe == next(iter(probes)) or not labels else details("Labels", labels)
        yield from _translations(found)
        if lines := list(_difference_rows(probe, differences)):
            yield element("h4", escape(f"Difference from {group[0].label}, paired by row"))
            head = ["Run", "Selectivity", f"With {token}", "Without", "Rows"]
            yield table(head, lines, kind="numbers wide", name="Paired differences")
    yield _notes(group, differences)


def _shares(probe: ProbeScores) -> list[object]:
    return [
        signed(probe.selectivity),
        value(probe.in_format, share=True),
        value(probe.strict, share=True),
        value(probe.without_token, share=True),
        count(probe.rows),
    ]


def _label_tables(found: Sequence[tuple[str, ProbeScores]]) -> Iterator[str]:
    keys = dict.fromkeys(scores.key for _, probe in found for scores in probe.labels)
    for key in keys:
        rows = [
            row
            for name, probe in found
            for scores in probe.labels
            if scores.key == key
            for row in _label_rows(name, scores)
        ]
        yield element("h4", escape(f"Labels of “{key}”, with the token"))
        head = ("Run", "Label", "Accuracy or F1", "Precision", "Recall", "Rows")
        yield table(head, rows, kind="numbers wide", heads=2, name=f"Labels of {key}")


def _label_rows(name: str, scores: LabelScores) -> Iterator[list[object]]:
    yield [name, "accuracy", value(scores.accuracy, share=True), "", "", count(scores.rows)]
    macro = (scores.macro_f1, scores.macro_precision, scores.macro_recall)
    yield ["", "macro mean", *map(value, macro), ""]
    for one in scores.labels:
        numbers = map(value, (one.f1, one.precision, one.recall))
        yield ["", one.label, *numbers, count(one.expected)]


def _translations(found: Sequence[tuple[str, ProbeScores]]) -> Iterator[str]:
    metrics = list(dict.fromkeys(name for _, probe in found for name in probe.translation))
    if metrics:
        rows = [
            [name, *(value(probe.translation.get(metric)) for metric in metrics)]
            for name, probe in found
        ]
        yield table(("Run", *metrics), rows, kind="numbers wide", name="Translation")


def _differences(group: Sequence[Evaluated]) -> Iterator[tuple[str, Comparison]]:
    """Each run minus the first one; one that shares no rows with it is left out."""
    first, *others = group
    for other in others:
        try:
            yield other.label, compare(other.rows, first.rows, first.scores.how)
        except InputError:
            continue


def _difference_rows(probe: str, differences: Mapping[str, Comparison]) -> Iterator[list[object]]:
    for name, comparison in differences.items():
        for one in comparison.probes:
            if one.probe == probe:
                shares = (one.selectivity, one.in_format, one.without_token)
                yield [name, *map(signed, shares), count(one.rows)]


def _notes(group: Sequence[Evaluated], differences: Mapping[str, Comparison]) -> str:
    lines = [
        f"{name} minus {group[0].label}: {note}"
        for name, comparison in differences.items()
        for note in comparison.notes
    ]
    for one in group:
        lines += [f"{one.label}: {note}" for note in one.scores.notes]
        for probe in one.scores.probes:
            lines += [f"{one.label}, {probe.probe}: {note}" for note in probe.notes]
            if any(probe.cut):
                lines.append(
                    f"{one.label}, {probe.probe}: {probe.cut[0]} answers with the token and "
                    f"{probe.cut[1]} without were cut off, and seldom are whole"
                )
    items = "".join(element("li", escape(line)) for line in dict.fromkeys(lines))
    return element("ul", items, kind="note") if items else ""


def _told(group: Sequence[Evaluated], differences: Mapping[str, Comparison]) -> str:
    """The run of the highest selectivity, and whether it is apart from the first one."""
    probe = group[0].scores.probes[0].probe
    found = [
        (one.label, p.selectivity) for one in group for p in one.scores.probes if p.probe == probe
    ]
    where = f"On {group[0].scores.task} ({_named(probe).lower()})"
    best, most = max(found, key=lambda one: one[1].value)
    if len(found) == 1:
        chance = " The interval includes 0." if most.low <= 0 <= most.high else ""
        return f"{where}, the selectivity of {best} is {signed_text(most)}.{chance}"
    even = [name for name, one in found if one.value == most.value]
    if len(even) > 1:
        told = signed_number(most.value)
        return f"{where}, {' and '.join(even)} share the highest selectivity, {told}."
    text = f"{where}, {best} has the highest selectivity, {signed_text(most)}"
    near = [name for name, one in found if name != best and one.high >= most.low]
    if near:
        reach = (
            f"interval of {near[0]} reaches"
            if len(near) == 1
            else (f"intervals of {', '.join(near[:-1])} and {near[-1]} reach")
        )
        text += f" (the {reach} into its own)"
    first = found[0][0]
    for one in differences[best].probes if best in differences else ():
        if one.probe == probe:
            apart = not one.selectivity.low <= 0 <= one.selectivity.high
            text += f"; minus {first}, row by row, that is {signed_text(one.selectivity)}"
            text += "" if apart else ", which includes no difference"
    return f"{text}."


def _tile(one: Evaluated) -> Tile:
    found = one.scores.probes[0]
    ends = (signed_number(end) for end in (found.selectivity.low, found.selectivity.high))
    number = element("b", escape(signed_number(found.selectivity.value)))
    return Tile(f"Selectivity, {one.label}", number, " to ".join(ends))


def _data(group: Sequence[Evaluated], differences: Mapping[str, Comparison]) -> Any:
    return {
        "task": group[0].scores.task,
        "runs": [{"run": one.label, **one.scores.as_dict()} for one in group],
        "minus_first": {name: one.as_dict() for name, one in differences.items()},
    }


def _named(probe: str) -> str:
    return _PROBES.get(probe, probe)
