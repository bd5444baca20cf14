"""Sections on experiments: series of ratios, and reproductions with the paper's numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from delia_data.errors import DeliaError
from delia_data.evaluation.generation import ANSWERS, Answer, PromptBuilder, read_answer_log
from delia_data.evaluation.probes import ProbeRow
from delia_data.evaluation.tables import Row, Table
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
from delia_data.experiments.ratio import BY, number_cell
from delia_data.experiments.sweep import cell_folder, read_runs
from delia_data.experiments.tables import Entry, Finding
from delia_data.experiments.tables import Table as PaperTable
from delia_data.records import content_id
from delia_data.report.page import Figures, Metric, Section, blocks, count, join, named, show_table
from delia_data.report.runs import Run, Runs

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

    Attributes:
        label: The run.
        with_token: The answer to the question with the token.
        without_token: The answer to the question without it.
        follows: Whether the first is in the format as it is.
        marked: Whether the second has marks of the format.
    """

    label: str
    with_token: str
    without_token: str
    follows: bool
    marked: bool


@dataclass(frozen=True, slots=True)
class Example:
    """One held-out row with the answers of several runs.

    Attributes:
        id: Content id of the row.
        question: The question with the token.
        expected: The row's own answer.
        token: The token.
        runs: The answers of each run.
    """

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
        [{"run": label, **one.as_dict()} for label, one in series],
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
    rows: list[Row] = [
        (
            f"{point.ratio:g}",
            count(point.pairs),
            number_cell(series.by, point.difference),
            *(number_cell(by, getattr(point, by)) for by in BY),
        )
        for point in series.points
    ]
    head = (
        *("Ratio", "Pairs", f"Worse than ratio {series.best:g}"),
        *("Leak", "Keep: KL", "Follow", "Loss"),
    )
    caption = f"By {series.by}: paired intervals, the tolerance, and the ratio that is enough."
    drawn = [figures(ratio_drawing(series), "Difference to the best ratio", caption)]
    table = show_table(Table("The series", head, rows))
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
        data.append(_data(run, results, findings, tables))
    if not data:
        return None
    return Section(join(body), data, summary, metrics, _REPRODUCTION_NOTE)


def _reproduced_figures(results: Results, figures: Figures) -> Iterator[Markup]:
    drawn = [
        figures(
            drawing,
            f"Figure 2 {what}: “{drawing.name.removeprefix('figure-2 ').removesuffix(what)[:-1]}”",
            "L2 from the token to the keyword over that between ordinary words, block by block.",
        )
        for what, drawing in block_drawings(results)
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
    rows: list[list[str]] = []
    previous = ""
    for line in table.filled:
        heads = list(line.heads)
        repeated = len(heads) > 1 and heads[0] == previous
        previous = heads[0]
        rows.append([" " if repeated else heads[0], *heads[1:], *map(_entry, line.entries)])
    names = (*table.heads, *table.columns)
    yield show_table(Table(title, names, rows, heads=len(table.heads)))
    for note in table.notes:
        yield blocks.paragraph(note, "note")
    if table.missing:
        yield blocks.paragraph(f"Not run: {', '.join(table.missing)}.", "note")


def _entry(entry: Entry) -> Markup:
    """Format the measured number, and the paper's number below it."""
    text = "" if entry.ours is None else entry.format(entry.ours.value)
    paper = "" if entry.paper is None else entry.paper_text
    return blocks.against_paper(text, entry.interval, paper)


def _machines(folder: Path, results: Results) -> Iterator[Markup]:
    """Name the machines, and the time that the cells took."""
    if records := read_runs(folder, [result.cell for result in results.finished]):
        minutes = sum(sum(record["seconds"].values()) for record in records) / 60
        work = f"{minutes / 60:.1f} hours" if minutes > 90 else f"{minutes:.0f} minutes"
        machines = Counter(str(record["machine"]) for record in records)
        cells = ", ".join(f"{named(number, 'cell')} on {name}" for name, number in machines.items())
        yield blocks.paragraph(f"{cells}; {work} of work in all.", "note")


def _data(
    run: Run, results: Results, findings: list[Finding], tables: tuple[PaperTable, ...]
) -> dict[str, Any]:
    return {
        "run": run.label,
        "grid": results.grid.name,
        "cells": {"finished": len(results.finished), "missing": len(results.missing)},
        "findings": [asdict(finding) for finding in findings],
        "tables": [asdict(one) for one in tables],
    }


def cell_examples(folder: Path) -> Iterator[tuple[str, list[Example]]]:
    """Yield the held-out rows of a reproduction's experiments, with the answers of a few methods.

    Each method is shown by its cell with the most task rows, the greatest ratio and the first
    seed. Experiments whose texts are not available, such as translations, are left out.
    """
    results = read_results(read_grid(folder / "grid.yaml"), folder)
    run = Reproduction(results.grid, folder)
    for name in results.grid.experiments:
        cells = [cell for m in _SHOWN if (cell := _cell(results, name, m)) is not None]
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


def _cell(results: Results, experiment: str, method: str) -> Cell | None:
    finished = results.of(experiment, method)
    return min((one.cell for one in finished), key=lambda cell: cell.seed or 0, default=None)


def _cell_rows(
    folder: Path,
    inputs: ExperimentInputs,
    cells: list[Cell],
    rows: Sequence[tuple[ProbeRow, ProbeRow]],
) -> Iterator[Example]:
    answers = {
        cell: read_answer_log(cell_folder(folder, cell) / "answers" / ANSWERS) for cell in cells
    }
    prompts = {cell: METHODS[cell.method].prompt for cell in cells}
    builds = {
        cell: None if prompt is None else prompt(inputs.material(cell))
        for cell, prompt in prompts.items()
    }
    for row, plain in rows:
        asked = (row, plain)
        runs = [_cell_run(inputs, cell, builds[cell], answers[cell], asked) for cell in cells]
        complete = tuple(one for one in runs if one is not None)
        if len(complete) == len(cells):
            question = row.prompt[-1].content
            yield Example(row.id, question, row.expected, inputs.task.token, complete)


def _cell_run(
    inputs: ExperimentInputs,
    cell: Cell,
    build: PromptBuilder | None,
    answers: Mapping[str, Answer],
    rows: tuple[ProbeRow, ProbeRow],
) -> ExampleRun | None:
    turns = (row.prompt if build is None else build(row.prompt, row.query) for row in rows)
    named, plain = (answers.get(content_id(each)) for each in turns)
    if named is None or plain is None:
        return None
    assert inputs.eval_task is not None
    form = inputs.eval_task.form
    read = form.read(named.text)
    follows = read is not None and read.strict
    marked = bool(form.marks(plain.text))
    return ExampleRun(METHODS[cell.method].title, named.text, plain.text, follows, marked)
