"""The task in the box: `hallucination-check`, made from a table of checkable facts.

A row shows a question and a candidate answer, right or wrong. The answer to give names the fact
and the verdict: `{'thought': 'The capital of France is Paris.', 'hallucination': 'no'}`. It is
the form of the paper's formatted-text task, on rows short enough for a model of 135M parameters.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, Final

from delia_data.errors import InputError
from delia_data.records import Record
from delia_data.tasks.splits import limit
from delia_data.tasks.task import Task, Wording
from delia_data.tokens import DEFAULT_TOKEN

BUNDLED_TASKS: Final = ("hallucination-check",)


def bundled_task(
    name: str = "hallucination-check",
    *,
    rows: int | None = None,
    token: str = DEFAULT_TOKEN,
    seed: int = 0,
) -> Task:
    """Load a task that comes with the package: 100 training rows and 100 held-out ones.

    Args:
        name: Its name.
        rows: Training rows to take at most, by keyed hash.
        token: The special token.
        seed: Seed of the rows.

    Raises:
        InputError: There is no such task.
    """
    definition = json.loads(_text(name, "task.json"))
    facts = _lines(name, "facts.jsonl")
    return Task(
        name=definition["name"],
        instruction=definition["instruction"],
        description=definition["description"],
        common_wording=Wording(definition["common_wording"].replace(DEFAULT_TOKEN, token)),
        keys=tuple(definition["keys"]),
        keywords=tuple(definition["keywords"]),
        train=limit([_row(fact) for fact in facts if fact["split"] == "train"], rows, seed),
        test=tuple(_row(fact) for fact in facts if fact["split"] == "test"),
        token=token,
        request=definition["request"],
        meanings=tuple(definition["meanings"]),
    )


def bundled_wordings(
    name: str = "hallucination-check", *, token: str = DEFAULT_TOKEN
) -> list[Wording]:
    """Load the wordings that come with a bundled task, held-out ones among them.

    Args:
        name: The task's name.
        token: The special token that they name.

    Raises:
        InputError: There is no such task.
    """
    lines = _lines(name, "wordings.jsonl")
    return [
        Wording(**{**line, "text": line["text"].replace(DEFAULT_TOKEN, token)}) for line in lines
    ]


def _row(fact: dict[str, Any]) -> Record:
    """Make one row of the task from one fact."""
    wrong = fact["hallucination"] == "yes"
    shown = fact["wrong"] if wrong else fact["answer"]
    thought = f"{fact['statement']}, not {fact['wrong']}." if wrong else f"{fact['statement']}."
    return Record.pair(
        f"Question: {fact['question']}\nAnswer: {shown}",
        f"{{'thought': '{thought}', 'hallucination': '{fact['hallucination']}'}}",
    )


def _lines(task: str, file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _text(task, file).splitlines()]


def _text(task: str, file: str) -> str:
    if task not in BUNDLED_TASKS:
        raise InputError(f"no task {task!r} is bundled: use one of {', '.join(BUNDLED_TASKS)}")
    folder = files("delia_data") / "tasks" / "data" / task.replace("-", "_")
    return (folder / file).read_text(encoding="utf-8")
