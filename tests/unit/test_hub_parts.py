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
from delia_data.hub.secrets import check_secrets, texts_of
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
    def test_parts_are_named_by_kind_and_ratio(
        self, make_task: Make, make_cache: Make, tmp_path: Path
    ) -> None:
        task, cache = make_task(), make_cache()
        rows = read_task_rows(task)
        save_mixture(mix(rows.train, cache, ratio=0.5), tmp_path / "mine")
        assert list(read_parts([tmp_path / "mine", cache, task])) == ["ratio-0.5", "cache", "task"]

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

    def test_content_is_rows_settings_and_license(self, make_task: Make, make_cache: Make) -> None:
        task, cache = make_task(), make_cache()
        first = self.manifest([task, cache])
        content = first.inputs["content"]
        assert self.manifest([cache, task]).inputs["content"] == content
        assert self.manifest([task], first).inputs["content"] == content
        assert self.manifest([task, cache], license="apache-2.0").inputs["content"] != content
        assert self.manifest([task]).inputs["content"] != content

    def test_parts_that_are_not_given_stay(
        self, make_task: Make, make_cache: Make, tmp_path: Path
    ) -> None:
        task, cache = make_task(), make_cache()
        mixture = mix_ratios(read_parts([task, cache]), [2], tmp_path)["ratio-2"]
        first = self.manifest([task, cache, mixture.folder])
        shared = first.details["shared"]
        assert shared["pairs_in_mixtures"] == shared["of_these_in_cache"] == 8
        assert shared["plain_copies_bytes"] == sum(
            file.stat().st_size for file in mixture.sources().values()
        )
        kept = first.model_copy(update={"files": {**first.files, "pictures/map.png": "ab"}})
        second = self.manifest([make_cache("grown", shards=(20, 5))], kept)
        assert second.details["mixtures"] == first.details["mixtures"]
        assert second.details["task"] == first.details["task"]
        assert set(second.files) - set(first.files) == {"cache/pairs-00001.parquet"}

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

    def test_every_text_of_a_row_is_seen_and_its_ids_are_not(self, make_cache: Make) -> None:
        texts = list(texts_of(read_parts([make_cache(shards=(2,))])["cache"]))
        assert ("cache/pairs-00000.parquet row 1", "Answer 1.") in texts
        ids = cache_ids(make_cache("again", shards=(2,))).to_pylist()
        assert not {text for _, text in texts} & set(ids)
