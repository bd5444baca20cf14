"""Parts of a publication, without a Hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hub_folders
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from delia_data.errors import FormatError, InputError, RatioError, SecretError, UnfinishedError
from delia_data.hub.parts import (
    cache_ids,
    check_mixture,
    check_publication,
    mix_ratios,
    publication_manifest,
    read_parts,
)
from delia_data.hub.secrets import check_secrets
from delia_data.mixing import mix, read_task_rows, save_mixture
from delia_data.outputs import Manifest, finish, read_manifest

Make = Callable[..., Path]


@pytest.fixture
def make_task(tmp_path: Path) -> Make:
    return lambda name="task", **more: hub_folders.make_task(tmp_path / name, rows=4, **more)


@pytest.fixture
def make_cache(tmp_path: Path) -> Make:
    return lambda name="cache", shards=(20,), **more: hub_folders.make_cache(
        tmp_path / name, *shards, **more
    )


def rows_of(folder: Path, split: str = "train") -> list[dict[str, Any]]:
    return pq.read_table(folder / f"{split}.parquet").to_pylist()


class TestParts:
    def test_a_changed_file_is_found(self, make_cache: Make) -> None:
        cache = make_cache()
        (cache / "pairs-00000.parquet").write_bytes(b"other")
        with pytest.raises(UnfinishedError, match="is not what its manifest says"):
            read_parts([cache])

    def test_two_of_a_name_are_refused(self, make_cache: Make) -> None:
        with pytest.raises(InputError, match="are both cache"):
            read_parts([make_cache("a"), make_cache("b")])

    def test_other_outputs_are_refused(self, tmp_path: Path) -> None:
        finish(tmp_path, Manifest(kind="evaluation"))
        with pytest.raises(InputError, match=r"has no evaluation\.json"):
            read_parts([tmp_path])

    def test_a_model_and_data_are_not_published_together(
        self, make_task: Make, tmp_path: Path
    ) -> None:
        folder = tmp_path / "adapter"
        folder.mkdir()
        finish(folder, Manifest(kind="adapter"))
        with pytest.raises(InputError, match="in a repository of its own"):
            read_parts([folder, make_task()])

    def test_ratios_are_mixed_from_the_given_folders(
        self, make_task: Make, make_cache: Make, tmp_path: Path
    ) -> None:
        task, cache = make_task(), make_cache()
        parts = read_parts([task, cache])
        mixtures = mix_ratios(parts, [2, 0.5], tmp_path / "a")
        assert list(mixtures) == ["ratio-2", "ratio-0.5"]
        save_mixture(mix(read_task_rows(task).train, cache, ratio=0.5), tmp_path / "mine")
        assert rows_of(mixtures["ratio-0.5"].folder) == rows_of(tmp_path / "mine")
        with pytest.raises(RatioError):
            mix_ratios(parts, [99], tmp_path / "b")
        with pytest.raises(InputError, match="the folder of the cache is missing"):
            mix_ratios(read_parts([task]), [1], tmp_path / "c")
        with pytest.raises(InputError, match="given as a folder and as a ratio"):
            mix_ratios(read_parts([task, cache, tmp_path / "mine"]), [0.5], tmp_path / "d")

    def test_rows_are_checked_against_task_and_cache(
        self, make_task: Make, make_cache: Make, tmp_path: Path
    ) -> None:
        parts = read_parts([make_task(), make_cache()])
        part = mix_ratios(parts, [2], tmp_path)["ratio-2"]
        task, ids = read_task_rows(parts["task"].folder), cache_ids(parts["cache"].folder)
        assert check_mixture(part, task, ids) == 8
        assert check_mixture(part, None, None) == 0
        other_cache = cache_ids(make_cache("other", extra=" So!"))
        with pytest.raises(InputError, match="8 pairs that the cache does not have"):
            check_mixture(part, task, other_cache)
        other_task = read_task_rows(make_task("reworded", wording="By <sep>: {}?"))
        with pytest.raises(InputError, match="4 task rows that the task does not have"):
            check_mixture(part, other_task, ids)


class TestPublication:
    def manifest(self, folders: list[Path], kept: Manifest | None = None, **over: Any) -> Manifest:
        parts = read_parts(folders)
        pairs = {name: 8 for name in parts if name.startswith("ratio")}
        given = {"license": "mit", "citation": None, "allowed": {}, "pairs_in_cache": pairs, **over}
        return publication_manifest(parts, kept, **given)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("settings", {}),
            ("settings", {"version": 1, "licence": "mit"}),
            ("inputs", {}),
            ("details", {}),
            ("details", {"mixtures": []}),
            ("details", {"mixtures": {"ratio-2": {}}}),
            ("details", {"mixtures": {}, "cache": {"settings": 3}}),
            ("files", {"cache/../../x": "ab"}),
            ("files", {"/etc/passwd": "ab"}),
            ("files", {"README.md": "ab"}),
            ("files", {"cache/.hidden": "ab"}),
        ],
    )
    def test_other_manifests_are_refused(self, make_cache: Make, key: str, value: Any) -> None:
        manifest = self.manifest([make_cache()])
        settings = {**manifest.settings, "version": "1.0.0"}
        manifest = manifest.model_copy(update={"settings": settings})
        check_publication(manifest)
        with pytest.raises((FormatError, ValidationError)):
            check_publication(manifest.model_copy(update={key: value}))


class TestScan:
    def test_rows_and_manifests_are_scanned(self, make_cache: Make, tmp_path: Path) -> None:
        cache = make_cache(extra=" Write to me@somewhere.org")
        manifest = read_manifest(cache)
        finish(cache, manifest.model_copy(update={"settings": {"url": "http://me:pass1@host.org"}}))
        parts = read_parts([cache])
        with pytest.raises(SecretError, match=r"21 places .*cache/manifest\.json") as error:
            check_secrets(parts, (), None)
        assert "pairs-00000.parquet row 3" in "".join(error.value.__notes__)
        assert check_secrets(parts, ("email", "url-password"), None) == {
            "email": 20,
            "url-password": 1,
        }
