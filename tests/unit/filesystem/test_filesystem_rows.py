"""`delia://`: its rows and its paths."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec
import pandas as pd
import pyarrow.parquet as pq
import pytest
from filesystem_inputs import TASK_ROWS, Load, pair_rows, write_jsonl
from fsspec.config import conf
from hypothesis import given, settings
from hypothesis import strategies as st

from delia_data.builders.delia_mix import DeliaMixConfig
from delia_data.errors import (
    FormatError,
    InputError,
    RatioError,
    SettingsError,
)
from delia_data.filesystem import DeliaFileSystem, NoSuchFileError


class TestRows:
    def test_fsspec_finds_it_by_its_entry_point(self) -> None:
        (entry,) = {e.value for e in entry_points(group="fsspec.specs", name="delia")}
        assert entry == "delia_data.filesystem:DeliaFileSystem"
        assert fsspec.get_filesystem_class("delia") is DeliaFileSystem

    def test_rows_are_those_of_delia_mix(
        self, load: Load, folder: str, task: Path, cache: Path
    ) -> None:
        rows = load("parquet", data_files=f"delia://{folder}/train.parquet", split="train")
        expected = load("delia_mix", ratio=4, task=task, cache=cache, split="train")
        assert rows.to_list() == expected.to_list()
        assert rows.features == expected.features
        assert len(rows) == 5 * TASK_ROWS

    def test_streamed_rows_are_the_same(self, load: Load, folder: str) -> None:
        data_files = f"delia://{folder}/train.parquet"
        streamed = load("parquet", data_files=data_files, split="train", streaming=True)
        assert list(streamed) == load("parquet", data_files=data_files)["train"].to_list()

    def test_both_splits(self, load: Load, cache: Path) -> None:
        url = f"delia://ratio-0.1/cache={cache}"
        data_files = {split: f"{url}/{split}.parquet" for split in ("train", "test")}
        splits = load("parquet", data_files=data_files)
        expected = load("delia_mix", ratio=0.1, cache=cache)
        assert {name: rows.to_list() for name, rows in splits.items()} == {
            name: rows.to_list() for name, rows in expected.items()
        }

    @pytest.mark.parametrize(
        "settings",
        [
            {"seed": 3},
            {"order": "interleaved"},
            {"format": "alpaca"},
            {"ratio": 9, "on_short": "repeat"},
            {"ratio": 0.5, "token": "As"},
            {"token": ""},
        ],
        ids=lambda settings: list(settings)[-1],
    )
    def test_every_setting(
        self, load: Load, task: Path, cache: Path, settings: dict[str, Any]
    ) -> None:
        arguments = {"ratio": 4, "task": str(task), "cache": str(cache), **settings}
        segments = "/".join(f"{k}={v}" for k, v in arguments.items() if k != "ratio")
        url = f"delia://ratio-{arguments['ratio']}/{segments}/train.parquet"
        rows = load("parquet", data_files=url, split="train")
        assert rows.to_list() == load("delia_mix", split="train", **arguments).to_list()

    @pytest.mark.parametrize("wrapped", [True, False])
    def test_settings_from_storage_options(
        self, load: Load, folder: str, task: Path, cache: Path, wrapped: bool
    ) -> None:
        options = {"task": str(task), "cache": str(cache), "seed": 3}
        rows = load(
            "parquet",
            data_files="delia://ratio-4/train.parquet",
            storage_options={"delia": options} if wrapped else options,
            split="train",
        )
        by_path = load(
            "parquet", data_files=f"delia://{folder}/seed=3/train.parquet", split="train"
        )
        assert rows.to_list() == by_path.to_list()
        assert rows.cache_files == by_path.cache_files

    def test_the_path_wins_over_the_options(self, task: Path, cache: Path) -> None:
        fs = DeliaFileSystem(task="nowhere.jsonl", cache=cache, seed=1)
        path = f"ratio-1/task={task}/seed=2/train.parquet"
        alone = DeliaFileSystem().ukey(f"ratio-1/task={task}/cache={cache}/seed=2/train.parquet")
        assert fs.ukey(path) == alone

    def test_settings_from_the_configuration_of_fsspec(
        self, load: Load, task: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(conf, "delia", {})
        fsspec.config.set_conf_env(
            conf, {"FSSPEC_DELIA_TASK": str(task), "FSSPEC_DELIA_CACHE": str(cache)}
        )
        rows = load("parquet", data_files="delia://ratio-4/train.parquet", split="train")
        assert len(rows) == 5 * TASK_ROWS

    def test_other_readers(self, folder: str, fs: DeliaFileSystem) -> None:
        url = f"delia://{folder}/train.parquet"
        assert len(pd.read_parquet(url)) == 5 * TASK_ROWS
        assert pq.read_table(f"{folder}/train.parquet", filesystem=fs).num_rows == 5 * TASK_ROWS
        local = fsspec.open_local(url)
        assert pq.read_table(local).num_rows == 5 * TASK_ROWS
        with fsspec.open(f"delia://{folder}/manifest.json", "rt") as file:
            assert json.load(file)["kind"] == "mixture"


class TestPaths:
    @pytest.mark.parametrize(
        "place",
        [
            *("plain", ".hidden/.pairs", "__special__/a", "with space", "a=b", "100%", "%2F"),
            *("ünï", "q?", "[a]", "x*", "a::b", "a.parquet/b", "#tag", "a,b"),
        ],
    )
    def test_any_path_can_be_said(self, load: Load, task: Path, tmp_path: Path, place: str) -> None:
        cache = write_jsonl(tmp_path / place / "pairs.jsonl", pair_rows())
        url = f"delia://ratio-4/task={task}/cache={quote(str(cache), safe='')}/train.parquet"
        for streaming in (False, True):
            rows = load("parquet", data_files=url, split="train", streaming=streaming)
            assert len(list(rows)) == 5 * TASK_ROWS

    @pytest.mark.parametrize(
        "place", ["plain", ".hidden/.pairs", "__special__/a", "a b", "ünï", "x*", "[a]", "#t,"]
    )
    def test_slashes_need_no_encoding(
        self, load: Load, task: Path, tmp_path: Path, place: str
    ) -> None:
        cache = write_jsonl(tmp_path / place / "pairs.jsonl", pair_rows())
        url = f"delia://ratio-4/task={task}/cache={cache}/train.parquet"
        assert len(load("parquet", data_files=url, split="train")) == 5 * TASK_ROWS

    def test_a_relative_path(
        self, load: Load, task: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(cache.parent)
        url = f"delia://ratio-4/task={task.name}/cache=./{cache.name}/train.parquet"
        rows = load("parquet", data_files=url, split="train", streaming=True)
        monkeypatch.chdir("/")
        assert len(list(rows)) == 5 * TASK_ROWS

    @settings(deadline=None)
    @given(value=st.text(min_size=1).filter(lambda text: "\x00" not in text))
    def test_a_path_means_one_thing(self, value: str) -> None:
        path = f"ratio-4/cache={quote(value, safe='')}/seed=1/train.parquet"
        stripped = DeliaFileSystem._strip_protocol(f"delia://{path}")
        assert stripped == path
        assert DeliaFileSystem._strip_protocol(stripped) == stripped
        config, file = DeliaFileSystem()._parse(stripped)
        assert config == DeliaMixConfig(ratio=4, cache=value, seed=1)
        assert file == "train.parquet"

    def test_protocol_and_slash_at_the_end_are_taken_off(self) -> None:
        strip = DeliaFileSystem._strip_protocol
        assert strip("delia://ratio-4/") == strip(Path("ratio-4")) == "ratio-4"
        assert strip("delia://") == ""
        assert strip(["delia://ratio-4/cache=/a/b"]) == ["ratio-4/cache=%2Fa%2Fb"]

    @pytest.mark.parametrize(
        ("path", "error", "words"),
        [
            ("ratio-4/sed=1/train.parquet", SettingsError, r"'sed' \(did you mean 'seed'\?\)"),
            ("ratio-4/a=1/b=2/train.parquet", SettingsError, "settings, 'a', 'b': it takes ratio"),
            ("ratio-4/cache_dir=/x/train.parquet", SettingsError, "'cache_dir' .*'cache'"),
            ("ratio-4/cache=/a=b/x/train.parquet", SettingsError, "'a'|written %3D"),
            ("ratio-4/seed=1/seed=2/train.parquet", InputError, "'seed=2' in .* is there twice"),
            ("ratio-4/foo/train.parquet", InputError, "'foo' in .* neither a setting nor a file"),
            ("ratio-4/seed=x/train.parquet", InputError, "seed 'x' is not a whole number"),
            ("ratio-4/order=up/train.parquet", InputError, "order 'up' is unknown"),
            ("ratio-4/format=xml/train.parquet", FormatError, "format 'xml' is unknown"),
            ("ratio-4/cache=/no/pairs/train.parquet", InputError, "cache '/no/pairs' is not there"),
            ("ratio-4/ratio=5/train.parquet", RatioError, "'ratio-4' and ratio='5' disagree"),
            ("ratio-many/train.parquet", RatioError, "'many' is not a number of at least 0"),
            ("train.parquet", InputError, "no configuration 'train.parquet': give a ratio"),
            ("ratio-7/train.parquet", RatioError, "needs 35 pairs, and the cache holds 30"),
            ("ratio-4/train.parquet?seed=1", InputError, r"query string, and \? is a wildcard"),
            ("ratio-4/valid.parquet", NoSuchFileError, "it holds train.parquet, manifest.json"),
        ],
    )
    def test_errors_reach_the_user_as_they_are(
        self,
        load: Load,
        task: Path,
        cache: Path,
        path: str,
        error: type[Exception],
        words: str,
    ) -> None:
        options = {"delia": {"task": str(task), "cache": str(cache)}}
        with pytest.raises(error, match=words) as caught:
            load("parquet", data_files=f"delia://{path}", storage_options=options)
        assert type(caught.value) is error
        with pytest.raises(error, match=words):
            DeliaFileSystem(**options["delia"]).glob(path)
        with pytest.raises(error, match=words):
            DeliaFileSystem(**options["delia"]).cat(path)

    def test_unknown_options_are_refused(self, load: Load, task: Path) -> None:
        with pytest.raises(SettingsError, match=r"'cashe' \(did you mean 'cache'\?\)"):
            load(
                "parquet",
                data_files=f"delia://ratio-0/task={task}/train.parquet",
                storage_options={"delia": {"cashe": "x"}},
            )

    def test_a_missing_file_is_a_missing_file(self, fs: DeliaFileSystem, folder: str) -> None:
        with pytest.raises(FileNotFoundError):
            fs.info(f"{folder}/valid.parquet")
        assert not fs.exists(f"{folder}/valid.parquet")
        assert fs.exists(f"{folder}/train.parquet")
        with pytest.raises(SettingsError):
            fs.exists("ratio-4/sed=1/train.parquet")
