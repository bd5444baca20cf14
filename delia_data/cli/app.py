"""The command line: commands imported on demand, and errors turned into exit codes."""

from __future__ import annotations

import errno
import shlex
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, ClassVar, Final

import typer
from typer.core import TyperCommand, TyperGroup

from delia_data._version import __version__
from delia_data.cli._flags import option
from delia_data.cli._output import give_back_stdout
from delia_data.errors import DeliaError

CONTEXT: Final = {"help_option_names": ["-h", "--help"]}
"""Click settings of every command."""


class LazyGroup(TyperGroup):
    """Group that imports a command when it is run or completed."""

    lazy: ClassVar[Mapping[str, str]] = {}
    """Help line by command name; the command is in `delia_data.cli.NAME`."""
    aliases: ClassVar[Mapping[str, Callable[[list[str]], list[str]]]] = {}
    """Functions that rewrite the arguments of renamed commands, by earlier name."""

    def __init__(self, **attributes: Any) -> None:
        """Add a placeholder for each command that is not imported yet."""
        super().__init__(**attributes)
        lazy = {name: TyperCommand(name, help=line) for name, line in self.lazy.items()}
        self.commands = {**lazy, **self.commands}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the command; print the new form of an earlier name."""
        if args and args[0] in self.aliases:
            earlier, args = args[0], self.aliases[args[0]](args[1:])
            typer.echo(f"delia {earlier} is an earlier name of delia {shlex.join(args)}", err=True)
        if args and args[0] in self.lazy:
            self.commands[args[0]] = load_command(args[0])
        return super().resolve_command(ctx, args)


def load_command(name: str) -> Any:
    """Import a command and return it as a Click command.

    Its module has a function `command`, or a Typer `app` with subcommands.
    """
    module = import_module(f"delia_data.cli.{name.replace('-', '_')}")
    if hasattr(module, "app"):
        return typer.main.get_command(module.app)
    alone = typer.Typer(add_completion=False, context_settings=dict(CONTEXT))
    alone.command(name)(module.command)
    return typer.main.get_command(alone)


COMMANDS: Final = {
    "quickstart": "Sample, diversify, mix, load, train, and evaluate, in minutes on two cores.",
    "sample": "Sample pairs from the model itself into a cache.",
    "quality": "Measure a cache: acceptance, repetition, diversity, coverage, language, secrets.",
    "diversify": "Give every row of a task its own wording of the instruction, checked.",
    "mix": "Mix tasks with pairs of caches; write the rows and a manifest.",
    "lint": "Check tokenized rows: the token is a single id, and only answers have a loss.",
    "prepare": "Add the token to a model, and write a model folder for any training script.",
    "train": "Fine-tune a model and the token's embedding on a mixture.",
    "export": "Write an adapter for serving engines, or a mixture for another trainer.",
    "evaluate": "Evaluate a model: does it follow the token, and is it otherwise the model it was?",
    "distill": "Turn system prompts into tokens, without labels (experimental).",
    "reproduce": "Run a grid of methods, task rows, ratios and seeds; compare with the "
    "paper's numbers.",
    "ratio": "Find the smallest ratio that is about as good as the best of a short series.",
    "measure": "Compare an adapter with its base model: representation, state space, gradients.",
    "report": "Write one HTML page about runs: summary, tables, figures, answers, settings.",
    "push": "Publish folders as one version: one commit, one tag; repeating it changes nothing.",
    "pull": "Download a version as folders for `delia mix`, `delia train`, and `delia evaluate`.",
    "doctor": "Print versions, installed and missing extras, and devices.",
    "register": 'Make load_dataset("delia_mix", ...) work in programs that do not import '
    "delia_data.",
    "task": "Inspect a task.",
}
"""The commands and their help lines, in the order of `delia --help`."""

ALIASES: Final[Mapping[str, Callable[[list[str]], list[str]]]] = {
    "plan": lambda given: ["sample", "--estimate", *given],
    "compare": lambda given: ["evaluate", *given[:1], "--against", *given[1:]],
    "config": lambda given: ["export", *given[:1], *given[2:3], "--model", *given[1:2], *given[3:]],
    "diff": lambda given: ["pull", *given[:1], "--diff", *given[1:]],
}
"""Earlier names, kept for one release; positional arguments must come first."""

EXIT_CODES: Final = {
    0: "success",
    1: "internal error, with its traceback",
    2: "invalid input or setting: one line says what is wrong and what to do",
    3: "finished with fewer rows than requested; the output says why",
    4: "evaluated, and a bound of the gate is missed; the output says which",
    130: "stopped by Ctrl-C; run the same command again to continue",
}


class _Commands(LazyGroup):
    lazy = COMMANDS
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
    version: bool = option(
        False, "Show it.", names=["--version"], callback=_show_version, is_eager=True
    ),
) -> None:
    """Data that teaches a language model a small task, not its phrasing."""


def main() -> None:
    """Run the command line and exit with one of `EXIT_CODES`."""
    try:
        app(standalone_mode=True)
    except DeliaError as error:
        print(f"delia: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        print(f"delia: {error.filename}: the name is too long", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 130:  # Ctrl-C
            print("delia: stopped; run the same command again to continue", file=sys.stderr)
        raise
    finally:
        give_back_stdout()
