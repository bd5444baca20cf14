"""`delia config`: the earlier name of `delia export --for`, kept for one release."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from delia_data.cli._json import AsJson
from delia_data.cli._setting_flags import Recipe
from delia_data.cli.export import export_for
from delia_data.training.exporters import TrainerName


def command(
    mixture: Annotated[Path, typer.Argument(help="Folder of a finished mixture.")],
    model: Annotated[Path, typer.Argument(help="Folder that delia prepare wrote.")],
    out: Annotated[Path, typer.Argument(help="Folder for the files.")],
    trainer: Annotated[TrainerName, typer.Option("--for", help="The trainer.")],
    recipe: Recipe = "paper-llama2-7b",
    as_json: AsJson = False,
) -> None:
    """Write another trainer's files; use `delia export MIXTURE OUT --for NAME --model MODEL`."""
    export_for(trainer, mixture, model, out, recipe=recipe, as_json=as_json)
