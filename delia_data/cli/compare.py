"""`delia compare`: how far two evaluations of one task differ, row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from delia_data.cli._json import AsJson, show_json
from delia_data.cli._score_tables import print_comparison
from delia_data.evaluation import compare_folders
from delia_data.evaluation.translation import METRICS, load_metrics


def command(
    evaluation: Annotated[Path, typer.Argument(help="Folder that delia evaluate wrote.")],
    other: Annotated[Path, typer.Argument(help="Another one, which is taken off.")],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Score of translations, of {', '.join(METRICS)}; the last two as NAME=CHECKPOINT."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the intervals.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show how far two evaluations of one task differ, with paired intervals."""
    found = compare_folders(evaluation, other, seed=seed, metrics=load_metrics(metric or ()))
    if as_json:
        show_json(found)
    else:
        print_comparison(found, str(evaluation), str(other))
