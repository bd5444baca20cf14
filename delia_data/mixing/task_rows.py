"""Rows of a task for a mixture, each with its own wording of the instruction.

`delia diversify` writes them into a folder:

    train.jsonl      {"messages": [...], "wording_id": "..."}
    test.jsonl       the same, with held-out wordings and "plain": the request without the token
    contrast.jsonl   optional contrast rows; columns of `ContrastRow`
    manifest.json    the task's name, token and hashes
    FINISHED
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from delia_data.errors import FormatError, InputError, TokenError
from delia_data.outputs import canonical_json, read_manifest
from delia_data.reading import Source, choose_split, is_output, open_splits
from delia_data.records import Message, Record, content_id, read_record, write_record
from delia_data.tokens import DEFAULT_TOKEN

CONTRAST_FILE: Final = "contrast.jsonl"


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A row of the task in its wording.

    Attributes:
        record: The conversation with its question in the wording.
        wording_id: Id of the wording; None if the task was diversified elsewhere.
        plain: The question without the token, for held-out rows.
        teacher_messages: Turns with the instruction that the token replaces, answered by the
            untrained model; None if the answer has another source.
    """

    record: Record
    wording_id: str | None = None
    plain: str | None = None
    teacher_messages: tuple[Message, ...] | None = None

    def as_row(self) -> dict[str, Any]:
        """Return the row as a task folder holds it."""
        row = {**write_record(self.record), "wording_id": self.wording_id}
        if self.plain is not None:
            row["plain"] = self.plain
        if self.teacher_messages is not None:
            row["teacher_messages"] = [message.as_dict() for message in self.teacher_messages]
        return row


@dataclass(frozen=True, slots=True)
class ContrastRow:
    """A request similar to the task, with an answer that is not in its format.

    Attributes:
        record: The request, and the untrained model's answer to the plain request.
        kind: `"plain"`, `"forbid"` or `"mention"`.
        teacher_messages: Turns of the plain request, answered by the untrained model.
        wording_id: Id of the wording of the request, without the token.
        task_row: Content id of the task row with the same query.
        phrasing: Phrasing that forbids or mentions the token; None for a plain request.
    """

    record: Record
    kind: str
    teacher_messages: tuple[Message, ...]
    wording_id: str
    task_row: str
    phrasing: str | None = None

    def as_row(self) -> dict[str, Any]:
        """Return the row as a task folder holds it."""
        return {
            **write_record(self.record),
            "kind": self.kind,
            "phrasing": self.phrasing,
            "wording_id": self.wording_id,
            "task_row": self.task_row,
            "teacher_messages": [message.as_dict() for message in self.teacher_messages],
        }


_CONTRAST_COLUMNS: Final = ("kind", "phrasing", "wording_id", "task_row", "teacher_messages")


@dataclass(frozen=True, slots=True)
class TaskRows:
    """The rows of a task, ready to mix.

    Attributes:
        train: Rows to train on.
        test: Held-out rows.
        token: Special token in the wordings.
        read: Losses of reading: ignored columns, removed reasoning, skipped files.
        contrast: Contrast rows.
        contrast_by: Identity of the model that answered the contrast rows, if known.
    """

    train: tuple[TaskRow, ...]
    test: tuple[TaskRow, ...] = ()
    token: str = DEFAULT_TOKEN
    read: Mapping[str, Any] = field(default_factory=dict, compare=False)
    contrast: tuple[ContrastRow, ...] = ()
    contrast_by: Any = field(default=None, compare=False)

    @property
    def sha256(self) -> str:
        """Hash of the rows' contents, independent of their order."""
        parts: list[Sequence[TaskRow | ContrastRow]] = [self.train, self.test]
        parts += [self.contrast] if self.contrast else []
        splits = [sorted(map(_content, part)) for part in parts]
        return hashlib.sha256(canonical_json([self.token, splits])).hexdigest()


def _content(row: TaskRow | ContrastRow) -> list[str]:
    content = [row.record.id, row.wording_id or ""]
    if isinstance(row, TaskRow) and row.teacher_messages is not None:
        content.append(content_id(row.teacher_messages))
    return content


Rows = str | os.PathLike[str] | TaskRows | Sequence[TaskRow] | Iterable[Mapping[str, Any]]
"""Any input of a task."""


def as_task_rows(given: Rows, token: str | None) -> TaskRows:
    """Read the rows of any input of a task.

    Args:
        given: Task rows, rows of any format, a dataset, or a path for `read_task_rows`.
        token: Special token of a task that does not name its own; None for none.

    Raises:
        InputError: As `read_task_rows`.
    """
    if isinstance(given, TaskRows):
        return given
    folder = _read_folder(Path(given)) if isinstance(given, str | os.PathLike) else None
    return folder or _read_rows(given, token or "")


def read_task_rows(path: str | os.PathLike[str], *, token: str | None = None) -> TaskRows:
    """Read task rows from a task folder, or from a file, a glob or a Hub id in any row format.

    Args:
        path: The folder or file. Only a task folder has held-out rows.
        token: Special token, `""` for a task without one; None for that of the task folder, or
            `<sep>` for other inputs.

    Raises:
        InputError: The input does not exist or cannot be read, or a row has no answer.
        UnfinishedError: The folder has no finish marker.
        TokenError: The token of the folder differs from `token`.
    """
    rows = _read_folder(Path(path))
    if rows is None:
        return _read_rows(path, DEFAULT_TOKEN if token is None else token)
    if token is not None and token != rows.token:
        raise TokenError(
            f"the task's token is {rows.token!r}, and {token!r} was given: leave the token out, "
            "or diversify the task with that token"
        )
    return rows


def check_token(rows: Sequence[TaskRow], tokens: Sequence[str], kind: str = "task rows") -> None:
    """Refuse rows whose question names none of the tokens.

    Raises:
        TokenError: A row names none.
    """
    if not tokens:
        return
    missing = sum(
        not any(token in turn.content for turn in row.record.prompt for token in tokens)
        for row in rows
    )
    if missing:
        raise TokenError(
            f"{missing} of {len(rows)} {kind} do not name {' or '.join(tokens)}: diversify the "
            "task first, or give token=None (--token '') for a task without one"
        )


def _read_rows(given: Rows, token: str) -> TaskRows:
    splits = open_splits(given, purpose="task")
    source = choose_split(given, splits, "train", "test")
    train, test = _task_rows(source), _task_rows(splits.get("test"))
    report = source.report.add(splits["test"].report) if test else source.report
    return TaskRows(train, test, token, report.details())


def _read_folder(source: Path) -> TaskRows | None:
    """Return the rows of a task folder; None if this package has not written it."""
    if not is_output(source) and not _is_empty_folder(source):
        return None
    manifest = read_manifest(source)
    if manifest.kind != "task":
        raise InputError(f"{source} holds a {manifest.kind}, not a task: give a task folder")
    test, contrast = source / "test.jsonl", source / CONTRAST_FILE
    train = open_splits(source / "train.jsonl", purpose="task")["train"]
    held_out = open_splits(test, purpose="task")["train"] if test.is_file() else None
    return TaskRows(
        train=_task_rows(train),
        test=_task_rows(held_out),
        token=str(manifest.settings.get("token", DEFAULT_TOKEN)),
        contrast=_contrast_rows(contrast) if contrast.is_file() else (),
        contrast_by=manifest.details.get("contrast", {}).get("model"),
    )


def _contrast_rows(file: Path) -> tuple[ContrastRow, ...]:
    source = open_splits(file, purpose="task")["train"]

    def read(row: Any) -> ContrastRow:
        record = source.record(row, used=_CONTRAST_COLUMNS)
        kind, wording_id, task_row = (
            _text_or_none(row, name) or "" for name in ("kind", "wording_id", "task_row")
        )
        return ContrastRow(
            record,
            kind,
            _taught(row, record),
            wording_id,
            task_row,
            _text_or_none(row, "phrasing"),
        )

    return tuple(row for _, row in source.map(read))


def _task_rows(source: Source | None) -> tuple[TaskRow, ...]:
    if source is None:
        return ()

    def read(row: Any) -> TaskRow:
        if isinstance(row, TaskRow):
            return row
        record = source.record(row, used=("wording_id", "plain", "teacher_messages"))
        if isinstance(row, Record):
            return TaskRow(record)
        return TaskRow(
            record,
            _text_or_none(row, "wording_id"),
            _text_or_none(row, "plain"),
            _taught(row, record) if row.get("teacher_messages") else None,
        )

    return tuple(row for _, row in source.map(read))


def _taught(row: Mapping[str, Any], record: Record) -> tuple[Message, ...]:
    """Return the turns that the teacher of a row sees."""
    whole = {"prompt": row.get("teacher_messages"), "completion": record.answer}
    return read_record(whole, "prompt_completion").prompt


def _is_empty_folder(path: Path) -> bool:
    """Return whether a folder exists and is empty; then its finish marker is required."""
    return os.path.isdir(path) and not any(file.is_file() for file in path.rglob("[!.]*"))


def _text_or_none(row: Mapping[str, Any], column: str) -> str | None:
    value = row.get(column)
    if value is None or isinstance(value, str):
        return value
    raise FormatError(f"column {column!r} must hold text or nothing, and holds {value!r}")
