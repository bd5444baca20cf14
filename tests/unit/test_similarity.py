"""Duplicate pairs and near-duplicate queries, at any size and in any process."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delia_data.engines import Completion
from delia_data.errors import InputError
from delia_data.records import Rejection
from delia_data.sampling.embeddings import Vectors
from delia_data.sampling.similarity import Duplicates, Novelty, _shingles, compared, rouge_l

LONG = (
    "The old bridge crosses the river at its narrowest point, and every spring the water rises "
    "so high that the people of the village carry their boats up to the church."
)


def ask(check: Duplicates, query: str, answer: str) -> str | Rejection | None:
    return check(query, Completion("id", answer, len(answer.split()), "stop"))


def made_up(seed: int, count: int = 60) -> list[str]:
    draw = random.Random(seed)
    return [f"w{draw.randrange(10_000)}" for _ in range(count)]


@pytest.mark.parametrize(
    ("query", "answer", "reason"),
    [
        ("Tell me.", LONG, "duplicate"),
        ("tell me", LONG.upper().replace(",", " -"), "duplicate"),
        ("What happens in spring?", LONG, "duplicate"),
        ("Is water wet?", "yes it is", "duplicate"),
        ("Is fire hot?", "Yes, it is.", None),  # a short answer to another query
        ("Is water wet?", "No.", None),
        ("Which sign adds?", "+", "duplicate"),
        ("Which sign adds?", "-", None),
        ("One", "two three", None),
        ("\ud800", "\udfff", None),
        ("", "", "duplicate"),
    ],
)
def test_repeated_pairs_and_long_answers_are_duplicates(
    query: str, answer: str, reason: str | None
) -> None:
    check = Duplicates()
    pairs = [("Tell me.", LONG), ("Is water wet?", "Yes, it is."), ("Which sign adds?", "+")]
    assert not any(ask(check, *pair) for pair in [*pairs, ("One two", "three"), ("", "")])
    assert ask(check, query, answer) == reason


def test_few_changed_words_make_a_near_duplicate_and_many_do_not() -> None:
    check = Duplicates()
    assert ask(check, "q", LONG) is None
    assert ask(check, "q", LONG.replace("church", "chapel")) == "near_duplicate"
    changed = LONG.replace("old", "new").replace("spring", "autumn").replace("village", "town")
    one, other = (set(_shingles(compared("q", text))) for text in (LONG, changed))
    assert len(one & other) / len(one | other) < 0.6
    assert ask(check, "q", changed) is None


def test_exact_duplicates_alone() -> None:
    check = Duplicates(None)
    assert ask(check, "q", LONG) is None
    assert ask(check, "q", LONG.replace("church", "chapel")) is None
    assert ask(check, "q", LONG) == "duplicate"


def test_rejected_pairs_are_not_remembered() -> None:
    """A chain of small changes must not carry the filter away from what is kept."""
    check, said = Duplicates(), made_up(0)
    assert ask(check, "q", " ".join(said)) is None
    reasons = []
    for place in range(30):
        said[place] = f"new{place}"
        reasons.append(ask(check, "q", " ".join(said)))
    assert reasons[0] == "near_duplicate"
    assert None in reasons


@pytest.mark.parametrize("threshold", [0.6, 0.7, 0.8, 0.9])
def test_detection_rate_rises_around_the_threshold(threshold: float) -> None:
    """Pairs of answers of 100 shingles with planted similarities."""

    def found(similarity: float) -> float:
        hits = 0
        for seed in range(100):
            common = round(200 * similarity / (1 + similarity))
            first, second = made_up(2 * seed, 102), made_up(2 * seed + 1, 102)
            second[: common + 2] = first[: common + 2]  # two words more than shingles
            check = Duplicates(threshold)
            ask(check, "q", " ".join(first))
            hits += ask(check, "q", " ".join(second)) == "near_duplicate"
        return hits / 100

    assert found(threshold - 0.2) <= 0.25
    assert found(min(threshold + 0.09, 0.99)) >= 0.75
    assert found(0.0) == 0.0


def test_unrelated_pairs_of_a_large_cache_are_accepted() -> None:
    check = Duplicates()
    rejected = [i for i in range(3000) if ask(check, "q", " ".join(made_up(i, 30)))]
    assert rejected == []


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["x", "y", LONG, LONG[:-8]]))))
def test_resumed_run_rejects_the_same_pairs(pairs: list[tuple[str, str]]) -> None:
    whole = Duplicates()
    reasons = [ask(whole, *pair) for pair in pairs]
    half = len(pairs) // 2
    first, second = Duplicates(), Duplicates()
    again = [ask(first, *pair) for pair in pairs[:half]]
    for pair, reason in zip(pairs[:half], again, strict=True):
        if reason is None:
            second.remember(*pair)
    again += [ask(second, *pair) for pair in pairs[half:]]
    assert again == reasons


def by_first_words(texts: Sequence[str]) -> Vectors:
    """Embed texts by their first word alone."""
    vectors = np.zeros((len(texts), 4), np.float32)
    for row, text in enumerate(texts):
        vectors[row, {"river": 0, "lamp": 1, "stone": 2}.get(text.split()[0], 3)] = 1
    return vectors


def test_pair_of_the_same_meaning_is_similar() -> None:
    def answer(first: str, seed: int) -> str:
        return " ".join([first, *made_up(seed)])

    check = Duplicates(similarity=0.9, embed=by_first_words)
    assert ask(check, "one", answer("river", 1)) is None
    assert ask(check, "two", answer("lamp", 2)) is None
    assert ask(check, "three", answer("river", 3)) == ("similar", "1.00 to 'one'")
    assert ask(check, "three", answer("river", 1)) == "duplicate"
    # A rejected pair is not remembered: its words can come again.
    assert ask(check, "four", answer("stone", 3)) is None
    again = Duplicates(similarity=0.9, embed=by_first_words)
    again.remember("two", answer("lamp", 2))
    assert ask(again, "five", answer("lamp", 5)) == ("similar", "1.00 to 'two'")
    assert check.describe() == {"filter": "duplicates", "threshold": 0.8, "similarity": 0.9}
    assert "similarity" not in Duplicates().describe()
    with pytest.raises(InputError, match=r"similarity 0\.2 is out of range"):
        Duplicates(similarity=0.2)


def test_more_vectors_than_reserved_are_compared() -> None:
    rows = np.eye(1500, dtype=np.float32)
    check = Duplicates(None, similarity=0.9, embed=lambda texts: rows[[int(texts[0].split()[0])]])
    answers = [" ".join([str(i), *made_up(i, 15)]) for i in range(1500)]
    assert not any(ask(check, f"q{i}", answer) for i, answer in enumerate(answers))
    for place in (0, 1023, 1024, 1499):
        text = " ".join([str(place), *made_up(-1 - place, 15)])
        assert ask(check, "q", text) == ("similar", f"1.00 to 'q{place}'")


def test_another_process_rejects_the_same_pairs() -> None:
    texts = [" ".join(made_up(i % 7, 40 + i)) for i in range(40)]
    code = (
        "from delia_data.engines import Completion\n"
        "from delia_data.sampling.similarity import Duplicates\n"
        "check = Duplicates()\n"
        f"print(*(check('q', Completion('i', text, 1, 'stop')) for text in {texts!r}))\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    check = Duplicates()
    here = [str(ask(check, "q", text)) for text in texts]
    assert done.stdout.split() == here
    assert {"None", "near_duplicate"} <= set(here)


@pytest.mark.parametrize("threshold", [0.0, 0.49, 1.01, -1.0, float("nan")])
def test_a_threshold_has_bounds(threshold: float) -> None:
    with pytest.raises(InputError, match=r"is out of range: give 0\.5 to 1"):
        Duplicates(threshold)


word = st.sampled_from(["what", "is", "the", "capital", "of", "france", "italy", "a", "b"])
sentence = st.lists(word, max_size=14)


def longest(one: list[str], other: list[str]) -> int:
    """Return the words of the longest common subsequence, by dynamic programming."""
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


def test_texts_that_are_not_new_can_be_added() -> None:
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
