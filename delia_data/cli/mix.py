"""`delia mix`: task and cache into a mixture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from delia_data.cli._console import console
from delia_data.mixing import ON_SHORT, ORDERS, config_name, mix, parse_ratio, save_mixture
from delia_data.records import FORMATS
from delia_data.sampling import read_cache
from delia_data.tasks import read_task_rows
from delia_data.tokens import DEFAULT_TOKEN

__all__ = ["command"]


def command(
    task: Annotated[Path, typer.Argument(help="Task folder, or .jsonl or .json of task rows.")],
    cache: Annotated[Path, typer.Argument(help="Cache folder, or .jsonl or .json of pairs.")],
    out: Annotated[Path, typer.Argument(help="Folder of the mixture.")],
    ratio: Annotated[str, typer.Option(help="Pairs for each task row, such as 4 or 0.5.")],
    seed: Annotated[int, typer.Option(help="Seed of selection and order.")] = 0,
    order: Annotated[str, typer.Option(help=f"One of {', '.join(ORDERS)}.")] = "shuffled",
    on_short: Annotated[
        str, typer.Option(help=f"Where the cache is too small: one of {', '.join(ON_SHORT)}.")
    ] = "error",
    format: Annotated[str, typer.Option(help=f"One of {', '.join(FORMATS)}.")] = "messages",
    token: Annotated[
        str, typer.Option(help="The special token of a task file; '' for none.")
    ] = DEFAULT_TOKEN,
) -> None:
    """Mix a task with pairs of a cache, and write it with its manifest."""
    checked = parse_ratio(ratio)
    rows = read_task_rows(task, token=token)
    mixture = mix(
        rows.train,
        read_cache(cache),
        ratio=checked,
        seed=seed,
        test=rows.test,
        order=order,  # type: ignore[arg-type]  # `mix` checks it
        on_short=on_short,  # type: ignore[arg-type]
        format=format,  # type: ignore[arg-type]
        token=rows.token or None,
    )
    manifest = save_mixture(mixture, out)
    dropped = ", ".join(f"{n} {reason}" for reason, n in manifest.dropped.items()) or "none"
    console.print(
        f"{config_name(checked)}: {manifest.rows['task']} task rows and "
        f"{manifest.rows['cache']} pairs in {out}; pairs dropped: {dropped}",
        soft_wrap=True,
    )
