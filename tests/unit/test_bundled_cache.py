"""The bundled cache: its guarantees, and all ways to name it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from command_line import Delia, refused
from datasets import load_dataset

from delia_data.bundled_cache import bundled_cache_folder, cache_path
from delia_data.diversify import diversify
from delia_data.errors import InputError, RatioError
from delia_data.hub.parts import read_parts
from delia_data.hub.secrets import kinds
from delia_data.mixing import mix
from delia_data.outputs import read_manifest
from delia_data.records import Record
from delia_data.sampling import bundled_queries, read_cache
from delia_data.tasks import bundled_task, bundled_wordings
from delia_data.tokens import DEFAULT_TOKEN

PAIRS = 27_000
RATIO, ROWS = 260, 26_100


@pytest.fixture(scope="module")
def pairs() -> list[Record]:
    return read_cache("bundled")


def test_there_are_pairs_enough(pairs: list[Record]) -> None:
    manifest = read_manifest(bundled_cache_folder(), verify=True)
    assert len(pairs) == manifest.rows["kept"] >= PAIRS
    assert len({pair.id for pair in pairs}) == len({pair.query for pair in pairs}) == len(pairs)


def test_nothing_is_in_it_that_should_not_be(pairs: list[Record]) -> None:
    """Packing scanned every text, as its manifest says; here every fiftieth is scanned again."""
    texts = [message.content for pair in pairs for message in pair.messages]
    assert all(text == text.strip() != "" for text in texts)
    assert not [text for text in texts if DEFAULT_TOKEN in text]
    written = (bundled_cache_folder() / "queries" / "written.jsonl").read_text("utf-8")
    scanned = [*texts[::50], *(json.loads(line)["text"] for line in written.splitlines()[::50])]
    assert not [kind for text in scanned for kind in kinds(text)]


def test_the_manifest_says_how_good_it_is() -> None:
    manifest = read_manifest(bundled_cache_folder())
    assert manifest.settings["model"]["name"] == "smollm2-135m-instruct"
    quality = manifest.details["quality"]
    asked = quality["pairs"] + sum(quality["rejected"].values())
    assert quality["pairs"] == manifest.rows["kept"]
    assert quality["accepted_share"] == pytest.approx(quality["pairs"] / asked)
    assert quality["cut_off_share"] <= 0.05
    assert quality["near_duplicate_share"] <= 0.02
    assert quality["coverage"] >= 0.8 * quality["rival_coverage"] > 0
    assert quality["language_share"] >= 0.98
    assert quality["found"] == {}


def test_it_is_small_and_has_a_card() -> None:
    folder = bundled_cache_folder()
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 12e6
    card = folder.with_suffix(".md").read_text("utf-8")
    for words in ("HuggingFaceTB/SmolLM2-135M-Instruct", "Apache-2.0", "delia sample"):
        assert words in card


def test_the_headline(tmp_path: Path) -> None:
    found = load_dataset("delia_mix", ratio=RATIO, cache_dir=str(tmp_path))
    assert found["train"].num_rows == ROWS
    assert Counter(found["train"]["source"]) == {"task": 100, "cache": 100 * RATIO}
    assert found["test"].num_rows == 100
    again = load_dataset("delia_mix", ratio=RATIO, cache="bundled", cache_dir=str(tmp_path))
    assert again["train"]._fingerprint == found["train"]._fingerprint
    assert again.cache_files == found.cache_files
    alone = load_dataset("delia_cache", split="train", cache_dir=str(tmp_path))
    assert alone.num_rows >= PAIRS


def test_a_larger_ratio_says_how_to_grow_it(tmp_path: Path) -> None:
    with pytest.raises(RatioError, match=r"delia sample my-cache --from bundled --target 52520"):
        load_dataset("delia_mix", ratio=520, cache_dir=str(tmp_path))
    whole = load_dataset(
        "delia_mix", ratio=520, on_short="all", split="train", cache_dir=str(tmp_path)
    )
    assert PAIRS <= whole.num_rows - 100 < 52_000


def test_its_name_in_python(pairs: list[Record]) -> None:
    task = bundled_task()
    rows = diversify(task, bundled_wordings(task.name), seed=0)
    named = mix(rows.train, "bundled", ratio=2).manifest
    assert named.inputs == mix(rows.train, bundled_cache_folder(), ratio=2).manifest.inputs
    assert named.details["written_by"]["cache"]["name"] == "smollm2-135m-instruct"
    assert cache_path("mine") == "mine"
    assert cache_path(pairs) is pairs


def test_its_name_on_the_command_line(delia: Delia, tmp_path: Path) -> None:
    assert delia("diversify", tmp_path / "task").code == 0
    done = delia("mix", tmp_path / "task", "bundled", tmp_path / "mix", "--ratio", 3)
    assert done.code == 0, done.err
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"tasks: {{a: {tmp_path / 'task'}}}\ncaches: {{cache: bundled}}\nratio: 3\n")
    done = delia("mix", tmp_path / "again", "--recipe", recipe)
    assert done.code == 0, done.err
    rows = [(tmp_path / name / "train.parquet").read_bytes() for name in ("mix", "again")]
    assert rows[0] == rows[1]
    given = ["mix", tmp_path / "task", "bundled", tmp_path / "large", "--ratio", 1000]
    refused(delia(*given), "--from bundled --target 101000")
    assert "cache/pairs-00000.parquet" in read_parts(["bundled"])["cache"].sources()


def test_a_copy_of_it_keeps_to_its_settings(delia: Delia, tmp_path: Path) -> None:
    """tests/slow/test_growing.py lets one grow."""
    given = ["sample", tmp_path / "mine", "--from", "bundled", "--target", 30_000]
    refused(delia(*given, "--engine", "mock"), "engine was 'transformers' and is now 'mock'")
    assert not list((tmp_path / "mine").glob("pairs-*"))


def test_its_queries_are_the_packages_and_the_models(pairs: list[Record]) -> None:
    bundled = {query.text for query in bundled_queries()}
    own = sum(pair.query in bundled for pair in pairs)
    assert own >= 10_000
    assert len(pairs) - own >= 10_000


def test_an_installation_without_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("delia_data.bundled_cache._folder", lambda: tmp_path)
    with pytest.raises(InputError, match="does not contain the bundled cache"):
        read_cache("bundled")
