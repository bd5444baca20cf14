"""`delia://`: fresh mixtures, and what `fsspec` asks of a file system."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filesystem_inputs import TASK_ROWS, Load, made, pair_rows, write_jsonl

from delia_data import filesystem
from delia_data.builders.delia_mix import DeliaMixConfig
from delia_data.errors import (
    DeliaError,
    InputError,
    OutputError,
    UnfinishedError,
)
from delia_data.filesystem import DeliaFileSystem, NoSuchFileError
from delia_data.outputs import read_manifest


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
