"""Sampling asks each query at most once, replaces what it rejects, and outlives a kill."""

import json
import os
import random
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delia_data.engines import Completion, MockEngine, Request, Sampling
from delia_data.errors import EngineError, InputError, LockedError, SettingsError
from delia_data.files import folder_lock
from delia_data.manifest import is_finished, read_manifest
from delia_data.ranking import row_seed
from delia_data.records import Record
from delia_data.sampling import Query, default_filters, query_id, read_cache, sample
from delia_data.sampling.filters import echo, empty, failed, names, repetition

QUERIES = [Query(f"Tell me about number {i}.", "explain") for i in range(100)]


def text_of(request: Request) -> str:
    return request.messages[-1].content


class Asked:
    """A mock engine that keeps what it was asked."""

    def __init__(
        self,
        answer: Callable[[str], str] = lambda query: f"An answer to {query!r}",
        fail: Callable[[str], bool] = lambda query: False,
        shuffle: int = 1,
    ) -> None:
        self.requests: list[Request] = []
        self.answer = answer
        self.fail = fail
        self.engine = MockEngine(self._answer, self._fail, shuffle=shuffle)

    @property
    def queries(self) -> list[str]:
        return [text_of(request) for request in self.requests]

    def _fail(self, request: Request) -> bool:
        self.requests.append(request)
        assert len(self.requests) < 1000, "the queries are asked over and over"
        return self.fail(text_of(request))

    def _answer(self, request: Request) -> str:
        return self.answer(text_of(request))


def lines(folder: Path) -> list[dict[str, object]]:
    text = (folder / "pairs.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines() if line]


# Filters


def completion(text: str, finish: str = "stop") -> Completion:
    return Completion("id", text, len(text.split()), finish)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("query", "given", "reason"),
    [
        ("q", completion("An answer."), None),
        ("q", completion("Cut off in the mid", "length"), None),
        ("q", completion("", "error"), "failed"),
        ("q", completion("An answer.", "error"), "failed"),
        ("q", completion(""), "empty"),
        ("q", completion(" \n\t "), "empty"),
        ("q", completion("... !?"), "empty"),
        ("q", completion("7"), None),
        ("q", completion("\N{CJK UNIFIED IDEOGRAPH-662F}"), None),
        ("q", completion("Use <sep>."), "names_token"),
        ("What is <sep>?", completion("A token."), "names_token"),
        ("q", completion("Use sep."), None),
        ("Say hello, please!", completion("say HELLO please"), "echo"),
        ("Say hello, please!", completion("Say hello, please! Hello."), None),
        ("Say hello, please!", completion("hello"), None),
        ("q", completion("We like to sing. " * 4), "repetition"),
        ("q", completion("First of all: " + "we like to sing, " * 4 + "and so on."), "repetition"),
        ("q", completion("no " * 16), "repetition"),
        ("q", completion("We like to sing. " * 3), None),
        ("q", completion("no " * 15), None),
        ("q", completion("We like to sing. You do not. " * 4), None),
    ],
)
def test_the_default_filters(query: str, given: Completion, reason: str | None) -> None:
    reasons = (check(query, given) for check in default_filters())
    assert next((r for r in reasons if r), None) == reason


def test_each_filter_sees_its_own_fault_alone() -> None:
    faults = {
        failed: completion("Fine.", "error"),
        empty: completion("?!"),
        echo: completion("say it"),
        repetition: completion("a b c d " * 4),
        names("<sep>"): completion("A <sep> in it."),
    }
    for check in faults:
        rejected = [other for other, fault in faults.items() if check("Say it.", fault)]
        assert rejected == [check]


def test_the_token_of_the_filters_can_be_another(tmp_path: Path) -> None:
    assert names("<json>")("q", completion("Use <sep>.")) is None
    asked = Asked(lambda query: "Use <json>." if "number 0." in query else "Use <sep>.")
    manifest = sample(asked.engine, QUERIES, tmp_path, target=3, token="<json>")
    assert manifest.dropped == {"names_token": 1}


# The loop


@settings(max_examples=10, deadline=None)
@given(
    target=st.integers(1, 40),
    group=st.sampled_from([1, 3, 32]),
    shuffle=st.sampled_from([1, 7]),
    every=st.sampled_from([2, 3, 1000]),
)
def test_the_target_is_reached_and_every_query_is_asked_at_most_once(
    tmp_path_factory: pytest.TempPathFactory, target: int, group: int, shuffle: int, every: int
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    bad = {query.text for i, query in enumerate(QUERIES) if i % every == 1}
    asked = Asked(lambda query: "" if query in bad else f"About {query}", shuffle=shuffle)
    manifest = sample(asked.engine, QUERIES, folder, target=target, group=group)
    good = [query.text for query in QUERIES if query.text not in bad][:target]
    assert sorted(record.query for record in read_cache(folder)) == sorted(good)
    assert max(Counter(asked.queries).values()) == 1
    used = QUERIES[: len(asked.queries)]
    assert sorted(asked.queries) == sorted(query.text for query in used)
    rejected = len(asked.queries) - target
    assert manifest.rows == {"asked": len(asked.queries), "kept": target}
    assert manifest.dropped == ({"empty": rejected} if rejected else {})
    assert rejected == sum(query.text in bad for query in used)


def test_answers_go_to_their_queries_in_any_order(tmp_path: Path) -> None:
    asked = Asked(lambda query: query[::-1], shuffle=16)
    sample(asked.engine, QUERIES, tmp_path, target=48)
    records = read_cache(tmp_path)
    assert all(record.answer == record.query[::-1] for record in records)
    order = [record.query for record in records]
    assert sorted(order) == sorted(query.text for query in QUERIES[:48])
    assert order != [query.text for query in QUERIES[:48]]


def test_each_request_has_its_own_seed(tmp_path: Path) -> None:
    asked = Asked()
    sample(asked.engine, QUERIES, tmp_path / "one", target=20, seed=3)
    for request in asked.requests:
        assert request.id == query_id(text_of(request))
        assert request.seed == row_seed(3, request.id, "sample")
    assert len({request.seed for request in asked.requests}) == 20
    turned = Asked()
    sample(turned.engine, QUERIES[19::-1], tmp_path / "two", target=20, seed=3, group=3)
    assert {r.id: r.seed for r in turned.requests} == {r.id: r.seed for r in asked.requests}


def test_pairs_do_not_depend_on_order_groups_or_engine_order(tmp_path: Path) -> None:
    caches = []
    for name, queries, group, shuffle in (
        ("one", QUERIES[:20], 32, 1),
        ("two", QUERIES[19::-1], 3, 5),
    ):
        sample(MockEngine(shuffle=shuffle), queries, tmp_path / name, target=20, group=group)
        caches.append({record.id for record in read_cache(tmp_path / name)})
    assert caches[0] == caches[1]
    sample(MockEngine(), QUERIES[:20], tmp_path / "three", target=20, seed=1)
    assert not caches[0] & {record.id for record in read_cache(tmp_path / "three")}


def test_the_manifest_says_what_the_pairs_depend_on(tmp_path: Path) -> None:
    sampling = Sampling(temperature=0.5, top_p=0.9, max_tokens=4)
    manifest = sample(
        MockEngine(), QUERIES, tmp_path, target=5, sampling=sampling, seed=7, token="<json>"
    )
    assert read_manifest(tmp_path, verify=True) == manifest
    assert manifest.kind == "cache"
    assert manifest.settings == {
        "engine": "mock",
        "model": {"name": "mock"},
        "sampling": {"temperature": 0.5, "top_p": 0.9, "max_tokens": 4},
        "seed": 7,
        "target": 5,
        "token": "<json>",
    }
    assert manifest.details["tokens"] == 5 * 4
    assert pq.read_table(tmp_path / "pairs.parquet")["tokens"].to_pylist() == [4] * 5


def test_progress_counts_what_is_kept(tmp_path: Path) -> None:
    seen: list[int] = []
    asked = Asked(lambda query: "" if "number 1." in query else "Fine.")
    sample(asked.engine, QUERIES, tmp_path, target=8, group=4, on_progress=seen.append)
    assert seen == [0, 3, 7, 8]


def test_equal_queries_are_asked_once(tmp_path: Path) -> None:
    asked = Asked()
    sample(asked.engine, [*QUERIES[:5], *QUERIES[:10]], tmp_path, target=10)
    assert sorted(asked.queries) == sorted(query.text for query in QUERIES[:10])
    with pytest.raises(InputError, match="10 distinct queries cannot give 11 pairs"):
        sample(asked.engine, QUERIES[:10] * 2, tmp_path / "other", target=11)


@pytest.mark.parametrize("target", [0, -1])
def test_a_target_of_nothing(tmp_path: Path, target: int) -> None:
    with pytest.raises(InputError, match=f"target {target} is too few pairs: give at least 1"):
        sample(MockEngine(), QUERIES, tmp_path / "cache", target=target)
    assert not (tmp_path / "cache").exists()


def test_an_empty_query_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    asked = Asked()
    with pytest.raises(InputError, match="a query is empty"):
        sample(asked.engine, [*QUERIES, Query(" \n", "user")], tmp_path / "cache", target=5)
    assert asked.queries == []
    assert not (tmp_path / "cache").exists()


def test_more_queries_can_be_given_where_they_ran_out(tmp_path: Path) -> None:
    asked = Asked(lambda query: "" if query.endswith(("3.", "4.")) else "Fine.")
    message = r"the queries ran out at 8 of 10 pairs \(2 empty rejected\): give more queries"
    with pytest.raises(InputError, match=message):
        sample(asked.engine, QUERIES[:10], tmp_path, target=10)
    assert not is_finished(tmp_path)
    manifest = sample(asked.engine, QUERIES, tmp_path, target=10)
    assert manifest.rows == {"asked": 12, "kept": 10}
    assert max(Counter(asked.queries).values()) == 1


def test_two_writers(tmp_path: Path) -> None:
    asked = Asked()
    with folder_lock(tmp_path), pytest.raises(LockedError):
        sample(asked.engine, QUERIES, tmp_path, target=5)
    assert asked.queries == []


# Going on


class KilledError(Exception):
    """Stands in for a process that dies."""


def stop_after(count: int) -> Callable[[str], str]:
    left = iter(range(count))

    def answer(query: str) -> str:
        if next(left, None) is None:
            raise KilledError
        return f"About {query}"

    return answer


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("done", [0, 1, 7, 19])
def test_what_is_on_disk_is_not_asked_again(tmp_path: Path, done: int, group: int) -> None:
    with pytest.raises(KilledError):
        sample(Asked(stop_after(done)).engine, QUERIES, tmp_path, target=20, group=group)
    on_disk = {str(line["query"]) for line in lines(tmp_path)}
    assert len(on_disk) == done - done % group
    assert not is_finished(tmp_path)
    again = Asked()
    sample(again.engine, QUERIES, tmp_path, target=20, group=group)
    assert sorted(again.queries) == sorted(q.text for q in QUERIES[:20] if q.text not in on_disk)
    assert sorted(r.query for r in read_cache(tmp_path)) == sorted(q.text for q in QUERIES[:20])


def test_a_rerun_gives_the_same_pairs(tmp_path: Path) -> None:
    sample(MockEngine(), QUERIES, tmp_path / "whole", target=20)
    die = stop_after(13)
    dying = MockEngine(fail=lambda request: not die(text_of(request)))
    with pytest.raises(KilledError):
        sample(dying, QUERIES, tmp_path / "rerun", target=20, group=4)
    sample(MockEngine(), QUERIES, tmp_path / "rerun", target=20)
    whole, rerun = (read_cache(tmp_path / name) for name in ("whole", "rerun"))
    assert {record.id for record in whole} == {record.id for record in rerun}


def test_a_half_written_line_is_asked_again_and_no_other(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        sample(Asked(stop_after(10)).engine, QUERIES, tmp_path, target=20, group=5)
    file = tmp_path / "pairs.jsonl"
    last = str(lines(tmp_path)[-1]["query"])
    file.write_bytes(file.read_bytes()[:-7])
    again = Asked()
    sample(again.engine, QUERIES, tmp_path, target=20)
    assert sorted(again.queries) == sorted([last, *(query.text for query in QUERIES[10:20])])
    assert len({record.query for record in read_cache(tmp_path)}) == 20


def test_rejected_queries_are_not_asked_again(tmp_path: Path) -> None:
    bad = {query.text for query in QUERIES[:5]}
    answers = stop_after(12)
    first = Asked(lambda query: "" if query in bad else answers(query))
    with pytest.raises(KilledError):
        sample(first.engine, QUERIES, tmp_path, target=20, group=1)
    again = Asked()
    manifest = sample(again.engine, QUERIES, tmp_path, target=20)
    assert not bad & set(again.queries)
    assert manifest.dropped == {"empty": 5}


def test_a_finished_cache_is_not_sampled_again(tmp_path: Path) -> None:
    manifest = sample(MockEngine(), QUERIES, tmp_path, target=10)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    asked = Asked()
    assert sample(asked.engine, QUERIES, tmp_path, target=10) == manifest
    assert asked.queries == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_run_killed_before_its_marker_only_finishes(tmp_path: Path) -> None:
    manifest = sample(MockEngine(), QUERIES, tmp_path, target=10)
    for name in ("FINISHED", "manifest.json", "pairs.parquet"):
        (tmp_path / name).unlink()
    asked = Asked()
    assert sample(asked.engine, QUERIES, tmp_path, target=10) == manifest
    assert asked.queries == []


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"target": 9}, "target was 10 and is now 9"),
        ({"token": "<json>"}, "token was '<sep>' and is now '<json>'"),
        ({"sampling": Sampling(temperature=0)}, "sampling was .* and is now .*'temperature': 0"),
    ],
)
def test_other_settings_are_refused(
    tmp_path: Path, changed: dict[str, object], difference: str, finished: bool
) -> None:
    if finished:
        sample(MockEngine(), QUERIES, tmp_path, target=10)
    else:
        with pytest.raises(KilledError):
            sample(Asked(stop_after(5)).engine, QUERIES, tmp_path, target=10, group=1)
    asked, count = Asked(), len(lines(tmp_path))
    with pytest.raises(SettingsError, match=difference):
        sample(asked.engine, QUERIES, tmp_path, **{"target": 10, **changed})  # type: ignore[arg-type]
    assert asked.queries == []
    assert len(lines(tmp_path)) == count


# Failures


@pytest.mark.parametrize("group", [1, 32])
@pytest.mark.parametrize("bad", [0, 5, 9])
def test_one_bad_row_does_not_end_the_job(tmp_path: Path, bad: int, group: int) -> None:
    asked = Asked(fail=lambda query: query == QUERIES[bad].text)
    manifest = sample(asked.engine, QUERIES, tmp_path, target=10, group=group)
    assert manifest.rows == {"asked": 11, "kept": 10}
    assert manifest.dropped == {"failed": 1}
    assert [line["query"] for line in lines(tmp_path) if line["rejected"] == "failed"] == [
        QUERIES[bad].text
    ]
    assert QUERIES[bad].text not in {record.query for record in read_cache(tmp_path)}


def test_bad_rows_at_the_very_end_do_not_end_the_job(tmp_path: Path) -> None:
    bad = {query.text for query in QUERIES[40:45]}
    asked = Asked(fail=lambda query: query in bad)
    assert sample(asked.engine, QUERIES, tmp_path, target=41).dropped == {"failed": 5}


def test_nor_does_every_second_one(tmp_path: Path) -> None:
    bad = {query.text for query in QUERIES[::2]}
    asked = Asked(fail=lambda query: query in bad)
    assert sample(asked.engine, QUERIES, tmp_path, target=40).rows["kept"] == 40


@pytest.mark.parametrize("group", [8, 32, 100])
def test_a_dead_engine_ends_the_job_and_what_is_there_stays(tmp_path: Path, group: int) -> None:
    good = {query.text for query in QUERIES[:40]}
    asked = Asked(fail=lambda query: query not in good)
    message = r"of the latest 32 requests failed \(the mock engine was told to fail\): mend"
    with pytest.raises(EngineError, match=message):
        sample(asked.engine, QUERIES, tmp_path, target=80, group=group)
    assert not is_finished(tmp_path)
    assert {str(line["query"]) for line in lines(tmp_path) if not line["rejected"]} == good
    again = Asked()
    sample(again.engine, QUERIES, tmp_path, target=80)
    assert not good & set(again.queries)
    assert len(read_cache(tmp_path)) == 80


def test_an_engine_that_is_dead_from_the_start_records_nothing(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="32 of the latest 32 requests failed"):
        sample(Asked(fail=lambda _: True).engine, QUERIES, tmp_path, target=90)
    assert lines(tmp_path) == []


def test_a_dead_engine_ends_even_the_smallest_job(tmp_path: Path) -> None:
    asked = Asked(fail=lambda _: True)
    with pytest.raises(EngineError, match="32 of the latest 32 requests failed"):
        sample(asked.engine, QUERIES, tmp_path, target=1)
    assert len(asked.queries) == 32


class Mute:
    """An engine that breaks its contract."""

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        return iter(())

    def describe(self) -> dict[str, object]:
        return {"engine": "mute"}


def test_an_engine_that_answers_nothing_is_an_error_not_an_endless_loop(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="the engine answered none of 5 requests"):
        sample(Mute(), QUERIES, tmp_path, target=5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "temperature -0.1 is out of bounds"),
        ({"temperature": float("nan")}, "temperature nan is out of bounds"),
        ({"temperature": float("inf")}, "temperature inf is out of bounds"),
        ({"top_p": 0}, "top_p 0 is out of bounds"),
        ({"top_p": 1.01}, "top_p 1.01 is out of bounds"),
        ({"top_p": float("nan")}, "top_p nan is out of bounds"),
        ({"max_tokens": 0}, "max_tokens 0 is too few"),
    ],
)
def test_sampling_has_bounds(values: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sampling(**values)  # type: ignore[arg-type]
    Sampling(temperature=0, top_p=1, max_tokens=1)


# The mock engine itself, which users test with


def requests(count: int) -> Sequence[Request]:
    queries = (Record.pair(f"query {i}", "-").prompt for i in range(count))
    return [Request(f"id{i}", turns, row_seed(0, f"id{i}", "t")) for i, turns in enumerate(queries)]


@pytest.mark.parametrize("shuffle", [1, 4, 100])
def test_the_mock_engine_answers_every_request_once(shuffle: int) -> None:
    asked = requests(10)
    engine = MockEngine(shuffle=shuffle)
    answers = list(engine.generate(iter(asked), Sampling()))
    assert sorted(a.id for a in answers) == sorted(r.id for r in asked)
    assert ([a.id for a in answers] == [r.id for r in asked]) == (shuffle == 1)
    assert list(engine.generate(asked, Sampling())) == answers
    plain = {a.id: a for a in MockEngine().generate(asked, Sampling())}
    assert {a.id: a for a in answers} == plain


def test_the_mock_engine_cuts_and_says_so() -> None:
    engine = MockEngine(answer=lambda _: "one two three")
    cut, whole = (next(engine.generate(requests(1), Sampling(max_tokens=n))) for n in (2, 3))
    assert (cut.text, cut.tokens, cut.finish) == ("one two", 2, "length")
    assert (whole.text, whole.tokens, whole.finish) == ("one two three", 3, "stop")


# Real kills

KILLED = """
    import os, random, shutil, signal, sys, time
    from delia_data.engines import MockEngine, Request
    from delia_data.sampling import Query, sample

    folder, log = sys.argv[1:]
    queries = [Query(f"Tell me about number {i}.", "explain") for i in range(600)]

    def run(number, stall_s):
        asked = os.open(f"{log}{number}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

        def answer(request):
            text = request.messages[-1].content
            os.write(asked, f"{text}\\n".encode())
            return "" if "7" in text else f"About {text}"

        sample(MockEngine(answer, stall_s=stall_s), queries, folder, target=300, group=3)

    moments = random.Random(int(log.rsplit("-", 1)[1]))
    print("ready", flush=True)
    for number in range(5):
        if (child := os.fork()) == 0:
            run(number, 0.005)
            os._exit(0)
        # The child is at work once it has asked: then it has a random while to live.
        file = f"{log}{number}"
        while not (os.path.exists(file) and os.path.getsize(file)):
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.08))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the child was done before it was killed"
        shutil.copy(os.path.join(folder, "pairs.jsonl"), f"{log}{number}.disk")
    run(5, 0)
"""


def test_after_five_kills_every_pair_is_there_once(tmp_path: Path) -> None:
    folder, log = tmp_path / "cache", tmp_path / f"log-{random.randrange(2**32)}"
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(folder), str(log)],
        check=True,
        timeout=120,
        cwd=tmp_path,
        env=os.environ,
    )
    expected = [q for i in range(600) if "7" not in (q := f"Tell me about number {i}.")][:300]
    assert sorted(record.query for record in read_cache(folder)) == sorted(expected)
    assert max(Counter(str(line["query"]) for line in lines(folder)).values()) == 1
    asked = [Path(f"{log}{number}").read_text().splitlines() for number in range(6)]
    for number in range(5):
        whole = Path(f"{log}{number}.disk").read_text().rpartition("\n")[0].splitlines()
        on_disk = {json.loads(line)["query"] for line in whole}
        later = {query for run in asked[number + 1 :] for query in run}
        assert not on_disk & later, "what was on disk was asked again"
        in_flight = {query for run in asked[: number + 1] for query in run} - on_disk
        assert len(in_flight) <= 3
    manifest = read_manifest(folder, verify=True)
    assert manifest.rows["kept"] == 300
    assert manifest.rows["asked"] == 300 + manifest.dropped["empty"] == len(lines(folder))
