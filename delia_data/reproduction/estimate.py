"""How long what is left will take, from the cells that are done, or from what the grid says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from delia_data.outputs import is_finished
from delia_data.reproduction.cell import Cell
from delia_data.reproduction.cell_run import RUN
from delia_data.reproduction.grid import Experiment, Seconds
from delia_data.reproduction.result import read_result
from delia_data.reproduction.run import Run
from delia_data.training.baselines import baseline


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is left of a run.

    Attributes:
        cells: Seconds of each cell that is not finished, by its name; None where nobody knows.
        caches: Seconds to sample the caches that are not finished; None likewise.
        measured: Finished cells that the numbers are of; 0 where they are the grid's own.
    """

    cells: Mapping[str, float | None]
    caches: float | None
    measured: int

    def seconds(self, workers: int) -> float | None:
        """Seconds until all is done, with so many workers; None where nobody knows."""
        known = [one for one in self.cells.values() if one is not None]
        if self.caches is None or len(known) < len(self.cells):
            return None
        return self.caches + max([sum(known) / workers, *known], default=0.0)


def estimate(run: Run) -> Estimate:
    """Estimate what is left of a run."""
    cells = run.cells()
    left = [cell for cell in cells if not is_finished(run.folder(cell))]
    by_experiment = {
        name: _measured(run, [c for c in cells if c.experiment == name])
        for name in run.grid.experiments
    }
    found: dict[str, float | None] = {}
    for cell in left:
        experiment = run.grid.experiments[cell.experiment]
        seconds = by_experiment[cell.experiment] or experiment.seconds
        found[cell.name] = None if seconds is None else _of(cell, experiment, seconds)
    caches: float | None = 0.0
    for folder in run.caches(left):
        if not is_finished(folder):
            pair = [e for e in run.grid.experiments.values() if run.cache_of(e) == folder]
            known = pair[0].seconds
            caches = (
                None
                if known is None or caches is None
                else (caches + known.pair * pair[0].cache.pairs)
            )
    done = len(cells) - len(left)
    return Estimate(found, caches, done if any(by_experiment.values()) else 0)


def read_runs(run: Run) -> list[dict[str, Any]]:
    """What `run.json` of each finished cell says."""
    folders = [run.folder(cell) for cell in run.cells()]
    return [json.loads((f / RUN).read_text("utf-8")) for f in folders if is_finished(f)]


def _measured(run: Run, cells: Sequence[Cell]) -> Seconds | None:
    """Seconds by what was measured, where a trained cell is finished."""
    rows, train, rest = 0.0, 0.0, []
    for cell in cells:
        folder = run.folder(cell)
        if not is_finished(folder):
            continue
        seconds = json.loads((folder / RUN).read_text("utf-8"))["seconds"]
        rows += read_result(folder).trained_rows
        train += seconds.get("train", 0.0)
        rest.append(sum(seconds.values()) - seconds.get("train", 0.0))
    if not rows:
        return None
    return Seconds(trained_row=train / rows, evaluation=fmean(rest), pair=0.0)


def _of(cell: Cell, experiment: Experiment, seconds: Seconds) -> float:
    rows = baseline(cell.method).trained_rows(cell.rows or 0, cell.ratio or 0.0)
    epochs = experiment.settings().epochs
    return epochs * rows * seconds.trained_row + seconds.evaluation
