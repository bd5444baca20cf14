"""Run all cells of a sweep: one worker pool, resume after a kill, failures, time estimate.

    worker 1 (core 0) ──▶ lock of a cell ──▶ run it ──▶ next
    worker 2 (core 1) ──▶ lock of another ─▶ ...
    another machine, same folder ─▶ ...

A worker claims a cell with the kernel's lock on its folder, which is released when the worker dies.
On a CPU each worker is pinned to a core and has one thread: two threads per core slow both down.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import fmean
from typing import Any, Final, Protocol

from delia_data.errors import DeliaError, EngineError, InputError, LockedError
from delia_data.experiments.cells import RUN, read_result, run_cell
from delia_data.experiments.grid import Cell, Seconds
from delia_data.experiments.inputs import ExperimentInputs
from delia_data.experiments.methods import get_method
from delia_data.outputs import folder_lock, is_finished, write_text
from delia_data.training.settings import TrainSettings, rows_a_step

CELLS: Final = "cells"
_FAILED: Final = ".failed"
_POLL_S: Final = 1.0
_JOIN_S: Final = 10.0
_INTERRUPTED: Final = 130  # exit code of a worker that Ctrl-C ended

OnProgress = Callable[[float, int, str], None]
"""Called with the number of finished cells, the number of all cells, and a note."""


class Sweep(Protocol):
    """A series of cells in one folder; a frozen, picklable value."""

    @property
    def out(self) -> Path:
        """Folder of the sweep; the cells are in its `cells` folder."""

    @property
    def device(self) -> str:
        """Device to train and evaluate on."""

    @property
    def keep_adapters(self) -> bool:
        """Whether to keep the trained weights of each cell."""

    def cells(self) -> list[Cell]:
        """Return the cells in the order in which they run."""

    def inputs(self, experiment: str) -> ExperimentInputs:
        """Read the inputs that the cells of an experiment share."""


def cell_folder(out: Path, cell: Cell) -> Path:
    """Return the folder of a cell."""
    return out / CELLS / cell.name


def unfinished_cells(sweep: Sweep) -> list[Cell]:
    """Return the cells that are not finished."""
    return [cell for cell in sweep.cells() if not is_finished(cell_folder(sweep.out, cell))]


def run_sweep(
    sweep: Sweep,
    *,
    workers: int = 1,
    on_progress: OnProgress = lambda done, total, note: None,
) -> dict[str, str]:
    """Run the unfinished cells of a sweep; cells that failed in an earlier run are tried again.

    Args:
        sweep: The sweep.
        workers: Number of cells that run at once, each in its own process, on a CPU also on its
            own core; with 1 they run in this process.
        on_progress: Called when a cell ends; with one worker also after each training step.

    Returns:
        Names of the cells that failed, with the reasons.

    Raises:
        EngineError: A worker crashed.
    """
    check_workers(workers)
    cells = sweep.cells()
    for cell in cells:
        (cell_folder(sweep.out, cell) / _FAILED).unlink(missing_ok=True)

    def report(note: str = "", part: float = 0.0) -> int:
        left = len(unfinished_cells(sweep))
        on_progress(len(cells) - left + part, len(cells), note)
        return left

    if report() == 0:
        return {}
    if workers == 1:
        _run_cells(sweep, report)
        return _failures(sweep)
    processes = _start_workers(sweep, workers)
    try:
        before = None
        while any(process.is_alive() for process in processes):
            if (left := unfinished_cells(sweep)) != before:
                before = left
                report()
            time.sleep(_POLL_S)
    finally:
        for process in processes:
            process.join(_JOIN_S)  # Ctrl-C reaches the workers too.
            if process.is_alive():
                process.terminate()
                process.join()
    report()
    failures = _failures(sweep)
    if any(process.exitcode for process in processes) and not failures:
        codes = ", ".join(str(process.exitcode) for process in processes)
        raise EngineError(f"workers exited with codes {codes}: run again to finish the other cells")
    return failures


def check_workers(workers: int) -> None:
    """Refuse fewer than one worker."""
    if workers < 1:
        raise InputError(f"{workers} workers are too few: give at least 1")


def raise_failures(failures: dict[str, str], total: int) -> None:
    """Raise an `EngineError` if there are failed cells."""
    if failures:
        name, reason = next(iter(failures.items()))
        raise EngineError(
            f"{len(failures)} of {total} cells failed, the first of them {name}: {reason}; "
            "run again to try them again"
        )


def _run_cells(sweep: Sweep, report: Callable[..., Any] = lambda *_: None) -> None:
    """Run each unfinished cell that no other worker holds, once; a failure's reason is a file."""
    inputs: dict[str, ExperimentInputs] = {}
    tried: set[Cell] = set()
    while waiting := [cell for cell in unfinished_cells(sweep) if cell not in tried]:
        held = 0
        for cell in waiting:
            folder = cell_folder(sweep.out, cell)
            try:
                with folder_lock(folder):
                    # Another worker may have finished or failed it in the meantime.
                    if not is_finished(folder) and not (folder / _FAILED).is_file():
                        _try_cell(sweep, cell, inputs, report)
                    tried.add(cell)
                    report()
            except LockedError:
                held += 1
        if held == len(waiting):
            time.sleep(_POLL_S)


def _try_cell(
    sweep: Sweep, cell: Cell, inputs: dict[str, ExperimentInputs], report: Callable[..., Any]
) -> None:
    def on_step(step: int, steps: int, loss: float) -> None:
        report(f"{cell.name}, step {step} of {steps}, loss {loss:.3f}", step / steps)

    folder = cell_folder(sweep.out, cell)
    try:
        if cell.experiment not in inputs:
            inputs[cell.experiment] = sweep.inputs(cell.experiment)
        run_cell(
            cell,
            inputs[cell.experiment],
            folder,
            device=sweep.device,
            keep_adapter=sweep.keep_adapters,
            on_step=on_step,
        )
    except DeliaError as error:
        write_text(folder / _FAILED, str(error))
    except (RuntimeError, ValueError, TypeError, LookupError, OSError) as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        write_text(folder / _FAILED, reason)


def _failures(sweep: Sweep) -> dict[str, str]:
    files = {c.name: cell_folder(sweep.out, c) / _FAILED for c in unfinished_cells(sweep)}
    return {name: f.read_text(encoding="utf-8") for name, f in files.items() if f.is_file()}


def _start_workers(sweep: Sweep, count: int) -> list[BaseProcess]:
    """Start worker processes, which end when this process ends, even if it is killed."""
    context = multiprocessing.get_context("spawn")
    cores: Sequence[int | None] = [None] * count
    if sweep.device == "cpu" and hasattr(os, "sched_getaffinity"):
        free = sorted(os.sched_getaffinity(0))
        cores = free[:count] if len(free) >= count else cores
    processes: list[BaseProcess] = []
    for core in cores:
        process = context.Process(target=_work, args=(sweep, core), daemon=True)
        process.start()
        processes.append(process)
    return processes


def _work(sweep: Sweep, core: int | None) -> None:
    """Run a worker process."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    if core is not None:
        os.sched_setaffinity(0, {core})
    if sweep.device == "cpu":
        import torch

        torch.set_num_threads(1)
    try:
        _run_cells(sweep)
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@dataclass(frozen=True, slots=True)
class CellEstimate:
    """The work of one cell: rows summed over epochs, seconds None if finished or unknown."""

    cell: Cell
    finished: bool
    trained_rows: int
    seconds: float | None


def estimate_cells(
    sweep: Sweep,
    settings: Mapping[str, TrainSettings],
    seconds: Mapping[str, Seconds | None],
    *,
    steps: Mapping[str, int | None] | None = None,
) -> list[CellEstimate]:
    """Estimate the work of each cell of a sweep.

    Args:
        sweep: The sweep.
        settings: Settings of the trainings, by experiment.
        steps: Optimizer steps of each training, by experiment, which replace the epochs.
        seconds: Durations by experiment; measured ones replace them once a trained cell is
            finished.
    """
    cells, estimates = sweep.cells(), []
    measured = {
        name: _measured_seconds(sweep, [c for c in cells if c.experiment == name]) or seconds[name]
        for name in dict.fromkeys(cell.experiment for cell in cells)
    }
    for cell in cells:
        per_epoch = get_method(cell.method).rows_per_epoch(cell.rows or 0, cell.ratio or 0.0)
        training = settings[cell.experiment]
        trained_rows = round(training.epochs * per_epoch)
        if per_epoch and (fixed := (steps or {}).get(cell.experiment)):
            trained_rows = fixed * rows_a_step(round(per_epoch), training)
        finished, unit = is_finished(cell_folder(sweep.out, cell)), measured[cell.experiment]
        duration = None
        if not finished and unit is not None:
            duration = trained_rows * unit.trained_row + unit.evaluation
        estimates.append(CellEstimate(cell, finished, trained_rows, duration))
    return estimates


def total_seconds(estimates: Sequence[CellEstimate], workers: int) -> float | None:
    """Return the seconds until all cells are finished; None if unknown."""
    durations = [one.seconds for one in estimates if not one.finished]
    estimated = [seconds for seconds in durations if seconds is not None]
    if len(estimated) < len(durations):
        return None
    return max([sum(estimated) / workers, *estimated], default=0.0)


def read_runs(out: Path, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Read `run.json` of each finished cell."""
    folders = [cell_folder(out, cell) for cell in cells]
    return [json.loads((f / RUN).read_text("utf-8")) for f in folders if is_finished(f)]


def _measured_seconds(sweep: Sweep, cells: Sequence[Cell]) -> Seconds | None:
    """Return the durations measured in finished cells; None if no trained cell is finished."""
    rows, train, rest = 0.0, 0.0, []
    for cell in cells:
        for run in read_runs(sweep.out, [cell]):
            seconds = run["seconds"]
            rows += read_result(cell_folder(sweep.out, cell)).trained_rows
            train += seconds.get("train", 0.0)
            rest.append(sum(seconds.values()) - seconds.get("train", 0.0))
    if not rows:
        return None
    return Seconds(trained_row=train / rows, evaluation=fmean(rest), pair=0.0)
