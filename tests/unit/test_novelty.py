"""The index finds what comparing with every text finds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delia_data.errors import InputError
from delia_data.sampling.similarity import Novelty, rouge_l

word = st.sampled_from(["what", "is", "the", "capital", "of", "france", "italy", "a", "b"])
sentence = st.lists(word, max_size=14)


def longest(one: list[str], other: list[str]) -> int:
    """Words of the longest common subsequence, as textbooks find it."""
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, left in enumerate(one):
        for j, right in enumerate(other):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if left == right else max(table[i][j + 1], table[i + 1][j])
            )
    return table[-1][-1]


@given(sentence, sentence)
def test_rouge_l(one: list[str], other: list[str]) -> None:
    common = longest(one, other)
    expected = 2 * common / (len(one) + len(other)) if common else 0.0
    assert rouge_l(one, other) == rouge_l(other, one) == expected


def test_rouge_l_of_a_known_pair() -> None:
    """Lin (2004), section 3.1: three words are common, `police the gunman`, of four each."""
    one, other = ["police", "killed", "the", "gunman"], ["police", "kill", "the", "gunman"]
    assert rouge_l(one, other) == 0.75


@given(st.lists(sentence, max_size=25), st.sampled_from([0.3, 0.5, 0.7, 0.9, 1.0]))
def test_the_same_as_comparing_with_all(texts: list[list[str]], threshold: float) -> None:
    novelty = Novelty(threshold)
    taken: list[list[str]] = []
    for said in texts:
        text = " ".join(said)
        new = bool(said) and all(rouge_l(said, other) < threshold for other in taken)
        assert novelty.is_new(text) == new
        if new:
            novelty.add(text)
            taken.append(said)
    assert len(novelty) == len(taken)


def test_texts_that_are_not_new_can_be_taken_too() -> None:
    novelty = Novelty()
    for text in ("Why is the sky blue?", "why is the SKY blue", "", "?"):
        novelty.add(text)
    assert not novelty.is_new("Why is the sky blue")
    assert novelty.is_new("How do bees find their way home?")
    assert not novelty.is_new("...")


@pytest.mark.parametrize("threshold", [0, -1, 1.01])
def test_threshold_out_of_bounds(threshold: float) -> None:
    with pytest.raises(InputError, match="out of range"):
        Novelty(threshold)
