"""`delia measure`: the token's representation, the state space, gradients of an adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from delia_data.cli._output import AsJson, Update, console, messages, show_json, step
from delia_data.evaluation.bootstrap import Estimate
from delia_data.evaluation.buffering import Buffering, When
from delia_data.evaluation.figures import group_name, in_order
from delia_data.evaluation.measuring import (
    MEASURES,
    Measurements,
    MeasureName,
    MeasureSettings,
    Which,
)
from delia_data.evaluation.representation import Alignment, first_middle_last, middle_block
from delia_data.evaluation.state_space import StateSpace

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


def tables(found: Measurements) -> Iterator[Table | Text]:
    """Make a few small tables of what was measured."""
    if found.representation:
        yield _representation(found.token, found.representation)
        yield _nearest(found.representation)
    if found.state_space:
        yield _state_space(found.token, found.state_space)
    if found.buffering:
        yield _cancelling(found.buffering)
        yield _norms(found.buffering)
        yield _cosines(found.buffering)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right")
    return table


def _representation(token: str, by: Mapping[When, Alignment]) -> Table:
    before, after = by["before"], by["after"]
    blocks = first_middle_last(len(after.median))
    middle = blocks[1]
    table = _table(
        f"L2 from {token} to a keyword, over the median between ordinary words",
        "",
        *(f"block {block + 1}" for block in blocks),
        f"nearer, {middle + 1}",
    )
    for old, new in zip(before.keywords, after.keywords, strict=True):
        rows = {
            f"{old.keyword}: before": (old.token.relative.mean, old.nearer),
            f"{new.keyword}: after": (new.token.relative.mean, new.nearer),
            f"{new.keyword}: ordinary": (new.ordinary["relative"].mean, None),
        }
        for how, untrained in in_order(new.untrained):
            rows[f"{new.keyword}: new, {how}"] = (untrained.relative.mean, None)
        for name, (curve, nearer) in rows.items():
            count = "" if nearer is None else f"{nearer[middle]} of {after.words}"
            table.add_row(Text(name), *(f"{curve[block]:.2f}" for block in blocks), count)
    return table


def _nearest(by: Mapping[When, Alignment]) -> Text:
    after = by["after"]
    middle = middle_block(len(after.nearest))
    words = ", ".join(one.word for one in after.nearest[middle])
    return Text(
        f"Nearest of {after.words} ordinary words in block {middle + 1} after training: {words}\n"
    )


def _state_space(token: str, by: Mapping[When, Mapping[Which, StateSpace]]) -> Table:
    mass = by["after"]["with"].mass
    table = _table(
        f"First token of the answer: tokens that hold {mass:.0%}, entropy in nats, rank of the "
        "expected one, and probability to begin with its character",
        "",
        "tokens",
        "entropy",
        "rank",
        "opening",
    )
    for when, spaces in in_order(by):
        for which, space in in_order(spaces):
            table.add_row(
                Text(f"{when}, {which} {token}"),
                f"{space.size:.1f}",
                f"{space.entropy:.2f}",
                f"{space.rank:g}",
                f"{space.opening:.0%}",
            )
    return table


def _cancelling(found: Buffering) -> Table:
    table = _table(
        "Gradients that cancel: norm of the mean over mean of the norms",
        "",
        "rows",
        "ratio",
        "unrelated",
        "shared",
    )
    for when, groups in in_order(found.cancelling):
        for name, group in in_order(groups):
            table.add_row(
                Text(f"{when}: {group_name(name)}"),
                str(group.rows),
                f"{group.ratio:.2f}",
                f"{group.subsets[-1].independent:.2f}",
                _estimate(group.shared),
            )
    return table


def _norms(found: Buffering) -> Table:
    table = _table(
        f"Rank correlation of {len(found.pairs)} pairs' gradient norms with similarity to the task",
        "",
        "plain",
        "given length",
    )
    for name, correlation in in_order(found.norms):
        table.add_row(name, _estimate(correlation.plain), _estimate(correlation.given_length))
    return table


def _cosines(found: Buffering) -> Table:
    whens, by_when = zip(*in_order(found.cosines), strict=True)
    table = _table(
        f"Cosine with the gradient of held-out task rows, {found.ratio:g} pairs a row", "", *whens
    )
    for name, _ in in_order(by_when[0].groups):
        table.add_row(group_name(name), *(_estimate(one.groups[name]) for one in by_when))
    subsets = (one.subsets for one in by_when)
    shown = (_span(mean, low, high) for low, mean, high in subsets)
    table.add_row("random subsets of pairs", *shown)
    halves = ("" if one.halves is None else _two(one.halves) for one in by_when)
    table.add_row("halves of the held-out", *halves)
    return table


def _estimate(found: Estimate | None) -> str:
    return "undefined" if found is None else _span(found.value, found.low, found.high)


def _span(value: float, low: float, high: float) -> str:
    return f"{_two(value)} ({_two(low)} to {_two(high)})"


def _two(value: float) -> str:
    """Two places; what rounds to nothing has no sign."""
    return f"{round(value, 2) + 0.0:.2f}"
