"""New rows after an input changed, and all ways to load with `datasets`."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import (
    get_dataset_config_names,
    get_dataset_split_names,
    load_dataset,
    load_dataset_builder,
)
from datasets.distributed import split_dataset_by_node
from row_files import PAIRS, Load, pair_rows, write_jsonl

from delia_data.builders import _base
from delia_data.errors import InputError
from delia_data.mixing import mix
from delia_data.tasks import read_task_rows


class TestFreshness:
    def test_a_changed_source_gives_new_rows(self, load: Load, task: Path, cache: Path) -> None:
        def rows() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = load(
                "delia_mix", ratio=2, task=task, cache=cache, split="train"
            ).to_list()
            return found

        first = rows()
        assert rows() == first
        write_jsonl(cache, pair_rows(PAIRS, "reply"))
        second = rows()
        assert "reply" in str(second)
        assert "answer" not in str(second)
        task.write_text(task.read_text("utf-8").replace("even", "odd"), "utf-8")
        third = rows()
        assert "even" not in str(third)
        write_jsonl(cache, pair_rows(PAIRS))
        task.write_text(task.read_text("utf-8").replace("odd", "even"), "utf-8")
        assert rows() == first

    def test_a_file_that_changed_inside_a_folder(self, load: Load, task_folder: Path) -> None:
        before = load("delia_task", task=task_folder, split="train")
        rows = task_folder / "train.jsonl"
        rows.write_text(rows.read_text("utf-8").replace("Paris", "Lyon"), "utf-8")
        after = load("delia_task", task=task_folder, split="train")
        assert "Paris" in str(before["messages"][:])
        assert "Paris" not in str(after["messages"][:])

    def test_the_same_bytes_elsewhere_are_the_same_dataset(
        self, load: Load, task: Path, cache: Path
    ) -> None:
        first = load("delia_mix", ratio=1, task=task, cache=cache, split="train")
        moved = cache.rename(cache.with_name("moved.jsonl"))
        again = load("delia_mix", ratio=1, task=task, cache=moved, split="train")
        assert again.cache_files == first.cache_files

    @pytest.mark.parametrize(
        "setting",
        [
            {"ratio": 2},
            {"seed": 1},
            {"order": "interleaved"},
            {"format": "alpaca"},
            {"on_short": "all"},
            {"token": ""},
            {"task": "hallucination-check"},
            {"cache": None},
        ],
        ids=lambda setting: next(iter(setting)),
    )
    def test_every_setting_is_in_the_id(
        self, task: Path, cache: Path, tmp_path: Path, setting: dict[str, Any]
    ) -> None:
        def config_id(**settings: Any) -> str:
            found: str = load_dataset_builder(
                "delia_mix", cache_dir=str(tmp_path / "hf"), **settings
            ).config_id
            return found

        given = {"ratio": 1, "task": task, "cache": cache}
        assert config_id(**given) == config_id(**given)
        assert config_id(**given | setting) != config_id(**given)

    def test_the_package_version_is_in_the_id(
        self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def config_id() -> str:
            builder = load_dataset_builder(
                "delia_cache", cache=cache, cache_dir=str(tmp_path / "hf")
            )
            found: str = builder.config_id
            return found

        before = config_id()
        monkeypatch.setattr(_base, "__version__", "99.0")
        assert config_id() != before

    @pytest.mark.parametrize("name", ["delia_cache", "delia_mix"])
    def test_given_features_are_in_the_id(
        self, load: Load, task: Path, cache: Path, name: str
    ) -> None:
        settings = {"task": task, "ratio": 1} if name == "delia_mix" else {}
        plain = load(name, cache=cache, split="train", **settings)
        features = plain.features.copy()
        features["source_id"] = datasets.Value("large_string")
        cast = load(name, cache=cache, split="train", features=features, **settings)
        assert cast.features["source_id"].dtype == "large_string"
        assert cast.to_list() == plain.to_list()

    def test_an_input_that_changes_meanwhile_is_noticed(
        self, task: Path, cache: Path, tmp_path: Path
    ) -> None:
        builder = load_dataset_builder(
            "delia_mix", ratio=1, task=task, cache=cache, cache_dir=str(tmp_path / "hf")
        )
        write_jsonl(cache, pair_rows(PAIRS, "reply"))
        with pytest.raises(InputError, match="changed while it was read: load it again"):
            builder.download_and_prepare()

    def test_a_glob_is_known_by_its_files(self, load: Load, task: Path, cache: Path) -> None:
        parts = [write_jsonl(cache.with_name(f"part-{i}.jsonl"), []) for i in range(2)]
        for number, part in enumerate(parts):
            write_jsonl(part, pair_rows(PAIRS)[number::2])
        settings = {"ratio": 4, "task": task, "split": "train"}
        given = {"cache": str(cache.with_name("part-*.jsonl")), **settings}
        whole = load("delia_mix", cache=cache, **settings).to_list()
        assert load("delia_mix", **given).to_list() == whole
        write_jsonl(cache.with_name("part-2.jsonl"), pair_rows(PAIRS, "other"))
        assert load("delia_mix", **given).to_list() != whole


class TestStreams:
    """Rows of a cache that is read, and of one whose rows are in the Arrow file of the home."""

    @pytest.fixture(params=["read", "stored"])
    def cache(
        self,
        request: pytest.FixtureRequest,
        cache: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Iterator[Path]:
        home = tmp_path / "home"
        monkeypatch.setenv("DELIA_CACHE", str(home))
        if request.param == "stored":
            monkeypatch.setattr("delia_data.mixing.store._STORED_BYTES", 0)
        yield cache
        stored = request.param == "stored" and "delia_task" not in request.node.name
        assert bool(list(home.glob("sources/*/rows.arrow"))) == stored

    @pytest.mark.parametrize("order", ["shuffled", "interleaved"])
    def test_rows_are_those_of_mix(self, load: Load, task: Path, cache: Path, order: Any) -> None:
        rows = load("delia_mix", ratio=4, task=task, cache=cache, order=order, split="train")
        expected = mix(read_task_rows(task).train, cache, ratio=4, order=order).train
        assert rows.to_list() == expected.to_pylist()

    @pytest.mark.parametrize("builder", ["delia_mix", "delia_cache", "delia_task"])
    def test_streaming_gives_the_same_rows(
        self, load: Load, task: Path, cache: Path, builder: str
    ) -> None:
        by_builder: dict[str, dict[str, Any]] = {
            "delia_mix": {"ratio": 4, "task": task, "cache": cache},
            "delia_cache": {"cache": cache},
            "delia_task": {"task": task},
        }
        settings = by_builder[builder]
        stored = load(builder, split="train", **settings)
        streamed = load(builder, split="train", streaming=True, **settings)
        assert list(streamed) == stored.to_list()
        assert streamed.features == stored.features

    def test_a_stream_goes_on_where_it_stopped(self, load: Load, task: Path, cache: Path) -> None:
        rows = load("delia_mix", ratio=4, task=task, cache=cache, split="train", streaming=True)
        whole, seen = list(rows), []
        for row in rows:
            seen.append(row)
            if len(seen) == 17:
                state = rows.state_dict()
                break
        rows.load_state_dict(state)
        assert [*seen, *rows] == whole

    def test_a_stream_splits_by_node(self, load: Load, cache: Path) -> None:
        rows = load("delia_cache", cache=cache, split="train", streaming=True)
        assert rows.num_shards == PAIRS
        parts = [list(split_dataset_by_node(rows, rank, 3)) for rank in range(3)]
        assert [len(part) for part in parts] == [PAIRS // 3] * 3
        ids = [row["source_id"] for part in parts for row in part]
        assert sorted(ids) == sorted(row["source_id"] for row in rows)

    @pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
    def test_several_processes_give_the_same_rows(
        self, load: Load, task: Path, cache: Path, tmp_path: Path
    ) -> None:
        settings = {"ratio": 4, "task": task, "cache": cache, "split": "train"}
        alone = load("delia_mix", **settings).to_list()
        together = load_dataset(
            "delia_mix", num_proc=2, cache_dir=str(tmp_path / "hf2"), **settings
        )
        assert len(together.cache_files) == 2
        assert together.to_list() == alone


class TestWaysToLoad:
    def test_a_stream_is_small_in_a_worker(self, load: Load, cache: Path) -> None:
        write_jsonl(cache, pair_rows(PAIRS, "long " * 1000))
        rows = load("delia_cache", cache=cache, split="train", streaming=True)
        part = pickle.dumps(rows.shard(num_shards=6, index=0))
        assert len(part) < len(pickle.dumps(rows)) / 4
        assert list(pickle.loads(part)) == list(rows)[: PAIRS // 6]

    def test_slices(self, load: Load, task: Path, cache: Path) -> None:
        settings = {"ratio": 4, "task": task, "cache": cache}
        whole = load("delia_mix", split="train", **settings).to_list()
        assert load("delia_mix", split="train[:3]", **settings).to_list() == whole[:3]
        assert load("delia_mix", split="train[-20%:]", **settings).to_list() == whole[-7:]

    def test_config_names_and_splits(self) -> None:
        names = get_dataset_config_names("delia_mix")
        assert names == ["ratio-4", "ratio-65", "ratio-260"]
        assert get_dataset_config_names("delia_task") == ["default"]
        assert get_dataset_config_names("delia_cache") == ["default"]
        assert get_dataset_split_names("delia_mix", "ratio-0") == ["train", "test"]

    def test_a_builder_alone(self, task: Path, cache: Path, tmp_path: Path) -> None:
        builder = load_dataset_builder(
            "delia_mix", "ratio-260", task=task, cache=cache, cache_dir=str(tmp_path / "hf")
        )
        assert builder.dataset_name == "delia_mix"
        assert builder.config.name == "ratio-260"
        assert list(builder.info.features) == ["messages", "source", "source_id", "wording_id"]
        assert not any(file.is_file() for file in (tmp_path / "hf" / "delia_mix").rglob("*"))
