"""`delia export`: an adapter for engines, or a mixture for another trainer."""

from __future__ import annotations

from pathlib import Path

from delia_data.cli._flags import argument, option
from delia_data.cli._output import AsJson, say, show_json
from delia_data.cli._setting_flags import recipe_option
from delia_data.errors import InputError
from delia_data.training import read_recipe
from delia_data.training.adapter import export_merged, export_parted
from delia_data.training.exporters import TrainerName, write_trainer_files


def command(
    source: Path = argument("Adapter's folder; with --for, a finished mixture's folder."),
    out: Path = argument("Folder to write."),
    merged: bool = option(
        False,
        "Merge the adapter into its model: OUT is one model folder. Otherwise OUT/model "
        "is the model with the token's trained row, and OUT/adapter is plain LoRA for it.",
        names=["--merged"],
    ),
    trainer: TrainerName | None = option(
        None, "Write the configuration files of this trainer.", names=["--for"]
    ),
    model: Path | None = option(None, "With --for: folder that delia prepare wrote."),
    recipe: str = recipe_option("paper-llama2-7b"),
    as_json: AsJson = False,
) -> None:
    """Write an adapter for serving engines, or a mixture for another trainer."""
    if trainer is not None:
        if model is None or merged:
            raise InputError("--for needs --model, the folder of delia prepare, and no --merged")
        written = write_trainer_files(trainer, source, model, out, settings=read_recipe(recipe))
        if as_json:
            show_json(written)
        else:
            notes = (f"note: {note}" for note in written.notes)
            say("\n".join([*map(str, written.files), *notes, written.command]))
        return
    if model is not None:
        raise InputError("--model is for --for, the files of another trainer: leave it out")
    manifest = (export_merged if merged else export_parted)(source, out)
    folders = {"model": out} if merged else {"model": out / "model", "adapter": out / "adapter"}
    if as_json:
        show_json({**folders, **manifest.model_dump(mode="json")})
        return
    places = "; ".join(f"{name} in {folder}" for name, folder in folders.items())
    token = manifest.settings["token"]
    tokens = token if isinstance(token, str) else ", ".join(token)
    say(f"{places}: with {tokens} in its vocabulary")
