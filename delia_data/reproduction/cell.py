"""One cell of a grid: a method on so many rows at a ratio from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from delia_data.errors import InputError
from delia_data.reproduction.grid import ExperimentName, Grid
from delia_data.training.baselines import baseline


@dataclass(frozen=True, slots=True)
class Cell:
    """One method, run once.

    Attributes:
        experiment: The experiment that it is of.
        method: The method's name.
        rows: Task rows; None where the method does not depend on them.
        ratio: Pairs for each task row; None likewise.
        seed: The seed; None likewise.
    """

    experiment: ExperimentName
    method: str
    rows: int | None
    ratio: float | None
    seed: int | None

    @property
    def name(self) -> str:
        """Its folder's name, which says all of it."""
        axes = (("rows", self.rows), ("ratio", self.ratio), ("seed", self.seed))
        told = [f"{name}-{value:g}" for name, value in axes if value is not None]
        return "_".join([self.experiment, self.method, *told])

    def as_dict(self) -> dict[str, Any]:
        """The cell as plain values."""
        return asdict(self)

    def seed_or(self, default: int = 0) -> int:
        """The seed, or a fixed one for a method that draws nothing."""
        return default if self.seed is None else self.seed


def cells_of(grid: Grid, *, only: tuple[str, ...] = ()) -> list[Cell]:
    """Give a grid's cells in the order in which they are run, each once.

    Everything is run with its first seed before anything with its second, so that a run that is
    stopped early has every method; otherwise experiments and blocks come in their order.

    Args:
        grid: The grid.
        only: Methods that are run; all where none is named.

    Raises:
        InputError: A method is unknown, or the grid does not have it.
    """
    cells = list(dict.fromkeys(_all(grid)))
    for name in only:
        baseline(name)
        if all(cell.method != name for cell in cells):
            has = ", ".join(dict.fromkeys(cell.method for cell in cells))
            raise InputError(f"grid {grid.name} does not run {name!r}: it runs {has}")
    return [cell for cell in cells if not only or cell.method in only]


def _all(grid: Grid) -> Iterator[Cell]:
    blocks = [(name, block) for name, one in grid.experiments.items() for block in one.blocks]
    for number in range(max((len(block.seeds) for _, block in blocks), default=0)):
        for name, block in blocks:
            for seed in block.seeds[number : number + 1]:
                for rows in block.rows:
                    for ratio in block.ratios:
                        for method in block.methods:
                            yield _cell(name, method, rows, ratio, seed)


def _cell(experiment: ExperimentName, method: str, rows: int, ratio: float, seed: int) -> Cell:
    """A cell without the axes that change nothing for its method."""
    uses = baseline(method).uses
    return Cell(
        experiment,
        method,
        rows if "rows" in uses else None,
        float(ratio) if "ratio" in uses else None,
        seed if "seed" in uses else None,
    )
