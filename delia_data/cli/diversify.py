"""`delia diversify`: a task whose every row has its own wording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from delia_data.cli._console import console
from delia_data.diversify import diversify, gate_task_wordings, save_task_rows
from delia_data.tasks import BUNDLED_TASKS, bundled_task, bundled_wordings

__all__ = ["command"]


def command(
    out: Annotated[Path, typer.Argument(help="Folder of the diversified task.")],
    task: Annotated[str, typer.Option(help=f"One of {', '.join(BUNDLED_TASKS)}.")] = (
        BUNDLED_TASKS[0]
    ),
    seed: Annotated[int, typer.Option(help="Seed of the assignment of wordings to rows.")] = 0,
) -> None:
    """Give every row of a task its own wording of the instruction, checked."""
    plain, wordings = bundled_task(task), bundled_wordings(task)
    gates = gate_task_wordings(plain, wordings)
    rows = diversify(plain, wordings, seed=seed)
    save_task_rows(out, rows, plain, seed=seed, gates=gates)
    rejected = ", ".join(f"{n} {reason}" for reason, n in gates.counts.items()) or "none"
    console.print(
        f"{len(rows.train)} training and {len(rows.test)} held-out rows in "
        f"{len(gates.accepted)} wordings in {out}; wordings rejected: {rejected}",
        soft_wrap=True,
    )
