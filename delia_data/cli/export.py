"""`delia export`: a trained adapter for engines that refuse adapters with embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from delia_data.cli._console import console
from delia_data.cli._json import AsJson, show_json
from delia_data.training.adapter import export_merged, export_parted


def command(
    adapter: Annotated[Path, typer.Argument(help="Folder that delia train wrote.")],
    out: Annotated[Path, typer.Argument(help="Where to; the same again changes nothing.")],
    merged: Annotated[
        bool,
        typer.Option(
            "--merged",
            help="Merge the adapter into its model: OUT is one model folder. Otherwise OUT/model "
            "is the model with the token's trained row, and OUT/adapter LoRA alone for it.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a trained adapter so that any engine serves it: merged, or as plain LoRA."""
    manifest = (export_merged if merged else export_parted)(adapter, out)
    places = {"model": out} if merged else {"model": out / "model", "adapter": out / "adapter"}
    if as_json:
        show_json({**places, **manifest.model_dump(mode="json")})
        return
    told = "; ".join(f"{name} in {place}" for name, place in places.items())
    console.print(f"{told}: {manifest.settings['token']} is in its vocabulary", soft_wrap=True)
