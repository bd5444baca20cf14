"""What the commands show: steps with a live bar and the time left, or plain lines in a pipe."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from delia_data.engines import Engine

__all__ = ["Update", "console", "messages", "step", "warnings_in_one_line", "with_parts"]

console = Console(highlight=False)
"""Where results go."""
messages = Console(highlight=False, stderr=True)
"""Where the way there is told, when the results are for another program."""


class Update(Protocol):
    """Tells how far a step is."""

    def __call__(self, done: float, total: float, note: str = "") -> None:
        """Take how much is done, how much there is in all, and a few words on how it goes."""
        ...


class _TimeLeft(ProgressColumn):
    """The time left, were all to go on as fast as so far: steady where work comes in batches."""

    def render(self, task: Task) -> Text:
        """Show it, or nothing where it is not known."""
        if not task.total or not task.completed or task.elapsed is None or task.finished:
            return Text("")
        seconds = task.elapsed * (task.total - task.completed) / task.completed
        return Text(f"{seconds // 60:.0f}:{seconds % 60:02.0f} left")


@contextmanager
def step(title: str, *, to: Console | None = None) -> Iterator[Update]:
    """Show one step.

    Args:
        title: What is being done.
        to: Where it is shown: with the results when not given.

    Yields:
        A function to call with how much is done and how much there is in all. A terminal shows
        a bar with the time left; a pipe, or a terminal that cannot move its cursor, gets a line
        for every tenth.
    """
    shown_in = to or console
    if shown_in.is_terminal and not shown_in.is_dumb_terminal:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _TimeLeft(),
            TextColumn("{task.fields[note]}", style="dim"),
            console=shown_in,
        ) as progress:
            bar = progress.add_task(title, total=None, note="")
            yield lambda done, total, note="": progress.update(
                bar, completed=done, total=total, note=note
            )
        return
    yield _lines(title, shown_in)


def _lines(title: str, shown_in: Console) -> Update:
    began = time.monotonic()
    shown = 0

    def update(done: float, total: float, note: str = "") -> None:
        nonlocal shown
        tenth = int(10 * done / total) if total else 10
        if tenth == shown:
            return
        shown = tenth
        elapsed = time.monotonic() - began
        left = f", about {elapsed * (total - done) / done:.0f} s left" if 0 < done < total else ""
        told = f"; {note}" if note else ""
        shown_in.print(f"{title}: {done:.0f} of {total:.0f}{left}{told}", soft_wrap=True)

    return update


@contextmanager
def warnings_in_one_line(category: type[Warning]) -> Iterator[None]:
    """Print each warning in one line, with nothing of where in the code it arose.

    Args:
        category: Warnings that are shown every time, and not once alone.
    """

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        messages.print(f"warning: {message}", style="bold red", markup=False, soft_wrap=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", category)
        warnings.showwarning = show
        yield


def with_parts(engine: Engine, update: Callable[[float], None]) -> Callable[[float], None]:
    """Let a bar move within a batch too, where the engine tells how far it is.

    Args:
        engine: The engine that is at work.
        update: Takes how much is done.

    Returns:
        A function to call with what is done, whole requests alone.
    """
    done = 0.0

    def tell(count: float) -> None:
        nonlocal done
        done = count
        update(count)

    if hasattr(engine, "on_part"):
        engine.on_part = lambda part: update(done + part)
    return tell
