"""What the commands show: steps with a live bar and the time left, or plain lines in a pipe."""

from __future__ import annotations

import json
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Protocol

import typer
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

console = Console(highlight=False)
"""Where results go."""
messages = Console(highlight=False, stderr=True)
"""Where the way there is told, when the results are for another program."""


class Update(Protocol):
    """Tells how far a step is."""

    def __call__(self, done: float, total: float, note: str = "") -> None:
        """Take how much is done, how much there is in all, and a few words on how it goes."""
        ...


class _Pace:
    """The time left, were all to go on as fast as since the first look.

    Steady where work comes in batches, and what an earlier run did counts for nothing. A count that
    falls a little is a batch of which less is kept than was thought; one that falls by more than a
    tenth is of other work, which begins there.
    """

    def __init__(self) -> None:
        self._before, self._began = math.inf, 0.0
        self._furthest = 0.0

    def is_other_work(self, done: float, total: float) -> bool:
        """Whether the next look is the first one, or the first of other work."""
        return done < max(self._before, self._furthest - total / 10)

    def left(self, done: float, total: float) -> float | None:
        """Seconds, or None where they are not known."""
        now = time.monotonic()
        if self.is_other_work(done, total):
            self._before, self._began, self._furthest = done, now, done
        self._furthest = max(self._furthest, done)
        if not self._before < done < total:
            return None
        return (now - self._began) * (total - done) / (done - self._before)


class _TimeLeft(ProgressColumn):
    """The time left."""

    def __init__(self) -> None:
        super().__init__()
        self._pace = _Pace()

    def render(self, task: Task) -> Text:
        """Show it, or nothing where it is not known."""
        left = self._pace.left(task.completed, task.total) if task.total else None
        return Text("" if left is None else f"{left // 60:.0f}:{left % 60:02.0f} left")


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
    pace = _Pace()
    shown = 0

    def update(done: float, total: float, note: str = "") -> None:
        nonlocal shown
        if pace.is_other_work(done, total):
            shown = 0
        left = pace.left(done, total)
        tenth = int(10 * done / total) if total else 10
        if tenth <= shown:
            return
        shown = tenth
        time_left = "" if left is None else f", about {left:.0f} s left"
        told = f"; {note}" if note else ""
        shown_in.print(f"{title}: {done:.0f} of {total:.0f}{time_left}{told}", soft_wrap=True)

    return update


def show_skipped_files(given: str) -> None:
    """Print which files of a folder of rows are not read, with the reasons."""
    from delia_data.reading import is_output, open_source

    folder = Path(given)
    if not folder.is_dir() or is_output(folder):
        return
    if skipped := open_source(folder).report.skipped:
        line = f"note: {folder}: {len(skipped)} files not read ({', '.join(skipped)})"
        messages.print(line, markup=False, soft_wrap=True)


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


_aside: Final[list[tuple[Any, int | None]]] = []
"""The standard output while it is kept free: the stream, and a copy of its file descriptor."""


def _keep_stdout_free(context: typer.Context, wanted: bool) -> bool:
    """Send what anybody prints to the standard error until the document is shown."""
    if wanted and not _aside:
        sys.stdout.flush()
        try:
            copy = os.dup(1)
            os.dup2(2, 1)  # programs that an engine starts print too
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
        callback=_keep_stdout_free,
        help="Print one JSON document, and nothing else; progress goes to stderr.",
    ),
]
"""Type of a command's parameter `as_json`. Where it is true, all that is printed goes to the
standard error, until `show_json` prints the document."""


def show_json(value: object) -> None:
    """Print the document of a command.

    Args:
        value: Dataclasses, pydantic models, mappings, sequences, sets, paths and plain values,
            one in another. Numbers that are not finite become null.
    """
    give_back_stdout()
    print(json.dumps(plain(value), indent=2, allow_nan=False), flush=True)


def give_back_stdout() -> None:
    """Let the standard output be what it was; nothing happens where it is."""
    if not _aside:
        return
    stream, copy = _aside.pop()
    sys.stdout.flush()
    if copy is not None:
        os.dup2(copy, 1)
        os.close(copy)
    sys.stdout = stream


def plain(value: Any) -> Any:
    """What JSON can hold of a value."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, str | int | bool | None):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Set):
        return sorted(plain(each) for each in value)
    if isinstance(value, Sequence):
        return [plain(each) for each in value]
    return str(value)
