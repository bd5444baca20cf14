from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import datasets.config
import datasets.inspect
import datasets.load
import datasets.packaged_modules
import pytest
from datasets import get_dataset_config_names, load_dataset, load_dataset_builder

import delia_data
from delia_data.errors import InputError
from delia_data.registration import NAMES, is_registered, register

ARGUMENTS = {"delia_mix": {"ratio": 0}, "delia_cache": {}, "delia_task": {}}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Attempts to reach the network; each one fails."""
    attempts: list[object] = []

    def refuse(*args: object, **kwargs: object) -> None:
        attempts.append(args)
        raise OSError("the network is not to be reached")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    # The Hub's client would refuse before it opens a socket where HF_HUB_OFFLINE is set.
    monkeypatch.setattr(datasets.load, "get_session", refuse)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", True)
    return attempts


def test_importing_us_registers_the_names() -> None:
    assert delia_data.register is register
    assert is_registered()
    assert set(NAMES) <= set(datasets.packaged_modules._PACKAGED_DATASETS_MODULES)


@pytest.mark.parametrize(
    "first",
    [
        "import delia_data.registration, datasets",
        "import delia_data; delia_data.register(); import datasets",
        "import delia_data, datasets",
        "import datasets, delia_data",
    ],
)
def test_the_order_of_imports_does_not_matter(first: str) -> None:
    code = f"{first}; print(datasets.load_dataset_builder('delia_mix', 'ratio-1').config.name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "ratio-1\n", done.stderr


def test_registering_again_changes_nothing() -> None:
    def functions() -> list[object]:
        return [
            datasets.load.PackagedDatasetModuleFactory.get_module,
            datasets.load.increase_load_count,
            datasets.load.dataset_module_factory,
            datasets.inspect.dataset_module_factory,
        ]

    before = functions()
    register()
    register()
    assert functions() == before
    assert all(not hasattr(f.__wrapped__, "__wrapped__") for f in before)  # type: ignore[attr-defined]


def test_an_unknown_name_is_not_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(datasets.packaged_modules._PACKAGED_DATASETS_MODULES, "delia_task")
    assert not is_registered()
    register()
    assert is_registered()


@pytest.mark.parametrize("name", NAMES)
def test_loading_does_not_reach_the_network(
    name: str, tmp_path: Path, network: list[object]
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "What is it?", "completion": "It is a test."}\n', "utf-8")
    arguments = {"cache": str(pairs)} if name == "delia_cache" else ARGUMENTS[name]
    assert load_dataset(name, split="train", cache_dir=str(tmp_path / "hf"), **arguments)
    get_dataset_config_names(name)
    assert network == []


def test_other_names_are_counted_as_before(tmp_path: Path, network: list[object]) -> None:
    """Shows as well that the test above would see an attempt."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"a": 1}\n', "utf-8")
    load_dataset_builder("json", data_files=str(rows), cache_dir=str(tmp_path / "hf"))
    assert network


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("revision", ["main", "v1"])
def test_a_revision_is_refused(name: str, revision: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^{name} has no revisions .*leave revision= out"):
        load_dataset(name, revision=revision, cache_dir=str(tmp_path), **ARGUMENTS[name])
    with pytest.raises(InputError, match="has no revisions"):
        load_dataset_builder(f"hf://datasets/{name}", revision=revision, **ARGUMENTS[name])
    with pytest.raises(InputError, match="has no revisions"):
        get_dataset_config_names(name, revision=revision)


@pytest.mark.parametrize("argument", ["data_files", "data_dir"])
def test_data_files_are_refused(argument: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^delia_mix does not take {argument}= .*task= or cache="):
        load_dataset("delia_mix", ratio=0, cache_dir=str(tmp_path), **{argument: "some"})


def test_the_working_folder_is_not_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> list[dict[str, object]]:
        hf = tmp_path / "hf"
        rows = load_dataset(
            "delia_mix", ratio=0, cache_dir=str(hf), download_mode="force_redownload"
        )
        assert set(rows) == {"train", "test"}
        return [*rows["train"], *rows["test"]]

    in_empty = load()
    full = tmp_path / "full"
    (full / "data").mkdir(parents=True)
    for name in ("train.csv", "test.parquet", "notes.txt", "data/train.jsonl", "README.md"):
        (full / name).write_text("not: [what it says\n", "utf-8")
    monkeypatch.chdir(full)
    assert load() == in_empty


def test_the_name_comes_before_a_folder(tmp_path: Path) -> None:
    Path("delia_mix").mkdir()
    Path("delia_mix/train.jsonl").write_text(json.dumps({"a": 1}) + "\n", "utf-8")
    hf = str(tmp_path / "hf")
    assert (
        "messages" in load_dataset("delia_mix", ratio=0, split="train", cache_dir=hf).column_names
    )
    assert load_dataset("./delia_mix", split="train", cache_dir=hf).to_list() == [{"a": 1}]


def test_a_folder_of_save_to_disk_is_seen_first(tmp_path: Path) -> None:
    rows = load_dataset("delia_mix", ratio=0, split="train", cache_dir=str(tmp_path / "hf"))
    rows.save_to_disk("delia_mix")
    with pytest.raises(ValueError, match="load_from_disk"):
        load_dataset("delia_mix", ratio=0, cache_dir=str(tmp_path / "hf"))
