"""Sections on results: evaluations, answers side by side, series of ratios, reproductions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from delia_data.errors import DeliaError, InputError
from delia_data.evaluation.evaluate import read_divergences, read_evaluation
from delia_data.evaluation.figures import follow_leak_obey
from delia_data.evaluation.generation import ANSWERS, MODEL, read_answer_log
from delia_data.evaluation.keep import Divergence
from delia_data.evaluation.probes import ProbeRow
from delia_data.evaluation.scores import BY_NAME, Comparison, Evaluation, ScoredRow, compare
from delia_data.evaluation.tables import (
    Table,
    capital,
    comparison_table,
    evaluation_notes,
    evaluation_tables,
    system_numbers,
)
from delia_data.experiments import (
    METHODS,
    Cell,
    RatioResult,
    Reproduction,
    Results,
    check_claims,
    make_tables,
    read_grid,
    read_ratio,
    read_results,
)
from delia_data.experiments.figures import FIGURES, block_drawings, curve_drawings, ratio_drawing
from delia_data.experiments.inputs import ExperimentInputs
from delia_data.experiments.ratio import ratio_table
from delia_data.experiments.sweep import cell_folder, read_runs
from delia_data.experiments.tables import Entry
from delia_data.experiments.tables import Table as PaperTable
from delia_data.outputs import canonical_json, weights_sha256
from delia_data.ranking import rank
from delia_data.records import content_id
from delia_data.report.page import Figures, Metric, Section, blocks, join, named, show_table
from delia_data.report.runs import Runs

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
    """An evaluation: name of its run, scores, answers, and divergences on held-out pairs."""

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
    for run in runs.of("evaluation"):
        pairs, (scores, rows) = read_divergences(run.folder), read_evaluation(run.folder)
        weights = run.done.inputs.get("weights")
        if adapters and weights is not None and weights not in adapters:
            scores = replace(scores, notes=(*scores.notes, _OTHER_WEIGHTS))
        every.append(EvaluatedRun(run.label, scores, rows, pairs))
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
                "runs": [{"run": one.label, **asdict(one.scores)} for one in group],
                "minus_first": {name: asdict(one) for name, one in differences.items()},
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
        selected = rows[:_EXAMPLES]
        cards = [blocks.example(row) for row in selected]
        body += cards[:_EXAMPLES_SHOWN]
        if rest := cards[_EXAMPLES_SHOWN:]:
            more = f"{len(rest)} more of {named(len(rows), 'row')}"
            body.append(blocks.details(more, join(rest)))
        data.append({"title": title, "rows": len(rows), "picked": list(map(asdict, selected))})
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
        answered = first.answered
        yield Example(row_id, answered.question, answered.expected, token, tuple(runs))


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
    estimate = one.scores.number("selectivity") or one.scores.number("follow")
    return -2.0 if estimate is None else estimate.value


def _metrics(best: EvaluatedRun) -> Iterator[Metric]:
    """Yield the headline of the best run."""
    for name in ("follow", "leak", "obey", "kl"):
        if estimate := best.scores.number(name):
            text, interval = BY_NAME[name].cell(estimate)
            title = f"{capital(BY_NAME[name].title)}, {best.label}"
            yield Metric(title, text, interval.replace(", ", " to "))


_SHOWN: Final = ("delia", "step_matched", "common", "original")
"""Methods whose answers are shown side by side, if they were run."""
_VERDICTS: Final = ("agrees", "disagrees", "unclear", "not run")
_RATIO_NOTE: Final = (
    "Losses are nats per token of held-out answers. Brackets show the 95% interval over rows; that "
    "of a difference to the best ratio is paired, and also over seeds if there are several."
)
_REPRODUCTION_NOTE: Final = (
    "A number is the mean over seeds; brackets show the 95% interval over seeds and held-out rows, "
    "or the smallest and largest seed of a distance. The paper’s numbers are in italics: they come "
    "from other and larger models, so compare orders, not values. In figures, lines are means over "
    "seeds and bands show the range over seeds."
)


@dataclass(frozen=True, slots=True)
class ExampleRun:
    """The answers of one run to a question, with and without the token.

    `follows` is whether the first is in the format as it is, and `marked` whether the second has
    marks of the format.
    """

    label: str
    with_token: str
    without_token: str
    follows: bool
    marked: bool


@dataclass(frozen=True, slots=True)
class Example:
    """One held-out row, its question with the token, and the answers of several runs."""

    id: str
    question: str
    expected: str
    token: str
    runs: tuple[ExampleRun, ...]

    @property
    def differs(self) -> bool:
        """Whether the runs differ in following the token or in marks without it."""
        return len({(one.follows, one.marked) for one in self.runs}) > 1


def ratios(runs: Runs, figures: Figures) -> Section | None:
    """Show series of ratios."""
    series = [(run.label, read_ratio(run.folder)) for run in runs.of("ratio")]
    if not series:
        return None
    body: list[Markup] = []
    for label, one in series:
        if len(series) > 1:
            body.append(blocks.heading(label))
        body.append(_series(one, figures))
    return Section(
        join(body),
        [{"run": label, **asdict(one)} for label, one in series],
        [f"How much is enough, {label}: {one.summary[0]}." for label, one in series],
        [
            Metric(
                f"Ratio that is enough, {label}",
                f"{one.enough:g}",
                f"{one.by} within {one.tolerance:g} of the best, {one.best:g}",
            )
            for label, one in series
        ],
        _RATIO_NOTE,
    )


def _series(series: RatioResult, figures: Figures) -> Markup:
    caption = f"By {series.by}: paired intervals, the tolerance, and the ratio that is enough."
    drawn = [figures(ratio_drawing(series), "Difference to the best ratio", caption)]
    table = show_table(ratio_table(series))
    return blocks.bullets(series.summary) + blocks.figures(drawn) + table


def reproduced(runs: Runs, figures: Figures) -> Section | None:
    """Show the tables and figures of reproductions, with the paper's numbers marked as such."""
    body: list[Markup] = []
    summary, metrics, data = [], [], []
    for run in runs.of("reproduction"):
        results = read_results(read_grid(run.folder / "grid.yaml"), run.folder)
        findings, tables = check_claims(results), make_tables(results)
        total = len(results.finished) + len(results.missing)
        done = f"{len(results.finished)} of {named(total, 'cell')} finished"
        verdicts = Counter(finding.verdict for finding in findings)
        counted = ", ".join(f"{name} {verdicts[name]}" for name in _VERDICTS)
        body.append(blocks.heading(f"{run.label}: {done}"))
        if results.grid.about:
            body.append(blocks.paragraph(results.grid.about, "note"))
        body.append(blocks.findings(findings))
        body += _reproduced_figures(results, figures)
        body += [part for one in tables for part in _table(one)]
        body += _machines(run.folder, results)
        summary.append(f"Reproduction {run.label}, {done}; the {len(findings)} claims: {counted}.")
        if tested := len(findings) - verdicts["not run"]:
            number = f"{verdicts['agrees']} of {tested}"
            metrics.append(Metric(f"Claims that agree, {run.label}", number, done))
        data.append(
            {
                "run": run.label,
                "grid": results.grid.name,
                "cells": {"finished": len(results.finished), "missing": len(results.missing)},
                "findings": [asdict(finding) for finding in findings],
                "tables": [asdict(one) for one in tables],
            }
        )
    if not data:
        return None
    return Section(join(body), data, summary, metrics, _REPRODUCTION_NOTE)


def _reproduced_figures(results: Results, figures: Figures) -> Iterator[Markup]:
    caption = "L2 from the token to the keyword over that between ordinary words, block by block."
    drawn = [
        figures(drawing, f"Figure 2 {axis}: “{word}”", caption)
        for axis, word, drawing in block_drawings(results)
    ]
    drawn += [
        figures(drawing, name.replace("-", " ").capitalize(), f"{FIGURES[name]}.")
        for name, drawing in curve_drawings(results)
    ]
    if drawn:
        yield blocks.figures(drawn)


def _table(table: PaperTable) -> Iterator[Markup]:
    title = f"{table.name.replace('-', ' ').capitalize()}: {table.title}"
    if not table.run:
        yield blocks.heading(title)
        yield blocks.paragraph("Not run: no cell of this table is finished.", "note")
        return
    rows = [(*line.heads, *map(_entry, line.entries)) for line in table.filled]
    names = (*table.heads, *table.columns)
    yield show_table(Table(title, names, rows, heads=len(table.heads)))
    for note in table.notes:
        yield blocks.paragraph(note, "note")
    if table.missing:
        yield blocks.paragraph(f"Not run: {', '.join(table.missing)}.", "note")


def _entry(entry: Entry) -> Markup:
    """Format the measured number, and the paper's number below it."""
    text, interval = entry.cell
    return blocks.against_paper(
        "" if entry.ours is None else text,
        interval,
        "" if entry.paper is None else entry.paper_text,
    )


def _machines(folder: Path, results: Results) -> Iterator[Markup]:
    """Name the machines, and the time that the cells took."""
    if records := read_runs(folder, [result.cell for result in results.finished]):
        minutes = sum(sum(record["seconds"].values()) for record in records) / 60
        work = f"{minutes / 60:.1f} hours" if minutes > 90 else f"{minutes:.0f} minutes"
        machines = Counter(str(record["machine"]) for record in records)
        cells = ", ".join(f"{named(number, 'cell')} on {name}" for name, number in machines.items())
        yield blocks.paragraph(f"{cells}; {work} of work in all.", "note")


def cell_examples(folder: Path) -> Iterator[tuple[str, list[Example]]]:
    """Yield the held-out rows of a reproduction's experiments, with the answers of a few methods.

    Each method is shown by its cell with the most task rows, the greatest ratio and the first
    seed. Experiments whose texts are not available, such as translations, are left out.
    """
    results = read_results(read_grid(folder / "grid.yaml"), folder)
    run = Reproduction(results.grid, folder)
    for name in results.grid.experiments:
        finished = [[one.cell for one in results.of(name, method)] for method in _SHOWN]
        cells = [min(group, key=lambda cell: cell.seed or 0) for group in finished if group]
        if not cells:
            continue
        try:
            inputs = run.inputs(name)
        except DeliaError:
            continue
        by_name = {probe.name: probe.rows for probe in inputs.probes}
        plain = {row.id: row for row in by_name.get("plain", ())}
        rows = [(row, plain[row.id]) for row in by_name["held-out"] if row.id in plain]
        yield name, list(_cell_rows(folder, inputs, cells, rows))


def _cell_rows(
    folder: Path,
    inputs: ExperimentInputs,
    cells: Sequence[Cell],
    rows: Sequence[tuple[ProbeRow, ProbeRow]],
) -> Iterator[Example]:
    """Yield the rows that all cells answered, with the token and without it."""
    assert inputs.eval_task is not None
    form = inputs.eval_task.form
    runs: list[dict[str, ExampleRun]] = []
    for cell in cells:
        answers = read_answer_log(cell_folder(folder, cell) / "answers" / ANSWERS)
        method = METHODS[cell.method]
        build = method.prompt(inputs.material(cell)) if method.prompt else lambda turns, _: turns
        of_cell = {}
        for row, plain in rows:
            turns = (build(each.prompt, each.query) for each in (row, plain))
            named, bare = (answers.get(content_id(each)) for each in turns)
            if named is not None and bare is not None:
                read, marked = form.read(named.text), bool(form.marks(bare.text))
                follows = read is not None and read.strict
                of_cell[row.id] = ExampleRun(method.title, named.text, bare.text, follows, marked)
        runs.append(of_cell)
    for row, _ in rows:
        if all(row.id in of_cell for of_cell in runs):
            answered = tuple(of_cell[row.id] for of_cell in runs)
            yield Example(row.id, row.prompt[-1].content, row.expected, inputs.task.token, answered)
