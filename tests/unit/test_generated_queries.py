"""Queries that a model writes: durable, resumable, the same list however they came about."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delia_data.engines import Completion, MockEngine, Prices, Request, Sampling
from delia_data.errors import (
    EngineError,
    ForeignFolderError,
    InputError,
    LockedError,
    OutputError,
    SettingsError,
)
from delia_data.outputs import folder_lock
from delia_data.ranking import rank
from delia_data.sampling.budget import Budget, Limits
from delia_data.sampling.generated_queries import GeneratedQueries
from delia_data.sampling.queries import Query

SAMPLING = Sampling(max_tokens=200)
NOUNS = ["lamps", "bridges", "clouds", "engines", "islands", "poems", "taxes", "wolves", "clocks"]
FORMS = ["Why are {} so {}?", "Describe {} to me, {} ones.", "What makes {} a {} matter?"]


def made_up(request: Request) -> str:
    """A list of three texts that follow from the seed: some fine, some not, some alike."""
    return "\n".join(one(request.seed, part) for part in range(3))


def one(seed: int, part: int) -> str:
    draw = rank(seed, str(part), "test")
    noun, other = NOUNS[draw % 9], NOUNS[draw // 9 % 9]
    form = [*FORMS, "I like {} and {}.", ""][draw // 81 % 5]
    return form.format(f"{noun} {draw // 500 % 7}", f"{other} {draw // 5_000 % 7}")


@dataclass
class Lister:
    """A generator whose requests tell how many queries were known."""

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


def asked_by(engine: MockEngine) -> list[str]:
    """The ids of the requests, in a list that grows as they are answered."""
    ids: list[str] = []
    answer = engine.answer

    def record(request: Request) -> str:
        ids.append(request.id)
        return answer(request)

    engine.answer = record
    return ids


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[Query]:
    queries = written(tmp_path_factory.mktemp("expected") / "a")
    assert queries.ensure(40) >= 40
    return list(queries)


def test_as_many_as_are_asked_for_and_iterated_again(tmp_path: Path) -> None:
    queries = written(tmp_path)
    assert list(queries) == [] and len(queries) == 0
    count = queries.ensure(10)
    assert count == len(queries) == len(list(queries)) >= 10
    assert list(queries) == list(queries)
    assert {query.kind for query in queries} == {"test"}
    assert list(written(tmp_path)) == list(queries), "another object reads them from the folder"


def test_nothing_is_asked_where_there_are_enough(tmp_path: Path) -> None:
    written(tmp_path).ensure(10)
    engine = MockEngine(made_up)
    ids = asked_by(engine)
    assert written(tmp_path, engine).ensure(10) >= 10
    assert ids == []


@settings(max_examples=15, deadline=None)
@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=4), shuffle=st.integers(1, 5))
def test_the_same_list_in_whatever_steps_and_order(
    expected: list[Query],
    tmp_path_factory: pytest.TempPathFactory,
    counts: list[int],
    shuffle: int,
) -> None:
    folder = tmp_path_factory.mktemp("steps")
    for count in counts:
        queries = written(folder, MockEngine(made_up, shuffle=shuffle))
        assert queries.ensure(count) >= count
        got = list(queries)
        assert got == expected[: len(got)]


def test_rounds_ahead_change_nothing_where_prompts_do_not_depend_on_them(tmp_path: Path) -> None:
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


def test_goes_on_where_it_died(tmp_path: Path, expected: list[Query]) -> None:
    ids: list[str] = []
    for _ in range(60):
        engine = Dying(made_up, shuffle=4)
        engine.lives = 3
        asked = asked_by(engine)
        try:
            written(tmp_path, engine).ensure(40)
        except EngineError:
            ids += asked[:3]  # the others were in flight
        else:
            ids += asked
            break
    else:
        pytest.fail("it never came to an end")
    assert list(written(tmp_path)) == expected[: len(written(tmp_path))]
    assert max(Counter(ids).values()) == 1, "what is on disk is never asked for again"


def test_half_a_line_is_dropped_and_asked_for_again(tmp_path: Path, expected: list[Query]) -> None:
    written(tmp_path).ensure(5)
    lines = tmp_path / "written.jsonl"
    whole = lines.read_bytes()
    lines.write_bytes(whole[:-7])
    last = json.loads(whole.splitlines()[-1])["number"]
    engine = MockEngine(made_up)
    ids = asked_by(engine)
    queries = written(tmp_path, engine)
    queries.ensure(20)
    assert ids[0] == f"r{last}"
    assert list(queries) == expected[: len(queries)]
    assert [json.loads(line) for line in lines.read_text().splitlines()]


def test_a_damaged_line_is_told(tmp_path: Path) -> None:
    written(tmp_path).ensure(5)
    lines = tmp_path / "written.jsonl"
    lines.write_bytes(b"{]\n" + lines.read_bytes())
    with pytest.raises(OutputError, match=r"written\.jsonl:\d+: the line is damaged"):
        list(written(tmp_path))


def test_every_text_that_is_not_taken_has_a_reason(tmp_path: Path) -> None:
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


def test_only_the_last_text_of_a_cut_completion_is_cut(tmp_path: Path) -> None:
    engine = MockEngine(lambda _: "Why are lamps so bright?\nDescribe old bridges to me\nWhat")
    queries = GeneratedQueries(
        engine, Lister(), tmp_path, sampling=Sampling(max_tokens=8)
    )  # eight words
    queries.ensure(1)
    assert [query.text for query in queries] == ["Why are lamps so bright?"]
    assert queries.dropped["cut_off"] == 4


@pytest.mark.parametrize("change", ["sampling", "token", "english", "rouge_l"])
def test_other_settings_are_refused(tmp_path: Path, change: str) -> None:
    written(tmp_path).ensure(5)
    changes: dict[str, dict[str, Any]] = {
        "sampling": {"sampling": Sampling(temperature=0.1)},
        "token": {"token": "<t>"},
        "english": {"english": False},
        "rouge_l": {"rouge_l": 0.5},
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


def test_first_queries_come_first_and_are_not_written_again(tmp_path: Path) -> None:
    first = (Query("Why are clouds so white?", "seed", "So."), Query("?", "seed"))
    engine = MockEngine(lambda _: "Why are clouds so white?\nWhat do wolves eat in winter?")
    queries = written(tmp_path, engine, seeds=first)
    assert list(queries) == list(first)
    assert queries.ensure(3) == 3
    assert list(queries) == [*first, Query("What do wolves eat in winter?", "test")]
    assert queries.dropped["near_duplicate"] == 7


def test_prompts_know_what_was_taken_before_their_round(
    tmp_path: Path, expected: list[Query]
) -> None:
    author = Lister()
    queries = GeneratedQueries(MockEngine(made_up), author, tmp_path, sampling=SAMPLING)
    queries.ensure(20)
    for begin in range(0, len(author.known), 4):
        assert len({author.known[number] for number in range(begin, begin + 4)}) == 1
    assert author.known[0] == 0 < author.known[4] < author.known[8]


def flaky(times: int) -> Callable[[Request], bool]:
    """Fails the first so many times for every third request."""
    seen: Counter[str] = Counter()

    def fails(request: Request) -> bool:
        seen[request.id] += 1
        return int(request.id[1:]) % 3 == 0 and seen[request.id] <= times

    return fails


def test_what_fails_is_asked_again(tmp_path: Path, expected: list[Query]) -> None:
    queries = written(tmp_path, MockEngine(made_up, fail=flaky(2)))
    queries.ensure(40)
    assert list(queries) == expected[: len(queries)]
    assert "failed" not in queries.dropped


def test_what_fails_three_times_is_left_out(tmp_path: Path) -> None:
    queries = written(tmp_path, MockEngine(made_up, fail=flaky(3)))
    assert queries.ensure(10) >= 10
    rows = [json.loads(line) for line in (tmp_path / "written.jsonl").read_text().splitlines()]
    failed = [row["number"] for row in rows if row["finish"] == "error"]
    assert failed == [row["number"] for row in rows if row["number"] % 3 == 0]
    assert queries.dropped["failed"] == len(failed)
    assert {row["error"] for row in rows} == {None, "the mock engine was told to fail"}


def test_a_dead_engine_ends_it_and_leaves_nothing(tmp_path: Path) -> None:
    queries = written(tmp_path, MockEngine(fail=lambda _: True), round_size=40)
    with pytest.raises(EngineError, match=r"32 requests .* one after the other .*told to fail"):
        queries.ensure(10)
    assert not (tmp_path / "written.jsonl").exists()


def test_a_model_that_writes_no_queries(tmp_path: Path) -> None:
    queries = written(tmp_path, MockEngine(lambda _: "I like lamps."))
    with pytest.raises(InputError, match=r"none of 12 texts .* \(12 no_request\)"):
        queries.ensure(3, tries=4)


def test_fewer_where_the_tries_are_used_up(tmp_path: Path) -> None:
    queries = written(tmp_path, MockEngine(lambda _: "Why are lamps so bright?"))
    assert queries.ensure(3, tries=4) == 1
    assert queries.ensure(3, tries=4) == 1, "no more can be had, and what is there stays"
    assert queries.dropped == {"near_duplicate": 19}


def test_half_a_character_is_replaced(tmp_path: Path) -> None:
    queries = written(tmp_path, MockEngine(lambda _: "Why are lamps so bright \ud83d?"))
    queries.ensure(1)
    assert [query.text for query in written(tmp_path)] == ["Why are lamps so bright ??"]


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[int] = []
    queries = written(tmp_path)
    queries.ensure(10, on_progress=told.append)
    assert told[0] == 0 and told[-1] == len(queries) and told == sorted(told)


def test_two_writers_and_foreign_folders(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "a"), pytest.raises(LockedError):
        written(tmp_path / "a").ensure(1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").touch()
    with pytest.raises(ForeignFolderError, match=r"thesis\.txt"):
        written(tmp_path / "b").ensure(1)


@pytest.mark.parametrize("shuffle", [1, 8])
def test_writing_stops_before_a_budget_is_passed(
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
