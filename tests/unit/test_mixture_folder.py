"""A mixture as a folder that `datasets` loads."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from mixtures import CACHE, TASK, TEST, visible

from delia_data.errors import LockedError
from delia_data.mixing import Mixture, mix, save_mixture
from delia_data.outputs import folder_lock, is_finished, read_manifest


@pytest.fixture
def mixture() -> Mixture:
    return mix(TASK, CACHE, ratio=4, test=TEST)


def test_datasets_loads_the_folder(mixture: Mixture, tmp_path: Path) -> None:
    save_mixture(mixture, tmp_path / "mixture")
    loaded = load_dataset(str(tmp_path / "mixture"), "ratio-4", cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train", "test"}
    assert mixture.test is not None
    assert loaded["train"].to_list() == mixture.train.to_pylist()
    assert loaded["test"].to_list() == mixture.test.to_pylist()


def test_what_lies_in_the_folder(mixture: Mixture, tmp_path: Path) -> None:
    written = save_mixture(mixture, tmp_path)
    assert read_manifest(tmp_path, verify=True) == written
    assert written == mixture.manifest.model_copy(update={"files": written.files})
    assert set(written.files) == {"README.md", "train.parquet", "test.parquet"}
    assert visible(tmp_path) == {*written.files, "manifest.json", "FINISHED"}
    assert pq.read_table(tmp_path / "train.parquet").equals(mixture.train)
    assert written.rows == {"task": 10, "cache": 40, "test": 4}
    assert pq.read_table(tmp_path / "test.parquet").num_rows == 4


def test_another_mixture_takes_the_place_of_the_first(mixture: Mixture, tmp_path: Path) -> None:
    save_mixture(mixture, tmp_path)
    smaller = mix(TASK, CACHE, ratio=2)
    save_mixture(smaller, tmp_path)
    assert set(read_manifest(tmp_path, verify=True).files) == {"README.md", "train.parquet"}
    assert pq.read_table(tmp_path / "train.parquet").num_rows == 30
    assert "ratio-2" in (tmp_path / "README.md").read_text()


def test_a_run_that_was_killed_is_written_anew(mixture: Mixture, tmp_path: Path) -> None:
    save_mixture(mixture, tmp_path)
    for name in ("FINISHED", "manifest.json"):
        (tmp_path / name).unlink()
    (tmp_path / "train.parquet").write_text("half")
    save_mixture(mixture, tmp_path)
    read_manifest(tmp_path, verify=True)


def test_two_writers(mixture: Mixture, tmp_path: Path) -> None:
    with folder_lock(tmp_path), pytest.raises(LockedError):
        save_mixture(mixture, tmp_path)
    assert visible(tmp_path) == set()


def test_a_write_that_fails_is_not_finished(
    mixture: Mixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_mixture(mixture, tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
    with pytest.raises(OSError, match="No space left on device"):
        save_mixture(mixture, tmp_path)
    assert not is_finished(tmp_path)
    assert not list(tmp_path.glob("*.parquet"))
    assert not list(tmp_path.glob("**/*.part"))
