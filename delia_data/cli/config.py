"""`delia config`: the same mixture for axolotl, LLaMA-Factory, TRL or Unsloth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from delia_data.cli._console import console
from delia_data.cli._json import AsJson, show_json
from delia_data.cli._setting_flags import Recipe
from delia_data.training import read_recipe
from delia_data.training.exchange import TrainerName, write_config


def command(
    mixture: Annotated[Path, typer.Argument(help="Folder of a finished mixture.")],
    model: Annotated[Path, typer.Argument(help="Folder that delia prepare wrote.")],
    out: Annotated[Path, typer.Argument(help="Folder for the files; nothing is overwritten.")],
    trainer: Annotated[TrainerName, typer.Option("--for", help="The trainer.")],
    recipe: Recipe = "paper-llama2-7b",
    as_json: AsJson = False,
) -> None:
    """Write the files with which another trainer trains on a mixture."""
    written = write_config(trainer, mixture, model, out, settings=read_recipe(recipe))
    if as_json:
        show_json(written)
        return
    for file in written.files:
        console.print(Text(str(file)), soft_wrap=True)
    for note in written.notes:
        console.print(Text(f"note: {note}"), soft_wrap=True)
    console.print(Text(written.command), soft_wrap=True)
