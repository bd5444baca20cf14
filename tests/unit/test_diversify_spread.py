"""Diversity is measured, increased by selection, and compared with swapped synonyms."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wordings import bag_of_words, verdicts

from delia_data.diversify import GateResult
from delia_data.diversify.folder import choose, greedy_spread, measure, spread, synonym_swaps
from delia_data.errors import InputError
from delia_data.records import Rejection
from delia_data.sampling.embeddings import Vectors
from delia_data.tasks import Wording


def unit(rows: list[list[float]]) -> Vectors:
    vectors = np.array(rows, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_two_groups_by_hand() -> None:
    """Three of one and one of another: shares 3/4 and 1/4, rank exp of their entropy."""
    measured = spread(unit([[1, 0], [1, 0], [1, 0], [0, 1]]))
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert measured["effective_rank"] == pytest.approx(np.exp(entropy), abs=1e-3)
    assert measured["mean_distance"] == pytest.approx(3 / 6)
    assert measured["spectrum"] == [0.75, 0.25, 0.0, 0.0]
    assert measured["texts"] == 4


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 12), width=st.integers(1, 8))
def test_bounds(seed: int, count: int, width: int) -> None:
    drawn = np.random.default_rng(seed).normal(size=(count, width))
    measured = spread(unit(drawn.tolist()))
    assert 1 <= measured["effective_rank"] <= min(count, width) + 1e-3
    assert 0 <= measured["mean_distance"] <= 2
    shares = measured["spectrum"]
    assert count > len(shares) or sum(shares) == pytest.approx(1, abs=1e-3)
    assert shares == sorted(shares, reverse=True)


def test_copies_are_chosen_last() -> None:
    vectors = unit([[1, 0, 0], [1, 0, 0.01], [0, 1, 0], [1, 0.01, 0], [0, 0, 1]])
    assert set(greedy_spread(vectors, 3)) & {0, 1, 3} != set()
    assert {2, 4} <= set(greedy_spread(vectors, 3))
    assert sorted(greedy_spread(vectors, 9)) == [0, 1, 2, 3, 4]
    assert greedy_spread(vectors, 0) == []


# Choosing wordings


def gated(held: int) -> GateResult:
    texts = ["red", "red red blue", "red red red blue", "green", "yellow", "white black"]
    wordings = [Wording(f"{text} <sep>\n{{query}}") for text in texts]
    aside = [replace(w, split="test") for w in wordings[len(wordings) - held :]]
    rejected = ((Wording("x"), Rejection("no_token")),)
    return GateResult((*wordings[: len(wordings) - held], *aside), rejected)


def test_the_rest_goes_into_the_ledger() -> None:
    made = choose(verdicts(), gated(0), 4, bag_of_words)
    assert [w.text.split(" <sep>")[0] for w in made.accepted][1:] == [
        "green",
        "yellow",
        "white black",
    ]
    assert made.counts == {"no_token": 1, "not_chosen": 2}


def test_the_share_of_held_out_wordings_stays() -> None:
    made = choose(verdicts(), gated(2), 3, bag_of_words)
    assert [w.split for w in made.accepted] == ["train", "train", "test"]
    with pytest.raises(
        InputError, match=r"6 of 7 wordings pass the gates; no_token rejects most, 1"
    ):
        choose(verdicts(), gated(2), 7, bag_of_words)


def test_wordings_beside_synonyms() -> None:
    task = replace(
        verdicts(),
        common_wording=Wording(
            "Judge whether the answer below is correct in the <sep> form.\n{query}"
        ),
    )
    measured = measure(task, gated(0).accepted, bag_of_words)
    own, synonyms = measured["wordings"], measured["synonyms"]
    assert own["texts"] == synonyms["texts"] == 6
    assert measured["gain"] == pytest.approx(
        own["effective_rank"] / synonyms["effective_rank"], abs=1e-3
    )
    assert measured["gain"] > 1


# Synonym swaps


def test_synonym_swaps() -> None:
    text = "Judge whether the answer below is correct, using <sep>.\n{query}"
    swaps = synonym_swaps(text, 60)
    assert len(set(swaps)) == 60
    for swap in swaps:
        assert swap.endswith("<sep>.\n{query}")
        assert swap[0].isupper()
        assert len(swap.split()) == len(text.split())
    assert swaps == synonym_swaps(text, 60)
    assert set(swaps[:10]) < set(swaps)
    assert swaps != synonym_swaps(text, 60, seed=1)
    assert len(synonym_swaps("Judge it.", 60)) == 10
    assert synonym_swaps("Nothing to see here.", 60) == ["Nothing to see here."]
