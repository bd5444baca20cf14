"""Sampling requests each query once, replaces rejected pairs, and respects its limits."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_engine import QUERIES, RecordingEngine, lines, run, text_of, texts

from delia_data.engines import Completion, MockEngine, Prices, Request, Sampling
from delia_data.errors import EngineError, InputError, SettingsError
from delia_data.outputs import is_finished, read_manifest
from delia_data.ranking import row_seed
from delia_data.sampling import (
    Limits,
    Progress,
    PromptOptions,
    Query,
    Rejection,
    load_queries,
    read_cache,
    sample,
)
from delia_data.sampling.budget import Budget
from delia_data.sampling.schedule import query_id


@settings(max_examples=15, deadline=None)
@given(
    target=st.integers(1, 40),
    shuffle=st.sampled_from([1, 7, 64]),
    every=st.sampled_from([2, 3, 1000]),
)
def test_target_is_met_by_the_shortest_prefix_of_the_queries(
    tmp_path_factory: pytest.TempPathFactory, target: int, shuffle: int, every: int
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    bad = {query.text for i, query in enumerate(QUERIES) if i % every == 1}
    asked = RecordingEngine(lambda query: "" if query in bad else f"About {query}", shuffle=shuffle)
    manifest = run(asked, folder, target=target)
    good = [query.text for query in QUERIES if query.text not in bad][:target]
    assert [record.query for record in read_cache(folder)] == good
    assert max(Counter(asked.queries).values()) == 1
    used = next(i for i, query in enumerate(QUERIES) if query.text == good[-1]) + 1
    assert sorted(asked.queries) == texts(QUERIES[:used])
    assert manifest.rows == {"asked": used, "kept": target}
    assert manifest.dropped == ({"empty": used - target} if used > target else {})
    assert "stopped" not in manifest.details


def test_order_of_completions_does_not_change_the_bytes(tmp_path: Path) -> None:
    for name, shuffle in (("one", 1), ("two", 16)):
        run(RecordingEngine(lambda query: query[::-1], shuffle=shuffle), tmp_path / name, target=48)
    records = read_cache(tmp_path / "two")
    assert [record.query for record in records] == [query.text for query in QUERIES[:48]]
    assert all(record.answer == record.query[::-1] for record in records)
    one, two = (read_manifest(tmp_path / name, verify=True) for name in ("one", "two"))
    assert one == two


def test_queries_may_be_any_input_of_rows(tmp_path: Path) -> None:
    asked = ["Name a river.", "Name a hill."]
    rows = [{"query": text} for text in asked]
    table = pa.Table.from_pylist(rows)
    for number, queries in enumerate((asked, rows, table, table.to_pandas())):
        run(RecordingEngine(), tmp_path / str(number), queries=queries, target=2)
        assert [record.query for record in read_cache(tmp_path / str(number))] == asked
    with pytest.raises(InputError, match="1 of 2 rows cannot be used: row 1: it is a NoneType"):
        run(RecordingEngine(), tmp_path / "none", queries=["Why?", None], target=1)
    with pytest.raises(InputError, match="an iterator can be read only once"):
        run(RecordingEngine(), tmp_path / "none", queries=iter(asked), target=1)


def test_system_prompts_of_queries_become_turns_of_their_pairs(tmp_path: Path) -> None:
    queries = [Query("Why?", "user", system="Be brief."), Query("Why?", "user"), *QUERIES[:2]]
    engine = RecordingEngine()
    run(engine, tmp_path, queries=queries, target=4, prompts=PromptOptions(system="Be kind."))
    systems = {tuple(m.as_dict().values()) for r in engine.requests for m in r.messages[:1]}
    assert systems == {("system", "Be brief."), ("system", "Be kind.")}
    pairs = [record.messages for record in read_cache(tmp_path)]
    assert len(pairs) == 4
    heads = sorted(message.content for pair in pairs if len(pair) == 3 for message in pair[:1])
    assert heads == ["Be brief."]


def test_each_request_has_its_own_seed(tmp_path: Path) -> None:
    asked = RecordingEngine()
    run(asked, tmp_path / "one", seed=3)
    for request in asked.requests:
        assert request.id == query_id(Query(text_of(request), "user"))
        assert request.seed == row_seed(3, request.id, "sample")
    assert len({request.seed for request in asked.requests}) == 20
    turned = RecordingEngine()
    run(turned, tmp_path / "two", queries=QUERIES[19::-1], seed=3)
    assert {r.id: r.seed for r in turned.requests} == {r.id: r.seed for r in asked.requests}


def test_manifest_records_the_settings(tmp_path: Path) -> None:
    def short(query: str, completion: Completion) -> str | None:
        return "short" if completion.tokens < 3 else None

    manifest = sample(
        MockEngine(prices=Prices(1.0, 10.0)),
        QUERIES,
        tmp_path,
        target=5,
        sampling=Sampling(temperature=0.5, top_p=0.9, max_tokens=4),
        seed=7,
        token="<json>",
        filters=[short],
    )
    assert read_manifest(tmp_path, verify=True) == manifest
    assert manifest.kind == "cache"
    queries = manifest.settings.pop("queries")
    assert queries["source"] == "list"
    assert len(queries["sha256"]) == 64
    assert manifest.settings == {
        "engine": "mock",
        "model": {"name": "mock"},
        "sampling": {"temperature": 0.5, "top_p": 0.9, "max_tokens": 4},
        "asking": {"system": None, "exemplar": False, "answers_per_query": 1},
        "filters": ["short"],
        "seed": 7,
        "token": "<json>",
    }
    assert manifest.details == {
        "target": 5,
        "tokens": 5 * 4,
        "prompt_tokens": 5 * 5,
        "cost_usd": 5 * (5 * 1.0 + 4 * 10.0),
    }
    assert pq.read_table(tmp_path / "pairs-00000.parquet")["tokens"].to_pylist() == [4] * 5


def test_progress_is_reported_at_the_start_and_at_the_end(tmp_path: Path) -> None:
    seen: list[Progress] = []
    asked = RecordingEngine(lambda query: "" if "number 1." in query else "Fine.")
    run(asked, tmp_path, target=8, on_progress=seen.append)
    assert (seen[0].kept, seen[-1].kept, seen[-1].asked) == (0, 8, 9)
    assert seen[-1].rejected == {"empty": 1}
    run(asked, tmp_path, target=12, on_progress=seen.append)
    assert seen[-1].kept == 12


@pytest.mark.parametrize("options", [{"source": "self"}, {"source": QUERIES, "expand": 4}])
def test_generated_queries_need_an_engine(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="an engine and a folder"):
        load_queries(**options)


def test_lone_surrogate_does_not_break_a_cache(tmp_path: Path) -> None:
    run(RecordingEngine(lambda _: "Fine \ud83d."), tmp_path, target=2)
    assert [record.answer for record in read_cache(tmp_path)] == ["Fine ?."] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 0}, "target 0 is wrong: give a whole number from 1"),
        ({"target": -1}, "target -1 is wrong: give a whole number from 1"),
        ({"target": 2.5}, "target 2.5 is wrong: give a whole number from 1"),
        ({"target": "5"}, "target '5' is wrong: give a whole number from 1"),
        ({"seed": 1.0}, "seed 1.0 is wrong: give a whole number"),
        ({"queries": []}, "there are no queries: give at least one"),
        ({"queries": [*QUERIES, Query(" \n", "user")]}, "a query is empty"),
    ],
)
def test_invalid_queries_are_rejected_before_any_request(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    asked = RecordingEngine()
    with pytest.raises(InputError, match=message):
        run(asked, tmp_path / "cache", **options)
    assert asked.queries == []
    assert not (tmp_path / "cache").exists()


def test_run_without_accepted_pairs_gives_no_cache(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no answer was accepted \(10 empty\)"):
        run(RecordingEngine(lambda _: " "), tmp_path, queries=QUERIES[:10])
    asked = RecordingEngine(fail=lambda _: True)
    reason = r"\(10 failed; the last failure: the mock engine failed on purpose\)"
    with pytest.raises(InputError, match=reason):
        run(asked, tmp_path / "two", queries=QUERIES[:10])
    assert not is_finished(tmp_path)


# How a query is put


def test_exemplar_prompt_matches_the_code_of_the_paper(tmp_path: Path) -> None:
    asked = RecordingEngine()
    queries = [Query("What is rain?", "user", "Water that falls.")]
    run(asked, tmp_path, queries=queries, target=1, prompts=PromptOptions(exemplar=True))
    assert [(turn.role, turn.content) for turn in asked.requests[0].messages] == [
        ("user", "What is rain?"),
        ("assistant", "Water that falls."),
        ("user", "What is rain?"),
    ]
    assert read_cache(tmp_path)[0].answer == "An answer to 'What is rain?'"
    with pytest.raises(InputError, match="has no reference answer to show"):
        run(asked, tmp_path / "none", prompts=PromptOptions(exemplar=True))


def test_several_answers_per_query(tmp_path: Path) -> None:
    engine = MockEngine(shuffle=8)
    prompts = PromptOptions(answers_per_query=3)
    options: dict[str, Any] = {"filters": (), "prompts": prompts}
    sample(engine, QUERIES, tmp_path, target=10, **options)
    records = read_cache(tmp_path)
    assert [r.query for r in records] == [QUERIES[i // 3].text for i in range(10)]
    assert len({record.answer for record in records}) == 10
    manifest = sample(engine, QUERIES, tmp_path, target=12, **options)
    assert manifest.rows["asked"] == 12
    assert [r.query for r in read_cache(tmp_path)[10:]] == [QUERIES[3].text] * 2


# Limits


@pytest.mark.parametrize("shuffle", [1, 16])
def test_budget_is_never_exceeded_and_the_cache_is_valid(tmp_path: Path, shuffle: int) -> None:
    prices = Prices(0.001, 0.01)
    sampling = Sampling(max_tokens=12)
    options: dict[str, Any] = {"sampling": sampling, "target": 90}
    one = 5 * 0.001 + 8 * 0.01  # the query has 5 words, the answer 8

    def asked() -> RecordingEngine:
        return RecordingEngine(shuffle=shuffle, prices=prices)

    manifest = run(asked(), tmp_path, limits=Limits(dollars=3.0), **options)
    assert manifest.details["stopped"] == "budget"
    assert manifest.details["cost_usd"] == pytest.approx(manifest.rows["asked"] * one)
    assert 3.0 - (12 * 0.01 + 200 * 0.001) < manifest.details["cost_usd"] <= 3.0
    assert len(read_cache(tmp_path)) == manifest.rows["kept"] > 25

    again = run(asked(), tmp_path, limits=Limits(dollars=3.0), **options)
    assert again == manifest, "what is spent stays spent"
    more = run(asked(), tmp_path, limits=Limits(dollars=5.0), **options)
    assert 4.5 < more.details["cost_usd"] <= 5.0
    assert more.rows["kept"] > manifest.rows["kept"]


class Silent(MockEngine):
    """An API with prices that does not report usage."""

    def generate(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Completion]:
        for found in super().generate(requests, sampling):
            yield Completion(found.id, found.text, 0, found.finish, None, 0, None)


def test_unreported_usage_counts_as_the_reservation(tmp_path: Path) -> None:
    given: dict[str, Any] = {"sampling": Sampling(max_tokens=12), "target": 90, "filters": ()}
    engine = Silent(prices=Prices(0.0, 0.01))
    limits = Limits(dollars=1.0)
    manifest = sample(engine, QUERIES, tmp_path, limits=limits, **given)
    assert manifest.details["stopped"] == "budget"
    assert manifest.rows["asked"] == 8  # of 12 tokens at most each
    assert manifest.details["cost_usd"] is None
    with pytest.raises(InputError, match="holds rows whose price is unknown"):
        sample(engine, QUERIES, tmp_path, limits=limits, **given)


def test_dollar_budget_needs_prices(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a budget in dollars needs prices"):
        run(RecordingEngine(), tmp_path / "cache", limits=Limits(dollars=1.0))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "values", [{"dollars": -1.0}, {"dollars": float("nan")}, {"tokens": -1}, {"retries": -1}]
)
def test_limits_have_bounds(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"is wrong: it must be (greater|a finite)"):
        Limits(**values)


def test_exhausted_queries_give_a_smaller_cache_with_the_reason(tmp_path: Path) -> None:
    asked = RecordingEngine(
        lambda query: "" if query.endswith(("3.", "4.")) else "Fine.", shuffle=4
    )
    manifest = run(asked, tmp_path, queries=QUERIES[:10], target=10)
    assert manifest.rows == {"asked": 10, "kept": 8}
    assert manifest.details["stopped"] == "queries"
    assert run(asked, tmp_path, queries=QUERIES[:10], target=10) == manifest
    with pytest.raises(SettingsError, match=r"queries\.sha256 was .*--extend"):
        run(asked, tmp_path, target=10)
    manifest = run(asked, tmp_path, target=10, extend=True)
    assert manifest.rows == {"asked": 12, "kept": 10}
    assert max(Counter(asked.queries).values()) == 1
    assert len(manifest.settings["queries"]["sha256"]) == 64


class Growing:
    """A source that grows by ten queries, up to 40."""

    def __init__(self) -> None:
        self.there = 0

    def describe(self) -> dict[str, Any]:
        return {"source": "growing"}

    def __iter__(self) -> Iterator[Query]:
        return iter(QUERIES[: self.there])

    def __len__(self) -> int:
        return self.there

    @property
    def spent(self) -> tuple[int, float]:
        return 7 * self.there, 0.0

    @property
    def dropped(self) -> dict[str, int]:
        return {"too_short": 3}

    def ensure(self, count: int, *, budget: Budget | None = None) -> int:
        assert budget is not None
        more = min(40, max(self.there, count)) - self.there
        budget.spend(7 * more, 0.0)
        self.there += more
        return self.there


def test_growable_queries_grow_when_they_run_out(tmp_path: Path) -> None:
    queries = Growing()
    asked = RecordingEngine(lambda query: "" if query.endswith("3.") else "Fine.")
    manifest = run(asked, tmp_path, queries=queries, target=20)
    assert manifest.rows == {"asked": 22, "kept": 20}
    assert sorted(asked.queries) == texts(QUERIES[:22])
    assert [path.name for path in tmp_path.glob("pairs-*")] == ["pairs-00000.parquet"]
    manifest = run(asked, tmp_path, queries=queries, target=60)
    assert manifest.rows == {"asked": 40, "kept": 36}
    assert manifest.details["stopped"] == "queries"
    written = {"written": 40, "dropped": {"too_short": 3}, "tokens": 280, "cost_usd": 0.0}
    assert manifest.details["queries"] == written


def test_cost_of_generated_queries_counts_toward_the_budget(tmp_path: Path) -> None:
    options: dict[str, Any] = {"sampling": Sampling(max_tokens=12), "target": 30}
    limits = Limits(tokens=500)
    manifest = run(RecordingEngine(), tmp_path, queries=Growing(), limits=limits, **options)
    details = manifest.details
    spent = details["tokens"] + details["prompt_tokens"] + details["queries"]["tokens"]
    assert 350 < spent <= 500
    assert details["stopped"] == "budget"


class Saturated:
    """A stub of the measure, which is saturated after some pairs."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.novelty = 0.5

    def add(self, answers: list[str]) -> None:
        self.left -= len(answers)

    def remember(self, answers: Iterable[str]) -> None:
        self.remembered = len(list(answers))

    @property
    def saturated(self) -> bool:
        return self.left <= 0


def test_saturated_run_ends_early(tmp_path: Path) -> None:
    measure: Any = Saturated(after=7)
    manifest = run(RecordingEngine(), tmp_path, saturation=measure)
    assert manifest.rows == {"asked": 7, "kept": 7}
    assert manifest.details["stopped"] == "saturated"
    measure = Saturated(after=9)
    assert run(RecordingEngine(), tmp_path, saturation=measure).rows["kept"] == 16
    assert measure.remembered == 7


# Failures


@pytest.mark.parametrize("bad", [0, 5, 9])
def test_failing_row_is_retried_and_does_not_end_the_run(tmp_path: Path, bad: int) -> None:
    asked = RecordingEngine(fail=lambda query: query == QUERIES[bad].text)
    manifest = run(asked, tmp_path, target=10, keep_rejected=True)
    assert manifest.rows == {"asked": 11, "kept": 10}
    assert manifest.dropped == {"failed": 1}
    assert Counter(asked.queries)[QUERIES[bad].text] == 2
    (row,) = pq.read_table(tmp_path / "rejected-00000.parquet").to_pylist()
    assert (row["query"], row["error"]) == (QUERIES[bad].text, "the mock engine failed on purpose")


def test_details_of_a_reason_are_stored_and_not_counted(tmp_path: Path) -> None:
    def rare(query: str, _completion: Completion) -> str | Rejection | None:
        if "4" in query:
            return "even: 4"
        return Rejection("odd", f"{query.split()[-1]} is: odd") if "3" in query else None

    manifest = run(RecordingEngine(), tmp_path, target=15, filters=(rare,))
    assert manifest.dropped == {"even: 4": 2, "odd": 2}
    rejected = pq.read_table(tmp_path / "rejected-00000.parquet")
    assert rejected["detail"].to_pylist() == ["3. is: odd", None, "13. is: odd", None]
    assert rejected["reason"].to_pylist() == ["odd", "even: 4", "odd", "even: 4"]


def test_too_many_failures_end_the_run_and_are_requested_again(tmp_path: Path) -> None:
    bad = {query.text for query in QUERIES[::5]}
    with pytest.raises(EngineError, match=r"4 rows failed after all retries, .*failed on purpose"):
        run(
            RecordingEngine(fail=lambda q: q in bad), tmp_path, target=60, limits=Limits(failures=3)
        )
    assert not is_finished(tmp_path)
    assert len(lines(tmp_path)) > 10
    again = RecordingEngine()
    manifest = run(again, tmp_path, target=60)
    assert manifest.dropped == {}
    assert {QUERIES[0].text, QUERIES[5].text, QUERIES[10].text} <= set(again.queries)


def test_dead_engine_ends_the_run_and_finished_rows_stay(tmp_path: Path) -> None:
    good = {query.text for query in QUERIES[:40]}
    asked = RecordingEngine(fail=lambda query: query not in good)
    message = r"of the latest 32 requests failed \(the mock engine failed on purpose\): fix"
    with pytest.raises(EngineError, match=message):
        run(asked, tmp_path, target=80)
    assert not is_finished(tmp_path)
    assert {row.query for row in lines(tmp_path) if not row.rejected} == good
    again = RecordingEngine()
    run(again, tmp_path, target=80)
    assert not good & set(again.queries)
    assert len(read_cache(tmp_path)) == 80


class Mute(MockEngine):
    """An engine that takes a request and does not answer it."""

    def generate(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Completion]:
        next(iter(requests))
        return iter(())


def test_engine_without_completions_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="the engine left 1 requests unanswered"):
        sample(Mute(), QUERIES, tmp_path, target=5)
