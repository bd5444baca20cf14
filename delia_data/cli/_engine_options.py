"""The options that select an engine, for commands in which a model generates text."""

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
        help=f"Engine: one of {', '.join(ENGINES)}.",
        rich_help_panel=_PANEL,
        autocompletion=among(ENGINES),
    ),
]
Model = Annotated[
    str,
    typer.Option(
        help="Name of the embedded model, a folder, or a Hub id; for APIs the model's name.",
        rich_help_panel=_PANEL,
        autocompletion=among([DEFAULT_MODEL]),
    ),
]
Device = Annotated[
    str | None,
    typer.Option(help="Device: cpu, cuda, cuda:1, ... (transformers, ray)", rich_help_panel=_PANEL),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        help="Number of answers to generate at a time (transformers, ray).", rich_help_panel=_PANEL
    ),
]
ApiBase = Annotated[
    str | None,
    typer.Option(help="Address of the server (openai, litellm).", rich_help_panel=_PANEL),
]
Concurrency = Annotated[
    int | None,
    typer.Option(
        help="Maximum number of requests at a time (openai, litellm).", rich_help_panel=_PANEL
    ),
]
Rpm = Annotated[
    int | None,
    typer.Option(
        help="Maximum number of requests per minute (openai, litellm).", rich_help_panel=_PANEL
    ),
]
Tpm = Annotated[
    int | None,
    typer.Option(
        help="Maximum number of tokens per minute (openai, litellm).", rich_help_panel=_PANEL
    ),
]
EngineOption = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-option",
        "-o",
        help="Another option of the engine as NAME=VALUE, with the value in YAML or JSON: "
        """-o send_seed=false, -o extra_body='{"top_k": 20}'.""",
        rich_help_panel=_PANEL,
    ),
]


def engine_options(named: Mapping[str, Any], more: Sequence[str]) -> dict[str, Any]:
    """Return the options of an engine that were given.

    Args:
        named: The options with a flag of their own; None for those that were not given.
        more: Other options, each as `NAME=VALUE`.

    Raises:
        InputError: An option is not of this form, or its value is not YAML.
    """
    options = {name: value for name, value in named.items() if value is not None}
    for text in more:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"--engine-option {text!r} is not NAME=VALUE")
        try:
            options[name.replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(
                f"--engine-option {name}: the value is neither YAML nor JSON; quote it as in "
                f"""-o {name}='{{"key": "value"}}'"""
            ) from None
    return options
