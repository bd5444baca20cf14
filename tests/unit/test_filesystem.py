from __future__ import annotations

import json
import os
import pickle
import threading
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec
import pandas as pd
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from fsspec.config import conf
from hypothesis import given, settings
from hypothesis import strategies as st

from delia_data import filesystem
from delia_data.builders.delia_mix import DeliaMixConfig
from delia_data.errors import (
    DeliaError,
    FormatError,
    InputError,
    OutputError,
    RatioError,
    SettingsError,
    UnfinishedError,
)
from delia_data.filesystem import DeliaFileSystem, NoSuchFileError
from delia_data.manifest import read_manifest

Load = Callable[..., Any]
TASK_ROWS = 5
PAIRS = 30


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def pair_rows(word: str = "answer") -> list[dict[str, Any]]:
    return [{"prompt": f"Question {i}?", "completion": f"The {word} {i}."} for i in range(PAIRS)]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our own cache, in a hidden folder as `~/.cache` is, with none of fsspec's settings."""
    monkeypatch.setenv("DELIA_CACHE", str(tmp_path / ".cache"))
    monkeypatch.delitem(conf, "delia", raising=False)
    return tmp_path / ".cache" / "mixtures"


@pytest.fixture
def task(tmp_path: Path) -> Path:
    rows = [{"prompt": f"As <sep>: is {i} even?", "completion": "yes"} for i in range(TASK_ROWS)]
    return write_jsonl(tmp_path / "task.jsonl", rows)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "pairs.jsonl", pair_rows())


@pytest.fixture
def folder(task: Path, cache: Path) -> str:
    """The mixture of ratio 4, as a path."""
    return f"ratio-4/task={task}/cache={cache}"


@pytest.fixture
def fs() -> DeliaFileSystem:
    return DeliaFileSystem()


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """`load_dataset` with a cache of its own."""

    def load(name: str, **arguments: Any) -> Any:
        return load_dataset(name, cache_dir=str(tmp_path / "hf"), **arguments)

    return load


def made(home: Path) -> list[str]:
    """Hashes of the mixtures that are there."""
    return sorted(path.name for path in home.iterdir() if not path.name.startswith("."))


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


class TestFreshness:
    def test_a_changed_source_gives_new_rows(
        self, load: Load, folder: str, task: Path, cache: Path
    ) -> None:
        def rows(streaming: bool = False) -> str:
            data_files = f"delia://{folder}/train.parquet"
            return str(list(load("parquet", data_files=data_files, streaming=streaming)["train"]))

        first = rows()
        write_jsonl(cache, pair_rows("reply"))
        assert "answer" not in rows()
        assert rows() == rows(streaming=True)
        task.write_text(task.read_text("utf-8").replace("even", "odd"), "utf-8")
        assert "odd" in rows()
        write_jsonl(cache, pair_rows())
        task.write_text(task.read_text("utf-8").replace("odd", "even"), "utf-8")
        assert rows() == first

    def test_a_stream_keeps_the_rows_it_began_with(
        self, load: Load, folder: str, cache: Path
    ) -> None:
        data_files = f"delia://{folder}/train.parquet"
        stream = load("parquet", data_files=data_files, split="train", streaming=True)
        write_jsonl(cache, pair_rows("reply"))
        assert "reply" not in str(list(stream))

    def test_a_mixture_is_made_once(
        self, folder: str, cache: Path, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = DeliaFileSystem().ukey(f"{folder}/train.parquet")
        monkeypatch.setattr(filesystem, "_make", None)
        assert DeliaFileSystem().ukey(f"{folder}/train.parquet") == key
        moved = cache.rename(cache.with_name("moved.jsonl"))
        other = folder.replace(cache.name, moved.name).replace("ratio-4", "ratio-4.0")
        assert DeliaFileSystem().ukey(f"{other}/on_short=error/train.parquet") == key
        assert len(made(home)) == 1

    def test_its_hash_is_that_of_the_builder(
        self, folder: str, task: Path, cache: Path, home: Path, fs: DeliaFileSystem
    ) -> None:
        fs.ls(folder)
        sha256 = DeliaMixConfig(ratio=4, task=task, cache=cache).sha256()
        assert made(home) == [sha256]
        manifest = read_manifest(home / sha256, verify=True)
        assert manifest.rows == {"task": TASK_ROWS, "cache": 4 * TASK_ROWS, "test": 0}
        assert fs.ukey(f"{folder}/train.parquet") == manifest.files["train.parquet"]

    def test_one_without_its_marker_is_refused_and_made_again(
        self, load: Load, folder: str, home: Path, fs: DeliaFileSystem
    ) -> None:
        url = f"delia://{folder}/train.parquet"
        before = fs.ukey(url)
        (resolved,) = fs.glob(url)
        place = home / made(home)[0]
        (place / "FINISHED").unlink()
        (place / "train.parquet").write_bytes(b"half")
        for ask in (fs.info, fs.glob, fs.cat, fs.open):
            with pytest.raises(UnfinishedError, match="not a finished output"):
                ask(resolved)
        with pytest.raises(UnfinishedError, match="not a finished output"):
            load("parquet", data_files=f"delia://{resolved}")
        assert fs.ukey(url) == before
        assert len(load("parquet", data_files=f"delia://{resolved}")["train"]) == 5 * TASK_ROWS

    def test_what_fails_leaves_nothing(
        self, folder: str, home: Path, fs: DeliaFileSystem, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(*arguments: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(filesystem, "finish", stop)
            with pytest.raises(KeyboardInterrupt):
                fs.ls(folder)
        with pytest.raises(UnfinishedError):
            fs.ls(f"sha256-{made(home)[0]}")
        assert {entry["type"] for entry in fs.ls(folder)} == {"file"}
        assert [path.name for path in home.glob(".*/*")] == [".lock"]

    def test_a_source_that_changes_meanwhile_is_noticed(
        self, folder: str, cache: Path, fs: DeliaFileSystem, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def change(*arguments: Any, **keywords: Any) -> Any:
            write_jsonl(cache, pair_rows("reply"))
            return build(*arguments, **keywords)

        build = filesystem.DeliaMix
        monkeypatch.setattr(filesystem, "DeliaMix", change)
        with pytest.raises(InputError, match="changed while it was read"):
            fs.ls(folder)

    def test_who_asks_at_the_same_time_waits(
        self, folder: str, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        makes, keys = [], []
        make = filesystem._make

        def count(*arguments: Any) -> None:
            makes.append(arguments)
            make(*arguments)

        def ask() -> None:
            keys.append(DeliaFileSystem().ukey(f"{folder}/train.parquet"))

        monkeypatch.setattr(filesystem, "_make", count)
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(makes) == 1
        assert len(keys) == 3
        assert len(set(keys)) == 1


class TestFileSystem:
    def test_listing(self, fs: DeliaFileSystem, folder: str, home: Path) -> None:
        assert fs.ls("", detail=False) == ["ratio-4", "ratio-65", "ratio-260"]
        assert fs.isdir("")
        assert fs.isdir(folder)
        assert not home.exists()
        name = fs._strip_protocol(folder)
        files = [f"{name}/manifest.json", f"{name}/train.parquet"]
        assert sorted(fs.ls(folder, detail=False)) == files
        assert fs.find(f"delia://{folder}/") == files
        assert fs.ls(files[1], detail=False) == files[1:]
        assert [(top, sorted(inside)) for top, _, inside in fs.walk(folder)] == [
            (name, ["manifest.json", "train.parquet"])
        ]

    def test_what_is_known_of_a_file(self, fs: DeliaFileSystem, folder: str, home: Path) -> None:
        path = f"{folder}/train.parquet"
        info, data = fs.info(path), fs.cat(path)
        assert info["type"] == "file"
        assert info["size"] == fs.size(path) == len(data)
        assert info["name"] == fs._strip_protocol(path)
        assert info["etag"] == info["sha256"] == fs.ukey(path)
        assert fs.checksum(path) == int(fs.ukey(path), 16)
        file = home / made(home)[0] / "train.parquet"
        assert file.read_bytes() == data
        assert fs.modified(path).timestamp() == pytest.approx(file.stat().st_mtime)
        assert fs.info(f"{folder}/manifest.json")["sha256"] == (
            (file.parent / "FINISHED").read_text().strip()
        )
        with pytest.raises(InputError, match="is a folder"):
            fs.cat(folder)

    def test_glob_resolves(self, fs: DeliaFileSystem, folder: str, home: Path) -> None:
        (name,) = fs.glob(f"delia://{folder}/train.parquet")
        assert name == f"sha256-{made(home)[0]}/train.parquet"
        assert fs.glob(f"{folder}/*.parquet") == [name]
        found = fs.glob(f"{folder}/**", detail=True)
        assert sorted(found)[-2:] == [name.replace("train.parquet", "manifest.json"), name]
        assert all(info["name"] == key for key, info in found.items())
        assert fs.cat(name) == fs.cat(f"{folder}/train.parquet")
        assert fs.isdir(name.partition("/")[0])
        local = str(home / made(home)[0] / "train.parquet")
        assert fs._strip_protocol(f"delia://{name}") == local
        assert fs.unstrip_protocol(local) == f"delia://{local}"
        assert fs.glob(f"delia://{local}") == [local] == fs.glob(name)

    @pytest.mark.parametrize("pattern", ["{local}", "sha256-{sha256}/train.parquet"])
    def test_resolved_names_load(
        self, load: Load, fs: DeliaFileSystem, folder: str, home: Path, pattern: str
    ) -> None:
        fs.ls(folder)
        (sha256,) = made(home)
        name = pattern.format(local=home / sha256 / "train.parquet", sha256=sha256)
        assert len(load("parquet", data_files=f"delia://{name}")["train"]) == 5 * TASK_ROWS

    @pytest.mark.parametrize("path", ["/etc/passwd", "/etc", "{home}/x/train.parquet", "{home}"])
    def test_nothing_else_on_this_machine_is_opened(
        self, fs: DeliaFileSystem, home: Path, path: str
    ) -> None:
        for ask in (fs.info, fs.ls, fs.cat, fs.open):
            with pytest.raises(InputError, match="is not a file of a mixture"):
                ask(f"delia://{path.format(home=home)}")

    def test_a_folder_above_is_not_reached(self, fs: DeliaFileSystem, folder: str) -> None:
        (name,) = fs.glob(f"{folder}/train.parquet")
        sha256 = name.partition("/")[0]
        for path in (f"{sha256}/../../pairs.jsonl", f"{sha256}/FINISHED", f"{sha256}/.."):
            with pytest.raises((InputError, OutputError)):
                fs.cat(path)

    def test_nothing_is_written(self, fs: DeliaFileSystem, folder: str, tmp_path: Path) -> None:
        path = f"{folder}/train.parquet"
        attempts: list[Callable[[], Any]] = [
            lambda: fs.open(path, "wb"),
            lambda: fs.open(path, "a"),
            lambda: fs.pipe(path, b""),
            lambda: fs.rm(path),
            lambda: fs.touch(path),
            lambda: fs.mkdir("ratio-5"),
            lambda: fs.makedirs("ratio-5"),
            lambda: fs.copy(path, "ratio-5/train.parquet"),
            lambda: fs.mv(path, "ratio-5/train.parquet"),
            lambda: fs.put(str(tmp_path / "task.jsonl"), path),
        ]
        before = fs.cat(path)
        for attempt in attempts:
            with pytest.raises(OutputError, match="delia:// is read-only"):
                attempt()
        assert fs.cat(path) == before

    def test_files_are_real(self, fs: DeliaFileSystem, folder: str, tmp_path: Path) -> None:
        path = f"{folder}/train.parquet"
        with fs.open(path) as file:
            assert os.path.isfile(file.name)
            assert file.read(4) == b"PAR1"
            file.seek(-4, os.SEEK_END)
            assert file.read() == b"PAR1"
        assert fs.cat_file(path, start=-4) == b"PAR1"
        fs.get(path, str(tmp_path / "copy.parquet"))
        assert (tmp_path / "copy.parquet").read_bytes() == fs.cat(path)

    def test_it_travels_to_other_processes(self, task: Path, cache: Path) -> None:
        fs = DeliaFileSystem(task=str(task), cache=str(cache))
        again = pickle.loads(pickle.dumps(fs))
        assert again == fs
        assert again.ukey("ratio-1/train.parquet") == fs.ukey("ratio-1/train.parquet")
        assert DeliaFileSystem(task=str(task)) != fs

    def test_arguments_of_fsspec_itself_are_no_settings(self, folder: str) -> None:
        fs = DeliaFileSystem(use_listings_cache=False, block_size=1024, encoding="utf-8")
        assert fs.exists(f"{folder}/train.parquet")

    def test_every_error_is_ours(self) -> None:
        assert issubclass(NoSuchFileError, DeliaError)
