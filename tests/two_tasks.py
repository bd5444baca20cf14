"""Two tasks with the same questions, each with its own token and format, and a mixture of both."""

from __future__ import annotations

import json
from dataclasses import replace

from delia_data.diversify import diversify
from delia_data.evaluation import EvalTask
from delia_data.evaluation.answer_format import parse_answer
from delia_data.mixing import Mixture, Pairs, TaskRows, mix
from delia_data.records import Record
from delia_data.tasks import Task, Wording, bundled_task, bundled_wordings, make_task

SECOND = "<check>"


def two_tasks(rows: int, held_out: int) -> dict[str, tuple[Task, TaskRows]]:
    """Return the bundled task, and one of its other rows in another format, by token."""
    whole = bundled_task()

    def part(begin: int) -> dict[str, tuple[Record, ...]]:
        return {
            "train": whole.train[begin : begin + rows],
            "test": whole.test[begin : begin + held_out],
        }

    first = replace(whole, **part(0))
    other = {name: tuple(map(_checked, rows)) for name, rows in part(rows).items()}
    second = make_task(name="check", instruction="Is it correct?", token=SECOND, **other)
    return {task.token: (task, diversify(task, _wordings(task.token))) for task in (first, second)}


def _checked(row: Record) -> Record:
    parsed = parse_answer(row.answer, ("thought", "hallucination"))
    assert parsed is not None
    verdict = "wrong" if parsed.value["hallucination"] == "yes" else "right"
    answer = json.dumps({"verdict": verdict, "fact": parsed.value["thought"]})
    return Record.pair(row.query, answer)


def _wordings(token: str) -> list[Wording]:
    return [replace(w, text=w.text.replace("<sep>", token)) for w in bundled_wordings()]


def mixture(tasks: dict[str, tuple[Task, TaskRows]], pairs: Pairs, **options: object) -> Mixture:
    """Mix both tasks."""
    rows = {task.name: rows for task, rows in tasks.values()}
    return mix(rows, pairs, **options)  # type: ignore[arg-type]


def eval_tasks(tasks: dict[str, tuple[Task, TaskRows]]) -> list[EvalTask]:
    return [EvalTask.of(task, rows) for task, rows in tasks.values()]
