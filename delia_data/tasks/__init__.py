"""Tasks: the small downstream dataset, its instruction, and what the token stands for."""

from __future__ import annotations

from delia_data.mixing import TaskRow, TaskRows, read_task_rows
from delia_data.tasks.bundled import BUNDLED_TASKS, bundled_task, bundled_wordings
from delia_data.tasks.task import Task, Wording

__all__ = [
    "BUNDLED_TASKS",
    "Task",
    "TaskRow",
    "TaskRows",
    "Wording",
    "bundled_task",
    "bundled_wordings",
    "read_task_rows",
]
