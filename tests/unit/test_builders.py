from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Callable
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

from delia_data.builders import _common
from delia_data.diversify import diversify, gate_task_wordings, save_task_rows
from delia_data.errors import (
    FormatError,
    InputError,
    RatioError,
    SettingsError,
    TokenError,
    UnfinishedError,
)
from delia_data.manifest import Manifest, finish
from delia_data.mixing import mix
from delia_data.records import Record, read_records, write_record
from delia_data.tasks import Task, bundled_task, bundled_wordings, read_task_rows

Load = Callable[..., Any]
TASK_ROWS = 7
PAIRS = 60


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def pair_rows(count: int, word: str = "answer") -> list[dict[str, Any]]:
    return [{"prompt": f"Question {i}?", "completion": f"The {word} {i}."} for i in range(count)]


@pytest.fixture
def task(tmp_path: Path) -> Path:
    rows = [
        {"prompt": f"Answer in <sep>: is {i} even?", "completion": f"{{'even': '{i % 2 == 0}'}}"}
        for i in range(TASK_ROWS)
    ]
    return write_jsonl(tmp_path / "task.jsonl", rows)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "pairs.jsonl", pair_rows(PAIRS))


@pytest.fixture
def task_folder(tmp_path: Path) -> Path:
    folder, task, wordings = tmp_path / "task", bundled_task(), bundled_wordings()
    gates = gate_task_wordings(task, wordings)
    save_task_rows(folder, diversify(task, wordings), task, seed=0, gates=gates)
    return folder


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """`load_dataset` with a cache of its own."""

    def load(name: str, config: str | None = None, **arguments: Any) -> Any:
        return load_dataset(name, config, cache_dir=str(tmp_path / "hf"), **arguments)

    return load


class TestMix:
    def test_rows_are_those_of_mix(self, load: Load, task: Path, cache: Path) -> None:
        splits = load("delia_mix", ratio=4, task=str(task), cache=str(cache), seed=3)
        expected = mix(
            read_task_rows(task).train, list(read_records(cache)), ratio=4, seed=3
        ).train.to_pylist()
        assert list(splits) == ["train"]
        assert splits["train"].to_list() == expected
        assert splits["train"].column_names == ["messages", "source", "source_id", "wording_id"]
        assert Counter(splits["train"]["source"]) == {"task": TASK_ROWS, "cache": 4 * TASK_ROWS}

    @pytest.mark.parametrize(
        ("ratio", "pairs"), [(0, 0), (0.5, 4), (1, 7), ("2", 14), (60 / 7, 60)]
    )
    def test_the_ratio_is_exact(
        self, load: Load, task: Path, cache: Path, ratio: Any, pairs: int
    ) -> None:
        rows = load("delia_mix", ratio=ratio, task=task, cache=cache, split="train")
        assert Counter(rows["source"])["cache"] == pairs
        assert len(rows) == TASK_ROWS + pairs

    def test_ratios_are_nested(self, load: Load, task: Path, cache: Path) -> None:
        small, large = (
            load("delia_mix", ratio=ratio, task=task, cache=cache, split="train")
            for ratio in (2, 5)
        )
        assert set(small["source_id"]) < set(large["source_id"])

    def test_the_name_can_carry_the_ratio(self, load: Load, task: Path, cache: Path) -> None:
        inputs = {"task": task, "cache": cache, "split": "train"}
        by_name = load("delia_mix", "ratio-4", **inputs)
        by_ratio = load("delia_mix", ratio=4, **inputs)
        assert by_name.to_list() == by_ratio.to_list()
        assert by_name.config_name == by_ratio.config_name == "ratio-4"
        assert by_name.cache_files == by_ratio.cache_files
        assert load("delia_mix", "ratio-4.0", ratio=4, **inputs).cache_files == by_name.cache_files
        assert len(load("delia_mix", "ratio-1.5", **inputs)) == TASK_ROWS + 10

    def test_a_name_and_a_ratio_that_disagree_are_refused(self, load: Load) -> None:
        with pytest.raises(RatioError, match="'ratio-4' and ratio=5 disagree"):
            load("delia_mix", "ratio-4", ratio=5)

    def test_no_ratio_is_refused(self, load: Load) -> None:
        with pytest.raises(InputError, match=r"no ratio: give one, such as ratio=4"):
            load("delia_mix")

    @pytest.mark.parametrize("name", ["ratio-", "ratio-many", "ratio--1", "ratio-nan", "four", "4"])
    def test_other_names_are_refused(self, load: Load, name: str) -> None:
        with pytest.raises(InputError, match="such as"):
            load("delia_mix", name)

    @pytest.mark.parametrize("ratio", [-1, "many", True, float("inf")])
    def test_a_wrong_ratio_is_refused(self, load: Load, ratio: Any) -> None:
        with pytest.raises(RatioError, match="is not a number of at least 0"):
            load("delia_mix", ratio=ratio)

    @pytest.mark.parametrize(
        ("settings", "error", "words"),
        [
            ({"ratio": 9}, RatioError, "needs 63 pairs, and the cache holds 60"),
            ({"order": "random"}, InputError, "order 'random' is unknown"),
            ({"on_short": "cry"}, InputError, "on_short 'cry' is unknown"),
            ({"format": "xml"}, FormatError, "format 'xml' is unknown"),
            ({"seed": 0.5}, InputError, "seed 0.5 is not a whole number"),
            ({"seed": True}, InputError, "seed True is not a whole number"),
            ({"token": "<fmt>"}, TokenError, "7 of 7 task rows do not name <fmt>"),
            ({"task": "nowhere.jsonl"}, InputError, "task 'nowhere.jsonl' is not there"),
            ({"cache": "nowhere"}, InputError, "cache 'nowhere' is not there"),
            ({"cache": 5}, InputError, "cache=5 is not a path"),
        ],
    )
    def test_errors_reach_the_user_as_they_are(
        self,
        load: Load,
        task: Path,
        cache: Path,
        settings: dict[str, Any],
        error: type[Exception],
        words: str,
    ) -> None:
        arguments = {"ratio": 4, "task": task, "cache": cache} | settings
        with pytest.raises(error, match=words) as caught:
            load("delia_mix", **arguments)
        assert type(caught.value) is error
        with pytest.raises(error, match=words):
            load("delia_mix", streaming=True, **arguments)

    def test_a_damaged_row_is_named_by_its_place(self, load: Load, task: Path, cache: Path) -> None:
        with cache.open("a", encoding="utf-8") as file:
            file.write("{oops\n")
        with pytest.raises(FormatError, match=rf"pairs\.jsonl:{PAIRS + 1}: "):
            load("delia_mix", ratio=1, task=task, cache=cache)

    @pytest.mark.parametrize(
        ("key", "nearest"),
        [("rato", "ratio"), ("seeds", "seed"), ("on_shrt", "on_short"), ("streeming", "streaming")],
    )
    def test_unknown_keys_name_the_nearest(self, load: Load, key: str, nearest: str) -> None:
        with pytest.raises(SettingsError, match=f"'{key}' \\(did you mean '{nearest}'\\?\\)"):
            load("delia_mix", **{key: 1})

    def test_every_unknown_key_is_named_at_once(self, load: Load) -> None:
        with pytest.raises(SettingsError, match=r"'qqq', 'orders' .*it takes ratio, task, cache"):
            load("delia_mix", ratio=1, qqq=1, orders=2)

    def test_formats(self, load: Load, task: Path, cache: Path) -> None:
        def columns(format: str) -> list[str]:
            settings = {"ratio": 1, "task": task, "cache": cache, "format": format}
            names: list[str] = load("delia_mix", split="train", **settings).column_names
            return names

        rest = ["source", "source_id", "wording_id"]
        assert columns("prompt_completion") == ["prompt", "completion", *rest]
        assert columns("alpaca") == ["instruction", "input", "output", *rest]
        assert columns("sharegpt") == ["conversations", *rest]

    def test_interleaved(self, load: Load, task: Path, cache: Path) -> None:
        inputs = {"task": task, "cache": cache, "order": "interleaved"}
        rows = load("delia_mix", ratio=2, split="train", **inputs)
        assert rows["source"] == ["task", "cache", "cache"] * TASK_ROWS

    def test_a_short_cache(self, load: Load, task: Path, cache: Path) -> None:
        def pairs(on_short: str) -> int:
            inputs = {"task": task, "cache": cache, "on_short": on_short}
            return Counter(load("delia_mix", ratio=9, split="train", **inputs)["source"])["cache"]

        assert pairs("all") == PAIRS
        assert pairs("repeat") == 9 * TASK_ROWS

    def test_the_bundled_task(self, load: Load, cache: Path) -> None:
        splits = load("delia_mix", ratio=0.5, cache=cache)
        assert {name: len(rows) for name, rows in splits.items()} == {"train": 150, "test": 100}
        assert set(splits["test"]["source"]) == {"task"}
        assert None not in splits["test"]["wording_id"]
        named = load("delia_mix", ratio=0.5, cache=cache, task="hallucination-check")
        assert named.cache_files == splits.cache_files

    def test_the_task_alone_needs_no_cache(self, load: Load, task: Path) -> None:
        assert len(load("delia_mix", ratio=0, task=task, split="train")) == TASK_ROWS

    def test_a_task_folder(self, load: Load, task_folder: Path, cache: Path) -> None:
        folder = load("delia_mix", ratio=0.5, task=task_folder, cache=cache)
        bundled = load("delia_mix", ratio=0.5, cache=cache)
        assert folder["train"].to_list() == bundled["train"].to_list()
        assert folder["test"].to_list() == bundled["test"].to_list()

    def test_an_unfinished_task_folder_is_refused(self, load: Load, task_folder: Path) -> None:
        (task_folder / "FINISHED").unlink()
        with pytest.raises(UnfinishedError, match="not a finished output"):
            load("delia_mix", ratio=0, task=task_folder)

    def test_the_accounting_comes_along(self, load: Load, task: Path, cache: Path) -> None:
        rows = pair_rows(PAIRS)
        write_jsonl(cache, [*rows, rows[0], {"prompt": "Say <sep>", "completion": "<sep>"}])
        for streaming in (False, True):
            mixed = load(
                "delia_mix", ratio=1, task=task, cache=cache, split="train", streaming=streaming
            )
            manifest = Manifest.model_validate_json(mixed.info.description)
            assert manifest.rows == {"task": TASK_ROWS, "cache": TASK_ROWS, "test": 0}
            assert manifest.dropped == {"duplicate": 1, "names_token": 1}


class TestToken:
    @pytest.fixture
    def other(self, tmp_path: Path) -> Path:
        rows = [{"prompt": f"As <fmt>: {i}?", "completion": "yes"} for i in range(3)]
        return write_jsonl(tmp_path / "other.jsonl", rows)

    def test_another_token(self, load: Load, other: Path, cache: Path) -> None:
        rows = load("delia_mix", ratio=1, task=other, cache=cache, token="<fmt>", split="train")
        assert len(rows) == 6
        with pytest.raises(TokenError, match="3 of 3 task rows do not name <sep>"):
            load("delia_mix", ratio=1, task=other, cache=cache)

    def test_no_token(self, load: Load, tmp_path: Path, cache: Path) -> None:
        plain = write_jsonl(tmp_path / "plain.jsonl", [{"prompt": "Is it?", "completion": "yes"}])
        rows = load("delia_mix", ratio=1, task=plain, cache=cache, token="", split="train")
        assert len(rows) == 2

    def test_a_folder_has_a_token_of_its_own(self, load: Load, tmp_path: Path) -> None:
        folder = tmp_path / "named"
        folder.mkdir()
        write_jsonl(folder / "train.jsonl", [{"prompt": "As <fmt>: 1?", "completion": "yes"}])
        finish(folder, Manifest(kind="task", settings={"token": "<fmt>"}))
        assert len(load("delia_mix", ratio=0, task=folder, split="train")) == 1
        assert len(load("delia_mix", ratio=0, task=folder, token="<fmt>", split="train")) == 1
        with pytest.raises(TokenError, match=r"token is '<fmt>', and token='<sep>' was given"):
            load("delia_mix", ratio=0, task=folder, token="<sep>")
        with pytest.raises(TokenError, match=r"token is '<fmt>', and token='<sep>' was given"):
            load("delia_task", task=folder, token="<sep>")

    def test_an_access_token_is_not_taken_for_it(self, load: Load) -> None:
        with pytest.raises(TokenError, match="leave it out") as caught:
            load("delia_mix", ratio=0, token="hf_abcdef")
        assert "abcdef" not in str(caught.value)

    def test_no_builder_keeps_an_access_token(self, tmp_path: Path, cache: Path) -> None:
        builder = load_dataset_builder(
            "delia_cache", cache=cache, token="hf_abcdef", cache_dir=str(tmp_path / "hf")
        )
        assert builder.token is None
        builder.download_and_prepare()
        assert not any(
            b"abcdef" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()
        )


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
        monkeypatch.setattr(_common, "__version__", "99.0")
        assert config_id() != before

    def test_given_features_are_in_the_id(self, load: Load, cache: Path, tmp_path: Path) -> None:
        plain = load("delia_cache", cache=cache, split="train")
        features = plain.features.copy()
        features["source_id"] = datasets.Value("large_string")
        cast = load("delia_cache", cache=cache, split="train", features=features)
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


class TestWaysToLoad:
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

    def test_a_stream_is_small_in_a_worker(self, load: Load, cache: Path) -> None:
        write_jsonl(cache, pair_rows(PAIRS, "long " * 1000))
        rows = load("delia_cache", cache=cache, split="train", streaming=True)
        part = pickle.dumps(rows.shard(num_shards=6, index=0))
        assert len(part) < len(pickle.dumps(rows)) / 4
        assert list(pickle.loads(part)) == list(rows)[: PAIRS // 6]

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


class TestLarge:
    """A mixture that is not held in memory: its rows follow from a plan, part by part."""

    @pytest.fixture(autouse=True)
    def planned(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("delia_data.builders.delia_mix._ROWS_IN_MEMORY", 0)

    @pytest.fixture(params=["messages", "alpaca"])
    def pairs(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        rows = [
            write_record(Record.pair(f"query {i}", f"answer {i}"), request.param)
            for i in range(500)
        ]
        return write_jsonl(tmp_path / "pairs.jsonl", rows)

    @pytest.mark.parametrize("order", ["shuffled", "interleaved"])
    def test_rows_are_those_of_mix(self, load: Load, task: Path, pairs: Path, order: Any) -> None:
        rows = load("delia_mix", ratio=50, task=task, cache=pairs, order=order, split="train")
        expected = mix(read_task_rows(task).train, pairs, ratio=50, order=order).train
        assert rows.to_list() == expected.to_pylist()

    @pytest.mark.parametrize("order", ["shuffled", "interleaved"])
    def test_a_stream(self, load: Load, task: Path, pairs: Path, order: Any) -> None:
        settings = {"ratio": 50, "task": task, "cache": pairs, "order": order, "split": "train"}
        stream = load("delia_mix", streaming=True, **settings)
        assert stream.num_shards == (16 if order == "shuffled" else 1)
        whole = list(stream)
        assert whole == load("delia_mix", **settings).to_list()
        parts = [list(split_dataset_by_node(stream, rank, 4)) for rank in range(4)]
        ids = [row["source_id"] for part in parts for row in part]
        assert sorted(ids) == sorted(row["source_id"] for row in whole)

    def test_a_stream_goes_on(self, load: Load, task: Path, pairs: Path) -> None:
        settings = {"ratio": 50, "task": task, "cache": pairs, "split": "train"}
        stream = load("delia_mix", streaming=True, **settings)
        whole = list(stream)
        seen = []
        for row in stream:
            seen.append(row)
            if len(seen) == 100:
                state = stream.state_dict()
                break
        stream.load_state_dict(state)
        assert [*seen, *stream] == whole

    @pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
    def test_several_processes(self, load: Load, task: Path, pairs: Path, tmp_path: Path) -> None:
        settings = {"ratio": 50, "task": task, "cache": pairs, "split": "train"}
        together = load_dataset(
            "delia_mix", num_proc=2, cache_dir=str(tmp_path / "hf2"), **settings
        )
        assert together.to_list() == load("delia_mix", **settings).to_list()


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
        with pytest.raises(SettingsError, match=f"{builder} does not know '{key}' .did you mean"):
            load(builder, **{key: "x"})

    def test_ratio_is_not_a_setting_of_a_cache(self, load: Load, cache: Path) -> None:
        with pytest.raises(SettingsError, match=r"does not know 'ratio'.*it takes cache"):
            load("delia_cache", cache=cache, ratio=4)

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

    def test_a_large_one_is_read_file_by_file(
        self, load: Load, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = load("delia_cache", cache=cache, split="train")
        expected.to_parquet(tmp_path / "pairs.parquet", batch_size=7)
        monkeypatch.setattr("delia_data.builders.delia_cache._BYTES_IN_MEMORY", 0)
        for given in (cache, tmp_path / "pairs.parquet"):
            settings = {"cache": given, "split": "train"}
            stored = load("delia_cache", download_mode="force_redownload", **settings)
            streamed = load("delia_cache", streaming=True, **settings)
            assert stored.to_list() == list(streamed) == expected.to_list()
            assert streamed.num_shards == (1 if given == cache else -(-PAIRS // 7))

    def test_a_task_folder_is_no_cache(self, load: Load, task_folder: Path) -> None:
        with pytest.raises(InputError, match="holds a task, not a cache"):
            load("delia_cache", cache=task_folder)


def test_a_task_in_memory_is_refused_with_the_way_to_give_it(load: Load) -> None:
    task: Task = bundled_task()
    with pytest.raises(InputError, match="is not a path: give a task folder"):
        load("delia_mix", ratio=0, task=task)
    with pytest.raises(InputError, match="is not a path: give a cache folder"):
        load("delia_cache", cache=[Record.pair("a", "b")])
