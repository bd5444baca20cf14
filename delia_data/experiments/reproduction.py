"""Reproduce the paper: sample pairs, run the cells of a grid, write tables and figures.

out/
grid.yaml        the grid; a rerun may add cells, but not change the settings of an experiment
inputs.json      hashes of the other inputs
caches/          pairs sampled from the models, once for all cells that share them
cells/NAME/      a cell: result.json, run.json, answers, manifest.json, FINISHED
report.md, report.json, figures/
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from delia_data._version import __version__
from delia_data.errors import InputError
from delia_data.evaluation.bootstrap import Cell as NumberCell
from delia_data.evaluation.tables import Table as ShownTable
from delia_data.experiments.figures import FIGURES, draw_figures
from delia_data.experiments.grid import FORMATTED, Cell, Experiment, Grid, task_of
from delia_data.experiments.inputs import (
    ExperimentInputs,
    read_inputs,
    sample_cache,
    sample_contrast,
)
from delia_data.experiments.results import Results, read_results
from delia_data.experiments.sweep import (
    CELLS,
    CellEstimate,
    OnProgress,
    check_workers,
    estimate_cells,
    raise_failures,
    read_runs,
    run_sweep,
    total_seconds,
    unfinished_cells,
)
from delia_data.experiments.tables import Finding, Table, check_claims, make_tables
from delia_data.outputs import (
    MANIFEST,
    canonical_json,
    check_folder_is_ours,
    check_same_settings,
    file_sha256,
    folder_lock,
    is_finished,
    read_manifest,
    write_json,
    write_text,
)

_GRID: Final = "grid.yaml"
_INPUTS: Final = "inputs.json"
_CACHES: Final = "caches"
_OWN: Final = frozenset({_GRID, _INPUTS, _CACHES, CELLS, "report.md", "report.json", "figures"})
_SAMPLED: Final = "sampled here"


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A run of a grid (a `Sweep`).

    Attributes:
        grid: The grid.
        out: Folder of the run.
        cache: Cache to take the pairs from; None samples them from each model.
        data: Folder of parallel files, for translations.
        device: Device to train and evaluate on.
        only: Methods to run; all if empty.
        keep_adapters: Keep the trained weights.
    """

    grid: Grid
    out: Path
    cache: Path | None = None
    data: Path | None = None
    device: str = "cpu"
    only: tuple[str, ...] = ()
    keep_adapters: bool = False

    def cells(self) -> list[Cell]:
        """Return the cells that can run with the inputs, in order."""
        blocked = set(self.blocked())
        return [cell for cell in self.grid.cells(only=self.only) if cell not in blocked]

    def blocked(self) -> list[Cell]:
        """Return the cells that need translated texts, if none were given."""
        cells = self.grid.cells(only=self.only) if self.data is None else []
        return [cell for cell in cells if task_of(cell.experiment) != FORMATTED]

    def inputs(self, experiment: str) -> ExperimentInputs:
        """Read the inputs of an experiment."""
        settings = self.grid.experiments[experiment]
        contrast = self.contrast_of(experiment, settings)
        return read_inputs(
            experiment,
            settings,
            self.cache_of(settings),
            contrast=contrast if contrast is not None and is_finished(contrast) else None,
            data=self.data,
        )

    def cache_of(self, experiment: Experiment) -> Path:
        """Return the cache of an experiment: the given one, or one per model and settings."""
        if self.cache is not None:
            return self.cache
        key = hashlib.sha256(canonical_json([experiment.model, experiment.sampling()]))
        return self.out / _CACHES / f"{Path(experiment.model).name}-{key.hexdigest()[:8]}"

    def contrast_of(self, name: str, experiment: Experiment) -> Path | None:
        """Return the folder of an experiment's contrast rows; None if it has none."""
        if not experiment.contrast:
            return None
        sampling = experiment.sampling()
        key = hashlib.sha256(canonical_json([experiment.model, experiment.contrast, sampling]))
        return self.out / _CACHES / f"{name}-contrast-{key.hexdigest()[:8]}"

    def missing_caches(self) -> dict[Path, Experiment]:
        """Return the caches to sample, each with an experiment that needs it."""
        if self.cache is not None:
            return {}
        names = {cell.experiment for cell in unfinished_cells(self) if cell.ratio}
        needed = [one for name, one in self.grid.experiments.items() if name in names]
        caches = {self.cache_of(one): one for one in needed}
        return {folder: one for folder, one in caches.items() if not is_finished(folder)}

    def start(self) -> None:
        """Write grid and inputs into the folder, or check that they are those of the folder."""
        check_folder_is_ours(self.out, _OWN, sign=_GRID)
        grid, inputs = self.grid.as_dict(), self._hashes()
        if (self.out / _GRID).is_file():
            text = (self.out / _GRID).read_text(encoding="utf-8")
            before = Grid.from_dict(yaml.safe_load(text), where=str(self.out / _GRID)).as_dict()
            check_same_settings(self.out, _fixed(before), _fixed(grid))
        earlier: dict[str, Any] = {}
        if (self.out / _INPUTS).is_file():
            earlier = json.loads((self.out / _INPUTS).read_text(encoding="utf-8"))
            both = {name: digest for name, digest in inputs.items() if name in earlier}
            check_same_settings(self.out, {name: earlier[name] for name in both}, both)
        write_text(self.out / _GRID, yaml.safe_dump(grid, sort_keys=False, allow_unicode=True))
        write_json(self.out / _INPUTS, {**earlier, **inputs})

    def estimate(self, workers: int = 1) -> tuple[list[CellEstimate], float | None]:
        """Return the cells, and the seconds until all are finished; None if unknown."""
        experiments = self.grid.experiments
        cells = estimate_cells(
            self,
            {name: one.settings() for name, one in experiments.items()},
            {name: one.seconds for name, one in experiments.items()},
            steps={name: one.steps for name, one in experiments.items()},
        )
        seconds = total_seconds(cells, workers)
        for experiment in self.missing_caches().values():
            if seconds is None or experiment.seconds is None:
                return cells, None
            seconds += experiment.seconds.pair * experiment.cache.pairs
        return cells, seconds

    def _hashes(self) -> dict[str, str]:
        """Return hashes of the inputs; a copy of an input has the same hash."""
        hashes = {"cache": _SAMPLED if self.cache is None else _hash_of(self.cache)}
        if self.data is not None:
            hashes["data"] = _hash_of(self.data)
        return hashes


def reproduce(
    run: Reproduction,
    *,
    workers: int = 1,
    on_progress: OnProgress = lambda done, total, note: None,
    on_sampling: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Run the unfinished cells of a grid, and write the report of the finished ones.

    Args:
        run: The run.
        workers: Number of cells that run at once.
        on_progress: Called when a cell ends; with one worker also after each training step.
        on_sampling: Called with the number of pairs sampled and to sample.

    Returns:
        The content of `report.json`.

    Raises:
        ForeignFolderError: The folder holds something else.
        SettingsError: The folder has other settings of an experiment, or other inputs.
        InputError: An input does not exist, or there are no workers.
        EngineError: Cells failed; all others are finished, and the report is written.
    """
    check_workers(workers)
    run.start()
    for folder, experiment in run.missing_caches().items():
        sample_cache(
            folder,
            experiment,
            device=run.device,
            on_progress=on_sampling,
        )
    names = {cell.experiment for cell in unfinished_cells(run)}
    for name, experiment in run.grid.experiments.items():
        rows = run.contrast_of(name, experiment)
        if rows is not None and name in names and not is_finished(rows):
            sample_contrast(
                rows,
                name,
                experiment,
                device=run.device,
                data=run.data,
                on_progress=on_sampling,
            )
    failures = run_sweep(run, workers=workers, on_progress=on_progress)
    with folder_lock(run.out):
        document = write_report(read_results(run.grid, run.out), run.out)
    raise_failures(failures, len(run.cells()))
    return document


def _fixed(grid: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a grid that a rerun must share: no words, estimates and cells."""
    experiments = {
        name: {key: value for key, value in experiment.items() if key not in ("seconds", "blocks")}
        for name, experiment in grid["experiments"].items()
    }
    return {"name": grid["name"], "experiments": experiments}


def _hash_of(path: Path) -> str:
    """Return the hash of a file, of a finished output, or of the files of a folder."""
    if path.is_file():
        return file_sha256(path)
    if not path.is_dir():
        raise InputError(f"{path} does not exist: check the path")
    if (path / MANIFEST).is_file():
        read_manifest(path)  # Refuse an unfinished output.
        return file_sha256(path / MANIFEST)
    names = sorted(p.relative_to(path).as_posix() for p in path.rglob("[!.]*") if p.is_file())
    return hashlib.sha256(
        canonical_json([[name, file_sha256(path / name)] for name in names])
    ).hexdigest()


# The report


def write_report(results: Results, out: str | os.PathLike[str]) -> dict[str, Any]:
    """Write `report.md`, `report.json` and the figures; return the content of `report.json`."""
    root = Path(out)
    tables, findings = make_tables(results), check_claims(results)
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
    runs = read_runs(root, [result.cell for result in results.finished])
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
    total = len(results.finished) + len(results.missing)
    yield f"# Reproduction: {results.grid.name}\n"
    if results.grid.about:
        yield f"{results.grid.about}\n"
    yield f"{len(results.finished)} of {total} cells are finished."
    yield (
        "A number is the mean over seeds. Brackets show the 95% interval over seeds and held-out "
        "rows, or the smallest and largest seed of a distance. *Italics are the paper's numbers*, "
        "of other and larger models; – is a number that does not exist or was not run.\n"
    )
    yield "## Agreement with the paper\n"
    for finding in findings:
        yield f"- **{finding.verdict}**: {finding.claim} {finding.numbers}"
    for table in tables:
        yield from _table(table)
    for name, caption in FIGURES.items():
        yield f"\n## {name.replace('-', ' ').capitalize()}\n"
        if name in drawn:
            yield f"![{caption}](figures/{name}.png)\n"
            yield f"{caption}. Lines are means over seeds, bands the range of the seeds."
        else:
            yield f"{caption}: not run."
    yield "\n## Runs\n"
    yield from _runs(results, runs)


def _table(table: Table) -> Iterator[str]:
    yield f"\n## {table.name.replace('-', ' ').capitalize()}: {table.title}\n"
    if not table.run:
        yield "Not run: no cell of this table is finished."
        return
    # A column with the paper's numbers follows each column for which it has any.
    columns_of = zip(*(line.entries for line in table.lines), strict=True)
    paper = [any(entry.paper is not None for entry in column) for column in columns_of]
    head = list(table.heads)
    for name, has in zip(table.columns, paper, strict=True):
        head += [name, "*paper*"] if has else [name]
    rows = []
    for line in table.filled:
        row: list[str | NumberCell] = list(line.heads)
        for entry, has in zip(line.entries, paper, strict=True):
            theirs = "–" if entry.paper is None else f"*{entry.paper_text}*"
            row += [entry.cell, theirs] if has else [entry.cell]
        rows.append(row)
    yield ShownTable("", head, rows, heads=len(table.heads)).markdown().rstrip("\n")
    if table.missing:
        yield f"\nNot run: {', '.join(table.missing)}."
    for note in table.notes:
        yield f"\n{note}"


def _runs(results: Results, runs: Sequence[dict[str, Any]]) -> Iterator[str]:
    """List machines, versions and durations."""
    if not runs:
        yield "No cell is finished."
        return
    for machine, count in Counter(str(run["machine"]) for run in runs).items():
        yield f"- {count} cells on {machine}"
    for versions, count in Counter(
        ", ".join(f"{name} {number}" for name, number in sorted(run["versions"].items()))
        for run in runs
    ).items():
        yield f"- {count} cells with {versions}"
    seconds = [sum(run["seconds"].values()) for run in runs]
    dates = sorted(str(run["finished"])[:10] for run in runs)
    yield (
        f"- {sum(seconds) / 3600:.1f} hours of work in total, {min(seconds):.0f} to "
        f"{max(seconds):.0f} seconds per cell, finished from {dates[0]} to {dates[-1]}"
    )
    steps = [result.steps for result in results.finished if result.steps]
    if steps:
        yield f"- {min(steps)} to {max(steps)} optimizer steps per trained cell"
