"""A flag for each setting of a training, made from the settings themselves."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from delia_data.cli._completion import among
from delia_data.training import recipe_names
from delia_data.training.flags import setting_flags

Recipe = Annotated[
    str,
    typer.Option(
        help=f"A .yaml file, or one of {', '.join(recipe_names())}.",
        autocompletion=among(recipe_names()),
    ),
]
"""The option `--recipe`."""

_PANEL = "Settings, over the recipe's"


def with_setting_flags(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command a flag for each training setting; its `**given` receives what was typed."""
    signature = inspect.signature(function, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    flags = []
    for flag in setting_flags():
        names = [f"{flag.option}/--no-{flag.option[2:]}" if flag.is_switch else flag.option]
        option = typer.Option(
            *names,
            help=flag.help,
            metavar=None if flag.is_switch else flag.metavar,
            show_default=False,
            rich_help_panel=_PANEL,
        )
        kind: Any = bool if flag.is_switch else str
        flags.append(
            inspect.Parameter(
                flag.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[kind | None, option],
            )
        )
    function.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
    return function
