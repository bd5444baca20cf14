"""`delia compare`: the earlier name of `delia evaluate --against`, kept for one release."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from delia_data.cli._json import AsJson
from delia_data.cli.evaluate import METRIC_HELP, show_comparison


def command(
    evaluation: Annotated[Path, typer.Argument(help="Folder of a finished evaluation.")],
    other: Annotated[Path, typer.Argument(help="Evaluation to compare with.")],
    metric: Annotated[list[str] | None, typer.Option(help=METRIC_HELP)] = None,
    seed: Annotated[int, typer.Option(help="Seed of the intervals.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Compare two finished evaluations; use `delia evaluate EVALUATION --against OTHER`."""
    show_comparison(evaluation, other, metric, seed=seed, as_json=as_json)
