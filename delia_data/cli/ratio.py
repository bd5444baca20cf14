"""`delia ratio`: how many pairs are enough for a task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from delia_data.cli._completion import among
from delia_data.cli._console import console, messages, step, warnings_in_one_line
from delia_data.cli._json import AsJson, show_json
from delia_data.cli._setting_flags import Recipe, settings_from, with_setting_flags
from delia_data.errors import InputError
from delia_data.ratio.settings import BY, RATIOS, Choice, RatioSettings
from delia_data.training.data import ProvenanceWarning

if TYPE_CHECKING:
    from delia_data.ratio.estimate import StageCost
    from delia_data.ratio.result import RatioResult, Value

_SERIES = "The series"
_CHOICE = "The choice, which trains nothing anew"


@with_setting_flags
def command(
    task: Annotated[Path, typer.Argument(help="Task folder that delia diversify wrote.")],
    cache: Annotated[Path, typer.Argument(help="Cache folder, a file of pairs, or bundled.")],
    out: Annotated[Path, typer.Argument(help="Folder of the series; a rerun goes on there.")],
    *,
    recipe: Recipe = "smollm2-135m-cpu",
    ratios: Annotated[
        str,
        typer.Option(
            help="Pairs for each task row, rising; more can be added later.",
            rich_help_panel=_SERIES,
        ),
    ] = ",".join(f"{ratio:g}" for ratio in RATIOS),
    seeds: Annotated[
        int,
        typer.Option(
            help="Trainings of each ratio, from --seed on; more can be added later.",
            rich_help_panel=_SERIES,
        ),
    ] = 2,
    task_rows: Annotated[
        int | None,
        typer.Option(help="Training rows of the task at most.", rich_help_panel=_SERIES),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(help="Held-out rows whose loss is taken, at most.", rich_help_panel=_SERIES),
    ] = None,
    pairs: Annotated[
        int,
        typer.Option(
            help="Pairs that are kept out of every mixture, to see whether the model keeps its "
            "words.",
            rich_help_panel=_SERIES,
        ),
    ] = 64,
    warm: Annotated[
        bool,
        typer.Option(
            "--warm/--cold",
            help="Begin each ratio from the adapter of the one before it, on the new pairs alone: "
            "fewer rows, and another order than a mixture's.",
            rich_help_panel=_SERIES,
        ),
    ] = False,
    tolerance: Annotated[
        float,
        typer.Option(
            help="Nats a token by which a ratio may be worse than the best.",
            rich_help_panel=_CHOICE,
        ),
    ] = 0.02,
    by: Annotated[
        str,
        typer.Option(
            help=f"What it is chosen by: one of {', '.join(BY)}.",
            rich_help_panel=_CHOICE,
            autocompletion=among(BY),
        ),
    ] = "loss",
    keep_adapters: Annotated[
        bool, typer.Option("--keep-adapters", help="Keep what was trained in each stage.")
    ] = False,
    show: Annotated[
        bool, typer.Option("--list", help="Show stages and what they cost; run nothing.")
    ] = False,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Find the smallest ratio that is about as good as the best, by a short series."""
    from delia_data.ratio import estimate_ratio, find_ratio

    training = settings_from(recipe, given)
    settings = RatioSettings(
        ratios=_numbers(ratios),
        seeds=seeds,
        seed=training.seed,
        warm=warm,
        task_rows=task_rows,
        rows=rows,
        pairs=pairs,
    )
    choice = Choice(tolerance=tolerance, by=by)  # type: ignore[arg-type]  # checked on making
    if show:
        _show(estimate_ratio(task, cache, out, training, settings=settings), as_json)
        return
    with warnings_in_one_line(ProvenanceWarning), step("training", to=messages) as update:
        found = find_ratio(
            task,
            cache,
            out,
            training,
            settings=settings,
            choice=choice,
            keep_adapters=keep_adapters,
            on_step=lambda stage, number, stages, done, of, loss: update(
                number - 1 + done / of,
                stages,
                f"ratio {stage.ratio:g}, seed {stage.seed}, step {done} of {of}, loss {loss:.3f}",
            ),
        )
    if as_json:
        show_json({"folder": out, **found.as_dict()})
        return
    _print(found)
    console.print(f"\neverything, with the curve: {out}", soft_wrap=True, markup=False)


def _numbers(typed: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in typed.split(","))
    except ValueError as error:
        raise InputError(
            f"--ratios {typed!r} is no list of numbers: give them with commas, such as 0,1,4,16"
        ) from error


def _show(costs: Sequence[StageCost], as_json: bool) -> None:
    """Print the stages and what they cost."""
    left = [cost for cost in costs if cost.state == "to run"]
    rows, tokens = sum(cost.trained_rows for cost in left), sum(cost.tokens for cost in left)
    if as_json:
        show_json({"stages": costs, "rows_to_train": rows, "tokens_to_train": tokens})
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("ratio", "seed", "from", "task rows", "pairs", "rows trained", "tokens", ""):
        table.add_column(heading)
    for cost in costs:
        after = cost.stage.after
        table.add_row(
            f"{cost.stage.ratio:g}",
            str(cost.stage.seed),
            "the model" if after is None else f"ratio {after:g}",
            f"{cost.task_rows:,}",
            f"{cost.pairs:,}",
            f"{cost.trained_rows:,}",
            f"{cost.tokens:,}",
            cost.state,
        )
    console.print(table)
    console.print(
        f"{len(left)} of {len(costs)} stages to run: {rows:,} rows, about {tokens:,} tokens",
        soft_wrap=True,
    )


def _print(found: RatioResult) -> None:
    """Print the points, then the outcome in sentences."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    headings = ("pairs", f"with {found.token}", "without", "selectivity", "other pairs", "share")
    for heading in ("ratio", *headings):
        table.add_column(Text(heading))
    for point, share in zip(found.points, found.chosen.shares, strict=True):
        cells = (
            f"{point.ratio:g}",
            f"{point.pairs:,}",
            _value(point.loss, interval=True),
            _value(point.plain),
            _value(point.selectivity, interval=True),
            _value(point.pair_loss),
            f"{share:.0%}",
        )
        table.add_row(*map(Text, cells))
    percent = 100 * float(found.settings["choice"]["confidence"])
    console.print(
        f"{found.task}: nats a token of {found.held_out_rows} held-out answers. ±: half the "
        f"{percent:g}% interval over rows and seeds, for comparing ratios. Other pairs: those in "
        "no mixture. Share: of draws in which a ratio is recommended.",
        soft_wrap=True,
        markup=False,
    )
    console.print(table)
    for number, line in enumerate(found.told):
        console.print(
            line if not number else f"note: {line}",
            soft_wrap=True,
            markup=False,
            style=None if number else "bold",
        )


def _value(found: Value | None, *, interval: bool = False) -> str:
    if found is None:
        return ""
    return f"{found.value:.3f}" + (f" ±{(found.high - found.low) / 2:.3f}" if interval else "")
