"""Sections on answers: the numbers of all evaluations, and the same questions side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any, Final

from markupsafe import Markup

from delia_data.errors import InputError
from delia_data.evaluation.evaluate import read_divergences, read_evaluation
from delia_data.evaluation.figures import follow_leak_obey
from delia_data.evaluation.generation import MODEL
from delia_data.evaluation.grading import ScoredRow
from delia_data.evaluation.keep import Divergence
from delia_data.evaluation.scores import BY_NAME, Comparison, Evaluation, compare
from delia_data.evaluation.tables import (
    capital,
    comparison_table,
    evaluation_notes,
    evaluation_tables,
    system_numbers,
)
from delia_data.outputs import canonical_json, weights_sha256
from delia_data.ranking import rank
from delia_data.report.experiments import Example, ExampleRun, cell_examples
from delia_data.report.page import Figures, Metric, Section, blocks, join, named, show_table
from delia_data.report.runs import Runs, read_first_quickstart

_NOTE: Final = (
    "Follow: the answer to a held-out row that names the token is in the asked-for format, "
    "exactly; loosely, anything that can be parsed counts. Leak: an answer to a prompt that does "
    "not ask for the format has a mark of it that the untrained model’s answer does not have, in "
    "the worst of four probes. Selectivity is follow minus leak. Obey: the answer is without the "
    "format when the prompt forbids it. Keep: KL(untrained, trained) in nats per token of held-out "
    "pairs, and the share of unrelated answers that mean the same as the untrained model’s. Right: "
    "right labels, or the task’s score; unreadable answers are wrong. Agreement: with the greedy "
    "answers to the system prompt that the token stands for; under the full instruction, that of "
    "its sampled answers. Save: prompt tokens saved against the full instruction. Columns in "
    "italics are bounds. Brackets show intervals by bootstrap over rows."
)
_OTHER_WEIGHTS: Final = (
    "no adapter on this page has the evaluated weights; if the adapter was trained again, evaluate "
    "it again"
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
    adapters = {weights_sha256(run.done) for run in runs.of("adapter")}
    for run in runs.of("evaluation", "probe"):
        if run.kind == "evaluation":
            pairs, (scores, rows) = read_divergences(run.folder), read_evaluation(run.folder)
            weights = run.done.inputs.get("weights")
            if adapters and weights is not None and weights not in adapters:
                scores = replace(scores, notes=(*scores.notes, _OTHER_WEIGHTS))
            every.append(EvaluatedRun(run.label, scores, rows, pairs))
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
    metrics: list[Metric] = []
    for group in groups:
        first = group[0]
        differences = dict(_differences(group))
        body += _show(group, differences, figures)
        best = max(group, key=_rank)
        summary.append(_summary(best, differences.get(best.label), first.label))
        metrics += _metrics(best)
        data.append(
            {
                "task": first.scores.task,
                "runs": [{"run": one.label, **one.scores.as_dict()} for one in group],
                "minus_first": {name: one.as_dict() for name, one in differences.items()},
            }
        )
    return Section(join(body), data, summary, metrics[:4], _NOTE)


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
        body.append(blocks.heading(title))
        rows.sort(key=lambda one: (not one.differs, rank(0, one.id, "example")))
        picked = rows[:_EXAMPLES]
        cards = [blocks.example(row) for row in picked]
        body += cards[:_EXAMPLES_SHOWN]
        if rest := cards[_EXAMPLES_SHOWN:]:
            more = f"{len(rest)} more of {named(len(rows), 'row')}"
            body.append(blocks.details(more, join(rest)))
        data.append({"title": title, "rows": len(rows), "picked": [asdict(row) for row in picked]})
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


def _show(
    group: Sequence[EvaluatedRun], differences: Mapping[str, Comparison], figures: Figures
) -> Iterator[Markup]:
    """Yield the figure, the tables and the notes of evaluations of one task."""
    runs, first = {one.label: one.scores for one in group}, group[0].label
    share = 100 * group[0].scores.how.confidence
    caption = f"Lines are {share:g}% intervals; follow and obey should be high, leak low."
    drawing = follow_leak_obey(system_numbers(runs))
    yield blocks.figures([figures(drawing, "Follow, leak, obey", caption)])
    yield from map(show_table, evaluation_tables(runs))
    if differences:
        yield show_table(comparison_table(differences, first))
    notes = [f"{one.label}: {note}" for one in group for note in evaluation_notes(one.scores)]
    notes += [f"{name} minus {first}: {n}" for name, one in differences.items() for n in one.notes]
    if notes:
        yield blocks.bullets(dict.fromkeys(notes), "note")


def _differences(group: Sequence[EvaluatedRun]) -> Iterator[tuple[str, Comparison]]:
    """Yield each run minus the first one, unless they share no rows."""
    first, *others = group
    for other in others:
        pairs = (other.divergences, first.divergences)
        try:
            difference = compare(other.rows, first.rows, first.scores.how, divergences=pairs)
        except InputError:
            continue
        yield other.label, difference


def _summary(best: EvaluatedRun, difference: Comparison | None, first: str) -> str:
    """Return sentences about the best run, and whether it differs from the first."""
    numbers = best.scores.numbers.get(MODEL, {})
    parts = [
        text.format(BY_NAME[name].cell(numbers[name]))
        for name, text in _SUMMARY.items()
        if name in numbers
    ]
    listed = f"{', '.join(parts[:-1])}, and {parts[-1]}" if len(parts) > 1 else "".join(parts)
    text = f"On {best.scores.task}, {best.label} {listed or 'was evaluated'}."
    if difference and (change := difference.numbers.get("selectivity")):
        cell = BY_NAME["selectivity"].cell(change, signed=True)
        points, interval = (part.replace("-", "−") for part in cell)
        text += (
            f" Row by row, its selectivity differs from that of {first} by {points} points "
            f"[{interval}]"
        )
        text += ", which includes no difference." if change.low <= 0 <= change.high else "."
    return text


_SUMMARY: Final[Mapping[str, str]] = {
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


def _metrics(best: EvaluatedRun) -> Iterator[Metric]:
    """Yield the headline of the best run."""
    for name in ("follow", "leak", "obey", "kl"):
        if estimate := best.scores.number(name):
            text, interval = BY_NAME[name].cell(estimate)
            title = f"{capital(BY_NAME[name].title)}, {best.label}"
            yield Metric(title, text, interval.replace(", ", " to "))
