"""The application, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer

from delia_data._version import __version__
from delia_data.cli._group import CONTEXT, LazyGroup
from delia_data.cli._json import give_back_stdout
from delia_data.errors import DeliaError

COMMANDS: Final = {
    "quickstart": "Sample, diversify, mix, load, train, and evaluate, in minutes on two cores.",
    "sample": "Sample pairs from the model itself into a cache.",
    "quality": "Measure a cache: acceptance, repetition, diversity, coverage, language, secrets.",
    "diversify": "Give every row of a task its own wording of the instruction, checked.",
    "mix": "Mix tasks with pairs of caches, and write that with its manifest.",
    "lint": "Prove on tokenized rows that the token is whole and the loss on the answers alone.",
    "prepare": "Add the token to a model, and write a model folder for any training script.",
    "train": "Fine-tune a model and the token's embedding on a mixture.",
    "export": "Write an adapter so that any engine serves it, or a mixture's files for another "
    "trainer.",
    "evaluate": "Evaluate a model on held-out rows, with the token and without it.",
    "reproduce": "Run a grid of methods, task rows, ratios and seeds; compare it with the paper's "
    "numbers.",
    "ratio": "Find the smallest ratio that is about as good as the best, by a short series.",
    "measure": "Measure an adapter before and after training: representation, state space, "
    "gradients.",
    "report": "Write one page on any runs: summary, tables, figures, answers, settings.",
    "push": "Publish folders as one version: one commit and one tag; the same again changes "
    "nothing.",
    "pull": "Download a version as folders that `delia mix` and `delia train` take.",
    "doctor": "Print versions, extras found and missing, devices, and what works.",
    "register": 'Make load_dataset("delia_mix", ...) work in programs that do not import '
    "delia_data.",
    "task": "Look at a task.",
}
"""The commands, each with the first line of its help. `cli/NAME.py` has it as `command` (or as
`app`, if it has commands of its own), and is imported when it runs."""

EARLIER: Final = {
    "compare": "Compare two finished evaluations; use `delia evaluate EVALUATION --against OTHER`.",
    "config": "Write another trainer's files; use `delia export MIXTURE OUT --for NAME`.",
    "diff": "Show which settings, rows, and wordings differ; use `delia pull --diff`.",
}
"""Earlier names of commands; they stay for one release and are not listed in the help."""

ALIASES: Final = {"plan": ("sample", "--estimate")}
"""Earlier names of commands with the arguments they stand for; they stay for one release."""

EXIT_CODES: Final = {
    0: "done",
    1: "a fault of ours, with its traceback",
    2: "what was given cannot be used: one line says what, why, and what to do",
    3: "done, with fewer rows than were asked for; what was printed says why",
    130: "stopped by Ctrl-C; the same command goes on from there",
}


class _Commands(LazyGroup):
    lazy = COMMANDS
    earlier = EARLIER
    aliases = ALIASES


app = typer.Typer(
    name="delia",
    cls=_Commands,
    help="Data that teaches a language model a small task, not its phrasing.",
    epilog="\n".join(["Exit codes", *(f"{n:>5}  {says}" for n, says in EXIT_CODES.items())]),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=dict(CONTEXT),
)


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
    """Run the command line and leave with one of `EXIT_CODES`."""
    try:
        app(standalone_mode=True)
    except DeliaError as error:
        print(f"delia: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 130:  # what typer makes of Ctrl-C
            print("delia: stopped; the same command goes on from here", file=sys.stderr)
        raise
    finally:
        give_back_stdout()
