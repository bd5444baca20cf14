"""A run resumes after an error or a kill, and a finished cache grows."""

import json
import random
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from killing import run_to_end
from mixtures import task_rows
from recording_engine import QUERIES, RecordingEngine, interrupted_after, lines, run, text_of, texts

from delia_data.engines import Completion, MockEngine, Request, Sampling
from delia_data.errors import SettingsError, UnfinishedError
from delia_data.mixing import mix
from delia_data.outputs import is_finished, read_manifest
from delia_data.sampling import Query, default_filters, read_cache, sample


def stop_after(count: int) -> Callable[[str], str]:
    return interrupted_after(count, lambda query: f"About {query}")


@pytest.mark.parametrize("done", [0, 1, 7, 19])
def test_rows_on_disk_are_not_requested_again(tmp_path: Path, done: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(RecordingEngine(stop_after(done)), tmp_path)
    on_disk = {row.query for row in lines(tmp_path)}
    assert len(on_disk) == done
    assert not is_finished(tmp_path)
    again = RecordingEngine()
    run(again, tmp_path)
    assert sorted(again.queries) == sorted(q.text for q in QUERIES[:20] if q.text not in on_disk)
    assert sorted(r.query for r in read_cache(tmp_path)) == texts(QUERIES[:20])


def test_a_rerun_gives_the_same_bytes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"target": 20, "filters": ()}
    sample(MockEngine(), QUERIES, tmp_path / "whole", **options)
    die = stop_after(13)
    dying = MockEngine(fail=lambda request: not die(text_of(request)))
    with pytest.raises(KeyboardInterrupt):
        sample(dying, QUERIES, tmp_path / "rerun", **options)
    sample(MockEngine(), QUERIES, tmp_path / "rerun", **options)
    whole, rerun = (read_manifest(tmp_path / name, verify=True) for name in ("whole", "rerun"))
    assert whole == rerun


def test_only_a_partly_written_row_is_requested_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(RecordingEngine(stop_after(10)), tmp_path)
    file = tmp_path / "sampled-00000-000.jsonl"
    last = lines(tmp_path)[-1].query
    file.write_bytes(file.read_bytes()[:-7])
    again = RecordingEngine()
    run(again, tmp_path)
    assert sorted(again.queries) == sorted([last, *(query.text for query in QUERIES[10:20])])
    assert len({record.query for record in read_cache(tmp_path)}) == 20


def test_rejected_queries_are_not_requested_again(tmp_path: Path) -> None:
    bad = {query.text for query in QUERIES[:5]}
    answers = stop_after(12)
    with pytest.raises(KeyboardInterrupt):
        run(RecordingEngine(lambda query: "" if query in bad else answers(query)), tmp_path)
    again = RecordingEngine()
    manifest = run(again, tmp_path)
    assert not bad & set(again.queries)
    assert manifest.dropped == {"empty": 5}


def test_rerun_compares_with_accepted_pairs(tmp_path: Path) -> None:
    def answer(number: int) -> str:
        return f"There are {number // 2} lamps in the garden by the river, and no bread."

    def numbered(query: str) -> str:
        return answer(int(query.rsplit(" ", 1)[1].rstrip(".")))

    die = stop_after(9)
    with pytest.raises(KeyboardInterrupt):
        run(
            RecordingEngine(lambda query: numbered(query) if die(query) else ""),
            tmp_path,
            filters=default_filters(),
        )
    manifest = run(RecordingEngine(numbered), tmp_path, filters=default_filters())
    answers = [record.answer for record in read_cache(tmp_path)]
    assert len(answers) == len(set(answers)) == manifest.rows["kept"]
    assert sum(manifest.dropped.values()) >= manifest.rows["kept"] - 1


def test_a_finished_cache_is_not_sampled_again(tmp_path: Path) -> None:
    manifest = run(RecordingEngine(), tmp_path, target=10)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    asked = RecordingEngine()
    for target in (10, 3):
        assert run(asked, tmp_path, target=target) == manifest
    assert asked.queries == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b"PAR1")])
def test_a_damaged_cache_does_not_grow(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    for target in (4, 8):
        run(RecordingEngine(), tmp_path, target=target)
    damage(tmp_path / "pairs-00000.parquet")
    with pytest.raises(UnfinishedError, match="is not what its manifest says"):
        run(RecordingEngine(), tmp_path, target=12)


def test_a_finished_cache_grows_with_its_target(tmp_path: Path) -> None:
    run(RecordingEngine(), tmp_path, target=10)
    old = (tmp_path / "pairs-00000.parquet").read_bytes()
    asked = RecordingEngine(shuffle=3)
    manifest = run(asked, tmp_path, target=25)
    assert sorted(asked.queries) == texts(QUERIES[10:25])
    assert manifest.rows == {"asked": 25, "kept": 25}
    assert (tmp_path / "pairs-00000.parquet").read_bytes() == old
    assert [r.query for r in read_cache(tmp_path)] == [query.text for query in QUERIES[:25]]
    with pytest.raises(KeyboardInterrupt):
        run(RecordingEngine(stop_after(3)), tmp_path, target=40)
    assert not is_finished(tmp_path)
    assert run(RecordingEngine(), tmp_path, target=25).rows["kept"] == 28


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"token": "<json>"}, "token was '<sep>' and is now '<json>'"),
        ({"sampling": Sampling(temperature=0)}, r"sampling\.temperature was 0.7 and is now 0"),
        ({"filters": None}, "filters was .* and is now "),
    ],
)
def test_other_settings_are_rejected(
    tmp_path: Path, changed: dict[str, object], difference: str, finished: bool
) -> None:
    if finished:
        run(RecordingEngine(), tmp_path)
    else:
        with pytest.raises(KeyboardInterrupt):
            run(RecordingEngine(stop_after(5)), tmp_path)
    asked = RecordingEngine()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(SettingsError, match=difference):
        run(asked, tmp_path, **changed)
    assert asked.queries == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


KILLED = """
    import os, sys
    from killing import kills
    from delia_data.engines import MockEngine
    from delia_data.sampling import Query, sample

    folder, log = sys.argv[1:]
    queries = [Query(f"Tell me about number {i}.", "explain") for i in range(1600)]

    def run(number, stall_s):
        asked = os.open(f"{log}{number}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

        def answer(request):
            text = request.messages[-1].content
            os.write(asked, f"{text}\\n".encode())
            return "" if "7" in text else f"About {text}"

        engine = MockEngine(answer, stall_s=stall_s, shuffle=16)
        sample(engine, queries, folder, target=900, filters=())

    for number in kills(log, lambda number: run(number, 0.002)):
        lines = b""
        for name in sorted(os.listdir(folder)):
            if name.endswith(".jsonl"):
                with open(os.path.join(folder, name), "rb") as shard:
                    lines += shard.read().rpartition(b"\\n")[0] + b"\\n"
        with open(f"{log}{number}.disk", "wb") as copy:
            copy.write(lines)
    run(5, 0)
"""


def test_each_pair_is_written_once_after_five_kills(tmp_path: Path) -> None:
    folder, log = tmp_path / "cache", tmp_path / f"log-{random.randrange(2**32)}"
    run_to_end("-c", textwrap.dedent(KILLED), folder, log)
    every = [f"Tell me about number {i}." for i in range(1600)]
    expected = [query for query in every if "7" not in query][:900]
    assert [record.query for record in read_cache(folder)] == expected
    asked = [Path(f"{log}{number}").read_text().splitlines() for number in range(6)]
    for number in range(5):
        whole = Path(f"{log}{number}.disk").read_text().splitlines()
        on_disk = {json.loads(line)["query"] for line in whole if line}
        later = {query for queries in asked[number + 1 :] for query in queries}
        assert not on_disk & later, "what was on disk was asked again"
        answered = {query for queries in asked[: number + 1] for query in queries}
        assert len(answered - on_disk) <= 1, "an answer that was given is on disk at once"
    assert max(Counter(query for queries in asked for query in queries).values()) <= 6
    manifest = read_manifest(folder, verify=True)
    assert manifest.rows == {"asked": 900 + manifest.dropped["empty"], "kept": 900}


class ReasoningEngine(MockEngine):
    """A mock engine that reasons before every second answer."""

    def generate(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Completion]:
        for number, completion in enumerate(super().generate(requests, sampling)):
            yield replace(completion, reasoning=number % 2 == 0, thoughts="hm" * (number % 2 == 0))


def test_removed_reasoning_is_counted_over_all_runs(tmp_path: Path) -> None:
    queries = [Query(f"Tell me about number {i}.", "explain") for i in range(20)]
    first = sample(MockEngine(), queries, tmp_path / "cache", target=4, filters=())
    assert "reasoning_removed" not in first.details
    for target, count in ((8, 2), (14, 5)):
        manifest = sample(ReasoningEngine(), queries, tmp_path / "cache", target=target, filters=())
        assert manifest.details["reasoning_removed"] == count
    assert read_manifest(tmp_path / "cache").details["reasoning_removed"] == 5


def test_thoughts_are_written_on_request(tmp_path: Path) -> None:
    queries = [Query(f"Tell me about number {i}.", "explain") for i in range(20)]
    cache = tmp_path / "cache"
    sample(ReasoningEngine(), queries, cache, target=4, filters=())
    sample(ReasoningEngine(), queries, cache, target=8, filters=(), keep_reasoning=True)
    first, second = (pq.read_table(cache / f"pairs-0000{number}.parquet") for number in (0, 1))
    assert "reasoning" not in first.column_names
    assert second["reasoning"].to_pylist() == ["hm", None, "hm", None]
    assert len(read_cache(cache)) == 8
    mixture = mix(task_rows(2), cache, ratio=4)
    assert mixture.manifest.rows["cache"] == 8
    assert "hm" not in str(mixture.train.to_pylist())
