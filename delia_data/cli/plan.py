"""`delia plan`: what `delia sample` would take, told from a few rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Final, get_type_hints

import typer
from rich.table import Table

from delia_data.cli import sample
from delia_data.cli._console import console, step
from delia_data.cli._json import AsJson, show_json
from delia_data.cli._sampling import Job
from delia_data.errors import InputError
from delia_data.sampling import PROBE_ROWS, Estimate, Forecast, forecast

_WITHOUT: Final = ("context", "begin_from", "keep_rejected", "extend", "stop_when_saturated")
"""What `delia sample` takes and a forecast has no need of."""


def _command(
    *,
    probe_rows: Annotated[
        int, typer.Option(help="Rows to ask, drawn evenly from the queries.")
    ] = PROBE_ROWS,
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Tell the tokens, hours and dollars of a run, from a few of its rows; nothing is kept."""
    if probe_rows < 1:
        raise InputError(f"--probe-rows {probe_rows} is too few: give at least 1")
    job = Job(**{**given, "engine_option": given["engine_option"] or ()})
    with (
        job.opened() as (engine, queries),
        step("asking") as update,
    ):
        found = forecast(
            engine,
            queries,
            target=job.target,
            filters=job.filters(),
            sampling=job.sampling,
            asking=job.asking,
            seed=job.seed,
            rows=probe_rows,
        )
        update(found.probed, found.probed)
    if as_json:
        show_json(found)
    else:
        _print(found)


def _with_options_of(
    own: Callable[..., None], other: Callable[..., None], without: tuple[str, ...]
) -> Callable[..., None]:
    """Give a command the options of another one too, after its own."""
    hints = get_type_hints(other, include_extras=True)
    its = get_type_hints(own, include_extras=True)
    taken = {
        name: parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(other).parameters.items()
        if name not in without
    }
    for name, parameter in inspect.signature(own).parameters.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD and name not in taken:
            taken[name] = parameter.replace(annotation=its[name])
    own.__signature__ = inspect.Signature(list(taken.values()))  # type: ignore[attr-defined]
    own.__annotations__ = {name: parameter.annotation for name, parameter in taken.items()}
    return own


command = _with_options_of(_command, sample.command, _WITHOUT)


def _print(found: Forecast) -> None:
    rejected = ", ".join(f"{n} {reason}" for reason, n in found.rejected.items()) or "none"
    console.print(f"{found.kept} of {found.probed} rows kept; rejected: {rejected}")
    table = Table("for", "low", "about", "high", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, estimate, worded in (
        ("rows to ask", found.rows, "{:,.0f}".format),
        ("prompt tokens", found.prompt_tokens, "{:,.0f}".format),
        ("tokens to write", found.tokens, "{:,.0f}".format),
        ("time, at this speed", found.hours, _time),
        ("dollars", found.dollars, "{:,.4f}".format),
    ):
        table.add_row(name, *_cells(estimate, worded))
    console.print(table)
    if found.available is not None and found.rows.value > found.available:
        console.print(
            f"the queries give {found.available:,} rows alone: give more, lower --target, or draw "
            "more --answers-per-query",
            soft_wrap=True,
        )


def _cells(estimate: Estimate | None, worded: Callable[[float], str]) -> list[str]:
    if estimate is None:
        return ["", "unknown", ""]
    return [worded(value) for value in (estimate.low, estimate.value, estimate.high)]


def _time(hours: float) -> str:
    """Hours in the unit in which they are easy to read."""
    if hours < 1 / 60:
        return f"{hours * 3600:.1f} s"
    return f"{hours * 60:.1f} min" if hours < 1 else f"{hours:,.1f} h"
