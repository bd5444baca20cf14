"""The options that name an engine, for commands that let a model write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer
import yaml

from delia_data.cli._completion import among
from delia_data.engines import ENGINES
from delia_data.errors import InputError
from delia_data.models import DEFAULT_MODEL

_PANEL: Final = "Engine"

EngineName = Annotated[
    str,
    typer.Option(
        help=f"One of {', '.join(ENGINES)}.", rich_help_panel=_PANEL, autocompletion=among(ENGINES)
    ),
]
Model = Annotated[
    str,
    typer.Option(
        help="Embedded model's name, folder or Hub id.",
        rich_help_panel=_PANEL,
        autocompletion=among([DEFAULT_MODEL]),
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1, ... (transformers, ray)", rich_help_panel=_PANEL),
]
BatchSize = Annotated[
    int | None,
    typer.Option(help="Prompts generated together (transformers, ray).", rich_help_panel=_PANEL),
]
ApiBase = Annotated[
    str | None,
    typer.Option(help="Address of the server (openai, litellm).", rich_help_panel=_PANEL),
]
Concurrency = Annotated[
    int | None,
    typer.Option(help="Requests under way at most (openai, litellm).", rich_help_panel=_PANEL),
]
Rpm = Annotated[
    int | None,
    typer.Option(help="Requests a minute at most (openai, litellm).", rich_help_panel=_PANEL),
]
Tpm = Annotated[
    int | None,
    typer.Option(help="Tokens a minute at most (openai, litellm).", rich_help_panel=_PANEL),
]
EngineOption = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-option",
        "-o",
        help="Another option of the engine, NAME=VALUE.",
        rich_help_panel=_PANEL,
    ),
]


def engine_options(named: Mapping[str, Any], more: Sequence[str]) -> dict[str, Any]:
    """The options of an engine that were given.

    Args:
        named: Those with an option of their own; None where it was not given.
        more: Others, each as `NAME=VALUE`.

    Raises:
        InputError: One of the others is not of that form.
    """
    options = {name: value for name, value in named.items() if value is not None}
    for text in more:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"--engine-option {text!r} is not NAME=VALUE")
        options[name.replace("-", "_")] = yaml.safe_load(value)
    return options
