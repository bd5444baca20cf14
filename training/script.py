"""`training/sft.py` as a script: what it reads, and what it prints."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from delia_data.errors import DeliaError
from delia_data.outputs import Manifest
from delia_data.training.data import ProvenanceWarning
from delia_data.training.flags import setting_flags, settings_from
from delia_data.training.settings import TrainSettings, as_recipe, recipe_names

_RECIPE = "smollm2-135m-cpu"


def run_script(train: Callable[..., Manifest], arguments: Sequence[str]) -> int:
    """Read the arguments, train, and print what came of it; the main process alone prints.

    Args:
        train: The function that trains.
        arguments: The arguments, without the program's name.

    Returns:
        The exit code: 0, or 2 where what was given cannot be used.
    """
    given = vars(_parser().parse_args(arguments))
    mixture, out, recipe = (given.pop(name) for name in ("mixture", "out", "recipe"))
    tell = print if int(os.environ.get("RANK", "0")) == 0 else _silent

    def resolved(settings: TrainSettings) -> None:
        tell(as_recipe(settings), flush=True)

    def step(number: int, steps: int, loss: float) -> None:
        tell(f"step {number} of {steps}: loss {loss:.4f}", flush=True)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", ProvenanceWarning)
            settings = settings_from(recipe, given)
            manifest = train(settings, mixture, out, on_step=step, on_resolved=resolved)
    except DeliaError as error:
        print(f"sft.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    tell(f"{manifest.details['steps']} steps; the adapter is in {out}", flush=True)
    return 0


def _silent(*_: Any, **__: Any) -> None:
    """Print nothing."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sft.py", description="Fine-tune a model on a mixture, with TRL and PEFT."
    )
    parser.add_argument("mixture", metavar="MIXTURE", help="what delia train takes")
    parser.add_argument("out", metavar="OUT", help="folder of the adapter; a rerun goes on there")
    parser.add_argument(
        "--recipe",
        default=_RECIPE,
        metavar="RECIPE",
        help=f"a .yaml file, or one of {', '.join(recipe_names())} (%(default)s)",
    )
    for flag in setting_flags():
        text = f"{flag.help} (the recipe's)".replace("%", "%%")
        if flag.is_switch:
            parser.add_argument(flag.option, action=argparse.BooleanOptionalAction, help=text)
        else:
            parser.add_argument(flag.option, metavar=flag.metavar, help=text)
    return parser
