"""Parts of a publication: what is read, mixed, indexed and shared; without any Hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from delia_data.errors import InputError, RatioError, SecretError, UnfinishedError
from delia_data.hub.lean import expand, index_mixture, lean_rows, write_lean
from delia_data.hub.parts import cache_ids, check_mixture, mixed, pair_shards, read_parts
from delia_data.hub.pictures import can_draw, draw, some_pairs
from delia_data.hub.publication import draft, outdated, parts_of_path
from delia_data.hub.scanning import check_secrets, texts_of
from delia_data.mixing import mix, read_task_rows, save_mixture
from delia_data.outputs import Manifest, finish, read_manifest
from delia_data.records import Record, write_record
from delia_data.sampling.embeddings import place_by_words

Make = Callable[..., Path]


@pytest.fixture
def make_task(tmp_path: Path) -> Make:
    def make(name: str = "task", rows: int = 4, wording: str = "As <sep>: {}?") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for split, numbers in (("train", range(rows)), ("test", (90, 91))):
            lines = [
                {**write_record(Record.pair(wording.format(n), f"{n}!")), "wording_id": f"w{n % 2}"}
                for n in numbers
            ]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / f"{split}.jsonl").write_text(text, "utf-8")
        settings = {"name": "count", "token": "<sep>"}
        finish(folder, Manifest(kind="task", settings=settings, rows={"train": rows, "test": 2}))
        return folder

    return make


@pytest.fixture
def make_cache(tmp_path: Path) -> Make:
    def make(name: str = "cache", shards: tuple[int, ...] = (20,), text: str = "Said {}.") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        done = 0
        for number, size in enumerate(shards):
            records = [Record.pair(f"Q {n}?", text.format(n)) for n in range(done, done + size)]
            rows = [{**write_record(r), "source_id": r.id} for r in records]
            pq.write_table(pa.Table.from_pylist(rows), folder / f"pairs-{number:05}.parquet")
            done += size
        dropped = {"empty": 3}
        finish(folder, Manifest(kind="cache", rows={"kept": done}, dropped=dropped))
        return folder

    return make


def rows_of(folder: Path, split: str = "train") -> list[dict[str, Any]]:
    return pq.read_table(folder / f"{split}.parquet").to_pylist()


class TestParts:
    def test_kinds_say_what_a_folder_is(
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
        finish(tmp_path, Manifest(kind="adapter"))
        with pytest.raises(InputError, match="'adapter'"):
            read_parts([tmp_path])

    def test_hashes_are_of_all_files(self, make_cache: Make) -> None:
        part = read_parts([make_cache(shards=(3, 2))])["cache"]
        assert set(part.hashes()) == {
            "cache/FINISHED",
            "cache/manifest.json",
            "cache/pairs-00000.parquet",
            "cache/pairs-00001.parquet",
        }
        assert set(part.hashes()) == set(part.sources())

    def test_a_mixture_is_mixed_as_its_settings_say(
        self, make_task: Make, make_cache: Make, tmp_path: Path
    ) -> None:
        parts = read_parts([make_task(), make_cache()])
        settings = {"ratio": 2, "seed": 7, "order": "interleaved"}
        part = mixed(parts["task"], parts["cache"], settings, tmp_path / "a")
        again = mixed(parts["task"], parts["cache"], part.manifest.settings, tmp_path / "b")
        assert part.hashes() == again.hashes()
        assert part.manifest.settings["seed"] == 7
        with pytest.raises(RatioError):
            mixed(parts["task"], parts["cache"], {"ratio": 99}, tmp_path / "c")
        with pytest.raises(InputError, match="task_weights"):
            mixed(parts["task"], parts["cache"], {"ratio": 1, "task_weights": {}}, tmp_path / "d")

    def test_tokens_are_counted_and_the_special_one_is_one(
        self, make_task: Make, make_cache: Make, tmp_path: Path, tiny_tokenizer: Any
    ) -> None:
        parts = read_parts([make_task(rows=1), make_cache()])
        part = mixed(parts["task"], parts["cache"], {"ratio": 1}, tmp_path, tiny_tokenizer)
        # <|user|>As <sep>: 0?<|end|><|assistant|>0!<|end|>, a token for each byte but <sep>
        assert part.manifest.details["tokens"]["task"] == 1 + 3 + 1 + 4 + 1 + 1 + 2 + 1

    def test_rows_are_checked_against_task_and_cache(
        self, make_task: Make, make_cache: Make, tmp_path: Path
    ) -> None:
        parts = read_parts([make_task(), make_cache()])
        part = mixed(parts["task"], parts["cache"], {"ratio": 2}, tmp_path)
        task, ids = read_task_rows(parts["task"].folder), cache_ids(parts["cache"].folder)
        assert check_mixture(part, task, ids) == 8
        assert check_mixture(part, None, None) == 0
        other_cache = cache_ids(make_cache("other", text="Other {}."))
        with pytest.raises(InputError, match="8 pairs that the cache does not have"):
            check_mixture(part, task, other_cache)
        other_task = read_task_rows(make_task("reworded", wording="By <sep>: {}?"))
        with pytest.raises(InputError, match="4 task rows that the task does not have"):
            check_mixture(part, other_task, ids)


class TestLean:
    @pytest.mark.parametrize("row_format", ["messages", "alpaca", "prompt_completion"])
    @pytest.mark.parametrize("order", ["shuffled", "interleaved"])
    def test_an_index_gives_the_same_rows_and_bytes(
        self, make_task: Make, make_cache: Make, tmp_path: Path, row_format: str, order: str
    ) -> None:
        parts = read_parts([make_task(), make_cache(shards=(7, 9, 4))])
        task, cache = parts["task"], parts["cache"]
        settings = {"ratio": 4, "format": row_format, "order": order}
        plain = mixed(task, cache, settings, tmp_path / "plain")
        lean = write_lean(plain, task, cache, tmp_path / "lean")
        (index,) = lean.sources().values()
        for split in ("train", "test"):
            batches = lean_rows(index, task.folder, cache.folder, plain.manifest, split)
            found = [row for batch in batches for row in batch.to_pylist()]
            assert found == rows_of(plain.folder, split)
        out = tmp_path / "out"
        manifest = expand(index, task.folder, cache.folder, plain.manifest, out)
        assert manifest.files == plain.manifest.files
        assert read_manifest(out, verify=True) == plain.manifest

    def test_an_index_of_other_rows_is_refused(
        self, make_task: Make, make_cache: Make, tmp_path: Path
    ) -> None:
        parts = read_parts([make_task(), make_cache()])
        part = mixed(parts["task"], parts["cache"], {"ratio": 2}, tmp_path)
        other = make_cache("other", text="Other {}.")
        with pytest.raises(InputError, match="8 rows that are in neither"):
            index_mixture(part, parts["task"].folder, other)

    def test_an_index_is_much_smaller(
        self, make_task: Make, make_cache: Make, tmp_path: Path
    ) -> None:
        import random

        words = random.Random(0)
        long = "{} " + " ".join(f"{words.random():.6f}" for _ in range(30))
        parts = read_parts([make_task(rows=20), make_cache(shards=(2000,), text=long)])
        task, cache = parts["task"], parts["cache"]
        plain = mixed(task, cache, {"ratio": 100}, tmp_path / "plain")
        lean = write_lean(plain, task, cache, tmp_path / "lean")
        size = {p.form: sum(f.stat().st_size for f in p.sources().values()) for p in (plain, lean)}
        assert size["lean"] * 3 < size["plain"]


class TestDraft:
    def draft(self, folders: list[Path], before: Manifest | None = None, **over: Any) -> Any:
        given = {"licence": "mit", "citation": None, "found": {}, "pairs": {}, **over}
        return draft(read_parts(folders), before, **given)

    def test_content_is_rows_settings_and_licence(self, make_task: Make, make_cache: Make) -> None:
        task, cache = make_task(), make_cache()
        first = self.draft([task, cache])
        assert self.draft([cache, task]).content == first.content
        assert self.draft([task, cache], licence="apache-2.0").content != first.content
        assert self.draft([task]).content != first.content
        assert self.draft([task], first.manifest).content == first.content

    def test_what_is_not_given_again_stays(self, make_task: Make, make_cache: Make) -> None:
        first = self.draft([make_task(), make_cache()])
        second = self.draft([make_task("other", wording="By <sep>: {}?")], first.manifest)
        assert second.manifest.files["cache/pairs-00000.parquet"]
        assert "cache/pairs-00000.parquet" not in second.sources
        assert second.manifest.details["cache"] == first.manifest.details["cache"]

    def test_mixtures_of_what_changed_are_outdated(
        self, make_task: Make, make_cache: Make, tmp_path: Path
    ) -> None:
        task, cache = make_task(), make_cache()
        part = mixed(*(read_parts([f]).popitem()[1] for f in (task, cache)), {"ratio": 2}, tmp_path)
        before = self.draft([task, cache, part.folder], pairs={"ratio-2": 8}).manifest
        grown = make_cache("grown", shards=(20, 5))
        assert list(outdated(read_parts([grown]), before)) == ["ratio-2"]
        assert outdated(read_parts([cache, task]), before) == {}
        assert outdated(read_parts([grown, part.folder]), before) == {}
        shared = before.details["shared"]
        assert shared["pairs_in_mixtures"] == shared["of_these_in_cache"] == 8
        sizes = sum(f.stat().st_size for f in part.sources().values())
        assert shared["plain_copies_bytes"] == sizes

    def test_paths_belong_to_parts(self) -> None:
        assert parts_of_path("cache/pairs-00000.parquet") == "cache"
        assert parts_of_path("lean/ratio-0.5.parquet") == "ratio-0.5"
        assert parts_of_path("pictures/map.png") == "pictures"


class TestScan:
    def test_rows_and_manifests_are_scanned(self, make_cache: Make, tmp_path: Path) -> None:
        cache = make_cache(text="Call me {} at me@somewhere.org")
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
        assert ("cache/pairs-00000.parquet row 1", "Said 1.") in texts
        ids = cache_ids(make_cache("again", shards=(2,))).to_pylist()
        assert not {text for _, text in texts} & set(ids)


@pytest.mark.skipif(not can_draw(), reason="matplotlib is not installed")
class TestPictures:
    def test_equal_rows_give_equal_pictures(self, make_task: Make, make_cache: Make) -> None:
        parts = read_parts([make_task(), make_cache(shards=(30,))])
        drawn = draw(parts, {"empty": 3, "too_short": 2}, embed=place_by_words)
        assert set(drawn) == {"lengths.png", "map.png", "dropped.png"}
        assert all(png.startswith(b"\x89PNG") and len(png) > 3000 for png in drawn.values())
        assert draw(parts, {"empty": 3, "too_short": 2}, embed=place_by_words) == drawn
        other = draw(parts, {"empty": 4, "too_short": 2}, embed=place_by_words)
        assert other["dropped.png"] != drawn["dropped.png"]
        assert other["map.png"] == drawn["map.png"]

    def test_large_caches_are_thinned_evenly(self, make_cache: Make) -> None:
        shards = pair_shards(make_cache(shards=(3000, 2500, 1501)))
        queries = [record.query for record in some_pairs(shards)]
        assert queries == [f"Q {n}?" for n in range(0, 7001, 3)]
        assert len(some_pairs(pair_shards(make_cache("small", shards=(5, 4))))) == 9

    def test_what_is_not_given_is_not_drawn(self, make_task: Make) -> None:
        drawn = draw(read_parts([make_task()]), {}, embed=place_by_words)
        assert set(drawn) == {"lengths.png", "map.png"}

    def test_rows_of_like_words_are_near(self) -> None:
        vectors = place_by_words(["the red cat", "the red cats", "a blue, blue sky", "the red cat"])
        near = vectors @ vectors.T
        assert near[0, 3] == pytest.approx(1, abs=1e-5)
        assert near[0, 1] > near[0, 2]
