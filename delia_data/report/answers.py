"""Sections on answers: the numbers of all evaluations, and the same questions side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Final

from markupsafe import Markup

from delia_data.errors import InputError
from delia_data.evaluation.bootstrap import Estimate
from delia_data.evaluation.evaluate import read_divergences, read_evaluation
from delia_data.evaluation.figures import follow_leak_obey
from delia_data.evaluation.generation import MODEL, SYSTEMS
from delia_data.evaluation.keep import Divergence
from delia_data.evaluation.scores import (
    NUMBERS,
    Comparison,
    Evaluation,
    Number,
    ScoredRow,
    compare,
)
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
    value,
)
from delia_data.report.runs import Runs, read_first_quickstart

_NOTE: Final = (
    "Follow: the answer to a held-out row that names the token is in the asked-for format, "
    "exactly; loosely, anything that can be parsed counts. Leak: an answer to a prompt that does "
    "not ask for the format has a mark of it that the untrained model’s answer does not have, in "
    "the worst of four probes. Selectivity is follow minus leak. Obey: the answer is without the "
    "format when the prompt forbids it. Keep: KL(untrained, trained) in nats per token of held-out "
    "pairs, and the share of unrelated answers that mean the same as the untrained model’s. Right: "
    "right labels, or the task’s score; unreadable answers are wrong. Save: prompt tokens saved "
    "against the full instruction. Columns in italics are bounds. Brackets show intervals by "
    "bootstrap over rows."
)
_PROBES: Final[Mapping[str, str]] = {
    "plain": "Same requests, no token",
    "unrelated": "Unrelated requests",
    "other-json": "Requests for other JSON",
    "token": "Questions about the token",
}
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
        divergences: Its divergences on held-out pairs.
    """

    label: str
    scores: Evaluation
    rows: Sequence[ScoredRow]
    divergences: Sequence[Divergence] = ()

    @property
    def task_key(self) -> tuple[str, str]:
        """Task and answer format: equal for evaluations that can be compared."""
        return self.scores.task, canonical_json(self.scores.form).decode()


def read_evaluated(runs: Runs) -> list[list[EvaluatedRun]]:
    """Read all evaluations among some runs, grouped by task."""
    every = []
    for run in runs.of("evaluation", "probe"):
        if run.kind == "evaluation":
            pairs = read_divergences(run.folder)
            every.append(EvaluatedRun(run.label, *read_evaluation(run.folder), pairs))
        else:
            every.append(EvaluatedRun(run.label, *read_first_quickstart(run.folder)))
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
    metrics = [metric for group in groups for metric in _metrics(group)][:4]
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
    """Yield the held-out rows that all runs were asked with the token and without it."""
    tables = [
        (one.label, {(r.answered.probe, r.answered.id): r for r in one.rows}) for one in group
    ]
    token = group[0].scores.token
    for (probe, row_id), first in tables[0][1].items():
        keys = ("held-out", row_id), ("plain", row_id)
        if probe != "held-out" or not all(k in table for _, table in tables for k in keys):
            continue
        runs = [_example_run(label, *(table[key] for key in keys)) for label, table in tables]
        asked = first.answered
        yield Example(row_id, asked.question, asked.expected, token, tuple(runs))


def _example_run(label: str, named: ScoredRow, plain: ScoredRow) -> ExampleRun:
    marked = plain.leaks
    return ExampleRun(
        label,
        named.answered.answers[MODEL],
        plain.answered.answers[MODEL],
        named.outcomes[MODEL].strict,
        bool(plain.outcomes[MODEL].marks) if marked is None else marked,
    )


def _lines(group: Sequence[EvaluatedRun]) -> list[tuple[str, bool, Mapping[str, Estimate]]]:
    """Return name, whether it is a bound, and numbers of each run and bound.

    Bounds that several runs share are shown once.
    """
    lines = [(one.label, False, one.scores.numbers.get(MODEL, {})) for one in group]
    for system, title in list(SYSTEMS.items())[1:]:
        bounds = [(one.label, bound) for one in group if (bound := one.scores.numbers.get(system))]
        same = all(bound == bounds[0][1] for _, bound in bounds)
        for label, bound in bounds[:1] if same else bounds:
            lines.append((title if same else f"{label}: {title}", True, bound))
    return lines


def _figures(group: Sequence[EvaluatedRun], figures: Figures) -> Markup:
    share = 100 * group[0].scores.how.confidence
    lines = [(name, numbers) for name, _, numbers in _lines(group)]
    caption = f"Lines are {share:g}% intervals; follow and obey should be high, leak low."
    return blocks.figures([figures(follow_leak_obey(lines), "Follow, leak, obey", caption)])


def _tables(
    group: Sequence[EvaluatedRun], differences: Mapping[str, Comparison]
) -> Iterator[Markup]:
    lines = _lines(group)
    shown = [n for n in NUMBERS if any(n.name in numbers for _, _, numbers in lines)]
    head = ["Number", *(blocks.bound(name) if bound else name for name, bound, _ in lines)]
    rows = [
        [_title(number), *(_cell(number, numbers.get(number.name)) for _, _, numbers in lines)]
        for number in shown
    ]
    yield blocks.table(head, rows, "numbers wide", "Numbers")
    probes = [p for p in _PROBES if any(p in one.scores.leaks for one in group)]
    if probes:
        leaks = [
            [one.label, *(value(one.scores.leaks.get(p), share=True) for p in probes)]
            for one in group
        ]
        yield blocks.heading("Leak by probe")
        yield blocks.table(["Run", *(_PROBES[p] for p in probes)], leaks, "numbers wide", "Leak")
    for one in group:
        if one.scores.confusion:
            head, counts = one.scores.confusion_table()
            yield blocks.heading(f"Formats under each token, {one.label}")
            yield blocks.table(head, counts, "numbers wide", "Formats under each token")
    if differences:
        changed = [n for n in NUMBERS if any(n.name in d.numbers for d in differences.values())]
        rows = [
            [
                _title(n),
                *(_cell(n, d.numbers.get(n.name), difference=True) for d in differences.values()),
            ]
            for n in changed
        ]
        yield blocks.heading(f"Difference from {group[0].label}, paired by row")
        yield blocks.table(["Number", *differences], rows, "numbers wide", "Paired differences")
        yield blocks.paragraph("Differences of shares are in percentage points.", "note")
    if labels := _label_table(group):
        yield blocks.details("Labels", labels)
    if metrics := list(dict.fromkeys(name for one in group for name in one.scores.translation)):
        table = [[o.label, *(value(o.scores.translation.get(m)) for m in metrics)] for o in group]
        yield blocks.table(("Run", *metrics), table, "numbers wide", "Translation")
    for one in group:
        if general := one.scores.general_tasks:
            names = dict.fromkeys(name for scores in general.values() for name in scores)
            head = [
                "Task of lm-eval",
                *(one.label if system == MODEL else SYSTEMS[system] for system in general),
            ]
            table = [
                [name, *(f"{s[name][0]:.3f}" if name in s else "–" for s in general.values())]
                for name in names
            ]
            yield blocks.table(head, table, "numbers wide", f"Tasks of lm-eval, {one.label}")
    if notes := list(dict.fromkeys(_notes(group, differences))):
        yield blocks.bullets(notes, "note")


def _title(number: Number) -> str:
    return number.title[0].upper() + number.title[1:]


def _cell(number: Number, estimate: Estimate | None, *, difference: bool = False) -> Markup:
    """Format a number in its unit with its interval; a dash if it is unknown."""
    if estimate is None:
        return Markup("–")
    text = number.text(estimate.value, signed=difference)
    ends = number.interval(estimate, signed=difference)
    return blocks.number(text.replace("-", "−"), ends.replace("-", "−"))


def _label_table(group: Sequence[EvaluatedRun]) -> Markup:
    """Return the counts of labels; empty without labels."""
    rows = [
        [one.label, f"{key}: {n.label}", *map(count, (n.expected, n.answered, n.right))]
        for one in group
        for key, counts in one.scores.labels.items()
        for n in counts
    ]
    head = ("Run", "Label", "Expected", "Answered", "Right")
    return blocks.table(head, rows, "numbers", "Labels", heads=2) if rows else Markup("")


def _differences(group: Sequence[EvaluatedRun]) -> Iterator[tuple[str, Comparison]]:
    """Yield each run minus the first one, unless they share no rows."""
    first, *others = group
    for other in others:
        pairs = (other.divergences, first.divergences)
        try:
            found = compare(other.rows, first.rows, first.scores.how, divergences=pairs)
        except InputError:
            continue
        yield other.label, found


def _notes(group: Sequence[EvaluatedRun], differences: Mapping[str, Comparison]) -> Iterator[str]:
    for name, comparison in differences.items():
        yield from (f"{name} minus {group[0].label}: {note}" for note in comparison.notes)
    titles = {number.name: number.title for number in NUMBERS}
    for one in group:
        scores = one.scores
        yield from (f"{one.label}: {note}" for note in scores.notes)
        unknown = {name: why for name, why in scores.unknown.items() if name != "general"}
        for why in dict.fromkeys(unknown.values()):
            names = [titles[name] for name, reason in unknown.items() if reason == why]
            yield f"{one.label}: {' and '.join(names)} unknown: {why}"
        if any(scores.unfinished.values()):
            counts = " and ".join(
                f"{number} ({SYSTEMS[system]})" for system, number in scores.unfinished.items()
            )
            yield (
                f"{one.label}: of {scores.rows['unrelated']} unrelated answers, {counts} end in "
                "mid-sentence without having been cut off"
            )
        if cut := scores.cut.get("held-out"):
            yield (
                f"{one.label}: {cut} of {scores.rows['held-out']} answers with the token were cut "
                "off, and are seldom complete"
            )


def _summary(group: Sequence[EvaluatedRun], differences: Mapping[str, Comparison]) -> str:
    """Say what the best run does, and whether it differs from the first."""
    best = max(group, key=_rank)
    numbers = best.scores.numbers.get(MODEL, {})
    parts = [
        text.format(
            f"{number.text(numbers[number.name].value)} [{number.interval(numbers[number.name])}]"
        )
        for number in NUMBERS
        if number.name in numbers and (text := _SAID.get(number.name))
    ]
    where = f"On {best.scores.task}, {best.label}"
    listed = f"{', '.join(parts[:-1])}, and {parts[-1]}" if len(parts) > 1 else "".join(parts)
    said = f"{where} {listed or 'was evaluated'}."
    if best.label in differences and (change := differences[best.label].numbers.get("selectivity")):
        by_name = {number.name: number for number in NUMBERS}
        number = by_name["selectivity"]
        text = number.text(change.value, signed=True).replace("-", "−")
        ends = number.interval(change, signed=True).replace("-", "−")
        said += (
            f" Row by row, its selectivity differs from that of {group[0].label} by {text} points "
            f"[{ends}]"
        )
        said += ", which includes no difference." if change.low <= 0 <= change.high else "."
    return said


_SAID: Final[Mapping[str, str]] = {
    "follow": "follows the token in {} of held-out answers",
    "leak": "leaks the format in {} of the answers of the worst probe",
    "obey": "obeys in {} when the format is forbidden",
    "kl": "is at a KL of {} nats per token from the untrained model",
    "right": "gives the right answer to {} of the held-out rows",
}


def _rank(one: EvaluatedRun) -> float:
    """Order runs by selectivity, or by follow if it is unknown."""
    known = (one.scores.number("selectivity"), one.scores.number("follow"))
    return next((estimate.value for estimate in known if estimate is not None), -2.0)


def _metrics(group: Sequence[EvaluatedRun]) -> Iterator[Metric]:
    """Yield the headline of the best run."""
    best = max(group, key=_rank)
    for number in NUMBERS:
        estimate = best.scores.number(number.name)
        if estimate is not None and number.name in ("follow", "leak", "obey", "kl"):
            ends = number.interval(estimate).replace(", ", " to ")
            yield Metric(f"{_title(number)}, {best.label}", number.text(estimate.value), ends)
