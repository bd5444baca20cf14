"""`delia measure`: the token's representation, the state space, gradients of an adapter."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from delia_data.cli._flags import argument, option, with_options
from delia_data.cli._options import TEMPLATE_OPTION_HELP
from delia_data.cli._output import AsJson, Update, messages, say, show_json, show_table, step
from delia_data.evaluation.measurements import (
    MEASURES,
    MeasureName,
    MeasureSettings,
    measure,
    measurement_tables,
)
from delia_data.tokens import parse_assignments

_METHOD = "Method"


@with_options(values={"settings": MeasureSettings}, panels={"settings": _METHOD})
def command(
    adapter: Path = argument("Folder of a finished adapter."),
    task: Path = argument("Task folder of delia diversify."),
    out: Path = argument("Folder for the measurements; a rerun continues there."),
    cache: Path | None = option(
        None, "Cache folder, file of pairs, or bundled, for buffering.", "Rows"
    ),
    what: str = option("", f"Any of {','.join(MEASURES)}. Default: all; buffering needs a cache."),
    keyword: list[str] | None = option(
        None, "Word to compare the token with; repeatable. Default: the task's keywords.", _METHOD
    ),
    template_option: list[str] | None = option(
        None, f"{TEMPLATE_OPTION_HELP} Default: those of the training.", _METHOD
    ),
    device: str = option("cpu", "cpu, cuda, cuda:1, ..."),
    as_json: AsJson = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Compare an adapter with its base model: representation, state space, gradients."""
    options = parse_assignments(template_option or (), "--template-option") or None
    with ExitStack() as steps:
        measurements = measure(
            adapter,
            task,
            out,
            cache=cache,
            what=[name.strip() for name in what.split(",")] if what else None,
            settings=MeasureSettings(
                **settings, keywords=tuple(keyword or ()), template_options=options
            ),
            device=device,
            on_progress=_progress(steps),
        )
    if as_json:
        show_json({"folder": str(out), **asdict(measurements)})
        return
    for table in chain.from_iterable(measurement_tables(measurements).values()):
        show_table(table)
    say(f"Everything, with figures: {out}")


def _progress(steps: ExitStack) -> Callable[[MeasureName, int, int], None]:
    """Show one step per measurement, each begun when the one before it is done."""
    shown: dict[MeasureName, Update] = {}

    def update(name: MeasureName, done: int, total: int) -> None:
        if name not in shown:
            steps.close()
            shown[name] = steps.enter_context(step(f"{name:<14}", to=messages))
        shown[name](done, total)

    return update
