"""Assign wordings to task rows by keyed hash; some wordings are held out for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from delia_data.diversify.check import gate_task_wordings
from delia_data.diversify.plain import plain_form
from delia_data.errors import InputError
from delia_data.mixing import TaskRow, TaskRows
from delia_data.ranking import rank
from delia_data.records import Record
from delia_data.tasks import Task, Wording
from delia_data.tasks.reading import check_token_is_new, with_query

HELD_OUT_SHARE: Final = 0.2


def set_aside(
    wordings: Sequence[Wording], token: str, *, share: float = HELD_OUT_SHARE, seed: int = 0
) -> tuple[Wording, ...]:
    """Set a share of wordings aside for held-out rows, at least one.

    Only those are taken that have a form without the token, given or told by rule, as held-out
    rows are asked with the token and without.

    Args:
        wordings: The wordings, in their order.
        token: The special token.
        share: The share, above 0 and below 1.
        seed: Seed of the choice.

    Returns:
        All wordings in their order; those set aside have the split `"test"` and a plain form.

    Raises:
        InputError: The share is out of its bounds, or no wording has a plain form.
    """
    if not 0 < share < 1:
        raise InputError(f"held-out share {share} is out of bounds: give above 0, below 1")
    if len(wordings) < 2:
        return tuple(wordings)
    plains = {w.id: w.plain or plain_form(w.text, token) for w in wordings}
    able = sorted(
        (w.id for w in wordings if plains[w.id]), key=lambda one: rank(seed, one, "held out")
    )
    if not able:
        raise InputError(
            f"none of {len(wordings)} wordings has a form without {token}, which held-out rows "
            'are asked with: give one as "plain"'
        )
    taken = set(able[: min(max(1, round(share * len(wordings))), len(wordings) - 1)])
    return tuple(
        replace(w, split="test", plain=plains[w.id]) if w.id in taken else w for w in wordings
    )


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
