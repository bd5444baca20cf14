"""`delia mix`: tasks and caches into a mixture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from delia_data.cli._flags import argument, option
from delia_data.cli._options import TEMPLATE_OPTION_HELP
from delia_data.cli._output import AsJson, messages, say, show_json, show_reading
from delia_data.errors import InputError
from delia_data.mixing import ON_SHORT, ORDERS, config_name, mix, save_mixture
from delia_data.mixing.folder import rows_in_words
from delia_data.mixing.recipe import read_mix_recipe
from delia_data.models import load_tokenizer
from delia_data.records import FORMATS
from delia_data.tasks import read_task_rows
from delia_data.tokens import parse_assignments

_RATIOS: Final = ("1", "4", "20", "65", "260", "520")  # suggestions for shell completion
_PLACES: Final = "give TASK CACHE OUT, or OUT alone with --recipe"


def command(
    places: list[str] = argument(
        "Task folder or file of task rows; cache folder, bundled, folder of shards, file, "
        "glob or Hub id; folder of the mixture. OUT alone with --recipe.",
        metavar="TASK CACHE OUT",
    ),
    recipe: Path | None = option(
        None, "A .yaml file of several tasks and caches with weights, and settings."
    ),
    ratio: str | None = option(
        None, "Pairs for each task row, such as 4 or 0.5.", complete=_RATIOS
    ),
    seed: int | None = option(None, "Seed of selection and order (0)."),
    order: str | None = option(None, f"One of {', '.join(ORDERS)} ({ORDERS[0]}).", complete=ORDERS),
    on_short: str | None = option(
        None,
        f"Where the cache is too small: one of {', '.join(ON_SHORT)} ({ON_SHORT[0]}).",
        complete=ON_SHORT,
    ),
    format: str | None = option(
        None, f"One of {', '.join(FORMATS)} ({FORMATS[0]}).", complete=FORMATS
    ),
    token: str | None = option(
        None, "The task's special token, '' for none; its own where not given."
    ),
    epochs: int | None = option(
        None, "Epochs, one after another: the same task rows, each time with other pairs (1)."
    ),
    contrast: float | None = option(
        None,
        "Contrast rows for each task row in an epoch, other ones in each epoch; by default all "
        "of the task folder in each.",
    ),
    decontaminate: bool | None = option(
        None, "Drop pairs that share 13 words in a row with a held-out row."
    ),
    strict: bool | None = option(
        None,
        "Refuse a cache with rows that would be dropped or changed: tools, images, audio, "
        "label false, weight 0, preferences, reasoning.",
    ),
    tokenizer: str | None = option(
        None, "Model whose tokenizer counts tokens by source into the manifest."
    ),
    template_option: list[str] | None = option(
        None, f"{TEMPLATE_OPTION_HELP} Rows get it as chat_template_kwargs, which TRL reads."
    ),
    as_json: AsJson = False,
) -> None:
    """Mix tasks with pairs of caches; write the rows and a manifest.

    Options come before what the recipe says.
    """
    made_of, out = _made_of(places, recipe, token)
    given: dict[str, Any] = {
        "ratio": ratio,
        "seed": seed,
        "order": order,
        "on_short": on_short,
        "format": format,
        "epochs": epochs,
        "contrast": contrast,
        "decontaminate": decontaminate,
        "strict": strict,
    }
    if template_option:
        given["template_options"] = parse_assignments(template_option, "--template-option")
    arguments = made_of | {k: v for k, v in given.items() if v is not None}
    if "ratio" not in arguments:
        raise InputError("no ratio was given: give one, such as --ratio 4")
    task, cache = arguments.pop("task"), arguments.pop("cache")
    options = arguments.get("template_options")
    counting = None if tokenizer is None else load_tokenizer(tokenizer, options)
    manifest = save_mixture(mix(task, cache, **arguments), out, tokenizer=counting)
    if as_json:
        show_json(manifest)
        return
    for name, read in manifest.details.get("read", {}).items():
        show_reading(name, read)
    dropped = ", ".join(f"{n} {reason}" for reason, n in manifest.dropped.items()) or "none"
    tokens = dict(manifest.details.get("tokens", {}))
    if uncounted := tokens.pop("uncounted_rows", 0):
        messages.print(
            f"warning: the tokens of {uncounted} rows are not counted, because the chat template "
            f"of {tokenizer} refuses them: delia lint shows why",
            soft_wrap=True,
        )
    counted = "".join(f"; {tokens[name]} tokens of {name}" for name in sorted(tokens))
    say(
        f"{config_name(manifest.settings['ratio'])}: {rows_in_words(manifest.rows)} in {out}; "
        f"pairs dropped: {dropped}{counted}"
    )


def _made_of(
    places: list[str], recipe: Path | None, token: str | None
) -> tuple[dict[str, Any], str]:
    """Return the arguments of `mix` for the inputs, and the output folder."""
    if len(places) != (3 if recipe is None else 1):
        raise InputError(f"{len(places)} places were given: {_PLACES}")
    if recipe is None:
        task, cache, out = places
        return {"task": read_task_rows(task, token=token), "cache": cache}, out
    if token is not None:
        raise InputError("--token goes with one task: write the tokens into the recipe")
    return read_mix_recipe(recipe).arguments(), places[0]
