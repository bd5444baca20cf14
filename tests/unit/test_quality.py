"""The figures of a cache are those of its pairs."""

import random
from collections.abc import Sequence
from dataclasses import asdict
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delia_data.errors import InputError
from delia_data.outputs import canonical_json
from delia_data.sampling.embeddings import Vectors, coverage
from delia_data.sampling.quality import measure_pairs, share_like_earlier


def bag(texts: Sequence[str]) -> Vectors:
    """Each word has a direction of its own, roughly."""
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
        tokens=[512] * 3 + [100] * 57,
        max_tokens=512,
        scan=lambda text: ["yes"] * 3 if "Yes" in text else (),
    )
    assert quality.near_duplicate_share == 10 / 60
    assert quality.similar_share is not None
    assert quality.similar_share >= 10 / 60
    assert quality.accepted_share == 60 / 80
    assert quality.rejected == {"echo": 5, "empty": 15}
    assert quality.cut_off_share == 3 / 60
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


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_what_is_like_an_earlier_one(kinds: list[int]) -> None:
    vectors = np.eye(6, dtype=np.float32)[kinds]
    for similarity in (0.9, 1.0):
        share = share_like_earlier(vectors, similarity)
        assert share == (len(kinds) - len(set(kinds))) / len(kinds)


def test_what_is_like_an_earlier_one_in_another_block() -> None:
    vectors = np.random.default_rng(0).normal(size=(1100, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = sum(bool((vectors[:i] @ vectors[i] >= 0.8).any()) for i in range(1100)) / 1100
    assert 0 < expected < 1
    assert share_like_earlier(vectors, 0.8) == pytest.approx(expected)


@pytest.mark.parametrize(
    "given",
    [
        {"pairs": []},
        {"tokens": [1] * 40},
        {"max_tokens": 5},
        {"tokens": [1], "max_tokens": 5},
        {"reference": ["a"] * 10},
        {"rival": ["a"], "embed": bag},
    ],
)
def test_what_cannot_be_measured(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"there are no pairs|needs"):
        measure_pairs(**{"pairs": PAIRS, **given})
