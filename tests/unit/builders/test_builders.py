"""`load_dataset` of `delia_cache` and `delia_task`."""

from __future__ import annotations

from pathlib import Path

import pytest
from row_files import TASK_ROWS, Load

from delia_data.diversify import diversify
from delia_data.errors import InputError, SettingsError, TokenError, UnfinishedError
from delia_data.outputs import Manifest, finish
from delia_data.reading import read_records
from delia_data.records import Record
from delia_data.tasks import Task, bundled_task, bundled_wordings, read_task_rows


class TestCacheAndTask:
    def test_a_cache_file(self, load: Load, cache: Path) -> None:
        splits = load("delia_cache", cache=cache)
        assert list(splits) == ["train"]
        assert splits["train"].to_list() == [
            {"messages": [m.as_dict() for m in record.messages], "source_id": record.id}
            for record in read_records(cache)
        ]

    def test_a_task_file(self, load: Load, task: Path) -> None:
        splits = load("delia_task", task=task)
        assert list(splits) == ["train"]
        assert splits["train"].to_list() == [
            {
                "messages": [m.as_dict() for m in row.record.messages],
                "wording_id": None,
                "source_id": row.record.id,
            }
            for row in read_task_rows(task).train
        ]

    def test_the_bundled_task(self, load: Load) -> None:
        splits = load("delia_task", seed=5)
        rows = diversify(bundled_task(), bundled_wordings(), seed=5)
        for name, expected in (("train", rows.train), ("test", rows.test)):
            assert splits[name]["source_id"] == [row.record.id for row in expected]
            assert splits[name]["wording_id"] == [row.wording_id for row in expected]

    def test_a_token_that_rows_do_not_name(self, load: Load, task: Path) -> None:
        assert len(load("delia_task", task=task, token="<sep>", split="train")) == TASK_ROWS
        with pytest.raises(TokenError, match="7 of 7 task rows do not name <fmt>"):
            load("delia_task", task=task, token="<fmt>")

    @pytest.mark.parametrize("builder", ["delia_cache", "delia_task"])
    def test_a_name_is_refused(self, load: Load, builder: str) -> None:
        with pytest.raises(InputError, match=f"{builder} has no configuration 'mine'"):
            load(builder, "mine")

    @pytest.mark.parametrize(("builder", "key"), [("delia_cache", "cach"), ("delia_task", "tusk")])
    def test_unknown_keys(self, load: Load, builder: str, key: str) -> None:
        with pytest.raises(
            SettingsError, match=f"{builder}: unknown setting '{key}', did you mean"
        ):
            load(builder, **{key: "x"})

    def test_a_cache_folder(self, load: Load, tmp_path: Path, cache: Path) -> None:
        folder = tmp_path / "sampled"
        folder.mkdir()
        rows = load("delia_cache", cache=cache, split="train")
        for number in range(2):
            part = rows.shard(2, number, contiguous=True)
            part.to_parquet(folder / f"pairs-{number:05}.parquet")
        (folder / "plan.json").write_text("{}")
        with pytest.raises(UnfinishedError, match="not a finished output"):
            load("delia_cache", cache=folder)
        finish(folder, Manifest(kind="cache"))
        assert load("delia_cache", cache=folder, split="train").to_list() == rows.to_list()
        (folder / "pairs-00001.parquet").unlink()
        with pytest.raises(UnfinishedError, match=r"pairs-00001\.parquet is missing: copy"):
            load("delia_cache", cache=folder)


def test_a_task_in_memory_is_refused_with_the_way_to_give_it(load: Load) -> None:
    task: Task = bundled_task()
    with pytest.raises(InputError, match="is not a path: give a task folder"):
        load("delia_mix", ratio=0, task=task)
    with pytest.raises(InputError, match="is not a path: give a cache folder"):
        load("delia_cache", cache=[Record.pair("a", "b")])
