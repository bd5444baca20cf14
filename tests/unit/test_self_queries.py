"""Queries from nothing but the chat template: what is asked of the engine, and what is kept."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from delia_data.engines import MockEngine, Request, Sampling
from delia_data.errors import InputError
from delia_data.sampling.generated_queries import LEADS, SELF_SAMPLING, STARTS, self_queries
from delia_data.sampling.queries import bundled_topics

TOPICS = ["film cameras", "gravity", "jury duty"]


def requests_of(engine: MockEngine) -> list[Request]:
    """The requests as the engine gets them, in a list that grows."""
    requests: list[Request] = []
    answer = engine.answer

    def record(request: Request) -> str:
        requests.append(request)
        return answer(request)

    engine.answer = record
    return requests


def test_the_user_is_asked_to_speak_and_nothing_else_is_said(tmp_path: Path) -> None:
    engine = MockEngine()
    requests = requests_of(engine)
    self_queries(engine, tmp_path, topics=TOPICS).ensure(20)
    assert {request.role for request in requests} == {"user"}
    assert {request.messages for request in requests} == {()}
    assert len({request.id for request in requests}) == len(requests)
    assert len({request.seed for request in requests}) == len(requests)


def test_every_topic_has_its_turn_in_every_lap(tmp_path: Path) -> None:
    engine = MockEngine()
    requests = requests_of(engine)
    self_queries(engine, tmp_path, topics=TOPICS).ensure(60)
    leads = [lead.format(topic=topic) for topic in TOPICS for lead in LEADS]
    for request in requests:
        assert request.prefill.endswith(tuple(STARTS))
        assert (
            request.prefill.removesuffix(
                max((start for start in STARTS if request.prefill.endswith(start)), key=len)
            ).strip()
            in leads
        )
    named = Counter(t for t in TOPICS for r in requests if t in r.prefill)
    assert max(named.values()) - min(named.values()) <= 0.3 * len(requests) / len(TOPICS)


def test_bundled_topics_fit_all_leads() -> None:
    assert len(bundled_topics()) > 400
    assert [lead for lead in LEADS if lead and lead.count("{topic}") != 1] == []


def test_number_i_depends_on_the_seed_and_on_i_alone(tmp_path: Path) -> None:
    runs = []
    for name, count, seed in (("a", 5, 0), ("b", 50, 0), ("c", 5, 1)):
        engine = MockEngine()
        requests = requests_of(engine)
        self_queries(engine, tmp_path / name, seed=seed).ensure(count)
        runs.append(requests)
    assert runs[1][: len(runs[0])] == runs[0]
    assert not {request.seed for request in runs[0]} & {request.seed for request in runs[2]}
    assert [r.prefill for r in runs[0]] != [r.prefill for r in runs[2][: len(runs[0])]]


def test_a_lead_goes_where_the_rest_names_the_topic(tmp_path: Path) -> None:
    rest = {"film cameras": " does a camera see", "gravity": " heavy are things"}
    engine = MockEngine(
        lambda request: (
            next(
                (text for topic, text in rest.items() if topic in request.prefill),
                " old is the sun",
            )
            + f" {request.seed}?"
        )
    )
    queries = self_queries(engine, tmp_path, topics=["film cameras", "gravity"])
    queries.ensure(40)
    texts = [query.text for query in queries] + [text for _, text in queries.rejected()]
    leads = tuple(lead.format(topic="gravity") for lead in LEADS if lead)
    for text in texts:
        if "camera see" in text:
            assert "film cameras" not in text, "it names the topic by itself"
        elif "heavy" in text:
            assert text.startswith(leads), "without the lead nobody knows what it is about"
        else:
            assert "old is the sun" in text and text.startswith(STARTS)


def test_magpie_as_published(tmp_path: Path) -> None:
    engine = MockEngine(lambda request: f"Why {request.seed} {request.seed % 9_973}?")
    requests = requests_of(engine)
    queries = self_queries(engine, tmp_path, topics=(), starts=("",))
    assert queries.ensure(10) >= 10
    assert {request.prefill for request in requests} == {""}
    assert {query.kind for query in queries} == {"self"}


def test_defaults_are_described(tmp_path: Path) -> None:
    described = self_queries(MockEngine(), tmp_path, seed=7).describe()
    assert described["source"] == "self" and described["seed"] == 7
    assert described["sampling"] == {"temperature": 0.8, "top_p": 0.95, "max_tokens": 64}
    others = [
        self_queries(MockEngine(), tmp_path, seed=7, topics=TOPICS),
        self_queries(MockEngine(), tmp_path, seed=7, starts=("Why",)),
        self_queries(MockEngine(), tmp_path, seed=7, sampling=Sampling()),
        self_queries(MockEngine(), tmp_path, seed=7, token="<t>"),
        self_queries(MockEngine(), tmp_path, seed=7, english=False),
    ]
    assert all(other.describe() != described for other in others)
    assert SELF_SAMPLING.max_tokens == 64


def test_an_engine_that_cannot_speak_for_the_user(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'mock' cannot write the user's turn.*--expand"):
        self_queries(MockEngine(writes_users=False), tmp_path)


def test_no_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no starts"):
        self_queries(MockEngine(), tmp_path, starts=())
