"""Probes: requests to a system, with the token and without it.

    held-out      held-out rows in held-out wordings, which name the token     follow, right, save
    plain         the same requests without the token                          leak
    unrelated     requests that have nothing to do with the task               leak, keep
    other-json    requests for JSON with other keys                            leak
    token         questions about the token                                    leak
    forbid        the same requests, in phrasings that forbid the format       obey
    mention       the same requests, in phrasings that only mention the token
    general       requests with constraints that code verifies                 general

An `EvalTask` is built from a task and its rows, or read from a folder that `delia diversify` wrote;
there, queries are extracted from the wordings that contain them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from itertools import cycle
from pathlib import Path
from typing import Any, Final, Literal, get_args

import yaml

from delia_data.diversify.contrast import contrast_phrasings, fill_phrasing
from delia_data.errors import FormatError, InputError
from delia_data.evaluation.answer_format import AnswerFormat
from delia_data.outputs import read_manifest
from delia_data.ranking import rank
from delia_data.records import Message, Record, content_id
from delia_data.tasks import QUERY_SLOT, SCORINGS, Scoring, Task, TaskRow, TaskRows, Wording
from delia_data.tasks import read_task_rows as read_rows
from delia_data.tasks.reading import with_query

_WORDINGS: Final = "wordings.jsonl"
_TWO_TOKEN_ROWS: Final = 24  # requests that name the same two tokens


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
        scoring: Scoring of answers; None if it was a function, which folders do not contain.
        sha256: Hash of the task.
        instruction: The full instruction, which spells the format out; empty if unknown.
        system: The system prompt that the token stands for, in place of an instruction.
    """

    name: str
    token: str
    form: AnswerFormat
    held_out: tuple[HeldOutRow, ...]
    scoring: Scoring | None
    sha256: str
    instruction: str = ""
    system: str = ""

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
        *,
        rule: str | Callable[[str], bool] | None = None,
    ) -> EvalTask:
        """Build it from a task and its rows in their wordings.

        Args:
            task: The task.
            rows: Its rows, from `diversify` or `undiversified`.
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
            scoring=task.scoring,
            sha256=task.sha256,
            instruction=task.instruction,
            system=task.system,
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
        declared = details.get("scoring")
        by: Scoring | None = scoring or (declared if declared in SCORINGS else None)
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
            scoring=by,
            sha256=manifest.inputs.get("task", ""),
            instruction=str(details.get("instruction", "")),
            system=str(details.get("system", "")),
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


ProbeName = Literal[
    "held-out", "plain", "unrelated", "other-json", "token", "forbid", "mention", "general"
]
PROBES: Final[tuple[ProbeName, ...]] = get_args(ProbeName)
LEAK_PROBES: Final[tuple[ProbeName, ...]] = ("plain", "unrelated", "other-json", "token")
"""Probes whose answers must show nothing of the format."""
DEFAULT_PROBES: Final[tuple[ProbeName, ...]] = ("held-out", *LEAK_PROBES, "forbid")
"""Probes of every evaluation, unless others are named."""


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """One request of a probe.

    Attributes:
        id: Content id of the task's row, equal in all probes; of a request without one, its own.
        query: The row's query without a wording, or the request.
        prompt: The turns to send.
        expected: The row's own answer; empty for requests that are not of the task.
        wording_id: Id of the wording; None if it is not one of the task's.
        full: The turns with the full instruction in place of the wording; empty if unknown.
        constraints: Constraints on the answer by name, for the probe `general`.
    """

    id: str
    query: str
    prompt: tuple[Message, ...]
    expected: str = ""
    wording_id: str | None = None
    full: tuple[Message, ...] = ()
    constraints: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Probe:
    """Requests of one kind: its name, one of `PROBES`, and the requests in their order."""

    name: str
    rows: tuple[ProbeRow, ...]


def make_probes(
    task: EvalTask,
    names: Sequence[str] = DEFAULT_PROBES,
    *,
    rows: int | None = None,
    seed: int = 0,
) -> tuple[Probe, ...]:
    """Make probes of a task's held-out rows and of the package's requests.

    A greater number of rows includes those of a smaller one in the same wordings, so a later run
    with more rows generates only the new answers.

    Args:
        task: The task.
        names: Names of probes, of `PROBES`.
        rows: Maximum number of held-out rows, selected by keyed hash; default: all.
        seed: Seed of the rows.

    Returns:
        The probes, in the order of `names`.

    Raises:
        InputError: A name is unknown, `rows` is below 1, or a held-out row has no plain form.
    """
    if unknown := [name for name in names if name not in PROBES]:
        raise InputError(f"probe {unknown[0]!r} is unknown: use one of {', '.join(PROBES)}")
    if not names:
        raise InputError(f"no probe was given: give some of {', '.join(PROBES)}")
    if rows is not None and rows < 1:
        raise InputError(f"{rows} rows are too few: give at least 1")
    selected = _selected(task, rows, seed)
    return tuple(Probe(name, _rows(name, task, selected)) for name in dict.fromkeys(names))


def two_token_probe(first: EvalTask, second: EvalTask, *, rows: int | None, seed: int) -> Probe:
    """Make requests of the first task's held-out queries that name both tokens.

    Args:
        first: The first task.
        second: The second task.
        rows: Maximum number of requests, at most 24; default: 24.
        seed: Seed of the rows.
    """
    wordings = cycle(_data("requests.yaml")["two-tokens"])
    selected = _selected(first, min(rows or _TWO_TOKEN_ROWS, _TWO_TOKEN_ROWS), seed)
    filled = (
        text.format(query=_plain(row), first=first.token, second=second.token)
        for row, text in zip(selected, wordings, strict=False)
    )
    return Probe("two-tokens", tuple(map(_row, selected, filled)))


def _selected(task: EvalTask, rows: int | None, seed: int) -> list[HeldOutRow]:
    """Select held-out rows by keyed hash."""
    unique = {row.record.id: row for row in task.held_out}
    ids = sorted(unique, key=lambda one: rank(seed, one, "evaluated rows"))
    return [unique[row_id] for row_id in ids[:rows]]


def _rows(name: str, task: EvalTask, rows: Sequence[HeldOutRow]) -> tuple[ProbeRow, ...]:
    match name:
        case "held-out":
            return tuple(_held_out(row, task) for row in rows)
        case "plain":
            return tuple(_row(row, _plain(row)) for row in rows)
        case "forbid" | "mention":
            phrasings = cycle(contrast_phrasings(name, "test"))
            filled = zip(rows, phrasings, strict=False)
            return tuple(_row(row, fill_phrasing(p, _plain(row), task.token)) for row, p in filled)
        case "general":
            entries = _data("general.yaml")
            return tuple(_request(e.pop("request"), e) for e in map(dict, entries))
        case "token":
            texts = contrast_phrasings("about", "test")
            return tuple(_request(text.replace("{token}", task.token)) for text in texts)
        case _:
            return tuple(_request(text) for text in _data("requests.yaml")[name])


@cache
def _data(name: str) -> Any:
    text = (files("delia_data.evaluation") / "data" / name).read_text(encoding="utf-8")
    return yaml.safe_load(text)


def _request(text: str, constraints: Mapping[str, Any] | None = None) -> ProbeRow:
    turns = (Message("user", text),)
    return ProbeRow(content_id(turns), text, turns, constraints=constraints or {})


def _held_out(row: HeldOutRow, task: EvalTask) -> ProbeRow:
    full: tuple[Message, ...] = ()
    if task.system:
        full = (Message("system", task.system), *row.record.prompt)
    elif task.instruction:
        full = with_query(row.record, f"{task.instruction}\n\n{row.record.query}").prompt
    return replace(_row(row, row.worded.record.query), wording_id=row.worded.wording_id, full=full)


def _plain(row: HeldOutRow) -> str:
    if row.worded.plain is None:
        raise InputError(
            f"held-out row {row.worded.record.id} has no plain form: diversify the task again"
        )
    return row.worded.plain


def _row(row: HeldOutRow, question: str) -> ProbeRow:
    record = row.record
    return ProbeRow(record.id, record.query, with_query(record, question).prompt, record.answer)
