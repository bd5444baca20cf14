"""`delia ratio`: how many pairs are enough for a task."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from delia_data.cli._flags import argument, option, with_options
from delia_data.cli._options import KEEP_ADAPTERS_HELP, WORKERS_HELP
from delia_data.cli._output import (
    AsJson,
    console,
    messages,
    say,
    show_cells,
    show_json,
    show_table,
    step,
    warnings_in_one_line,
)
from delia_data.cli._setting_flags import recipe_option, settings_from, with_setting_flags
from delia_data.errors import InputError
from delia_data.experiments import RatioSettings, estimate_ratio, run_ratio
from delia_data.experiments.ratio import BY, RatioResult, ratio_table
from delia_data.experiments.sweep import total_seconds
from delia_data.training.data import ProvenanceWarning

_SERIES = "Series"
_CHOICE = "Choice (changing it trains nothing)"


@with_options(values={"series": RatioSettings}, panels={"series": _SERIES})
@with_setting_flags
def command(
    task: Path = argument("Task folder that delia diversify wrote."),
    cache: Path = argument("Cache folder, file of pairs, or bundled."),
    out: Path = argument("Folder of the series; a rerun resumes."),
    *,
    recipe: str = recipe_option(),
    ratios: str = option(
        "0,0.1,1,4,16", "Pairs per task row, ascending; a rerun can add more.", _SERIES
    ),
    tolerance: float = option(
        0.02,
        "How much worse than the best a ratio may be, as a share of answers or in nats per token.",
        _CHOICE,
    ),
    by: str = option(
        "leak", f"Number to compare ratios by: {', '.join(BY)}.", _CHOICE, complete=BY
    ),
    workers: int = option(1, WORKERS_HELP),
    keep_adapters: bool = option(False, KEEP_ADAPTERS_HELP, names=["--keep-adapters"]),
    show: bool = option(False, "Show the cells and their work; run nothing.", names=["--list"]),
    as_json: AsJson = False,
    series: dict[str, Any],
    **given: Any,
) -> None:
    """Find the smallest ratio that is about as good as the best of a short series."""
    training = settings_from(recipe, given)
    settings = RatioSettings(**series, ratios=_numbers(ratios), seed=training.seed)
    if show:
        cells = estimate_ratio(task, cache, out, training, settings=settings)
        show_cells(cells, total_seconds(cells, workers), workers, as_json)
        return
    with warnings_in_one_line(ProvenanceWarning), step("training", to=messages) as update:
        result = run_ratio(
            task,
            cache,
            out,
            training,
            settings=settings,
            tolerance=tolerance,
            by=by,  # type: ignore[arg-type]  # checked there
            workers=workers,
            keep_adapters=keep_adapters,
            on_progress=update,
        )
    if as_json:
        show_json({"folder": out, **asdict(result)})
        return
    _print(result)
    say(f"\nAll results and figures: {out}")


def _numbers(typed: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in typed.split(","))
    except ValueError as error:
        raise InputError(
            f"--ratios {typed!r} is not a list of numbers: separate them with commas, for example "
            "0,1,4,16"
        ) from error


def _print(result: RatioResult) -> None:
    """Print the table of ratios, then the outcome in sentences."""
    say(
        f"{result.task}: {result.held_out_rows} held-out rows; KL and loss in nats per token. "
        f"Worse: difference in {result.by} to the best ratio, with its paired 95% interval."
    )
    show_table(ratio_table(result))
    for number, line in enumerate(result.summary):
        text, style = (f"Note: {line}", None) if number else (line, "bold")
        console.print(text, soft_wrap=True, markup=False, style=style)
