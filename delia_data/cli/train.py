"""`delia train`: LoRA fine-tuning on a mixture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from delia_data.cli._console import console, step
from delia_data.cli.lint import mixture_rows
from delia_data.training import read_recipe, recipe_names, train

__all__ = ["command"]


def command(
    mixture: Annotated[Path, typer.Argument(help="Folder of a finished mixture.")],
    out: Annotated[Path, typer.Argument(help="Folder of the adapter; a rerun goes on there.")],
    recipe: Annotated[
        str, typer.Option(help=f"A .yaml file, or one of {', '.join(recipe_names())}.")
    ] = "smollm2-135m-cpu",
    model: Annotated[str | None, typer.Option(help="Over the recipe's.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Over the recipe's.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Over the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Over the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Over the recipe's.")] = None,
    device: Annotated[str | None, typer.Option(help="Over the recipe's: cpu, cuda, ...")] = None,
) -> None:
    """Train a LoRA adapter and the token's embedding on a mixture."""
    given = {
        "model": model,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "seed": seed,
        "device": device,
    }
    over = {name: value for name, value in given.items() if value is not None}
    settings = replace(read_recipe(recipe), **over)  # type: ignore[arg-type]  # checked on making
    with step("training") as update:
        manifest = train(
            settings,
            mixture_rows(mixture),
            out,
            on_step=lambda number, steps, _: update(number, steps),
        )
    console.print(
        f"{manifest.details['steps']} steps, last loss {manifest.details['last_loss']:.3f}; "
        f"adapter in {out}",
        soft_wrap=True,
    )
