"""Growth from a few queries: what is shown, what is read out of an answer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delia_data.engines import MockEngine, Request, Sampling
from delia_data.errors import InputError
from delia_data.ranking import rank
from delia_data.sampling.generated_queries import expanded_queries
from delia_data.sampling.queries import Query, bundled_queries

SEEDS = bundled_queries(20)
NOUNS = ["lamps", "bridges", "clouds", "engines", "islands", "poems", "taxes", "wolves", "clocks"]
SHAPES = ["Why do {} matter to {}?", "Compare {} with {}.", "What can {} teach us about {}?"]


def a_list(request: Request) -> str:
    lines = []
    for part in range(6):
        draw = rank(request.seed, str(part), "test")
        some = NOUNS[draw % 9] + f" {draw // 81 % 50}", NOUNS[draw // 9 % 9] + f" {draw % 49}"
        lines.append(f"{part + 1}. {SHAPES[draw % 3].format(*some)}")
    return "\n".join(["Here are some requests:", "", *lines])


def shown_in(request: Request) -> list[str]:
    """The queries that a prompt shows."""
    assert request.role == "assistant" and len(request.messages) == 1
    return re.findall(r"^\d+\. (.*)$", request.messages[0].content, re.M)


def grow(folder: Path, count: int, seeds: Any = SEEDS, **more: Any) -> Any:
    requests: list[Request] = []

    def answer(request: Request) -> str:
        requests.append(request)
        return a_list(request)

    queries = expanded_queries(MockEngine(answer, writes_users=False), seeds, folder, **more)
    queries.ensure(count)
    return queries, requests


def test_seeds_first_then_what_was_grown(tmp_path: Path) -> None:
    queries, _ = grow(tmp_path, 60)
    got = list(queries)
    assert got[:20] == SEEDS and len(got) >= 60
    assert {query.kind for query in got[20:]} == {"expanded"}
    assert len({query.text for query in got}) == len(got)
    assert not [query for query in got[20:] if re.match(r"\d|Here are", query.text)]


def test_the_first_round_shows_seeds_and_later_ones_what_was_grown(tmp_path: Path) -> None:
    queries, requests = grow(tmp_path, 250)
    seeds = {" ".join(query.text.split()) for query in SEEDS}
    grown = {query.text for query in queries} - seeds
    first, second = requests[:32], requests[32:64]
    assert len(second) == 32
    for request in first:
        assert len(shown_in(request)) == 8 and set(shown_in(request)) <= seeds
    for request in second:
        shown = shown_in(request)
        assert len(shown) == len(set(shown)) == 8
        assert len(set(shown) & grown) == 2
    assert len({request.messages for request in first}) > 20, "prompts differ"
    assert len({request.seed for request in requests}) == len(requests)


def test_a_rerun_gives_the_same_and_grows_the_same(tmp_path: Path) -> None:
    whole, _ = grow(tmp_path / "a", 200)
    grow(tmp_path / "b", 50)
    again, _ = grow(tmp_path / "b", 200)
    assert list(again) == list(whole)
    other, _ = grow(tmp_path / "c", 50, seed=1)
    assert list(other)[20:40] != list(whole)[20:40]


def test_fewer_seeds_than_are_shown(tmp_path: Path) -> None:
    queries, requests = grow(tmp_path, 20, seeds=[Query("Why is the sky blue?", "seed", "So.")] * 2)
    assert [shown_in(request) for request in requests[:32]] == [["Why is the sky blue?"]] * 32
    assert next(iter(queries)) == Query("Why is the sky blue?", "seed", "So.")
    assert "Why is the sky blue?" not in [query.text for query in list(queries)[1:]]


def test_long_seeds_are_shown_only_where_there_are_no_others(tmp_path: Path) -> None:
    long = Query(f"Summarise this: {'word ' * 100}", "seed")
    _, requests = grow(tmp_path / "a", 20, seeds=[long, *SEEDS])
    assert not [request for request in requests if "word word" in request.messages[0].content]
    _, requests = grow(tmp_path / "b", 5, seeds=[long])
    assert all("word word" in request.messages[0].content for request in requests)


@pytest.mark.parametrize(
    "answer",
    [
        "1. Why is snow white?\n2. What are {lamps} for?",
        "Sure! Here you go:\n\n1) Why is snow white?\n2) What are {lamps} for?",
        "**1.** Why is snow white?\n\n**2.** **What are {lamps} for?**",
        '- "Why is snow white?"\n- What are {lamps} for?',
        "  1.Why is snow white?\n  2.What are {lamps} for?  \n\nWhat else can I do for you?",
        "1. (1) Why is snow white?\n2. (2) What are {lamps} for?",
        "10. Why is snow white?\n11. What are {lamps} for?",
    ],
)
def test_lists_of_all_kinds(tmp_path: Path, answer: str) -> None:
    queries = expanded_queries(MockEngine(lambda _: answer), SEEDS, tmp_path)
    queries.ensure(21)
    texts = [" ".join(query.text.split()) for query in queries][20:]
    assert texts == ["Why is snow white?", "What are {lamps} for?"]


def test_the_item_that_is_cut_off_is_dropped(tmp_path: Path) -> None:
    answer = "1. Why are lamps so bright at night?\n2. Which bridges are the"
    queries = expanded_queries(
        MockEngine(lambda _: f"{answer} longest ones?"),
        SEEDS,
        tmp_path,
        sampling=Sampling(max_tokens=len(answer.split(" "))),
    )
    queries.ensure(21)
    assert [query.text for query in queries][20:] == ["Why are lamps so bright at night?"]
    assert queries.dropped["cut_off"] == 32


def test_an_answer_without_a_list(tmp_path: Path) -> None:
    engine = MockEngine(lambda _: "These requests make you think creatively.")
    queries = expanded_queries(engine, SEEDS, tmp_path)
    with pytest.raises(InputError, match=r"\(32 no_query_found\)"):
        queries.ensure(21, tries=5)


@given(st.text(max_size=200))
def test_whatever_a_model_says_is_read(text: str) -> None:
    author = expanded_queries(MockEngine(), SEEDS, "nowhere")._generator
    found = author.texts(0, text)
    assert all(item and item in text for item in found)


def test_the_description_depends_on_the_seeds_and_their_answers(tmp_path: Path) -> None:
    def described(seeds: list[Query]) -> dict[str, Any]:
        return expanded_queries(MockEngine(), seeds, tmp_path).describe()

    plain = described([Query("a b c?", "x")])
    assert plain == described([Query("a b c?", "y")])
    assert plain != described([Query("a b c?", "x", "so")]) != described([Query("a b d?", "x")])


def test_a_limit_counts_what_is_grown_and_can_be_raised(tmp_path: Path) -> None:
    few, _ = grow(tmp_path, 100, limit=5)
    assert len(few) == len(list(few)) == 25
    assert few.ensure(1_000) == 25
    more, _ = grow(tmp_path, 100, limit=30)
    assert len(list(more)) == 50 and list(more)[:25] == list(few)
    assert more.describe() == few.describe()
    with pytest.raises(InputError, match="limit 0 is too few"):
        expanded_queries(MockEngine(), SEEDS, tmp_path, limit=0)


def test_no_seeds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no seeds"):
        expanded_queries(MockEngine(), [], tmp_path)
