"""`delia task inspect`: show how a task is read, before a model is used."""

from __future__ import annotations

from typing import Any

import typer

from delia_data.cli._flags import argument, with_options
from delia_data.cli._options import TaskOptions
from delia_data.cli._output import AsJson, say, show_json, show_reading
from delia_data.tasks import READY_TASKS, Inspection, inspect_task

app = typer.Typer(name="task", help="Inspect a task.", no_args_is_help=True)


@app.callback()
def _task() -> None:
    """Inspect a task."""


@app.command("inspect")
@with_options(options=TaskOptions)
def inspect(
    source: str = argument(
        f"File, glob, folder, or Hub id of rows; or one of {', '.join(READY_TASKS)}.",
        complete=READY_TASKS,
    ),
    as_json: AsJson = False,
    *,
    options: TaskOptions,
) -> None:
    """Show how a task is read: rows, instruction, token, scoring."""
    task = options.read(source)
    inspection = inspect_task(task)
    if as_json:
        show_json(inspection.as_dict())
    else:
        show_reading(source, task.read)
        _print(inspection)


def _print(inspection: Inspection) -> None:
    width = max(len(name) for name in inspection.facts)
    for name, value in inspection.facts.items():
        say(f"{name:<{width}}  {_shown(value)}")
    for query, answer in inspection.shown:
        say(f"\n{_cut(query)}\n-> {_cut(answer)}")
    for note in inspection.notes:
        say(f"\nnote: {note}")


def _shown(value: Any) -> str:
    match value:
        case dict():
            return ", ".join(f"{name} {count:,}" for name, count in value.items()) or "free text"
        case [int(), int(), int()]:
            return f"{value[0]} to {value[2]}, half of them up to {value[1]}"
        case list():
            return ", ".join(map(str, value)) or "none"
        case _:
            return str(value)


def _cut(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]}..."
