"""`delia reproduce`: a grid of methods, and the paper's tables and figures of our own runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from delia_data.bundled_cache import cache_path
from delia_data.cli._completion import among
from delia_data.cli._console import console, messages, step
from delia_data.cli._json import AsJson, show_json
from delia_data.errors import InputError

if TYPE_CHECKING:
    from delia_data.reproduction.run import Run


def command(
    places: Annotated[
        list[Path],
        typer.Argument(
            metavar="[GRID.yaml] OUT",
            help="A grid, unless --scale names one, and the folder of the run; a rerun goes on "
            "there.",
            show_default=False,
        ),
    ],
    scale: Annotated[
        str | None,
        typer.Option(
            help="A bundled grid: tiny (two cores), small (one GPU), paper.",
            autocompletion=among(["tiny", "small", "paper"]),
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="A method to run; several can be given.")
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Cells run at once; on a CPU each has a core to itself.")
    ] = 1,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Cache to take the pairs from, bundled or a folder; each model's own if not given."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of parallel files ending in .en and .is, to translate."),
    ] = None,
    dictionary: Annotated[
        Path | None,
        typer.Option(help="Folder with en-is.tsv and is-en.tsv; by default made of the rows."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    keep_adapters: Annotated[
        bool, typer.Option("--keep-adapters", help="Keep what was trained in each cell.")
    ] = False,
    show: Annotated[
        bool, typer.Option("--list", help="Show cells and how long they will take; run nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a grid of methods, task rows, ratios and seeds; compare it with the paper's numbers."""
    from delia_data.reproduction import reproduce
    from delia_data.reproduction.grid import read_grid
    from delia_data.reproduction.run import Run

    grid, out = _places(places, scale)
    run = Run(
        read_grid(grid),
        out,
        cache=cache_path(cache),
        data=data,
        dictionary=dictionary,
        device=device,
        only=tuple(only or ()),
        keep_adapters=keep_adapters,
    )
    if show:
        _show(run, workers, as_json)
        return
    with step("cells", to=messages) as cells, step("sampling", to=messages) as sampling:
        updates = {"cells": cells, "sampling": sampling}
        document = reproduce(
            run,
            workers=workers,
            on_progress=lambda what, done, of: updates[what](done, of),
        )
    if as_json:
        show_json(document)
        return
    for finding in document["findings"]:
        console.print(
            f"{finding['verdict']}: {finding['claim']} {finding['numbers']}",
            soft_wrap=True,
            markup=False,
        )
    if blocked := run.blocked():
        console.print(
            f"{len(blocked)} cells of translation were not run: give --data", soft_wrap=True
        )
    console.print(f"Everything to look at: {out / 'report.md'}", soft_wrap=True, markup=False)


def _places(places: list[Path], scale: str | None) -> tuple[str | Path, Path]:
    """The grid and the folder."""
    if scale is not None and len(places) == 1:
        return scale, places[0]
    if scale is None and len(places) == 2:
        return places[0], places[1]
    if scale is None:
        raise InputError("give a grid and a folder (GRID.yaml OUT), or --scale tiny and a folder")
    raise InputError("--scale names the grid, so that a folder alone is to be given")


def _show(run: Run, workers: int, as_json: bool) -> None:
    """Print the cells, and what is left to do."""
    from delia_data.outputs import is_finished
    from delia_data.reproduction.estimate import estimate

    blocked = set(run.blocked())
    left = estimate(run)
    rows: list[dict[str, Any]] = []
    for cell in run.asked_for():
        done = is_finished(run.folder(cell))
        state = "finished" if done else "needs --data" if cell in blocked else "to run"
        rows.append({**cell.as_dict(), "state": state, "seconds": left.cells.get(cell.name)})
    total = left.seconds(workers)
    if as_json:
        show_json(
            {
                "grid": run.grid.name,
                "cells": rows,
                "caches_seconds": left.caches,
                "seconds": total,
                "workers": workers,
                "measured_cells": left.measured,
            }
        )
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("experiment", "method", "rows", "ratio", "seed", "state", "seconds"):
        table.add_column(heading)
    for row in rows:
        table.add_row(*("" if value is None else _plain(value) for value in row.values()))
    console.print(table)
    source = f"from {left.measured} finished cells" if left.measured else "as the grid says"
    told = "unknown until a cell is finished" if total is None else f"{total / 3600:.1f} hours"
    counts = f"{sum(row['state'] == 'to run' for row in rows)} of {len(rows)} cells to run"
    console.print(
        f"{counts}; with {workers} worker{'s' if workers != 1 else ''}: {told} ({source})",
        soft_wrap=True,
    )


def _plain(value: object) -> str:
    return f"{value:.0f}" if isinstance(value, float) and value >= 10 else f"{value}"
