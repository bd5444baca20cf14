"""`delia distill`: system prompts into tokens, without labels."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from delia_data.cli._flags import argument, option, with_options
from delia_data.cli._output import AsJson, say, show_json, show_table, step
from delia_data.cli._setting_flags import recipe_option, settings_from, with_setting_flags
from delia_data.distill import DistillSettings, distill
from delia_data.errors import InputError
from delia_data.evaluation.tables import numbers_table
from delia_data.outputs import read_mapping, read_text_file
from delia_data.tokens import token_sequence

_DATA: Final = "Data"


@with_options(values={"data": DistillSettings}, panels={"data": _DATA})
@with_setting_flags
def command(
    out: Path = argument("Output folder; a rerun continues there."),
    *,
    instruction: list[Path] = option(
        ..., "File of a system prompt; repeat it for each token of --token.", _DATA
    ),
    tokens: int = option(1, "Number of tokens in a row that stand for each prompt.", _DATA),
    constraints: Path | None = option(
        None,
        "A .yaml file of constraints on answers of free text by token, such as "
        "<support>: {most_words: 80}.",
        _DATA,
    ),
    recipe: str = recipe_option(),
    as_json: AsJson = False,
    data: dict[str, Any],
    **given: Any,
) -> None:
    """Turn system prompts into tokens, without labels (experimental).

    The untrained model answers queries with the system prompt; the trained one learns to answer
    like it when a query names the token. For each prompt give --instruction once, and its tokens
    together, as in --token '<support>,<extract>'.
    """
    training = settings_from(recipe, {**given, "pairs_loss": given["pairs_loss"] or "kl"})
    if len(instruction) != len(training.tokens):
        raise InputError(
            f"{len(instruction)} prompts and {len(training.tokens)} tokens were given: give "
            "--instruction once for each token of --token"
        )
    prompts = {
        token_sequence(token, tokens): read_text_file(file).strip()
        for token, file in zip(training.tokens, instruction, strict=True)
    }
    settings = DistillSettings(
        **data,
        prompts=prompts,
        constraints={}
        if constraints is None
        else {
            token_sequence(str(token), tokens): rule
            for token, rule in read_mapping(constraints, str(constraints), "tokens").items()
        },
        seed=training.seed,
    )
    result = distill(out, settings, training, show_step=step)
    if as_json:
        show_json({"out": out, **{f.name: getattr(result, f.name) for f in fields(result)}})
        return
    show_table(numbers_table({token: one.evaluation for token, one in result.tokens.items()}))
    for sentence in result.sentences:
        say(sentence)
    say(f"Adapter: {out / 'adapter'}\nReport: {result.report}")
