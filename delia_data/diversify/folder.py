"""The task folder that `delia diversify` writes and `delia mix` takes.

my-task/
    train.jsonl          rows in their wordings
    test.jsonl           held-out rows in held-out wordings, where there are any
    wordings.jsonl       the wordings that are used
    rejected.jsonl       the ledger of the others, each with its reason
    undiversified/       the same rows in one wording: a task folder of its own
    written/             what a model wrote, where one did
    manifest.json, FINISHED
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import jsonlines

from delia_data.diversify.assign import undiversified
from delia_data.diversify.gates import GateResult
from delia_data.mixing import TaskRows
from delia_data.outputs import (
    FINISHED,
    LOCK,
    Manifest,
    atomic_path,
    check_folder_is_ours,
    finish,
    folder_lock,
)
from delia_data.tasks import Task, Wording
from delia_data.tasks.scoring import scoring_name

UNDIVERSIFIED: Final = "undiversified"
WRITTEN: Final = "written"
_ROWS: Final = ("train.jsonl", "test.jsonl")
_LISTS: Final = ("wordings.jsonl", "rejected.jsonl")
_NAMES: Final = frozenset({*_ROWS, *_LISTS, UNDIVERSIFIED, WRITTEN})


def check_task_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder that holds something else, and sign it as ours.

    Raises:
        ForeignFolderError: It holds something else.
        LockedError: Another process writes there.
        OutputError: It cannot be written.
    """
    check_folder_is_ours(folder, _NAMES, sign=LOCK)
    with folder_lock(folder):
        pass


def save_task_rows(
    folder: str | os.PathLike[str],
    rows: TaskRows,
    task: Task,
    *,
    seed: int,
    gates: GateResult,
    details: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write a task folder with its manifest; the finish marker comes last.

    Args:
        folder: The folder.
        rows: The rows in their wordings.
        task: The task.
        seed: Seed of the assignment.
        gates: What came of checking the wordings.
        details: What else the manifest says, such as the spread of the wordings.

    Raises:
        ForeignFolderError: The folder holds something else.
        LockedError: Another process writes there.
        OutputError: It cannot be written.
    """
    root = Path(folder)
    check_folder_is_ours(root, _NAMES, sign=LOCK)
    used = {row.wording_id for row in (*rows.train, *rows.test)}
    with folder_lock(root):
        _clear(root)
        _clear(root / UNDIVERSIFIED)
        common = root / UNDIVERSIFIED
        _write_rows(common, plain := undiversified(task))
        finish(common, _manifest(plain, task, seed=None, dropped={}, details={"wordings": 1}))
        _write_rows(root, rows)
        held = {row.wording_id for row in rows.test}
        kept = [
            _as_line(replace(w, split="test" if w.id in held else "train"))
            for w in gates.accepted
            if w.id in used
        ]
        _write(root / "wordings.jsonl", kept)
        ledger = [{"reason": why, **_as_line(w)} for w, why in gates.rejected]
        if ledger:
            _write(root / "rejected.jsonl", ledger)
        told = {"wordings": len(used), **(details or {})}
        manifest = _manifest(rows, task, seed=seed, dropped=gates.counts, details=told)
        return finish(root, manifest)


def _manifest(
    rows: TaskRows,
    task: Task,
    *,
    seed: int | None,
    dropped: dict[str, int],
    details: Mapping[str, Any],
) -> Manifest:
    settings: dict[str, Any] = {"name": task.name, "token": task.token}
    if seed is not None:
        settings["seed"] = seed
    return Manifest(
        kind="task",
        settings=settings,
        inputs={"task": task.sha256},
        rows={"train": len(rows.train), "test": len(rows.test)},
        dropped=dropped,
        details={
            "instruction": task.instruction,
            "description": task.description,
            "keys": list(task.keys),
            "keywords": list(task.keywords),
            "labels": list(task.labels),
            "scoring": scoring_name(task.scoring),
            **details,
        },
    )


def _write_rows(folder: Path, rows: TaskRows) -> None:
    splits = {"train": rows.train} | ({"test": rows.test} if rows.test else {})
    for name, split in splits.items():
        _write(folder / f"{name}.jsonl", (row.as_row() for row in split))


def _write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    with atomic_path(path) as part, jsonlines.open(part, "w") as writer:
        writer.write_all(lines)


def _as_line(wording: Wording) -> dict[str, Any]:
    line = {"text": wording.text, "kind": wording.kind, "split": wording.split, "id": wording.id}
    return line if wording.plain is None else {**line, "plain": wording.plain}


def _clear(folder: Path) -> None:
    for name in (FINISHED, *_ROWS, *_LISTS):
        (folder / name).unlink(missing_ok=True)
