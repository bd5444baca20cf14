"""Giving every row its own wording, evenly and by keyed hash (paper, Algorithm 1, step 3)."""

from __future__ import annotations

from collections.abc import Sequence

from delia_data.diversify.gates import gate_task_wordings
from delia_data.diversify.held_out import set_aside
from delia_data.errors import InputError
from delia_data.mixing import TaskRow, TaskRows
from delia_data.ranking import rank
from delia_data.records import Record
from delia_data.tasks import Task, Wording
from delia_data.tasks.instruction import with_query
from delia_data.tasks.making import check_token_is_new


def diversify(task: Task, wordings: Sequence[Wording], *, seed: int = 0) -> TaskRows:
    """Give every row of a task a wording that passes the gates that read it.

    Rows are spread over the wordings evenly: no wording is used twice before all are used once.
    Which row gets which follows from a keyed hash of the row's content and the seed. System turns
    and earlier turns of a row stay; its last question is worded.

    Args:
        task: The task.
        wordings: Candidates; those of the split `"test"` go to held-out rows alone. Where the
            task has held-out rows and no wording is for them, a fifth is set aside.
        seed: Seed of the assignment.

    Returns:
        The rows in their wordings.

    Raises:
        InputError: No wording passes for a split that has rows.
        TokenError: The rows hold the token already.
    """
    check_token_is_new(task)
    accepted: Sequence[Wording] = gate_task_wordings(task, wordings).accepted
    if task.test and all(wording.split == "train" for wording in wordings):
        accepted = set_aside(accepted, task.token, seed=seed)
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


def _assign(rows: Sequence[Record], wordings: Sequence[Wording], seed: int) -> list[TaskRow]:
    """Deal the wordings out to the rows in their keyed order; the rows stay in theirs."""
    if not rows:
        return []
    order = sorted(range(len(rows)), key=lambda i: (rank(seed, rows[i].id, "wording"), i))
    deck = sorted(wordings, key=lambda wording: rank(seed, wording.id, "wording"))
    dealt = {row: deck[place % len(deck)] for place, row in enumerate(order)}
    return [_worded(row, dealt[index]) for index, row in enumerate(rows)]


def _worded(row: Record, wording: Wording) -> TaskRow:
    plain = None if wording.plain is None else wording.fill_plain(row.query)
    return TaskRow(with_query(row, wording.fill(row.query)), wording.id, plain)
