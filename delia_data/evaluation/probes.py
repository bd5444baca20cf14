"""Probes: held-out rows with the token and without it, in held-out and training wordings.

An `EvalTask` is built from a task and its rows, or read from a folder that `delia diversify` wrote;
there, queries are extracted from the wordings that contain them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    """One row that training did not see.

    Attributes:
        record: The row as the task has it, before any wording.
        worded: The same row in its held-out wording, with its plain form.
    """

    record: Record
    worded: TaskRow


@dataclass(frozen=True, slots=True)
class EvalTask:
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
    ) -> EvalTask:
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
    ) -> EvalTask:
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


ProbeName = Literal["held-out", "training", "bare", "negative"]
PROBES: Final[tuple[ProbeName, ...]] = get_args(ProbeName)

BARE: Final = "Follow the {token} format."
NEGATIVE: Final = "Do NOT use the {token} format."


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """One row, put in one way.

    Attributes:
        id: Content id of the task's row: the same in every probe, and for every system.
        query: The row's query, in no wording.
        prompt: The turns that are asked, naming the token.
        plain: The same turns without the token.
        expected: The row's own answer.
        wording_id: Id of the wording; None where it is none of the task's.
    """

    id: str
    query: str
    prompt: tuple[Message, ...]
    plain: tuple[Message, ...]
    expected: str
    wording_id: str | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """Rows that are all put in the same way.

    Attributes:
        name: One of `PROBES`, or a name of the caller's own.
        rows: The rows, in the order in which they are asked.
        wants_format: Whether an answer should be in the format.
        notes: What a reader should know of it.
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
    """Put a task's held-out rows.

    The rows of a smaller number are among those of a larger one, in the same wordings, so that a
    later run with more asks only for the new ones.

    Args:
        task: The task.
        names: Which probes, of `PROBES`.
        rows: Rows to ask at most, by keyed hash.
        seed: Seed of the rows, and of the training wordings that they get.

    Returns:
        The probes, in the order of `names`.

    Raises:
        InputError: A name is unknown, a number is below 1, a held-out row has no plain form, or
            no training wording has one.
    """
    if unknown := [name for name in names if name not in PROBES]:
        raise InputError(f"probe {unknown[0]!r} is unknown: use one of {', '.join(PROBES)}")
    if not names:
        raise InputError(f"there is no probe to ask: give one of {', '.join(PROBES)}")
    if rows is not None and rows < 1:
        raise InputError(f"{rows} rows are too few: give at least 1")
    chosen = list(_chosen(task, seed))[:rows]
    makers = {
        "held-out": lambda: Probe("held-out", tuple(map(_held_out, chosen))),
        "training": lambda: _training(task, chosen, seed),
        "bare": lambda: Probe("bare", tuple(_bare(row, task.token) for row in chosen)),
        "negative": lambda: Probe(
            "negative", tuple(_negative(row, task.token) for row in chosen), wants_format=False
        ),
    }
    return tuple(makers[name]() for name in dict.fromkeys(names))


def _chosen(task: EvalTask, seed: int) -> Iterator[HeldOutRow]:
    """The held-out rows in their keyed order; equal ones once."""
    unique = {row.record.id: row for row in task.held_out}
    for row_id in sorted(unique, key=lambda one: rank(seed, one, "evaluated rows")):
        yield unique[row_id]


def _held_out(row: HeldOutRow) -> ProbeRow:

    return _row(row, row.worded.record.query, _plain(row), row.worded.wording_id)


def _training(task: EvalTask, rows: Sequence[HeldOutRow], seed: int) -> Probe:
    """Deal the training wordings that have a plain form out to the rows."""
    trained = [wording for wording in task.wordings if wording.split == "train"]
    plains = {w.id: w.plain or plain_form(w.text, task.token) for w in trained}
    able = [wording for wording in trained if plains[wording.id]]
    if not able:
        raise InputError(
            f"none of {len(trained)} training wordings has a form without {task.token}, which "
            'rows are asked with as well: give one as "plain", or leave the training probe out'
        )
    deck = sorted(able, key=lambda wording: rank(seed, wording.id, "evaluated wordings"))
    dealt = [(row, deck[place % len(deck)]) for place, row in enumerate(rows)]

    def put(row: HeldOutRow, wording: Wording) -> ProbeRow:
        query = row.record.query
        plain = Wording(wording.text, plain=plains[wording.id]).fill_plain(query)
        return _row(row, wording.fill(query), plain, wording.id)

    left = len(trained) - len(able)
    told = f"{left} of {len(trained)} training wordings have no plain form and are not asked"
    return Probe("training", tuple(put(*pair) for pair in dealt), notes=(told,) if left else ())


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
