"""Builder of `load_dataset("delia_task", task="my-task")`: task rows in their wordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import datasets
import pyarrow as pa

from delia_data.builders._base import DeliaBuilder, DeliaConfig, Location, read_task
from delia_data.mixing import schema
from delia_data.mixing.task_rows import check_token
from delia_data.records import write_record
from delia_data.tasks import TaskRow

_SCHEMA: Final = pa.schema(
    [schema("messages").field(name) for name in ("messages", "wording_id", "source_id")]
)


@dataclass
class DeliaTaskConfig(DeliaConfig):
    """Settings of a task.

    Attributes:
        task: Task folder; file, glob, folder or URL of task rows; or name of a bundled task. None
            for the bundled task.
        token: Special token, which every training row must then name; None for that of the task,
            `""` for a task without one.
        seed: Seed of the wordings of a bundled task; other tasks have their wordings.
    """

    task: Location | None = None
    token: str | None = None
    seed: int = 0


class DeliaTask(DeliaBuilder):
    """Builder of a task: `train`, and `test` if it has held-out rows."""

    BUILDER_CONFIG_CLASS = DeliaTaskConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=datasets.Features.from_arrow_schema(_SCHEMA))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        config = self.config
        task = read_task(config.task, token=config.token, seed=config.seed)
        check_token(task.train, [config.token] if config.token else [])
        splits = {"train": task.train} | ({"test": task.test} if task.test else {})
        return self._splits({name: _table(rows) for name, rows in splits.items()})


def _table(rows: Sequence[TaskRow]) -> pa.Table:
    columns = [
        {**write_record(r.record), "wording_id": r.wording_id, "source_id": r.record.id}
        for r in rows
    ]
    return pa.Table.from_pylist(columns, schema=_SCHEMA)
