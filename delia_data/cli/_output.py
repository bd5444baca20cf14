"""Output of the commands: progress, notes and warnings, and JSON documents."""

from __future__ import annotations

import json
import math
import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol

import typer
from pydantic_core import to_jsonable_python
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from delia_data.evaluation import tables
    from delia_data.experiments.grid import Cell
    from delia_data.experiments.sweep import CellEstimate

console = Console(highlight=False, emoji=False)
"""Console for results (stdout)."""
messages = Console(highlight=False, emoji=False, stderr=True)
"""Console for notes, warnings, and the progress of `--json` (stderr)."""

_SHOWN: Final = 5  # files or columns that a note names


def say(text: str) -> None:
    """Print a result as it is, on lines as long as it needs."""
    console.print(Text(text), soft_wrap=True)


def in_words(counts: Mapping[str, int]) -> str:
    """Return counts by reason or kind, such as `3 empty, 1 duplicate`."""
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def print_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", right: int | None = None
) -> None:
    """Print a table; columns from number `right` on are aligned to the right."""
    table = Table(
        title=Text(title) if title else None,
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for number, name in enumerate(head):
        at_right = right is not None and number >= right
        table.add_column(name, overflow="fold", justify="right" if at_right else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def show_table(table: tables.Table) -> None:
    """Print a table with its title and its note."""
    say(table.title)
    print_table(table.head, ([str(cell) for cell in row] for row in table.rows), right=table.heads)
    if table.note:
        say(f"{table.note}\n")


def show_notes(notes: Iterable[str]) -> None:
    """Print each note once."""
    for note in dict.fromkeys(notes):
        say(f"note: {note}")


class Update(Protocol):
    """Function that reports progress."""

    def __call__(self, done: float, total: float, note: str = "") -> None: ...


@contextmanager
def step(title: str, *, to: Console | None = None) -> Iterator[Update]:
    """Show the progress of one step: a bar in a terminal, a line for each tenth in a pipe.

    A count that falls by more than a tenth of the total begins another piece of work. A smaller
    fall is a batch that kept fewer rows than estimated.

    Yields:
        A function that takes the amount done, the total, and a note.
    """
    shown_in = to or console
    is_live = shown_in.is_terminal and not shown_in.is_dumb_terminal
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
        console=shown_in,
        disable=not is_live,
        get_time=lambda: time.monotonic(),
        speed_estimate_period=math.inf,
    )
    with progress:
        bar = progress.add_task(title, total=None, note="")
        task, tenth = progress.tasks[0], 0

        def update(done: float, total: float, note: str = "") -> None:
            nonlocal tenth
            if done < task.completed - total / 10:
                progress.reset(bar)
                tenth = 0
            progress.update(bar, completed=done, total=total, note=note)
            reached = int(10 * done / total) if total else 10
            if is_live or reached <= tenth:
                return
            tenth = reached
            time_left = f", about {left:.0f} s left" if (left := task.time_remaining) else ""
            suffix = f"; {note}" if note else ""
            shown_in.print(f"{title}: {done:.0f} of {total:.0f}{time_left}{suffix}", soft_wrap=True)

        yield update


def show_reading(name: str | os.PathLike[str], read: Mapping[str, Any]) -> None:
    """Print in one line which files, columns and texts of an input are not used, if any."""
    notes = []
    if skipped := read.get("skipped"):
        notes.append(f"not read: {_some(skipped)}")
    if columns := read.get("ignored"):
        notes.append(f"{_count(len(columns), 'column')} ignored ({_some(columns)})")
    if count := read.get("changed", {}).get("reasoning_removed"):
        notes.append(f"reasoning removed from {_count(count, 'row')}")
    if notes:
        messages.print(f"note: {name}: {'; '.join(notes)}", markup=False, soft_wrap=True)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _some(names: Sequence[str]) -> str:
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return ", ".join([*names[:_SHOWN], *more])


def show_cells(
    cells: Sequence[CellEstimate],
    seconds: float | None,
    workers: int,
    as_json: bool,
    *,
    blocked: Sequence[Cell] = (),
) -> None:
    """Print the cells of a sweep and the work that is left.

    Args:
        cells: The cells.
        seconds: Seconds until all are finished; None if unknown.
        workers: Number of cells that run at once.
        as_json: Print JSON.
        blocked: Cells that need translated texts.
    """
    left = [one for one in cells if not one.finished]
    rows = sum(one.trained_rows for one in left)
    if as_json:
        lines = [
            {
                **asdict(one.cell),
                "state": "finished" if one.finished else "to run",
                "trained_rows": one.trained_rows,
                "seconds": one.seconds,
            }
            for one in cells
        ]
        lines += [{**asdict(cell), "state": "needs --data"} for cell in blocked]
        show_json({"cells": lines, "rows_to_train": rows, "seconds": seconds, "workers": workers})
        return
    table = []
    for one in cells:
        state = "finished" if one.finished else "to run"
        duration = "" if one.seconds is None else f"{one.seconds:.0f}"
        table.append([*_axes(one.cell), state, f"{one.trained_rows:,}", duration])
    table += [[*_axes(cell), "needs --data", "", ""] for cell in blocked]
    head = ("experiment", "method", "rows", "ratio", "seed", "state", "trained", "seconds")
    print_table(head, table)
    hours = "unknown until a cell is finished" if seconds is None else f"{seconds / 3600:.1f} hours"
    say(
        f"{len(left)} of {len(cells) + len(blocked)} cells to run, {rows:,} rows to train; with "
        f"{workers} worker{'s' if workers != 1 else ''}: {hours}"
    )


def _axes(cell: Cell) -> list[str]:
    return ["" if value is None else f"{value}" for value in astuple(cell)]


@contextmanager
def warnings_in_one_line(category: type[Warning]) -> Iterator[None]:
    """Print each warning in one line, without its place in the code."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        messages.print(f"warning: {message}", style="bold red", markup=False, soft_wrap=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", category)
        warnings.showwarning = show
        yield


_aside: Final[list[tuple[Any, int | None]]] = []
"""The original stdout while stdout is redirected: the stream and a copy of its descriptor."""


def _keep_stdout_free(context: typer.Context, wanted: bool) -> bool:
    """Redirect stdout to stderr until `show_json` prints the document."""
    if wanted and not _aside:
        sys.stdout.flush()
        try:
            copy = os.dup(1)
            os.dup2(2, 1)  # child processes of an engine print too
        except OSError:
            copy = None
        _aside.append((sys.stdout, copy))
        sys.stdout = sys.stderr
        context.call_on_close(give_back_stdout)
    return wanted


AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON document, and nothing else; progress goes to stderr.",
        callback=_keep_stdout_free,
    ),
]
"""Type of a command's parameter `as_json`. If true, everything printed before `show_json` goes to
stderr."""


def show_json(value: object) -> None:
    """Print the JSON document of a command; see `plain` for the values it takes."""
    give_back_stdout()
    print(json.dumps(plain(value), indent=2, allow_nan=False), flush=True)


def give_back_stdout() -> None:
    """Restore stdout if it was redirected."""
    if not _aside:
        return
    stream, copy = _aside.pop()
    sys.stdout.flush()
    if copy is not None:
        os.dup2(copy, 1)
        os.close(copy)
    sys.stdout = stream


def plain(value: Any) -> Any:
    """Convert dataclasses, pydantic models, containers and paths to JSON values.

    Numbers that are not finite become None.
    """
    return to_jsonable_python(value, inf_nan_mode="null", fallback=str)
