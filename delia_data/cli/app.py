"""The application, and the one place where errors become a line and an exit code.

0    done
1    a fault of ours, with its traceback
2    what was given cannot be used: one line says what, why, and what to do
3    done, with fewer rows than were asked for; what was printed says why
130  stopped by Ctrl-C; the same command goes on from there
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from delia_data._version import __version__
from delia_data.cli import (
    diff,
    diversify,
    doctor,
    lint,
    mix,
    plan,
    pull,
    push,
    quickstart,
    sample,
    task,
    train,
)
from delia_data.errors import DeliaError

__all__ = ["app", "main"]

app = typer.Typer(
    name="delia",
    help="Data that teaches a language model a small task, not its phrasing.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    quickstart,
    plan,
    sample,
    diversify,
    mix,
    lint,
    train,
    push,
    pull,
    diff,
    doctor,
):
    app.command(name=command.__name__.rsplit(".", 1)[1])(command.command)
app.add_typer(task.app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"delia_data {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Data that teaches a language model a small task, not its phrasing."""


def main() -> None:
    """Run the command line; see the module for the exit codes."""
    try:
        app(standalone_mode=True)
    except DeliaError as error:
        print(f"delia: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 130:  # what typer makes of Ctrl-C
            print("delia: stopped; the same command goes on from here", file=sys.stderr)
        raise
