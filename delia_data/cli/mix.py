"""`delia mix`: tasks and caches into a mixture."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import typer

from delia_data.cli._flags import argument, option, with_options
from delia_data.cli._options import TEMPLATE_OPTION_HELP
from delia_data.cli._output import AsJson, in_words, messages, say, show_json, show_reading
from delia_data.errors import InputError
from delia_data.mixing import MixOptions, config_name, mix, save_mixture
from delia_data.mixing.folder import rows_in_words
from delia_data.mixing.options import read_mix_recipe
from delia_data.models import load_tokenizer
from delia_data.tasks import read_task_rows
from delia_data.tokens import parse_assignments

_PLACES: Final = "give TASK CACHE OUT, or OUT alone with --recipe"


@with_options(values={"settings": MixOptions})
def command(
    context: typer.Context,
    places: list[str] = argument(
        "Task folder or file of task rows; cache folder, bundled, folder of shards, file, "
        "glob or Hub id; folder of the mixture. OUT alone with --recipe.",
        metavar="TASK CACHE OUT",
    ),
    recipe: Path | None = option(
        None, "A .yaml file of several tasks and caches with weights, and settings."
    ),
    token: str | None = option(
        None, "The task's special token, '' for none. Default: that of the task folder, or <sep>."
    ),
    tokenizer: str | None = option(
        None, "Model whose tokenizer counts tokens by source into the manifest."
    ),
    template_option: list[str] | None = option(
        None, f"{TEMPLATE_OPTION_HELP} Rows get it as chat_template_kwargs, which TRL reads."
    ),
    as_json: AsJson = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Mix tasks with pairs of caches; write the rows and a manifest.

    Options that are given come before what the recipe says.
    """
    inputs, out = _inputs(places, recipe, token)
    arguments = inputs | {
        name: value
        for name, value in settings.items()
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    if template_option:
        arguments["template_options"] = parse_assignments(template_option, "--template-option")
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
    dropped = in_words(manifest.dropped)
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


def _inputs(
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
