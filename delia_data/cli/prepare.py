"""`delia prepare`: a model folder with the token added, for any training script."""

from __future__ import annotations

from pathlib import Path

from delia_data.cli._flags import argument, option
from delia_data.cli._options import TEMPLATE_OPTION_HELP
from delia_data.cli._output import AsJson, say, show_json
from delia_data.tokens import DEFAULT_TOKEN, INITS, Init, parse_assignments
from delia_data.training.prepare import DTYPES, Dtype, prepare


def command(
    model: str = argument("Embedded model's name, folder or Hub id."),
    out: Path = argument("Folder to write; any script takes it as the model."),
    token: list[str] | None = option(None, f"Special token; repeatable. [{DEFAULT_TOKEN}]"),
    init: Init = option(INITS[0], "Initial embedding: mean of all rows, random, or --description."),
    description: str | None = option(
        None, "Meaning of the token in words, for --init description."
    ),
    seed: int = option(0, "Seed of --init normal."),
    dtype: Dtype = option(DTYPES[0], "Type of the weights; auto is the type in the model's files."),
    generation_marks: bool = option(
        False,
        "Use an equivalent chat template that marks answers, for assistant_only_loss.",
        names=["--generation-marks"],
    ),
    template_option: list[str] | None = option(
        None, f"{TEMPLATE_OPTION_HELP} OUT's template has it as its default."
    ),
    as_json: AsJson = False,
) -> None:
    """Add the token to a model, and write a model folder for any training script."""
    manifest = prepare(
        model,
        out,
        tokens=token or [DEFAULT_TOKEN],
        init=init,
        description=description,
        seed=seed,
        dtype=dtype,
        generation_marks=generation_marks,
        template_options=parse_assignments(template_option or (), "--template-option"),
    )
    if as_json:
        show_json(manifest)
        return
    ids = ", ".join(f"{text} is id {i}" for text, i in manifest.details["token_ids"].items())
    say(f"{ids}; --model_name_or_path {out} works in any script")
