"""Inspect a task before anything is spent on it: rows, lengths, format, irregularities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from delia_data.records import Record
from delia_data.tasks.scoring import json_object, scoring_name
from delia_data.tasks.task import Task, words_of

_SHOWN: Final = 3  # rows


@dataclass(frozen=True, slots=True)
class Inspection:
    """Summary of a task.

    Attributes:
        facts: Properties of the task by name, in reading order.
        shown: Query in the common wording and answer of the first rows.
        notes: Irregularities, each as a sentence.
    """

    facts: dict[str, Any]
    shown: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as plain values for JSON."""
        rows = [{"query": query, "answer": answer} for query, answer in self.shown]
        return {**self.facts, "shown": rows, "notes": list(self.notes)}


def inspect_task(task: Task) -> Inspection:
    """Return a summary of a task, with notes on irregularities."""
    lengths = sorted(len(row.query.split()) for row in task.train)
    facts: dict[str, Any] = {
        "name": task.name,
        "rows": len(task.train),
        "held-out rows": len(task.test),
        "instruction": task.instruction,
        "request": task.plain_request,
        "token": task.token,
        "stands for": task.description,
        "words to avoid": sorted(task.leaks),
        "scored by": scoring_name(task.scoring),
        "keys": list(task.keys),
        "labels": _label_counts(task),
        "words of a query": [lengths[0], lengths[len(lengths) // 2], lengths[-1]],
    }
    wording = task.common_wording
    shown = tuple((wording.fill(row.query), row.answer) for row in task.train[:_SHOWN])
    return Inspection(facts, shown, tuple(_notes(task)))


def _label_counts(task: Task) -> dict[str, int]:
    """Return how often each label is an answer, or a value of one, in the training rows."""
    counts: Counter[str] = Counter()
    for row in task.train:
        value = json_object(row.answer)
        counts.update([row.answer.strip()] if value is None else map(str, value.values()))
    return {label: counts[label] for label in task.labels}


def _notes(task: Task) -> list[str]:
    rows = (*task.train, *task.test)
    notes = []
    if not task.test:
        notes.append("no rows are held out: nothing can be measured on unseen rows")
    if twice := len(rows) - len({row.id for row in rows}):
        notes.append(f"{twice:,} rows are duplicates")
    if apart := _contradictions(rows):
        notes.append(f"{apart:,} queries have several answers")
    shared = {row.query for row in task.train} & {row.query for row in task.test}
    if shared:
        notes.append(f"{len(shared):,} held-out queries are trained on as well")
    if leaking := task.leaks & set(words_of(task.plain_request)):
        named = ", ".join(sorted(leaking))
        notes.append(f"the request names the format ({named}): give one that does not")
    if task.keys:
        odd = sum(set(json_object(row.answer) or ()) != set(task.keys) for row in rows)
        if odd:
            notes.append(f"{odd:,} answers are not an object with the keys of the task")
    return notes


def _contradictions(rows: Sequence[Record]) -> int:
    answers: dict[str, set[str]] = {}
    for row in rows:
        answers.setdefault(row.query, set()).add(row.answer)
    return sum(len(several) > 1 for several in answers.values())
