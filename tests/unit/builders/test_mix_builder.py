"""`load_dataset("delia_mix", ...)`: its settings, its rows, its errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest
from datasets import load_dataset_builder
from row_files import PAIRS, TASK_ROWS, Load, pair_rows, write_jsonl

from delia_data.errors import (
    FormatError,
    InputError,
    RatioError,
    SettingsError,
    TokenError,
)
from delia_data.mixing import mix
from delia_data.outputs import Manifest, finish
from delia_data.reading import read_records
from delia_data.tasks import read_task_rows


class TestMix:
    @pytest.mark.parametrize(
        "settings",
        [
            {"ratio": 4, "seed": 3},
            {"ratio": "0.5", "format": "alpaca"},
            {"ratio": 60 / 7, "format": "sharegpt"},
            {"ratio": 2, "order": "interleaved", "format": "prompt_completion"},
            {"ratio": 9, "on_short": "all"},
            {"ratio": 9, "on_short": "repeat"},
            {"ratio": 0},
            {"ratio": 1, "template_options": {"enable_thinking": False, "words": ["a"]}},
        ],
        ids=str,
    )
    def test_rows_are_those_of_mix(
        self, load: Load, task: Path, cache: Path, settings: dict[str, Any]
    ) -> None:
        splits = load("delia_mix", task=str(task), cache=str(cache), **settings)
        pairs = list(read_records(cache))
        expected = mix(read_task_rows(task).train, pairs, **settings).train
        assert list(splits) == ["train"]
        assert splits["train"].to_list() == expected.to_pylist()
        assert splits["train"].column_names == expected.column_names

    def test_urls(self, load: Load, task: Path, cache: Path) -> None:
        system = fsspec.filesystem("memory")
        urls = {"task": "memory://in/task.jsonl", "cache": "memory://in/pairs"}
        system.pipe("/in/task.jsonl", task.read_bytes())
        system.pipe("/in/pairs/a.jsonl", cache.read_bytes())
        expected = load("delia_mix", ratio=4, task=task, cache=cache, split="train").to_list()
        assert load("delia_mix", ratio=4, **urls, split="train").to_list() == expected
        system.pipe("/in/pairs/a.jsonl", b"".join(cache.read_bytes().splitlines(True)[1:]))
        changed = load("delia_mix", ratio=4, **urls, split="train").to_list()
        assert changed != expected
        with pytest.raises(InputError, match="memory://none does not exist"):
            load("delia_mix", ratio=4, cache="memory://none")

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

    @pytest.mark.parametrize(
        ("settings", "error", "words"),
        [
            ({"ratio": 9}, RatioError, "needs 63 pairs, and the cache holds 60"),
            ({"order": "random"}, InputError, "order 'random' is unknown"),
            ({"on_short": "cry"}, InputError, "on_short 'cry' is unknown"),
            ({"format": "xml"}, FormatError, "format 'xml' is unknown"),
            ({"seed": 0.5}, InputError, "seed 0.5 is wrong: give a whole number"),
            ({"seed": True}, InputError, "seed True is wrong: give a whole number"),
            ({"token": "<fmt>"}, TokenError, "7 of 7 task rows do not name <fmt>"),
            ({"task": "nowhere.jsonl"}, InputError, "task 'nowhere.jsonl' does not exist"),
            ({"cache": "nowhere"}, InputError, "cache 'nowhere' does not exist"),
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

    @pytest.mark.parametrize(
        ("key", "nearest"),
        [("rato", "ratio"), ("seeds", "seed"), ("on_shrt", "on_short"), ("streeming", "streaming")],
    )
    def test_unknown_keys_name_the_nearest(self, load: Load, key: str, nearest: str) -> None:
        with pytest.raises(SettingsError, match=f"'{key}', did you mean '{nearest}'"):
            load("delia_mix", **{key: 1})

    def test_every_unknown_key_is_named_at_once(self, load: Load) -> None:
        with pytest.raises(
            SettingsError, match=r"'qqq'; .*'orders', .*it takes ratio, task, cache"
        ):
            load("delia_mix", ratio=1, qqq=1, orders=2)

    def test_the_bundled_task(self, load: Load, cache: Path) -> None:
        splits = load("delia_mix", ratio=0.5, cache=cache)
        assert {name: len(rows) for name, rows in splits.items()} == {"train": 150, "test": 100}
        assert set(splits["test"]["source"]) == {"task"}
        assert None not in splits["test"]["wording_id"]
        named = load("delia_mix", ratio=0.5, cache=cache, task="hallucination-check")
        assert named.cache_files == splits.cache_files

    def test_a_task_folder(self, load: Load, task_folder: Path, cache: Path) -> None:
        folder = load("delia_mix", ratio=0.5, task=task_folder, cache=cache)
        bundled = load("delia_mix", ratio=0.5, cache=cache)
        assert folder["train"].to_list() == bundled["train"].to_list()
        assert folder["test"].to_list() == bundled["test"].to_list()

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
        with pytest.raises(TokenError, match=r"token is '<fmt>', and '<sep>' was given"):
            load("delia_mix", ratio=0, task=folder, token="<sep>")
        with pytest.raises(TokenError, match=r"token is '<fmt>', and '<sep>' was given"):
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
