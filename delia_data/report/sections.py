"""The sections of a report, in the order of the page: each takes the runs and returns a section."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from markupsafe import Markup
from pyarrow import dataset

from delia_data.errors import DeliaError, InputError
from delia_data.evaluation.evaluate import read_divergences, read_evaluation
from delia_data.evaluation.figures import (
    follow_leak_obey,
    held_out_curves,
    loss_curve,
    short,
    text_map,
    watched_distances,
    watched_state_space,
)
from delia_data.evaluation.generation import ANSWERS, MODEL, read_answer_log
from delia_data.evaluation.keep import Divergence
from delia_data.evaluation.measurements import (
    Measurements,
    measurement_figures,
    measurement_tables,
    read_measurements,
)
from delia_data.evaluation.probes import ProbeRow
from delia_data.evaluation.representation import middle_block
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
from delia_data.hub.parts import pair_shards
from delia_data.outputs import canonical_json, weights_sha256
from delia_data.ranking import rank
from delia_data.records import Record, content_id, read_record
from delia_data.report.page import (
    Figures,
    Metric,
    Section,
    blocks,
    count,
    flatten,
    join,
    named,
    named_rows,
    show_table,
)
from delia_data.report.runs import Kind, Run, Runs
from delia_data.sampling.embeddings import Embed, map_texts
from delia_data.tasks import read_task_rows
from delia_data.training.adapter import LOSSES
from delia_data.training.watching import WATCHED, read_watched

_ANSWERS_NOTE: Final = (
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
_EVALUATION_SUMMARY: Final[Mapping[str, str]] = {
    "follow": "follows the token in {} of held-out answers",
    "leak": "leaks the format in {} of the answers of the worst probe",
    "obey": "obeys in {} when the format is forbidden",
    "kl": "is at a KL of {} nats per token from the untrained model",
    "right": "gives the right answer to {} of the held-out rows",
}
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
_VERDICTS: Final = ("agrees", "disagrees", "unclear", "not run")
_EXAMPLES_SHOWN: Final = 3
_EXAMPLES: Final = 12
_EXAMPLES_NOTE: Final = (
    "Held-out rows as they were asked, those on which the runs differ first; otherwise the order "
    "is by hash. Answers are unchanged."
)
_METHODS_SHOWN: Final = ("delia", "step_matched", "common", "original")
"""Methods whose answers are shown side by side, if they were run."""
_HELD_OUT_CAPTION: Final = (
    "Measured on rows and pairs that are not trained on, before the first step too."
)
_OVER_TRAINING: Final = " over the training"
_MAP_ROWS: Final = 250
"""Rows of each source that are drawn at most, by hash."""
_MAP_READ: Final = 2_000
"""Rows of each source among which they are picked."""
_MAP_SOURCES: Final = ("cache", "task")
_ACCOUNT_DETAILS: Final[Sequence[str]] = (
    "tokens",
    "prompt_tokens",
    "cost_usd",
    "wordings",
    "decontaminated",
)
_KIND_TITLES: Final[Mapping[Kind, str]] = {
    "mixture": "Mixtures",
    "adapter": "Trainings",
    "evaluation": "Evaluations",
    "measurements": "Measurements",
    "ratio": "Series of ratios",
    "reproduction": "Reproductions",
    "cache": "Caches",
    "task": "Tasks",
}
_MEASURED_PARTS: Final = {
    "representation": ("the token compared with controls", "delia measure"),
    "state-space": ("state space of the first token", "delia measure"),
    "buffering": ("gradients", "delia measure --cache"),
}
"""Parts of measurements, and the commands that make them."""


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
        body += _evaluation_blocks(group, differences, figures)
        best = max(group, key=_selectivity)
        summary.append(_evaluation_summary(best, differences.get(best.label), first.label))
        metrics += _evaluation_metrics(best)
        data.append(
            {
                "task": first.scores.task,
                "runs": [{"run": one.label, **asdict(one.scores)} for one in group],
                "minus_first": {name: asdict(one) for name, one in differences.items()},
            }
        )
    return Section(join(body), data, summary, metrics[:4], _ANSWERS_NOTE)


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


def _evaluation_blocks(
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


def _evaluation_summary(best: EvaluatedRun, difference: Comparison | None, first: str) -> str:
    """Return sentences about the best run, and whether it differs from the first."""
    numbers = best.scores.numbers.get(MODEL, {})
    parts = [
        text.format(BY_NAME[name].cell(numbers[name]))
        for name, text in _EVALUATION_SUMMARY.items()
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


def _selectivity(one: EvaluatedRun) -> float:
    """Order runs by selectivity, or by follow if it is unknown."""
    estimate = one.scores.number("selectivity") or one.scores.number("follow")
    return -2.0 if estimate is None else estimate.value


def _evaluation_metrics(best: EvaluatedRun) -> Iterator[Metric]:
    """Yield the headline of the best run."""
    for name in ("follow", "leak", "obey", "kl"):
        if estimate := best.scores.number(name):
            text, interval = BY_NAME[name].cell(estimate)
            title = f"{capital(BY_NAME[name].title)}, {best.label}"
            yield Metric(title, text, interval.replace(", ", " to "))


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
        body += [part for one in tables for part in _paper_table(one)]
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


def _paper_table(table: PaperTable) -> Iterator[Markup]:
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


def ratios(runs: Runs, figures: Figures) -> Section | None:
    """Show series of ratios."""
    series = [(run.label, read_ratio(run.folder)) for run in runs.of("ratio")]
    if not series:
        return None
    body: list[Markup] = []
    for label, one in series:
        if len(series) > 1:
            body.append(blocks.heading(label))
        body.append(_ratio_blocks(one, figures))
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


def _ratio_blocks(series: RatioResult, figures: Figures) -> Markup:
    caption = f"By {series.by}: paired intervals, the tolerance, and the ratio that is enough."
    drawn = [figures(ratio_drawing(series), "Difference to the best ratio", caption)]
    table = show_table(ratio_table(series))
    return blocks.bullets(series.summary) + blocks.figures(drawn) + table


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


def cell_examples(folder: Path) -> Iterator[tuple[str, list[Example]]]:
    """Yield the held-out rows of a reproduction's experiments, with the answers of a few methods.

    Each method is shown by its cell with the most task rows, the greatest ratio and the first
    seed. Experiments whose texts are not available, such as translations, are left out.
    """
    results = read_results(read_grid(folder / "grid.yaml"), folder)
    run = Reproduction(results.grid, folder)
    for name in results.grid.experiments:
        finished = [[one.cell for one in results.of(name, method)] for method in _METHODS_SHOWN]
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
                follows, marked = form.follows(named.text), bool(form.marks(bare.text))
                of_cell[row.id] = ExampleRun(method.title, named.text, bare.text, follows, marked)
        runs.append(of_cell)
    for row, _ in rows:
        if all(row.id in of_cell for of_cell in runs):
            answered = tuple(of_cell[row.id] for of_cell in runs)
            yield Example(row.id, row.prompt[-1].content, row.expected, inputs.task.token, answered)


def trained(runs: Runs, figures: Figures) -> Section | None:
    """Show trainings: their loss by source, and what was watched."""
    adapters = runs.of("adapter")
    if not adapters:
        return None
    losses = {run.label: _losses(run.folder) for run in adapters}
    watched = {run.label: _watched(run.folder) for run in adapters}
    caption = "Dots are steps and lines running means over 15 of them; short runs have no dots."
    drawn = [
        figures(loss_curve(points), f"Loss by source, {label}", caption)
        for label, points in losses.items()
        if points
    ]
    for run in adapters:
        best = run.done.details.get("best_step")
        drawn += [
            figures(
                drawing,
                f"{drawing.description.removesuffix(_OVER_TRAINING)}, {run.label}",
                _HELD_OUT_CAPTION,
            )
            for drawing in held_out_curves(watched[run.label], best_step=best)
        ]
    drawn += _watched_figures(watched, figures)
    head = ("Run", "Task rows", "Pairs", "Steps", "Last loss", "Left out")
    rows = [_training_row(run, losses[run.label]) for run in adapters]
    data = [
        {
            "run": run.label,
            "rows": run.done.rows,
            "losses": losses[run.label],
            "watched": watched[run.label],
        }
        for run in adapters
    ]
    body = blocks.figures(drawn) + show_table(Table("Trainings", head, rows))
    return Section(body, data, [_training_summary(run, losses[run.label]) for run in adapters])


def _losses(folder: Path) -> list[dict[str, float]]:
    file = folder / LOSSES
    return [dict(p) for p in json.loads(file.read_text("utf-8"))] if file.is_file() else []


def _watched(folder: Path) -> list[dict[str, float]]:
    return read_watched(folder) if (folder / WATCHED).is_file() else []


def _watched_figures(
    watched: Mapping[str, Sequence[Mapping[str, float]]], figures: Figures
) -> Iterator[Markup]:
    states = {
        label: points
        for label, points in watched.items()
        if any("state_space/size" in point for point in points)
    }
    if states:
        caption = "Tokens that have 95% of the probability where the answer begins."
        yield figures(watched_state_space(states), "State space over the training", caption)
    for label, points in watched.items():
        names = [name for name in (points[0] if points else ()) if name.startswith("l2/")]
        if middles := [name for name in names if name.endswith("/middle")]:
            yield figures(
                watched_distances(label, points, middles),
                f"Distance over the training, {label}",
                "In the middle block, L2 from the token to each keyword; dashed: untrained token, "
                "dotted: ordinary words.",
            )


def _training_row(run: Run, losses: Sequence[Mapping[str, float]]) -> list[str]:
    steps = run.done.details.get("steps")
    return [
        run.label,
        count(run.done.rows.get("task", 0)),
        count(run.done.rows.get("cache", 0)),
        "–" if steps is None else count(int(steps)),
        f"{losses[-1]['loss']:.3f}" if losses else "–",
        ", ".join(f"{why}: {n:,}" for why, n in run.done.dropped.items()) or "none",
    ]


def _training_summary(run: Run, losses: Sequence[Mapping[str, float]]) -> str:
    text = f"{run.label} was trained on {named_rows(run.done.rows)}"
    of_task = [point["loss_task"] for point in losses if "loss_task" in point]
    if len(of_task) > 1:
        third = max(1, len(of_task) // 3)
        first, last = (sum(part) / third for part in (of_task[:third], of_task[-third:]))
        text += (
            f"; the loss on task rows was {first:.3g} over the first third of its steps and "
            f"{last:.3g} over the last"
        )
    details = run.done.details
    if "planned_steps" in details:
        text += f"; it stopped after {details['steps']} of {details['planned_steps']} steps"
    if "best_step" in details:
        by = run.done.settings.get("best_by")
        text += f"; it kept the checkpoint of step {details['best_step']}, the best by {by}"
    return f"{text}."


def maps(runs: Runs, figures: Figures, *, embed: Embed | None = None) -> Section | None:
    """Draw a map of each mixture; without mixtures, one of caches and tasks together.

    Args:
        runs: The runs.
        figures: The figures of the page.
        embed: Turns texts into vectors; by default `map_texts` chooses.
    """
    drawn, data = [], []
    for label, texts in _map_sources(runs):
        every = [(name, text) for name in _MAP_SOURCES for text in texts.get(name, ())]
        if len(every) < 3:
            continue
        mapped = map_texts([text for _, text in every], embed)
        places = {
            name: mapped.places[[at for at, (one, _) in enumerate(every) if one == name]]
            for name in texts
        }
        caption = (
            f"Queries {mapped.by}, on their first two principal components, which hold "
            f"{sum(mapped.variance):.0%} of the variance: distant points differ, close points may "
            "differ too."
        )
        drawn.append(figures(text_map(places, mapped.variance), f"Queries of {label}", caption))
        data.append(
            {
                "run": label,
                "by": mapped.by,
                "variance": list(mapped.variance),
                "rows": {name: len(part) for name, part in places.items()},
            }
        )
    return Section(blocks.figures(drawn), data) if drawn else None


def _map_sources(runs: Runs) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Yield the name of each map, with its queries by source."""
    mixtures = runs.of("mixture")
    for run in mixtures:
        shards = sorted(run.folder.glob("train*.parquet"))
        by_source = {name: _picked(_some_rows(shards, name)) for name in _MAP_SOURCES}
        yield run.label, {name: texts for name, texts in by_source.items() if texts}
    caches, tasks = runs.of("cache"), runs.of("task")
    if not mixtures and caches and tasks:
        pairs = [r for run in caches for r in _some_rows(pair_shards(run.folder))]
        rows = [r.record for run in tasks for r in read_task_rows(run.folder).train]
        label = " and ".join(run.label for run in (*caches, *tasks))
        yield label, {"cache": _picked(pairs), "task": _picked(rows)}


def _some_rows(shards: Sequence[Path], source: str | None = None) -> list[Record]:
    """Read every nth row, or every nth of a source, with one batch in memory at a time."""
    if not shards:
        return []
    rows = dataset.dataset([str(shard) for shard in shards], format="parquet")
    chosen = None if source is None else dataset.field("source") == source
    columns = ["messages"] if source is None else None
    step, seen = max(1, rows.count_rows(filter=chosen) // _MAP_READ), 0
    some: list[Record] = []
    for batch in rows.to_batches(columns=columns, filter=chosen):
        taken = batch.take(pa.array(range(-seen % step, batch.num_rows, step), pa.int64()))
        some += [read_record(row) for row in taken.to_pylist()]
        seen += batch.num_rows
    return some


def _picked(records: Sequence[Record]) -> list[str]:
    ordered = sorted(records, key=lambda record: rank(0, record.id, "picture"))
    return [record.query for record in ordered[:_MAP_ROWS]]


def accounts(runs: Runs, _: Figures) -> Section | None:
    """Account for rows: by source, and dropped rows by reason."""
    groups = {
        "Mixture, rows by source": runs.of("mixture"),
        "Cache, pairs": runs.of("cache"),
        "Task, rows": runs.of("task"),
    }
    if not any(groups.values()):
        return None
    body = [
        part for title, group in groups.items() if group for part in _account_blocks(title, group)
    ]
    data: list[dict[str, Any]] = [
        {
            "run": run.label,
            "kind": run.kind,
            "rows": dict(run.done.rows),
            "dropped": dict(run.done.dropped),
            "details": dict(run.done.details),
        }
        for run in runs.of("mixture", "cache", "task")
    ]
    mixtures = runs.of("mixture")
    metrics = [
        Metric(
            f"Rows of {run.label}",
            count(sum(n for source, n in run.done.rows.items() if source != "test")),
            named_rows(run.done.rows),
        )
        for run in mixtures
    ]
    note = "Every row that was given and is not in the result has a reason here."
    return Section(join(body), data, [_mixture_summary(run) for run in mixtures], metrics, note)


def _account_blocks(title: str, group: Sequence[Run]) -> Iterator[Markup]:
    """Show rows kept and rows dropped, with a column for each run."""
    rows = [run.done.rows for run in group]
    dropped = [{why: n for why, n in run.done.dropped.items() if n} for run in group]
    none = blocks.paragraph("No row was dropped.")
    yield blocks.heading(title)
    yield blocks.columns(
        [
            show_table(_count_table("Kept", group, rows), 4),
            show_table(_count_table("Dropped, by reason", group, dropped), 4)
            if any(dropped)
            else blocks.heading("Dropped, by reason", 4) + none,
        ]
    )
    details = []
    for run in group:
        given = {
            name: run.done.details[name] for name in _ACCOUNT_DETAILS if name in run.done.details
        }
        if given:
            texts = [f"{re.sub('[_.]', ' ', name)} {text}" for name, text in flatten(given)]
            details.append(f"{run.label}: {', '.join(texts)}")
    if details:
        yield blocks.bullets(details, "note")


def _count_table(title: str, group: Sequence[Run], counts: Sequence[Mapping[str, int]]) -> Table:
    names = dict.fromkeys(name for one in counts for name in one)
    rows = [
        [name.replace("_", " "), *(count(one[name]) if name in one else "–" for one in counts)]
        for name in names
    ]
    return Table(title, ("", *(run.label for run in group)) if len(group) > 1 else (), rows)


def _mixture_summary(run: Run) -> str:
    ratio = run.done.settings.get("ratio")
    at_ratio = f", a ratio of {ratio:g}" if isinstance(ratio, int | float) else ""
    lost = sum(run.done.dropped.values())
    dropped = f"{named(lost, 'row')} dropped" if lost else "none dropped"
    return f"{run.label} mixes {named_rows(run.done.rows)}{at_ratio}; {dropped}."


def settings(runs: Runs, _: Figures) -> Section | None:
    """Show all settings and input hashes, in a table for each kind of run."""
    body: list[Markup] = []
    data: dict[str, Any] = {}
    for kind, title in _KIND_TITLES.items():
        group = runs.of(kind)
        if not group:
            continue
        every = [dict(_flat_settings(run)) for run in group]
        names = list(dict.fromkeys(name for one in every for name in one))
        rows = []
        for name in names:
            values = [one.get(name, "–") for one in every]
            same = "same" if len(set(values)) == 1 else "differs"
            rows.append((name, same if len(group) > 1 else "", list(map(_short_hash, values))))
        head = ("", *(run.label for run in group)) if len(group) > 1 else ()
        table = blocks.settings_table(head, rows)
        body.append(blocks.details(f"{title}: {named(len(names), 'setting')}", table))
        data |= {run.label: _nested_settings(run) for run in group}
    several = any(len(runs.of(kind)) > 1 for kind in _KIND_TITLES)
    note = "Settings in which runs of one kind differ are bold." if several else ""
    return Section(join(body), data, note=note) if body else None


def _nested_settings(run: Run) -> dict[str, Any]:
    if run.manifest is None:
        file = run.folder / "inputs.json"
        inputs = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return {"settings": read_grid(run.folder / "grid.yaml").as_dict(), "inputs": inputs}
    manifest = run.manifest
    return {
        "settings": manifest.settings,
        "inputs": manifest.inputs,
        "code_version": manifest.code_version,
    }


def _flat_settings(run: Run) -> Iterator[tuple[str, str]]:
    nested = _nested_settings(run)
    yield from flatten(nested["settings"])
    yield from ((f"input.{name}", str(given)) for name, given in nested["inputs"].items())
    if "code_version" in nested:
        yield "version of delia_data", nested["code_version"]


def _short_hash(value: str) -> str:
    """Shorten a hash; the data have all of it."""
    return f"{value[:16]}…" if re.fullmatch(r"[0-9a-f]{64}", value) else value


def measured(runs: Runs, figures: Figures) -> Section | None:
    """Show measurements."""
    every = [(run.label, read_measurements(run.folder)) for run in runs.of("measurements")]
    if not every:
        return None
    body = [part for label, one in every for part in _measurement_blocks(label, one, figures)]
    data = [{"run": label, **asdict(one)} for label, one in every]
    absent = {
        title: command
        for name, (title, command) in _MEASURED_PARTS.items()
        if not any(name in one.measured for _, one in every)
    }
    summary = [sentence for label, one in every for sentence in _measured_summary(label, one)]
    return Section(join(body), data, summary, absent=absent)


def _measurement_blocks(label: str, one: Measurements, figures: Figures) -> Iterator[Markup]:
    drawn, tables = measurement_figures(one), measurement_tables(one)
    for name in one.measured:
        heading, _ = _MEASURED_PARTS[name]
        yield blocks.heading(f"{heading.capitalize()}, {label}")
        yield blocks.figures([figures(f.drawing, f.title, f.caption) for f in drawn[name]])
        yield from (show_table(table, 4) for table in tables[name])


def _measured_summary(label: str, one: Measurements) -> Iterator[str]:
    if one.representation:
        before, after = one.representation["before"], one.representation["after"]
        middle = middle_block(len(after.median))
        moved = [
            f"“{short(new.keyword)}” {old.token.relative.mean[middle]:.2f} before and "
            f"{new.token.relative.mean[middle]:.2f} after"
            for old, new in zip(before.keywords, after.keywords, strict=True)
        ]
        yield (
            f"{label}: in the middle block, the L2 distance from {one.token} to its keywords, in "
            f"multiples of the distance between two ordinary words, is {'; '.join(moved)}."
        )
    if one.state_space:
        before_space = one.state_space["before"]["with"]
        yield (
            f"{label}: where the answer begins, with the token in the request, "
            f"{before_space.size:.1f} tokens had {before_space.mass:.0%} of the probability "
            f"before training and {one.state_space['after']['with'].size:.1f} after it."
        )
