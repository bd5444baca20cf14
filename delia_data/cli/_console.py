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
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["console", "step"]

console = Console(highlight=False)
Update = Callable[[float, float], None]


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
            TextColumn("left"),
            TimeRemainingColumn(),
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
