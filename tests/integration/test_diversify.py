"""The bundled wordings pass every gate, and are more diverse than swapped synonyms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from delia_data.diversify import gate_task_wordings
from delia_data.diversify.check import Meaning, WordingChecker, bare_text
from delia_data.diversify.folder import choose, measure, spread
from delia_data.models import load_tokenizer
from delia_data.sampling import bundled_queries
from delia_data.sampling.embeddings import Embedder
from delia_data.sampling.filters import load_detector
from delia_data.tasks import Wording, bundled_task, bundled_wordings

pytestmark = pytest.mark.integration

TASK = bundled_task()
WORDINGS = bundled_wordings()


@pytest.fixture(scope="module")
def embed() -> Embedder:
    return Embedder()


@pytest.fixture(scope="module")
def checker(embed: Embedder) -> Callable[..., WordingChecker]:
    """Return a checker with all gates, and real embeddings, tokenizer and detector."""
    tokenizer, detect = load_tokenizer(), load_detector()

    def make(*, strict: bool = False) -> WordingChecker:
        return WordingChecker(TASK, embed=embed, tokenizer=tokenizer, detect=detect, strict=strict)

    return make


def test_the_bundled_wordings_pass_every_gate(checker: Callable[..., WordingChecker]) -> None:
    result = checker().check_all(WORDINGS)
    assert result.counts == {}
    assert len(result.accepted) == 88


def test_they_spread_at_least_twice_as_far_as_synonym_swaps(embed: Embedder) -> None:
    """Compare the first sixty wordings with sixty swaps of the common wording."""
    training = [wording for wording in WORDINGS if wording.split == "train"][:60]
    measured = measure(TASK, training, embed)
    own, synonyms = measured["wordings"], measured["synonyms"]
    print(f"wordings {own}\nsynonyms {synonyms}")
    assert own["texts"] == synonyms["texts"] == 60
    assert measured["gain"] >= 2
    assert own["mean_distance"] > synonyms["mean_distance"]
    assert own["spectrum"][0] < synonyms["spectrum"][0]
    for seed in range(1, 4):
        assert measure(TASK, training, embed, seed=seed)["gain"] >= 2


def test_chosen_wordings_spread_further_than_the_first_ones(embed: Embedder) -> None:
    training = [replace(w, split="train") for w in WORDINGS]
    gates = gate_task_wordings(TASK, training)
    chosen = choose(TASK, gates, 20, embed).accepted
    ranks = [
        spread(embed([bare_text(w.text, "<sep>") for w in some]))["effective_rank"]
        for some in (chosen, *(training[i : i + 20] for i in range(0, 60, 20)))
    ]
    assert ranks[0] > max(ranks[1:])


@pytest.mark.parametrize(("strict", "most"), [(False, 0.07), (True, 0.01)])
def test_unrelated_requests_fail(embed: Embedder, strict: bool, most: float) -> None:
    """Of queries about everything few are taken for the task's request."""
    meaning = Meaning(TASK, embed, strict=strict)
    texts = [query.text for query in bundled_queries(600, seed=3)]
    faults = [meaning.fault(t, v) for t, v in zip(texts, meaning.vectors(texts), strict=True)]
    print(f"{faults.count(None)} of {len(texts)} pass")
    assert faults.count(None) < most * len(texts)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Is the answer right? Reply in <sep>.\n{query}", None),
        ("Did the person tell the truth? Use <sep>.\n{query}", None),
        ("{query}\nTell me in <sep> if that is a fabrication.", None),
        ("Translate the answer into French, in <sep>.\n{query}", "other_request"),
        ("Give a better answer to the question, in <sep>.\n{query}", "other_request"),
        ("Answer the question. Reply in <sep>.\n{query}", "other_request"),
        ("Bake bread on Sunday, using <sep>.\n{query}", "off_meaning"),
        (
            "Judge whether the given answer to the question is wrong or made up. <sep>\n{query}",
            "copies_request",
        ),
        ("Is the answer right? Answer the question. Use <sep>.\n{query}", "asks_more"),
        (
            "La respuesta de arriba, ¿es correcta o está inventada? Usa <sep>.\n{query}",
            "wrong_language",
        ),
        (
            "Prüfe bitte, ob die Antwort stimmt oder erfunden ist, in <sep>.\n{query}",
            "wrong_language",
        ),
    ],
)
def test_meaning_and_language(
    checker: Callable[..., WordingChecker], text: str, reason: str | None
) -> None:
    assert checker().check(Wording(text)) == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Judge whether the answer given is wrong. Use <sep>.\n{query}", None),
        ("I'd like to know whether the answer is true or not, in <sep>.\n{query}", None),
        ("Ask a friend to check your answer, and reply in <sep>.\n{query}", "off_meaning"),
        ("Make up an answer to the question. Use <sep>.\n{query}", "other_request"),
        ("Find out if it is true. Say thank you to the man. Use <sep>.\n{query}", "asks_more"),
    ],
)
def test_what_small_models_write_is_judged_strictly(
    checker: Callable[..., WordingChecker], text: str, reason: str | None
) -> None:
    found = checker(strict=True).check(Wording(text))
    assert found == reason or (reason is not None and found in {"off_meaning", "other_request"})


def test_a_reworded_copy_is_a_near_copy(checker: Callable[..., WordingChecker]) -> None:
    judge = checker()
    first = "Please check whether the answer given below is correct, and reply in <sep>.\n{query}"
    assert judge.check(Wording(first)) is None
    again = Wording(
        "{query}\nPlease verify whether the answer shown below is right, and respond in <sep>."
    )
    assert judge.check(again) == "near_copy"
