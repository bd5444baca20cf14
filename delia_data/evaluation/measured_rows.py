"""The rows that are measured: drawn by keyed hash, so that a rerun takes the same ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from delia_data.errors import InputError
from delia_data.outputs import is_finished, read_manifest
from delia_data.ranking import rank
from delia_data.records import Record
from delia_data.sampling import read_cache
from delia_data.tasks import TaskRow, TaskRows, read_task_rows
from delia_data.tasks.instruction import with_query

T = TypeVar("T")

_UNDIVERSIFIED: Final = "undiversified"


@dataclass(frozen=True, slots=True)
class MeasuredTask:
    """A task as it is measured.

    Attributes:
        token: Its special token.
        keywords: Words that its token is expected to come near; none where it does not say.
        train: Training rows in their wordings.
        common: The same rows in one wording; none where the task folder has none.
        held_out: Held-out rows in held-out wordings.
        plain: Held-out rows without the token; none where one of them has no plain form.
        train_rows: Training rows that the task has in all.
        sha256: Hash of all its rows.
    """

    token: str
    keywords: tuple[str, ...]
    train: tuple[Record, ...]
    common: tuple[Record, ...]
    held_out: tuple[Record, ...]
    plain: tuple[Record, ...]
    train_rows: int
    sha256: str


def read_measured_task(folder: str | os.PathLike[str], *, rows: int, seed: int = 0) -> MeasuredTask:
    """Read a task folder, and pick rows of it.

    Args:
        folder: What `delia diversify` wrote.
        rows: Rows of each group at most.
        seed: Seed of the pick.

    Raises:
        InputError: It is no task folder, or has no held-out rows.
        UnfinishedError: It has no finish marker.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root} is no task folder: give what delia diversify wrote")
    task = read_task_rows(root)
    if not task.train or not task.test:
        raise InputError(
            f"task {root} has {len(task.train)} training rows and {len(task.test)} held-out ones, "
            "and both are measured: diversify it with held-out rows (--test, --test-share)"
        )
    places = _picked(range(len(task.train)), [r.record.id for r in task.train], rows, seed, "task")
    test = _picked(task.test, [row.record.id for row in task.test], rows, seed, "held out")
    common = _common(root, task)
    keywords = read_manifest(root).details.get("keywords") or ()
    return MeasuredTask(
        token=task.token,
        keywords=tuple(str(word) for word in keywords),
        train=tuple(task.train[place].record for place in places),
        common=tuple(common[place].record for place in places) if common else (),
        held_out=tuple(row.record for row in test),
        plain=tuple(_plain(row) for row in test) if all(row.plain for row in test) else (),
        train_rows=len(task.train),
        sha256=task.sha256,
    )


def picked_pairs(
    cache: str | os.PathLike[str], *, pairs: int, token: str, seed: int = 0
) -> tuple[tuple[Record, ...], int]:
    """Pick pairs of a cache.

    Args:
        cache: A cache folder, or a file of pairs.
        pairs: Pairs at most.
        token: The special token; a pair that names it is none.
        seed: Seed of the pick.

    Returns:
        The pairs, and how many the cache has in all.

    Raises:
        InputError: There is no such cache, or it has fewer than 3 pairs.
    """
    every = [
        record
        for record in read_cache(cache)
        if not any(token in message.content for message in record.messages)
    ]
    if len(every) < 3:
        raise InputError(f"{cache} has {len(every)} pairs, and at least 3 are needed: sample more")
    return tuple(_picked(every, [r.id for r in every], pairs, seed, "pairs")), len(every)


def _picked(rows: Sequence[T], ids: Sequence[str], count: int, seed: int, purpose: str) -> list[T]:
    order = sorted(range(len(rows)), key=lambda i: (rank(seed, ids[i], f"measure {purpose}"), i))
    return [rows[place] for place in order[:count]]


def _common(root: Path, task: TaskRows) -> tuple[TaskRow, ...]:
    """The training rows in one wording, in the order of the others; none where there are none."""
    if not is_finished(root / _UNDIVERSIFIED):
        return ()
    found = read_task_rows(root / _UNDIVERSIFIED).train
    answers = [row.record.answer for row in found]
    return found if answers == [row.record.answer for row in task.train] else ()


def _plain(row: TaskRow) -> Record:
    return with_query(row.record, row.plain or "")
