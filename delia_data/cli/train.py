"""`delia train`: fine-tuning on a mixture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from delia_data.cli._flags import argument
from delia_data.cli._output import (
    AsJson,
    console,
    messages,
    say,
    show_json,
    show_reading,
    step,
    warnings_in_one_line,
)
from delia_data.cli._setting_flags import recipe_option, settings_from, with_setting_flags
from delia_data.outputs import Manifest
from delia_data.tokens import thinking_note
from delia_data.training import TrainSettings, train
from delia_data.training.data import ProvenanceWarning, open_training_rows
from delia_data.training.loading import is_main_process, load_prepared_tokenizer
from delia_data.training.settings import as_recipe


@with_setting_flags
def command(
    mixture: str = argument(
        "Mixture folder, delia_mix:ratio-4, or rows: a file, folder, glob, URL or Hub id."
    ),
    out: Path = argument("Folder of the adapter; rerun to resume."),
    *,
    recipe: str = recipe_option(),
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Fine-tune a model and the token's embedding on a mixture.

    The resolved settings are saved with the adapter as recipe.yaml, which --recipe takes. For
    several GPUs, run `accelerate launch --config_file ddp.yaml -m delia_data train MIXTURE OUT`.
    """
    settings = settings_from(recipe, given)
    if not is_main_process():  # the main process prints for all
        console.quiet = messages.quiet = True
    with warnings_in_one_line(ProvenanceWarning), step("training") as update:
        rows = open_training_rows(mixture)

        def show(resolved: TrainSettings) -> None:
            messages.print(as_recipe(resolved).rstrip(), markup=False, soft_wrap=True)
            show_reading(mixture, rows.source.report.details())
            if note := thinking_note(load_prepared_tokenizer(resolved)):
                messages.print(f"{resolved.model}: {note}", markup=False, soft_wrap=True)

        manifest = train(
            settings,
            rows,
            out,
            on_resolved=show,
            on_step=lambda number, steps, loss: update(number, steps, f"loss {loss:.3f}"),
        )
    if not as_json:
        say(_summary(manifest, out))
    elif is_main_process():
        show_json({"adapter": out, **manifest.model_dump(mode="json", exclude={"files"})})


def _summary(manifest: Manifest, out: Path) -> str:
    details = manifest.details
    parts = [f"{details['steps']} steps", f"last loss {details['last_loss']:.3f}"]
    if "planned_steps" in details:
        parts[0] = f"{details['steps']} of {details['planned_steps']} steps, stopped early"
    if "best_step" in details:
        parts.append(f"kept step {details['best_step']}")
    if "cut" in details:
        parts.append(f"{details['cut']} rows were cut")
    parts += [f"{count} rows left out ({why})" for why, count in manifest.dropped.items()]
    return f"{', '.join(parts)}; adapter in {out}"
