"""Chapter: a reproduction's tables and figures, with the paper's numbers marked as such."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from delia_data.evaluation._html import Markup, element, escape, table
from delia_data.evaluation.page import Tile
from delia_data.outputs import is_finished
from delia_data.report.chapter import Figures, Found
from delia_data.report.numbers import named
from delia_data.report.runs import Run, Runs
from delia_data.reproduction.cell import cells_of
from delia_data.reproduction.drawings import block_drawings, curve_drawings
from delia_data.reproduction.figures import FIGURES
from delia_data.reproduction.findings import Finding, find
from delia_data.reproduction.grid import read_grid
from delia_data.reproduction.results import CELLS, Results, read_results
from delia_data.reproduction.tables import Entry, Table, make_tables

_RUN: Final = "run.json"
_VERDICTS: Final = ("agrees", "disagrees", "unclear", "not run")
_NOTE: Final = (
    "A number is the mean over seeds, after ± half of what lies between the least and the greatest "
    "seed; in brackets is the 95% interval over held-out rows. The paper’s numbers are in italics: "
    "they are of other and larger models, to compare orders with. In figures lines are means over "
    "seeds, and bands reach from the least to the greatest."
)


def reproduced(runs: Runs, figures: Figures) -> Found | None:
    """Show reproductions."""
    found = runs.of("reproduction")
    if not found:
        return None
    body: list[str] = []
    told, tiles, data = [], [], []
    for run in found:
        results = read_results(read_grid(run.folder / "grid.yaml"), run.folder)
        findings, tables = find(results), make_tables(results)
        total = len(results.finished) + len(results.missing)
        done = f"{len(results.finished)} of {named(total, 'cell')} finished"
        verdicts = Counter(finding.verdict for finding in findings)
        counted = ", ".join(f"{name} {verdicts[name]}" for name in _VERDICTS)
        body.append(element("h3", escape(f"{run.label}: {done}")))
        if results.grid.about:
            body.append(element("p", escape(results.grid.about), kind="note"))
        body.append(_findings(findings))
        body.append(_figures(results, figures))
        body += [_table(one) for one in tables]
        body.append(_ran(run.folder, results))
        told.append(f"Reproduction {run.label}, {done}; the {len(findings)} claims: {counted}.")
        if tested := len(findings) - verdicts["not run"]:
            number = element("b", escape(f"{verdicts['agrees']} of {tested}"))
            tiles.append(Tile(f"Claims that agree, {run.label}", number, done))
        data.append(_data(run, results, findings, tables))
    return Found("".join(body), data, told, tiles, _NOTE)


def _findings(findings: list[Finding]) -> str:
    lines = (
        element(
            "li",
            element("span", escape(f.verdict), kind=f"verdict {f.verdict.split()[0]}")
            + escape(f.claim)
            + " "
            + element("span", escape(f.numbers), kind="note"),
        )
        for f in findings
    )
    return element("ul", "".join(lines), kind="plain")


def _figures(results: Results, figures: Figures) -> str:
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
    return element("div", "".join(drawn), kind="figures") if drawn else ""


def _table(found: Table) -> str:
    heading = element("h3", escape(f"{found.name.replace('-', ' ').capitalize()}: {found.title}"))
    if not found.run:
        return heading + element("p", "Not run: no cell of this table is finished.", kind="note")
    rows: list[list[object]] = []
    previous = ""
    for line in found.lines:
        if all(entry.ours is None and entry.paper is None for entry in line.entries):
            continue
        heads = list(line.heads)
        repeated = len(heads) > 1 and heads[0] == previous
        previous = heads[0]
        rows.append([" " if repeated else heads[0], *heads[1:], *map(_entry, line.entries)])
    notes = list(found.notes)
    if found.missing:
        notes.append(f"Not run: {', '.join(found.missing)}.")
    told = "".join(element("p", escape(note), kind="note") for note in notes)
    names = (*found.heads, *found.columns)
    shown = table(names, rows, kind="numbers wide", heads=len(found.heads), name=found.title)
    return heading + shown + told


def _entry(entry: Entry) -> Markup:
    """Ours, and the paper's below it."""
    parts = [] if entry.ours is not None or entry.paper is None else [escape("–")]
    if entry.ours is not None:
        text = _written(entry.ours.value, entry)
        if len(entry.ours.by_seed) > 1:
            text += f" ±{_written(entry.ours.spread / 2, entry)}"
        parts.append(element("b", escape(text)))
        if entry.ours.low is not None and entry.ours.high is not None:
            low, high = (_written(end, entry) for end in (entry.ours.low, entry.ours.high))
            parts.append(element("span", escape(f"[{low}, {high}]"), kind="ci"))
    if entry.paper is not None:
        shown = f"{entry.paper:g}" if entry.unit == "number" else _written(entry.paper, entry)
        below = element("span", escape(f"paper {shown}"), kind="paper")
        parts.append(Markup(f"<br>{below}"))
    return Markup("".join(parts))


def _written(value: float, entry: Entry) -> str:
    match entry.unit:
        case "share":
            return f"{100 * value:.1f}%"
        case "points":
            return f"{100 * value:.1f}"
        case "number":
            return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _ran(folder: Path, results: Results) -> str:
    """What it was run on."""
    runs = list(_records(folder, results))
    if not runs:
        return ""
    minutes = sum(sum(run["seconds"].values()) for run in runs) / 60
    work = f"{minutes / 60:.1f} hours" if minutes > 90 else f"{minutes:.0f} minutes"
    machines = Counter(str(run["machine"]) for run in runs)
    told = ", ".join(f"{named(count, 'cell')} on {machine}" for machine, count in machines.items())
    return element("p", escape(f"{told}; {work} of work in all."), kind="note")


def _records(folder: Path, results: Results) -> Iterator[dict[str, Any]]:
    for cell in cells_of(results.grid):
        file = folder / CELLS / cell.name / _RUN
        if is_finished(file.parent) and file.is_file():
            yield json.loads(file.read_text(encoding="utf-8"))


def _data(
    run: Run, results: Results, findings: list[Finding], tables: tuple[Table, ...]
) -> dict[str, Any]:
    return {
        "run": run.label,
        "grid": results.grid.name,
        "cells": {"finished": len(results.finished), "missing": len(results.missing)},
        "findings": [asdict(finding) for finding in findings],
        "tables": [asdict(one) for one in tables],
    }
