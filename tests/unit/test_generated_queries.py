"""Generated queries are durable and resumable, and their list depends on the log alone."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delia_data.engines import Completion, MockEngine, Prices, Request, Sampling
from delia_data.errors import EngineError, InputError, SettingsError
from delia_data.ranking import rank
from delia_data.sampling.budget import Budget, Limits
from delia_data.sampling.generated_queries import (
    LEADS,
    SELF_SAMPLING,
    STARTS,
    GeneratedQueries,
    expanded_queries,
    self_queries,
)
from delia_data.sampling.queries import Query, bundled_queries

SAMPLING = Sampling(max_tokens=200)
NOUNS = ["lamps", "bridges", "clouds", "engines", "islands", "poems", "taxes", "wolves", "clocks"]
FORMS = ["Why are {} so {}?", "Describe {} to me, {} ones.", "What makes {} a {} matter?"]


def made_up(request: Request) -> str:
    """Return a list of three texts that depend on the seed: valid, invalid, or similar."""
    return "\n".join(one(request.seed, part) for part in range(3))


def one(seed: int, part: int) -> str:
    draw = rank(seed, str(part), "test")
    noun, other = NOUNS[draw % 9], NOUNS[draw // 9 % 9]
    form = [*FORMS, "I like {} and {}.", ""][draw // 81 % 5]
    return form.format(f"{noun} {draw // 500 % 7}", f"{other} {draw // 5_000 % 7}")


@dataclass
class Lister:
    """A generator whose requests contain the number of earlier queries."""

    round_size: int = 4
    rounds_ahead: int = 1
    kind: str = "test"
    seeds: tuple[Query, ...] = ()
    known: dict[int, int] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        return {"source": "test"}

    def request(self, number: int, accepted: Any) -> Request:
        assert self.known.setdefault(number, len(accepted)) == len(accepted)
        return Request(f"r{number}", (), rank(len(accepted), str(number)) >> 65)

    def texts(self, number: int, text: str) -> list[str]:
        return [line for line in text.split("\n") if line]


def written(folder: Path, engine: Any = None, **author: Any) -> GeneratedQueries:
    engine = engine or MockEngine(made_up)
    return GeneratedQueries(engine, Lister(**author), folder, sampling=SAMPLING)


def requests_of(engine: MockEngine) -> list[Request]:
    """Return a list to which the engine's requests are appended."""
    requests: list[Request] = []
    answer = engine.answer

    def record(request: Request) -> str:
        requests.append(request)
        return answer(request)

    engine.answer = record
    return requests


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[Query]:
    queries = written(tmp_path_factory.mktemp("expected") / "a")
    assert queries.ensure(40) >= 40
    return list(queries)


def test_ensure_generates_enough_queries_to_iterate_repeatedly(tmp_path: Path) -> None:
    queries = written(tmp_path)
    assert list(queries) == [] and len(queries) == 0
    count = queries.ensure(10)
    assert count == len(queries) == len(list(queries)) >= 10
    assert list(queries) == list(queries)
    assert {query.kind for query in queries} == {"test"}
    assert list(written(tmp_path)) == list(queries), "another object reads them from the folder"


@settings(max_examples=15, deadline=None)
@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=4), shuffle=st.integers(1, 5))
def test_the_list_does_not_depend_on_steps_and_order(
    expected: list[Query], tmp_path_factory: pytest.TempPathFactory, counts: list[int], shuffle: int
) -> None:
    folder = tmp_path_factory.mktemp("steps")
    for count in counts:
        queries = written(folder, MockEngine(made_up, shuffle=shuffle))
        assert queries.ensure(count) >= count
        got = list(queries)
        assert got == expected[: len(got)]


def test_rounds_ahead_do_not_change_the_list(tmp_path: Path) -> None:
    class Free(Lister):
        def request(self, number: int, accepted: Any) -> Request:
            return Request(f"r{number}", (), rank(0, str(number)) >> 65)

    lists = []
    for ahead in (1, 50):
        queries = GeneratedQueries(
            MockEngine(made_up, shuffle=7),
            Free(rounds_ahead=ahead),
            tmp_path / str(ahead),
            sampling=SAMPLING,
        )
        queries.ensure(30)
        lists.append(list(queries)[:30])
    assert lists[0] == lists[1]


class Dying(MockEngine):
    """Dies after so many completions."""

    lives = 5

    def generate(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Completion]:
        for completion in super().generate(requests, sampling):
            if self.lives == 0:
                raise EngineError("gone")
            self.lives -= 1
            yield completion


def test_a_killed_run_resumes(tmp_path: Path, expected: list[Query]) -> None:
    ids: list[str] = []
    for _ in range(60):
        engine = Dying(made_up, shuffle=4)
        engine.lives = 3
        asked = requests_of(engine)
        try:
            written(tmp_path, engine).ensure(40)
        except EngineError:
            ids += [request.id for request in asked[:3]]  # the others were in flight
        else:
            ids += [request.id for request in asked]
            break
    else:
        pytest.fail("it never came to an end")
    assert list(written(tmp_path)) == expected[: len(written(tmp_path))]
    assert max(Counter(ids).values()) == 1, "what is on disk is never asked for again"


def test_every_rejected_text_has_a_reason(tmp_path: Path) -> None:
    queries = written(tmp_path)
    queries.ensure(40)
    texts = [
        text
        for line in (tmp_path / "written.jsonl").read_text().splitlines()
        for text in json.loads(line)["text"].split("\n")
        if text
    ]
    rejected = list(queries.rejected())
    assert Counter(texts) == Counter([q.text for q in queries] + [text for _, text in rejected])
    assert queries.dropped == dict(sorted(Counter(reason for reason, _ in rejected).items()))
    assert set(queries.dropped) == {"near_duplicate", "no_request"}


def test_only_the_last_text_of_a_truncated_completion_is_truncated(tmp_path: Path) -> None:
    engine = MockEngine(lambda _: "Why are lamps so bright?\nDescribe old bridges to me\nWhat")
    queries = GeneratedQueries(
        engine, Lister(), tmp_path, sampling=Sampling(max_tokens=8)
    )  # eight words
    queries.ensure(1)
    assert [query.text for query in queries] == ["Why are lamps so bright?"]
    assert queries.dropped["cut_off"] == 4


@pytest.mark.parametrize("change", ["sampling", "token", "english"])
def test_other_settings_are_refused(tmp_path: Path, change: str) -> None:
    written(tmp_path).ensure(5)
    changes: dict[str, dict[str, Any]] = {
        "sampling": {"sampling": Sampling(temperature=0.1)},
        "token": {"token": "<t>"},
        "english": {"english": False},
    }
    settings = {"sampling": SAMPLING, **changes[change]}
    other = GeneratedQueries(MockEngine(made_up), Lister(), tmp_path, **settings)
    uses: list[Callable[[], Any]] = [
        lambda: other.ensure(5),
        lambda: list(other),
        lambda: other.dropped,
    ]
    for use in uses:
        with pytest.raises(SettingsError, match="was begun with other settings"):
            use()


def test_the_description_has_no_count_and_no_path(tmp_path: Path) -> None:
    queries = written(tmp_path)
    before = queries.describe()
    queries.ensure(10)
    assert queries.describe() == before
    assert str(tmp_path) not in json.dumps(before)
    assert before["writer"] == MockEngine().describe()


def test_seeds_come_first_and_are_not_generated_again(tmp_path: Path) -> None:
    first = (Query("Why are clouds so white?", "seed", "So."), Query("?", "seed"))
    engine = MockEngine(lambda _: "Why are clouds so white?\nWhat do wolves eat in winter?")
    queries = written(tmp_path, engine, seeds=first)
    assert list(queries) == list(first)
    assert queries.ensure(3) == 3
    assert list(queries) == [*first, Query("What do wolves eat in winter?", "test")]
    assert queries.dropped["near_duplicate"] == 7


def flaky(times: int) -> Callable[[Request], bool]:
    """Fails the first so many times for every third request."""
    seen: Counter[str] = Counter()

    def fails(request: Request) -> bool:
        seen[request.id] += 1
        return int(request.id[1:]) % 3 == 0 and seen[request.id] <= times

    return fails


def test_requests_that_fail_three_times_are_left_out(tmp_path: Path) -> None:
    queries = written(tmp_path, MockEngine(made_up, fail=flaky(3)))
    assert queries.ensure(10) >= 10
    rows = [json.loads(line) for line in (tmp_path / "written.jsonl").read_text().splitlines()]
    failed = [row["number"] for row in rows if row["finish"] == "error"]
    assert failed == [row["number"] for row in rows if row["number"] % 3 == 0]
    assert queries.dropped["failed"] == len(failed)
    assert {row["error"] for row in rows} == {None, "the mock engine failed on purpose"}


def test_a_dead_engine_is_an_error(tmp_path: Path) -> None:
    queries = written(tmp_path, MockEngine(fail=lambda _: True), round_size=40)
    with pytest.raises(
        EngineError, match=r"32 requests .* one after the other .*failed on purpose"
    ):
        queries.ensure(10)
    assert not (tmp_path / "written.jsonl").exists()


def test_a_model_without_usable_queries_is_an_error(tmp_path: Path) -> None:
    queries = written(tmp_path, MockEngine(lambda _: "I like lamps."))
    with pytest.raises(InputError, match=r"none of 12 texts .* \(12 no_request\)"):
        queries.ensure(3, tries=4)


@pytest.mark.parametrize("shuffle", [1, 8])
def test_generation_stops_before_the_budget_is_exceeded(
    tmp_path: Path, expected: list[Query], shuffle: int
) -> None:
    engine = MockEngine(made_up, shuffle=shuffle, prices=Prices(0.0, 0.01))
    queries = written(tmp_path, engine)
    budget = Budget(Limits(dollars=6.0), engine.prices)
    there = queries.ensure(40, budget=budget)
    tokens, dollars = queries.spent
    assert 0 < there < 40
    assert list(queries) == expected[:there]
    assert 6.0 - 200 * 0.01 < dollars <= 6.0
    assert budget.dollars == pytest.approx(dollars)
    assert budget.tokens == tokens
    assert queries.ensure(40, budget=budget) == there
    assert queries.ensure(40) >= 40
    assert list(queries)[:40] == expected[:40]


TOPICS = ["film cameras", "gravity", "jury duty"]


def test_every_topic_occurs_once_per_lap(tmp_path: Path) -> None:
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


def test_a_self_query_depends_on_seed_and_number_only(tmp_path: Path) -> None:
    runs = []
    for name, count, seed in (("a", 5, 0), ("b", 50, 0), ("c", 5, 1)):
        engine = MockEngine()
        requests = requests_of(engine)
        self_queries(engine, tmp_path / name, seed=seed).ensure(count)
        runs.append(requests)
    assert runs[1][: len(runs[0])] == runs[0]
    assert not {request.seed for request in runs[0]} & {request.seed for request in runs[2]}
    assert [r.prefill for r in runs[0]] != [r.prefill for r in runs[2][: len(runs[0])]]


def test_a_lead_is_removed_if_the_rest_names_the_topic(tmp_path: Path) -> None:
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
            assert text.startswith(leads), "the rest does not name the topic"
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


SEEDS = bundled_queries(20)
SHAPES = ["Why do {} matter to {}?", "Compare {} with {}.", "What can {} teach us about {}?"]


def a_list(request: Request) -> str:
    lines = []
    for part in range(6):
        draw = rank(request.seed, str(part), "test")
        some = NOUNS[draw % 9] + f" {draw // 81 % 50}", NOUNS[draw // 9 % 9] + f" {draw % 49}"
        lines.append(f"{part + 1}. {SHAPES[draw % 3].format(*some)}")
    return "\n".join(["Here are some requests:", "", *lines])


def shown_in(request: Request) -> list[str]:
    """Return the queries in a prompt."""
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


def test_expanded_queries_follow_their_seeds(tmp_path: Path) -> None:
    queries, _ = grow(tmp_path, 60)
    got = list(queries)
    assert got[:20] == SEEDS and len(got) >= 60
    assert {query.kind for query in got[20:]} == {"expanded"}
    assert len({query.text for query in got}) == len(got)
    assert not [query for query in got[20:] if re.match(r"\d|Here are", query.text)]


def test_the_first_round_shows_seeds_and_later_rounds_grown_queries(tmp_path: Path) -> None:
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


def test_a_rerun_of_expansion_gives_the_same_queries(tmp_path: Path) -> None:
    whole, _ = grow(tmp_path / "a", 200)
    grow(tmp_path / "b", 50)
    again, _ = grow(tmp_path / "b", 200)
    assert list(again) == list(whole)
    other, _ = grow(tmp_path / "c", 50, seed=1)
    assert list(other)[20:40] != list(whole)[20:40]


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
def test_list_items_are_extracted(tmp_path: Path, answer: str) -> None:
    queries = expanded_queries(MockEngine(lambda _: answer), SEEDS, tmp_path)
    queries.ensure(21)
    texts = [" ".join(query.text.split()) for query in queries][20:]
    assert texts == ["Why is snow white?", "What are {lamps} for?"]


@given(st.text(max_size=200))
def test_any_completion_can_be_read(text: str) -> None:
    author = expanded_queries(MockEngine(), SEEDS, "nowhere")._generator
    found = author.texts(0, text)
    assert all(item and item in text for item in found)


def test_a_limit_counts_generated_queries_and_can_be_raised(tmp_path: Path) -> None:
    few, _ = grow(tmp_path, 100, limit=5)
    assert len(few) == len(list(few)) == 25
    assert few.ensure(1_000) == 25
    more, _ = grow(tmp_path, 100, limit=30)
    assert len(list(more)) == 50 and list(more)[:25] == list(few)
    assert more.describe() == few.describe()
    with pytest.raises(InputError, match="limit 0 is too few"):
        expanded_queries(MockEngine(), SEEDS, tmp_path, limit=0)


def test_requests_that_cannot_be_met_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no seeds"):
        expanded_queries(MockEngine(), [], tmp_path)
    with pytest.raises(InputError, match="no starts"):
        self_queries(MockEngine(), tmp_path, starts=())
    with pytest.raises(InputError, match=r"'mock' cannot write the user's turn.*--expand"):
        self_queries(MockEngine(writes_users=False), tmp_path)
    prose = MockEngine(lambda _: "These requests make you think creatively.")
    with pytest.raises(InputError, match=r"\(32 no_query_found\)"):
        expanded_queries(prose, SEEDS, tmp_path).ensure(21, tries=5)
