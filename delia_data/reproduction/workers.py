"""Workers: each takes a cell that nobody holds, runs it, and takes the next.

    worker 1 (core 0) ──▶ lock of a cell ──▶ run it ──▶ next
    worker 2 (core 1) ──▶ lock of another ─▶ ...
    another machine, same folder ─▶ ...

A cell is claimed by the kernel's lock of its folder, which goes when its holder dies. On a CPU each
worker has one core to itself and one thread: two threads beside another job fight for cores.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

from delia_data.errors import DeliaError, EngineError, LockedError
from delia_data.outputs import folder_lock, is_finished, write_text
from delia_data.reproduction.cell import Cell
from delia_data.reproduction.cell_run import run_cell
from delia_data.reproduction.grid import ExperimentName
from delia_data.reproduction.ground import Ground
from delia_data.reproduction.run import Run

FAILED: Final = ".failed"
_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_WAIT_S: Final = 1.0
_STOPPED: Final = 130  # exit code of a worker that Ctrl-C ended


def run_cells(run: Run, *, on_cell: Callable[[Cell], None] = lambda cell: None) -> None:
    """Run every cell that is not finished and that nobody else holds, until none is left.

    A cell that fails is left with a file that says why, and tried again by the next run alone.

    Args:
        run: The run.
        on_cell: Called with each cell that was finished or failed here.
    """
    grounds: dict[ExperimentName, Ground] = {}
    tried: set[Cell] = set()
    while waiting := [c for c in run.cells() if c not in tried and not is_finished(run.folder(c))]:
        held = 0
        for cell in waiting:
            try:
                with folder_lock(run.folder(cell)):
                    # Another one may have finished it meanwhile, or failed.
                    if not is_finished(run.folder(cell)) and not _failed_now(run, cell):
                        _try_cell(run, cell, grounds)
                    tried.add(cell)
                    on_cell(cell)
            except LockedError:
                held += 1
        if held == len(waiting):
            time.sleep(_WAIT_S)


def start_workers(run: Run, count: int) -> list[BaseProcess]:
    """Start worker processes, each with a core and a thread of its own on a CPU.

    They end when this process does, however it ends.
    """
    context = multiprocessing.get_context("spawn")
    cores = cores_to_use(count) if run.device == "cpu" else [None] * count
    started: list[BaseProcess] = []
    with _one_thread(run.device == "cpu"):
        for core in cores:
            process = context.Process(target=_work, args=(run, core), daemon=True)
            process.start()
            started.append(process)
    return started


def cores_to_use(count: int) -> list[int | None]:
    """A core for each worker; none where cores cannot be chosen, or there are too few."""
    if not hasattr(os, "sched_getaffinity"):
        return [None] * count
    free = sorted(os.sched_getaffinity(0))
    return [*free[:count]] if len(free) >= count else [None] * count


def _work(run: Run, core: int | None) -> None:
    """What a worker process does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if core is not None:
        os.sched_setaffinity(0, {core})
    if run.device == "cpu":
        import torch

        torch.set_num_threads(1)
    try:
        run_cells(run)
    except KeyboardInterrupt:
        raise SystemExit(_STOPPED) from None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _try_cell(run: Run, cell: Cell, grounds: dict[ExperimentName, Ground]) -> None:
    folder = run.folder(cell)
    try:
        if cell.experiment not in grounds:
            grounds[cell.experiment] = Ground.of(run, cell.experiment)
        run_cell(
            cell,
            grounds[cell.experiment],
            folder,
            device=run.device,
            keep_adapter=run.keep_adapters,
        )
    except DeliaError as error:
        write_text(folder / FAILED, str(error))
    except (RuntimeError, ValueError, TypeError, LookupError, OSError) as error:
        traceback.print_exc()
        fault = EngineError(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")
        write_text(folder / FAILED, str(fault))


def _failed_now(run: Run, cell: Cell) -> bool:
    return (run.folder(cell) / FAILED).is_file()


@contextmanager
def _one_thread(wanted: bool) -> Iterator[None]:
    """Let processes that are started here compute with one thread."""
    earlier = {name: os.environ.get(name) for name in _THREADS}
    if wanted:
        os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in earlier.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def failures(run: Run) -> dict[str, str]:
    """Why cells failed, by their names."""
    found: dict[str, str] = {}
    for cell in run.cells():
        file: Path = run.folder(cell) / FAILED
        if file.is_file() and not is_finished(run.folder(cell)):
            found[cell.name] = file.read_text(encoding="utf-8")
    return found
