"""A group that imports a command when it is run, so that help and completion are quick."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar, Final

import typer
from typer.core import TyperCommand, TyperGroup

CONTEXT: Final = {"help_option_names": ["-h", "--help"]}
"""Settings that every command shares."""


class LazyGroup(TyperGroup):
    """Knows its commands by name and help alone until one of them is run or completed."""

    lazy: ClassVar[Mapping[str, str]] = {}
    """Help in one line, by command; `delia_data.cli.NAME` has the command."""
    earlier: ClassVar[Mapping[str, str]] = {}
    """The same for commands that the help does not list."""
    aliases: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Arguments that an earlier name of a command stands for; help does not list them."""

    def __init__(self, **attributes: Any) -> None:
        """Put a mark for each command in front of those that were registered."""
        super().__init__(**attributes)
        marks = {name: TyperCommand(name, help=line) for name, line in self.lazy.items()}
        marks |= {n: TyperCommand(n, help=line, hidden=True) for n, line in self.earlier.items()}
        self.commands = {**marks, **self.commands}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the command that is asked for, and say which one it is."""
        if args and args[0] in self.aliases:
            args = [*self.aliases[args[0]], *args[1:]]
        if args and args[0] in {*self.lazy, *self.earlier}:
            self.commands[args[0]] = load_command(args[0])
        return super().resolve_command(ctx, args)


def load_command(name: str) -> Any:
    """Import a command of `delia`.

    Args:
        name: Its name; its module has a function `command`, or an `app` of further commands.

    Returns:
        What Typer makes of it.
    """
    module = import_module(f"delia_data.cli.{name.replace('-', '_')}")
    if hasattr(module, "app"):
        return typer.main.get_command(module.app)
    alone = typer.Typer(add_completion=False, context_settings=dict(CONTEXT))
    alone.command(name)(module.command)
    return typer.main.get_command(alone)
