"""`delia mix`: task and cache into a mixture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from delia_data.cli._console import console
from delia_data.errors import InputError
from delia_data.mixing import ON_SHORT, ORDERS, config_name, mix, parse_ratio, save_mixture
from delia_data.mixing.cluster import mix_on_ray
from delia_data.records import FORMATS
from delia_data.tasks import read_task_rows
from delia_data.tokens import DEFAULT_TOKEN

__all__ = ["command"]

_ENGINES: Final = ("local", "ray")


def command(
    task: Annotated[Path, typer.Argument(help="Task folder, or .jsonl or .json of task rows.")],
    cache: Annotated[
        str, typer.Argument(help="Cache folder, folder of shards, file or glob, or a Hub id.")
    ],
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
    decontaminate: Annotated[
        bool, typer.Option(help="Drop pairs that share 13 words in a row with a held-out row.")
    ] = False,
    engine: Annotated[
        str, typer.Option(help="local: this machine; ray: a Ray cluster, which writes shards.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="Address of a Ray cluster that runs, such as 10.0.0.1:6379 or auto."),
    ] = None,
) -> None:
    """Mix a task with pairs of a cache, and write it with its manifest."""
    checked = parse_ratio(ratio)
    if engine not in _ENGINES:
        raise InputError(f"engine {engine!r} is unknown: use one of {', '.join(_ENGINES)}")
    if address is not None and engine != "ray":
        raise InputError("--address names a Ray cluster: give --engine ray with it")
    rows = read_task_rows(task, token=token)
    settings: dict[str, Any] = {
        "ratio": checked,
        "seed": seed,
        "test": rows.test,
        "order": order,
        "on_short": on_short,
        "format": format,
        "token": rows.token or None,
        "decontaminate": decontaminate,
    }
    if engine == "ray":
        manifest = mix_on_ray(rows.train, cache, out, address=address, **settings)
    else:
        manifest = save_mixture(mix(rows.train, cache, **settings), out)
    dropped = ", ".join(f"{n} {reason}" for reason, n in manifest.dropped.items()) or "none"
    console.print(
        f"{config_name(checked)}: {manifest.rows['task']} task rows and "
        f"{manifest.rows['cache']} pairs in {out}; pairs dropped: {dropped}",
        soft_wrap=True,
    )
