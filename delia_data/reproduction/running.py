"""A whole run: sample what is needed, run the cells, write the report."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from delia_data.errors import EngineError, InputError
from delia_data.outputs import folder_lock, is_finished
from delia_data.reproduction.estimate import read_runs
from delia_data.reproduction.ground import sample_cache
from delia_data.reproduction.report import write_reproduction
from delia_data.reproduction.results import read_results
from delia_data.reproduction.run import Run
from delia_data.reproduction.workers import FAILED, failures, run_cells, start_workers

OnProgress = Callable[[str, float, float], None]
"""Takes what is being done, how much of it is done, and how much there is."""

_LOOK_S: Final = 1.0
_END_S: Final = 10.0


def reproduce(
    run: Run,
    *,
    workers: int = 1,
    on_progress: OnProgress = lambda what, done, of: None,
) -> dict[str, Any]:
    """Run what is not finished of a grid, and write the report of what is.

    Args:
        run: The run.
        workers: Cells that are run at once; each has a process, and on a CPU a core, of its own.
            With 1 they are run in this process.
        on_progress: Called now and then.

    Returns:
        What `report.json` holds.

    Raises:
        ForeignFolderError: The folder holds something else.
        SettingsError: It was begun with another grid, or with other inputs.
        InputError: An input is not there, or there are no workers.
        EngineError: Cells failed; all others are finished, and the report is written.
    """
    if workers < 1:
        raise InputError(f"{workers} workers are too few: give at least 1")
    run.begin()
    cells = run.cells()
    for cell in cells:
        (run.folder(cell) / FAILED).unlink(missing_ok=True)
    left = [cell for cell in cells if not is_finished(run.folder(cell))]
    for folder, (model, how) in run.caches(left).items():
        if not is_finished(folder):
            sample_cache(
                folder,
                model,
                how,
                device=run.device,
                on_progress=lambda kept, of: on_progress("sampling", kept, of),
            )
    _run(run, workers, on_progress)
    with folder_lock(run.out):
        document = write_reproduction(read_results(run.grid, run.out), run.out, runs=read_runs(run))
    if failed := failures(run):
        name, why = next(iter(failed.items()))
        raise EngineError(
            f"{len(failed)} of {len(cells)} cells failed, the first of them {name}: {why}; "
            "run again to try them again"
        )
    return document


def _run(run: Run, workers: int, on_progress: OnProgress) -> None:
    cells = run.cells()

    def tell() -> None:
        done = sum(is_finished(run.folder(cell)) for cell in cells)
        on_progress("cells", done, len(cells))

    tell()
    if all(is_finished(run.folder(cell)) for cell in cells):
        return
    if workers == 1:
        run_cells(run, on_cell=lambda _: tell())
        return
    processes = start_workers(run, workers)
    try:
        before = -1
        while any(process.is_alive() for process in processes):
            done = sum(is_finished(run.folder(cell)) for cell in cells)
            if done != before:
                tell()
                before = done
            time.sleep(_LOOK_S)
    finally:
        for process in processes:
            process.join(_END_S)  # Ctrl-C reaches them as well
            if process.is_alive():
                process.terminate()
                process.join()
    tell()
    if any(process.exitcode for process in processes) and not failures(run):
        codes = ", ".join(str(process.exitcode) for process in processes)
        raise EngineError(f"workers ended with {codes}: run again, and what is missing is run")
