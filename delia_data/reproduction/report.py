"""The report of a run: `report.md` to read, `report.json` for programs, figures beside them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from delia_data._version import __version__
from delia_data.outputs import write_json, write_text
from delia_data.reproduction.figures import FIGURES, draw_figures
from delia_data.reproduction.findings import Finding, find
from delia_data.reproduction.result import CellResult
from delia_data.reproduction.results import Results
from delia_data.reproduction.seeds import Measured
from delia_data.reproduction.tables import Entry, Table, make_tables

REPORT_FILES: Final = ("report.md", "report.json", "figures")


def write_reproduction(
    results: Results, out: str | os.PathLike[str], *, runs: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """Write the report of what is finished.

    Args:
        results: The finished cells.
        out: Folder of the run.
        runs: What `run.json` of each cell says: seconds, machine, versions.

    Returns:
        What `report.json` holds.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    root = Path(out)
    tables, findings = make_tables(results), find(results)
    drawn = draw_figures(results, root / "figures")
    document = {
        "grid": results.grid.as_dict(),
        "cells": {"finished": len(results.finished), "missing": len(results.missing)},
        "tables": [asdict(table) for table in tables],
        "findings": [asdict(finding) for finding in findings],
        "figures": drawn,
        "code_version": __version__,
    }
    write_json(root / "report.json", document)
    lines = _markdown(results, tables, findings, drawn, runs)
    write_text(root / "report.md", "\n".join(lines) + "\n")
    return document


def _markdown(
    results: Results,
    tables: Sequence[Table],
    findings: Sequence[Finding],
    drawn: Sequence[str],
    runs: Sequence[dict[str, Any]],
) -> Iterator[str]:
    grid = results.grid
    yield f"# Reproduction: {grid.name}"
    yield ""
    if grid.about:
        yield grid.about
        yield ""
    total = len(results.finished) + len(results.missing)
    yield f"{len(results.finished)} of {total} cells are finished."
    yield (
        "A number is the mean over seeds; in brackets the 95% interval over held-out rows, after "
        "± half of what lies between the least and the greatest seed. *Italics are the paper's "
        "numbers*, of other and larger models; – is a number that does not exist or was not run."
    )
    yield ""
    yield "## What agrees with the paper"
    yield ""
    for finding in findings:
        yield f"- **{finding.verdict}**: {finding.claim} {finding.numbers}"
    for table in tables:
        yield from _table(table)
    for name, caption in FIGURES.items():
        yield ""
        yield f"## {name.replace('-', ' ').capitalize()}"
        yield ""
        if name in drawn:
            yield f"![{caption}](figures/{name}.png)"
            yield ""
            yield f"{caption}. Lines are means over seeds, bands reach from least to greatest."
        else:
            yield f"{caption}: not run."
    yield from _ran(results.finished, runs)


def _table(table: Table) -> Iterator[str]:
    yield ""
    yield f"## {table.name.replace('-', ' ').capitalize()}: {table.title}"
    yield ""
    if not table.run:
        yield "Not run: no cell of this table is finished."
        return
    columns = range(len(table.columns))
    # The paper has a column beside ours where it has any number for it.
    known = [any(line.entries[i].paper is not None for line in table.lines) for i in columns]
    named = [
        part
        for column, has in zip(table.columns, known, strict=True)
        for part in ([column, "*paper*"] if has else [column])
    ]
    yield _line((*table.heads, *named))
    yield _line(["---"] * len(table.heads) + ["---:"] * len(named))
    previous: tuple[str, ...] = ()
    for line in table.lines:
        if all(entry.ours is None and entry.paper is None for entry in line.entries):
            continue
        heads = list(line.heads)
        if len(heads) > 1 and previous[:1] == line.heads[:1]:
            heads[0] = ""
        previous = line.heads
        parts = [
            part
            for entry, has in zip(line.entries, known, strict=True)
            for part in ([_ours(entry), _paper(entry)] if has else [_ours(entry)])
        ]
        yield _line((*heads, *parts))
    if table.missing:
        yield ""
        yield f"Not run: {', '.join(table.missing)}."
    for note in table.notes:
        yield ""
        yield note


def _ran(finished: Sequence[CellResult], runs: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What it was run on, and how long it took."""
    yield ""
    yield "## Runs"
    yield ""
    if not runs:
        yield "No cell is finished."
        return
    for machine, count in Counter(str(run["machine"]) for run in runs).items():
        yield f"- {count} cells on {machine}"
    for versions, count in Counter(_versions(run) for run in runs).items():
        yield f"- {count} cells with {versions}"
    seconds = [sum(run["seconds"].values()) for run in runs]
    dates = sorted(str(run["finished"])[:10] for run in runs)
    yield (
        f"- {sum(seconds) / 3600:.1f} hours of work in all, {min(seconds):.0f} to "
        f"{max(seconds):.0f} seconds a cell, finished from {dates[0]} to {dates[-1]}"
    )
    steps = [result.steps for result in finished if result.steps]
    if steps:
        yield f"- {min(steps)} to {max(steps)} optimiser steps a trained cell"


def _versions(run: dict[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(run["versions"].items()))


def _line(parts: Sequence[str]) -> str:
    return f"| {' | '.join(part.replace('|', ' ') for part in parts)} |"


def _ours(entry: Entry) -> str:
    if entry.ours is None:
        return "–"
    text = _written(entry.ours.value, entry)
    if len(entry.ours.by_seed) > 1:
        text += f" ±{_written(entry.ours.spread / 2, entry)}"
    return text + _interval(entry.ours, entry)


def _interval(measured: Measured, entry: Entry) -> str:
    if measured.low is None or measured.high is None:
        return ""
    return f" [{_written(measured.low, entry)}, {_written(measured.high, entry)}]"


def _paper(entry: Entry) -> str:
    if entry.paper is None:
        return "–"
    # As the paper writes it.
    return f"*{entry.paper:g}*" if entry.unit == "number" else f"*{_written(entry.paper, entry)}*"


def _written(value: float, entry: Entry) -> str:
    match entry.unit:
        case "share":
            return f"{100 * value:.1f}%"
        case "points":
            return f"{100 * value:.1f}"
        case "number":
            return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
