"""A task as it is asked about: held-out rows, wordings, and what is in the format.

It is made of a task and its rows in their wordings, or read from the folder that `delia diversify`
wrote. There the queries stand inside their wordings; they are cut out again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from delia_data.errors import FormatError, InputError
from delia_data.evaluation.answer_format import AnswerFormat
from delia_data.outputs import read_manifest
from delia_data.records import Record
from delia_data.tasks import QUERY_SLOT, SCORINGS, Scoring, Task, TaskRow, TaskRows, Wording
from delia_data.tasks import read_task_rows as read_rows
from delia_data.tasks.instruction import with_query

_WORDINGS: Final = "wordings.jsonl"


@dataclass(frozen=True, slots=True)
class HeldOutRow:
    """One row that training did not see.

    Attributes:
        record: The row as the task has it, before any wording.
        worded: The same row in its held-out wording, with its plain form.
    """

    record: Record
    worded: TaskRow


@dataclass(frozen=True, slots=True)
class AskedTask:
    """A task as it is asked about.

    Attributes:
        name: Its name.
        token: The special token.
        form: What is in the format.
        held_out: The rows to ask.
        wordings: The wordings, those of training among them.
        scoring: How an answer is scored; None where a function did, which no folder holds.
        sha256: Hash of the task.
    """

    name: str
    token: str
    form: AnswerFormat
    held_out: tuple[HeldOutRow, ...]
    wordings: tuple[Wording, ...]
    scoring: Scoring | None
    sha256: str

    def __post_init__(self) -> None:
        if not self.held_out:
            raise InputError(
                f"task {self.name!r} has no held-out rows, and answers to rows that were trained "
                "on tell nothing: make it again with some (--test, --test-share)"
            )

    @classmethod
    def of(
        cls,
        task: Task,
        rows: TaskRows,
        wordings: Sequence[Wording],
        *,
        rule: str | Callable[[str], bool] | None = None,
    ) -> AskedTask:
        """Take a task and its rows in their wordings.

        Args:
            task: The task.
            rows: Its rows, as `diversify` or `undiversified` gives them.
            wordings: Wordings; those of the split `"train"` make the training probe.
            rule: What is in the format, where the answers do not tell (`AnswerFormat.of`).

        Raises:
            InputError: There are no held-out rows, or the rows are not those of the task; or the
                answers are free text, and there is no rule.
        """
        if [row.record.answer for row in rows.test] != [row.answer for row in task.test]:
            raise InputError(
                f"the {len(rows.test)} held-out rows in wordings are not the {len(task.test)} of "
                f"task {task.name!r}: diversify this task"
            )
        form = AnswerFormat.of(
            [row.answer for row in (*task.train, *task.test)],
            keys=task.keys,
            scoring=task.scoring,
            description=task.description,
            rule=rule,
        )
        held_out = [HeldOutRow(r, w) for r, w in zip(task.test, rows.test, strict=True)]
        return cls(
            name=task.name,
            token=task.token,
            form=form,
            held_out=tuple(held_out),
            wordings=tuple(wordings),
            scoring=task.scoring,
            sha256=task.sha256,
        )

    @classmethod
    def read(
        cls,
        folder: str | os.PathLike[str],
        *,
        rule: str | Callable[[str], bool] | None = None,
        scoring: Scoring | None = None,
    ) -> AskedTask:
        """Read a task folder.

        Args:
            folder: What `delia diversify` wrote.
            rule: What is in the format, where the answers do not tell (`AnswerFormat.of`).
            scoring: The user's function, where the task is scored by one.

        Raises:
            InputError: It is no task folder, or has no held-out rows; or the answers are free
                text, and there is no rule.
            UnfinishedError: It has no finish marker.
            FormatError: A row is not in its wording.
        """
        root = Path(folder)
        if not root.is_dir():
            raise InputError(f"{root} is no folder: give the one that delia diversify wrote")
        manifest, rows, wordings = read_manifest(root), read_rows(root), _read_wordings(root)
        told: Mapping[str, Any] = manifest.details
        known = told.get("scoring")
        by: Scoring | None = scoring or (known if known in SCORINGS else None)
        form = AnswerFormat.of(
            [row.record.answer for row in (*rows.train, *rows.test)],
            keys=[str(key) for key in told.get("keys", ())],
            scoring=by,
            description=str(told.get("description", "")),
            rule=rule,
        )
        by_id = {wording.id: wording for wording in wordings}
        return cls(
            name=str(manifest.settings.get("name", root.name)),
            token=rows.token,
            form=form,
            held_out=tuple(HeldOutRow(_unworded(row, by_id, root), row) for row in rows.test),
            wordings=wordings,
            scoring=by,
            sha256=manifest.inputs.get("task", ""),
        )


def _read_wordings(root: Path) -> tuple[Wording, ...]:
    file = root / _WORDINGS
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise InputError(
            f"{root} has no {_WORDINGS}: give the folder that delia diversify wrote"
        ) from error
    return tuple(
        Wording(line["text"], line["split"], line.get("kind", ""), line.get("plain"))
        for line in lines
    )


def _unworded(row: TaskRow, wordings: Mapping[str, Wording], root: Path) -> Record:
    """The row with its query alone."""
    wording = wordings.get(row.wording_id or "")
    head, slot, tail = wording.text.partition(QUERY_SLOT) if wording else ("", "", "")
    text = row.record.query
    fits = bool(slot) and text.startswith(head) and text.endswith(tail)
    query = text[len(head) : len(text) - len(tail)]
    if wording is None or not fits or wording.fill(query) != text:
        raise FormatError(
            f"held-out row {row.record.id} of {root} is not in its wording {row.wording_id}: "
            "diversify the task again"
        )
    return with_query(row.record, query)
