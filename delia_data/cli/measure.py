"""`delia measure`: the token's representation, the state space, gradients of an adapter."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from delia_data.cli._console import Update, console, messages, step
from delia_data.cli._json import AsJson, show_json
from delia_data.cli._measured import tables
from delia_data.evaluation.measuring import MEASURES, MeasureName, MeasureSettings

_DEFAULT = MeasureSettings()
_ROWS = "Which rows"
_HOW = "How they are measured"


def command(
    adapter: Annotated[Path, typer.Argument(help="Folder of a finished adapter.")],
    task: Annotated[Path, typer.Argument(help="Folder of the diversified task.")],
    out: Annotated[Path, typer.Argument(help="Folder of the measurements; a rerun goes on there.")],
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Cache folder, file of pairs or bundled, for buffering.", rich_help_panel=_ROWS
        ),
    ] = None,
    what: Annotated[
        str,
        typer.Option(help=f"Any of {','.join(MEASURES)}; by default all that is given for."),
    ] = "",
    rows: Annotated[
        int,
        typer.Option(help="Held-out rows and task rows at most, of each.", rich_help_panel=_ROWS),
    ] = _DEFAULT.rows,
    pairs: Annotated[
        int, typer.Option(help="Pairs at most, for buffering.", rich_help_panel=_ROWS)
    ] = _DEFAULT.pairs,
    ratio: Annotated[
        float | None,
        typer.Option(
            help="Pairs for each task row in the mixture whose gradient is looked at; "
            "by default the adapter's own.",
            rich_help_panel=_ROWS,
        ),
    ] = None,
    keyword: Annotated[
        list[str] | None,
        typer.Option(
            help="A word to compare the token with; by default the task's.", rich_help_panel=_HOW
        ),
    ] = None,
    words: Annotated[
        int,
        typer.Option(help="Ordinary words to draw as controls.", rich_help_panel=_HOW),
    ] = _DEFAULT.words,
    mass: Annotated[
        float,
        typer.Option(help="Probability that the state space holds.", rich_help_panel=_HOW),
    ] = _DEFAULT.mass,
    dimensions: Annotated[
        int, typer.Option(help="Dimensions of projected gradients.", rich_help_panel=_HOW)
    ] = _DEFAULT.dimensions,
    dtype: Annotated[
        str, typer.Option(help="float32 or bfloat16, to compute in.", rich_help_panel=_HOW)
    ] = _DEFAULT.dtype,
    seed: Annotated[int, typer.Option(help="Seed of rows, words and projection.")] = _DEFAULT.seed,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Measure an adapter before and after training: representation, state space, gradients."""
    from delia_data.evaluation.measuring import measure

    settings = MeasureSettings(
        rows=rows,
        pairs=pairs,
        keywords=tuple(keyword or ()),
        words=words,
        mass=mass,
        ratio=ratio,
        dimensions=dimensions,
        dtype=dtype,  # type: ignore[arg-type]  # checked on making
        seed=seed,
    )
    names = tuple(name.strip() for name in what.split(",")) if what else _possible(cache)
    with ExitStack() as steps:
        found = measure(
            adapter,
            task,
            out,
            cache=cache,
            what=names,
            settings=settings,
            device=device,
            on_progress=_progress(steps),
        )
    if as_json:
        show_json({"folder": str(out), **found.as_dict()})
        return
    for table in tables(found):
        console.print(table)
    console.print(f"Everything, with figures: {out}", soft_wrap=True)


def _possible(cache: Path | None) -> tuple[MeasureName, ...]:
    return MEASURES if cache is not None else ("representation", "state-space")


def _progress(steps: ExitStack) -> Callable[[MeasureName, int, int], None]:
    """Show one step a measure, each begun when the one before it is done."""
    shown: dict[MeasureName, Update] = {}

    def tell(name: MeasureName, done: int, total: int) -> None:
        if name not in shown:
            steps.close()
            shown[name] = steps.enter_context(step(f"{name:<14}", to=messages))
        shown[name](done, total)

    return tell
