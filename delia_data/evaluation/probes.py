"""Probes: held-out rows with the token and without it, in held-out and training wordings.

An `EvalTask` is built from a task and its rows, or read from a folder that `delia diversify` wrote;
there, queries are extracted from the wordings that contain them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Final, Literal, get_args

from delia_data.diversify.plain import plain_form
from delia_data.errors import FormatError, InputError
from delia_data.evaluation.answer_format import AnswerFormat
from delia_data.outputs import read_manifest
from delia_data.ranking import rank
from delia_data.records import Message, Record
from delia_data.tasks import QUERY_SLOT, SCORINGS, Scoring, Task, TaskRow, TaskRows, Wording
from delia_data.tasks import read_task_rows as read_rows
from delia_data.tasks.reading import with_query

_WORDINGS: Final = "wordings.jsonl"


@dataclass(frozen=True, slots=True)
class HeldOutRow:
    """One row that is not used in training.

    Attributes:
        record: The row without a wording.
        worded: The row in its held-out wording, with its plain form.
    """

    record: Record
    worded: TaskRow


@dataclass(frozen=True, slots=True)
class EvalTask:
    """A task to evaluate on.

    Attributes:
        name: Name of the task.
        token: The special token.
        form: The answer format.
        held_out: The held-out rows.
        wordings: All wordings, with those of the training.
        scoring: Scoring of answers; None if it was a function, which folders do not contain.
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
                f"task {self.name!r} has no held-out rows, and answers to training rows are not "
                "evidence: diversify it again with held-out rows (--test, --test-share)"
            )

    @classmethod
    def of(
        cls,
        task: Task,
        rows: TaskRows,
        wordings: Sequence[Wording],
        *,
        rule: str | Callable[[str], bool] | None = None,
    ) -> EvalTask:
        """Build it from a task and its rows in their wordings.

        Args:
            task: The task.
            rows: Its rows, from `diversify` or `undiversified`.
            wordings: Wordings; those of the split `"train"` are used by the training probe.
            rule: Definition of the format, for answers that are free text (`AnswerFormat.of`).

        Raises:
            InputError: There are no held-out rows, the rows are not those of the task, or the
                answers are free text and there is no rule.
        """
        if [row.record.answer for row in rows.test] != [row.answer for row in task.test]:
            raise InputError(
                f"the {len(rows.test)} held-out rows in wordings differ from the {len(task.test)} "
                f"of task {task.name!r}: diversify this task"
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
    ) -> EvalTask:
        """Read a task folder.

        Args:
            folder: Folder that `delia diversify` wrote.
            rule: Definition of the format, for answers that are free text (`AnswerFormat.of`).
            scoring: The user's scoring function, if the task has one.

        Raises:
            InputError: The folder is not a task folder or has no held-out rows, or the answers are
                free text and there is no rule.
            UnfinishedError: The folder has no finish marker.
            FormatError: A row is not in its wording.
        """
        root = Path(folder)
        if not root.is_dir():
            raise InputError(f"{root} is not a folder: give the one that delia diversify wrote")
        manifest, rows, wordings = read_manifest(root), read_rows(root), _read_wordings(root)
        details: Mapping[str, Any] = manifest.details
        known = details.get("scoring")
        by: Scoring | None = scoring or (known if known in SCORINGS else None)
        form = AnswerFormat.of(
            [row.record.answer for row in (*rows.train, *rows.test)],
            keys=[str(key) for key in details.get("keys", ())],
            scoring=by,
            description=str(details.get("description", "")),
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
    """Extract the query of a row from its wording."""
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


ProbeName = Literal["held-out", "training", "bare", "negative"]
PROBES: Final[tuple[ProbeName, ...]] = get_args(ProbeName)

BARE: Final = "Follow the {token} format."
NEGATIVE: Final = "Do NOT use the {token} format."


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """One row in the wording of a probe.

    Attributes:
        id: Content id of the task's row, equal in all probes and for all systems.
        query: The row's query without a wording.
        prompt: The turns with the token.
        plain: The same turns without the token.
        expected: The row's own answer.
        wording_id: Id of the wording; None if it is not one of the task's.
    """

    id: str
    query: str
    prompt: tuple[Message, ...]
    plain: tuple[Message, ...]
    expected: str
    wording_id: str | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """Rows whose wordings are of one kind.

    Attributes:
        name: One of `PROBES`, or any other name.
        rows: The rows in the order of questions.
        wants_format: Whether an answer should be in the format.
        notes: Notes for the reader.
    """

    name: str
    rows: tuple[ProbeRow, ...]
    wants_format: bool = True
    notes: tuple[str, ...] = ()


def make_probes(
    task: EvalTask,
    names: Sequence[str] = PROBES,
    *,
    rows: int | None = None,
    seed: int = 0,
) -> tuple[Probe, ...]:
    """Make probes of a task's held-out rows.

    A greater number of rows includes those of a smaller one in the same wordings, so a later run
    with more rows generates only the new answers.

    Args:
        task: The task.
        names: Names of probes, of `PROBES`.
        rows: Maximum number of rows, selected by keyed hash; default: all.
        seed: Seed of the rows and of their training wordings.

    Returns:
        The probes, in the order of `names`.

    Raises:
        InputError: A name is unknown, `rows` is below 1, or a held-out row or all training
            wordings have no plain form.
    """
    if unknown := [name for name in names if name not in PROBES]:
        raise InputError(f"probe {unknown[0]!r} is unknown: use one of {', '.join(PROBES)}")
    if not names:
        raise InputError(f"no probe was given: give some of {', '.join(PROBES)}")
    if rows is not None and rows < 1:
        raise InputError(f"{rows} rows are too few: give at least 1")
    unique = {row.record.id: row for row in task.held_out}
    ids = sorted(unique, key=lambda one: rank(seed, one, "evaluated rows"))
    selected = [unique[row_id] for row_id in ids[:rows]]

    def probe(name: str) -> Probe:
        if name == "training":
            return _training(task, selected, seed)
        make = {"held-out": _held_out, "bare": _bare, "negative": _negative}[name]
        made = tuple(make(row, task.token) for row in selected)
        return Probe(name, made, wants_format=name != "negative")

    return tuple(probe(name) for name in dict.fromkeys(names))


def _held_out(row: HeldOutRow, _: str) -> ProbeRow:
    return _row(row, row.worded.record.query, _plain(row), row.worded.wording_id)


def _training(task: EvalTask, rows: Sequence[HeldOutRow], seed: int) -> Probe:
    """Put the rows into the training wordings that have a plain form, in turn."""
    trained = [wording for wording in task.wordings if wording.split == "train"]
    plains = {w.id: w.plain or plain_form(w.text, task.token) for w in trained}
    usable = [wording for wording in trained if plains[wording.id]]
    if not usable:
        raise InputError(
            f"none of {len(trained)} training wordings has a form without {task.token}, which "
            'the probe needs: give one as "plain", or omit the training probe'
        )
    usable.sort(key=lambda wording: rank(seed, wording.id, "evaluated wordings"))
    made = []
    for row, wording in zip(rows, cycle(usable), strict=False):
        query = row.record.query
        plain = Wording(wording.text, plain=plains[wording.id]).fill_plain(query)
        made.append(_row(row, wording.fill(query), plain, wording.id))
    left = len(trained) - len(usable)
    note = f"{left} of {len(trained)} training wordings have no plain form and are not used"
    return Probe("training", tuple(made), notes=(note,) if left else ())


def _bare(row: HeldOutRow, token: str) -> ProbeRow:
    query = row.record.query
    return _row(row, f"{query}\n\n{BARE.format(token=token)}", query)


def _negative(row: HeldOutRow, token: str) -> ProbeRow:
    plain = _plain(row)
    return _row(row, f"{plain}\n\n{NEGATIVE.format(token=token)}", plain, row.worded.wording_id)


def _plain(row: HeldOutRow) -> str:
    if row.worded.plain is None:
        raise InputError(
            f"held-out row {row.worded.record.id} has no plain form: diversify the task again"
        )
    return row.worded.plain


def _row(row: HeldOutRow, asked: str, plain: str, wording_id: str | None = None) -> ProbeRow:
    record = row.record
    return ProbeRow(
        id=record.id,
        query=record.query,
        prompt=with_query(record, asked).prompt,
        plain=with_query(record, plain).prompt,
        expected=record.answer,
        wording_id=wording_id,
    )
