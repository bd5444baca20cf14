"""Tasks: the small downstream dataset, its instruction, and what the token stands for."""

from __future__ import annotations

from delia_data.mixing import TaskRow, TaskRows, read_task_rows
from delia_data.tasks.inspection import Inspection, inspect_task
from delia_data.tasks.reading import make_task, read_task
from delia_data.tasks.ready import (
    BUNDLED_TASKS,
    READY_TASKS,
    bundled_task,
    bundled_wordings,
    halueval_task,
    ready_task,
    ready_wordings,
    translation_task,
)
from delia_data.tasks.scoring import SCORINGS, Scoring, chrf, exact
from delia_data.tasks.task import QUERY_SLOT, Task, Wording, leaking_words, words_of

__all__ = [
    "BUNDLED_TASKS",
    "QUERY_SLOT",
    "READY_TASKS",
    "SCORINGS",
    "Inspection",
    "Scoring",
    "Task",
    "TaskRow",
    "TaskRows",
    "Wording",
    "bundled_task",
    "bundled_wordings",
    "chrf",
    "exact",
    "halueval_task",
    "inspect_task",
    "leaking_words",
    "make_task",
    "read_task",
    "read_task_rows",
    "ready_task",
    "ready_wordings",
    "translation_task",
    "words_of",
]
