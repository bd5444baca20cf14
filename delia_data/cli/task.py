"""`delia task inspect`: what was understood of a task, before anything is spent on it."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from delia_data.cli import _task_options as given
from delia_data.cli._completion import among
from delia_data.cli._console import console
from delia_data.cli._json import AsJson, show_json
from delia_data.tasks import READY_TASKS, Inspection, inspect_task
from delia_data.tokens import DEFAULT_TOKEN

app = typer.Typer(name="task", help="Look at a task.", no_args_is_help=True)


@app.callback()
def _task() -> None:
    """Look at a task."""


@app.command("inspect")
def inspect(
    source: Annotated[
        str,
        typer.Argument(
            help=f"File, glob, folder or Hub id of rows; or one of {', '.join(READY_TASKS)}.",
            autocompletion=among(READY_TASKS),
        ),
    ],
    query: given.Query = None,
    answer: given.Answer = None,
    format: given.Format = None,
    instruction: given.Instruction = None,
    instruction_column: given.InstructionColumn = None,
    last_paragraph: given.LastParagraph = False,
    stands_for: given.StandsFor = None,
    request: given.Request = "",
    meaning: given.Meaning = None,
    key: given.Key = None,
    scoring: given.Scoring = None,
    token: given.Token = DEFAULT_TOKEN,
    avoid: given.Avoid = None,
    name: given.Name = None,
    test: given.Test = None,
    test_share: given.TestShare = None,
    rows: given.Rows = None,
    seed: given.Seed = 0,
    data: given.Data = None,
    from_language: given.FromLanguage = "en",
    to_language: given.ToLanguage = "is",
    as_json: AsJson = False,
) -> None:
    """Show what was understood of a task: rows, instruction, token, scoring."""
    reading = given.Reading.of(dict(locals()))
    found = inspect_task(reading.read(source))
    if as_json:
        show_json(found.as_dict())
    else:
        _print(found)


def _print(found: Inspection) -> None:
    width = max(len(name) for name in found.facts)
    for name, value in found.facts.items():
        console.print(Text(f"{name:<{width}}  {_shown(value)}"), soft_wrap=True)
    for query, answer in found.shown:
        console.print(Text(f"\n{_cut(query)}\n-> {_cut(answer)}"), soft_wrap=True)
    for note in found.notes:
        console.print(Text(f"\nnote: {note}"), soft_wrap=True)


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
