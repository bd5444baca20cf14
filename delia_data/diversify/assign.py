"""Giving every row its own wording, evenly and by keyed hash (paper, Algorithm 1, step 3)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import jsonlines

from delia_data.diversify.gates import GateResult, check_wordings, leaking_words
from delia_data.errors import InputError
from delia_data.files import LOCK, atomic_path, folder_lock
from delia_data.manifest import FINISHED, Manifest, check_folder_is_ours, finish
from delia_data.mixing import TaskRow, TaskRows
from delia_data.ranking import rank
from delia_data.records import Record
from delia_data.tasks.task import Task, Wording

__all__ = ["diversify", "gate_task_wordings", "save_task_rows", "undiversified"]

_NAMES: Final = frozenset({"train.jsonl", "test.jsonl"})


def gate_task_wordings(task: Task, wordings: Sequence[Wording]) -> GateResult:
    """Check wordings against what a task's token stands for."""
    leaks = leaking_words(task.description, task.keys)
    return check_wordings(wordings, token=task.token, leaks=leaks)


def diversify(task: Task, wordings: Sequence[Wording], *, seed: int = 0) -> TaskRows:
    """Give every row of a task a wording that passes the gates.

    Rows are spread over the wordings evenly: no wording is used twice before all are used once.
    Which row gets which follows from a keyed hash of the row's content and the seed.

    Args:
        task: The task.
        wordings: Candidates; those of the split `"test"` go to held-out rows alone.
        seed: Seed of the assignment.

    Returns:
        The rows in their wordings.

    Raises:
        InputError: No wording passes for a split that has rows.
    """
    accepted = gate_task_wordings(task, wordings).accepted
    training = [wording for wording in accepted if wording.split == "train"]
    held_out = [wording for wording in accepted if wording.split == "test"]
    if not training or (task.test and not held_out):
        raise InputError(
            f"of {len(wordings)} wordings {len(training)} for training and {len(held_out)} for "
            f"held-out rows pass the gates: give more that name {task.token} once"
        )
    return TaskRows(
        train=tuple(_assign(task.train, training, seed)),
        test=tuple(_assign(task.test, held_out, seed)),
        token=task.token,
    )


def undiversified(task: Task) -> TaskRows:
    """Give every row the same wording: the task as common instruction tuning has it."""
    wording = task.common_wording
    return TaskRows(
        train=tuple(_worded(row, wording) for row in task.train),
        test=tuple(_worded(row, wording) for row in task.test),
        token=task.token,
    )


def save_task_rows(
    folder: str | os.PathLike[str], rows: TaskRows, task: Task, *, seed: int, gates: GateResult
) -> Manifest:
    """Write a task folder: `train.jsonl`, `test.jsonl`, the manifest and the finish marker.

    There is no `test.jsonl` where the task has no held-out rows.

    Raises:
        ForeignFolderError: The folder holds something else.
        LockedError: Another process writes there.
        OutputError: It cannot be written.
    """
    root = Path(folder)
    splits = {"train": rows.train} | ({"test": rows.test} if rows.test else {})
    manifest = Manifest(
        kind="task",
        settings={"name": task.name, "token": task.token, "seed": seed},
        inputs={"task": task.sha256},
        rows={"train": len(rows.train), "test": len(rows.test)},
        dropped=gates.counts,
        details={
            "description": task.description,
            "keys": list(task.keys),
            "wordings": len({row.wording_id for row in (*rows.train, *rows.test)}),
        },
    )
    check_folder_is_ours(root, _NAMES, sign=LOCK)
    with folder_lock(root):
        for old in (FINISHED, *_NAMES):
            (root / old).unlink(missing_ok=True)
        for name, split in splits.items():
            with atomic_path(root / f"{name}.jsonl") as part, jsonlines.open(part, "w") as writer:
                writer.write_all(row.as_row() for row in split)
        return finish(root, manifest)


def _assign(rows: Sequence[Record], wordings: Sequence[Wording], seed: int) -> list[TaskRow]:
    """Deal the wordings out to the rows in their keyed order; the rows stay in theirs."""
    if not rows:
        return []
    order = sorted(range(len(rows)), key=lambda i: (rank(seed, rows[i].id, "wording"), i))
    deck = sorted(wordings, key=lambda wording: rank(seed, wording.id, "wording"))
    dealt = {row: deck[place % len(deck)] for place, row in enumerate(order)}
    return [_worded(row, dealt[index]) for index, row in enumerate(rows)]


def _worded(row: Record, wording: Wording) -> TaskRow:
    record = Record.pair(wording.fill(row.query), row.answer)
    plain = None if wording.plain is None else wording.fill_plain(row.query)
    return TaskRow(record, wording.id, plain)
