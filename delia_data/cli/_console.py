"""What the commands show: steps with a live bar and the time left, or plain lines in a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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

from delia_data.engines import Engine

__all__ = ["console", "step", "with_parts"]

console = Console(highlight=False)
Update = Callable[[float, float], None]


class _TimeLeft(ProgressColumn):
    """The time left, were all to go on as fast as so far: steady where work comes in batches."""

    def render(self, task: Task) -> Text:
        """Show it, or nothing where it is not known."""
        if not task.total or not task.completed or task.elapsed is None or task.finished:
            return Text("")
        seconds = task.elapsed * (task.total - task.completed) / task.completed
        return Text(f"{seconds // 60:.0f}:{seconds % 60:02.0f} left")


@contextmanager
def step(title: str) -> Iterator[Update]:
    """Show one step.

    Args:
        title: What is being done.

    Yields:
        A function to call with how much is done and how much there is in all. A terminal shows
        a bar with the time left; a pipe gets a line for every tenth.
    """
    if console.is_terminal:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _TimeLeft(),
            console=console,
        ) as progress:
            bar = progress.add_task(title, total=None)
            yield lambda done, total: progress.update(bar, completed=done, total=total)
        return
    yield _lines(title)


def _lines(title: str) -> Update:
    began = time.monotonic()
    shown = 0

    def update(done: float, total: float) -> None:
        nonlocal shown
        tenth = int(10 * done / total) if total else 10
        if tenth == shown:
            return
        shown = tenth
        elapsed = time.monotonic() - began
        left = f", about {elapsed * (total - done) / done:.0f} s left" if 0 < done < total else ""
        console.print(f"{title}: {done:.0f} of {total:.0f}{left}", soft_wrap=True)

    return update


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
