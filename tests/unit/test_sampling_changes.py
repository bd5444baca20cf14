"""A cache continues with a higher token limit or fewer filters: exact counts, also after kills."""

import json
import random
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from command_line import Delia, refused
from killing import run_to_end
from recording_engine import QUERIES, RecordingEngine, interrupted_after, run, texts

from delia_data.engines import Completion, Sampling
from delia_data.errors import SettingsError
from delia_data.outputs import is_finished, read_manifest
from delia_data.sampling import default_filters, measure_quality, read_cache, sample
from delia_data.sampling.filters import are_looser, truncated

SHORT, LONG = Sampling(max_tokens=8), Sampling(max_tokens=16)
LENGTHY = [query for number, query in enumerate(QUERIES) if number % 5 == 2]


def answer(query: str) -> str:
    lengthy = any(query == each.text for each in LENGTHY)
    return f"About {query}{' and then some more' * (2 if lengthy else 0)}"


def no_threes(query: str, _completion: Completion) -> str | None:
    return "three" if "3" in query else None


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.*")}


def kept(folder: Path) -> list[str]:
    return [record.query for record in read_cache(folder)]


def test_a_higher_limit_requests_again_only_answers_that_were_cut(tmp_path: Path) -> None:
    first = RecordingEngine(answer)
    manifest = run(first, tmp_path, target=20, sampling=SHORT, filters=(truncated,))
    assert manifest.rows == {"asked": 25, "kept": 20}
    assert manifest.dropped == {"truncated": 5}
    before = files(tmp_path)
    second = RecordingEngine(answer, shuffle=4)
    manifest = run(second, tmp_path, target=40, sampling=LONG, filters=(truncated,))
    again = texts(LENGTHY[:5])
    assert sorted(second.queries) == sorted(again + texts(QUERIES[25:40]))
    seeds = {request.id: request.seed for request in first.requests}
    assert {r.id: r.seed for r in second.requests if r.id in seeds}.items() <= seeds.items()
    assert manifest.rows == {"asked": 40, "kept": 40}
    assert manifest.dropped == {}
    assert sorted(kept(tmp_path)) == texts(QUERIES[:40])
    cut = {r.query: r.answer for r in read_cache(tmp_path)}[again[0]]
    assert cut == answer(again[0])
    assert manifest.settings["sampling"]["max_tokens"] == 16
    earlier = {"pairs": 20, "sampling": SHORT.as_dict(), "filters": ["truncated"]}
    assert manifest.details["earlier_settings"] == [earlier]
    spent = 40 * 6 + 8 * 8 + 5 * 8  # cut answers are paid for twice
    assert manifest.details["tokens"] == spent
    after = files(tmp_path)
    same = [name for name in before if name.endswith("00000.parquet")]
    assert len(same) == 2
    assert all(after[name] == before[name] for name in same)
    assert measure_quality(tmp_path).cut_off_share is None
    third = RecordingEngine(answer)
    manifest = run(third, tmp_path, target=45, sampling=LONG, filters=(truncated,))
    assert sorted(third.queries) == texts(QUERIES[40:45])
    assert manifest.rows == {"asked": 45, "kept": 45}
    assert manifest.details["earlier_settings"] == [earlier]


def test_answers_that_are_cut_again_stay_rejected(tmp_path: Path) -> None:
    run(RecordingEngine(answer), tmp_path, target=8, sampling=Sampling(max_tokens=7), filters=None)
    manifest = run(RecordingEngine(answer), tmp_path, target=12, sampling=SHORT, filters=None)
    assert manifest.rows == {"asked": 15, "kept": 12}
    assert manifest.dropped == {"truncated": 3}
    asked = RecordingEngine(answer)
    manifest = run(asked, tmp_path, target=13, sampling=LONG, filters=None)
    assert asked.queries == [LENGTHY[0].text]
    assert manifest.rows == {"asked": 15, "kept": 13}
    assert manifest.dropped == {"truncated": 2}
    assert [each["pairs"] for each in manifest.details["earlier_settings"]] == [8, 12]
    # What was reopened and not needed is still open for the next growth.
    asked = RecordingEngine(answer)
    manifest = run(asked, tmp_path, target=16, sampling=LONG, filters=None)
    assert asked.queries == [LENGTHY[1].text, LENGTHY[2].text, QUERIES[15].text]
    assert manifest.rows == {"asked": 16, "kept": 16}


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("finished", [True, False])
def test_rows_of_a_filter_that_is_left_out_are_judged_again(
    tmp_path: Path, stored: bool, finished: bool
) -> None:
    options: dict[str, Any] = {"sampling": SHORT, "keep_rejected": stored}
    engine = RecordingEngine(answer)
    if finished:
        run(engine, tmp_path, target=20, filters=(truncated, no_threes), **options)
    else:
        engine = RecordingEngine(interrupted_after(30, answer))
        with pytest.raises(KeyboardInterrupt):
            run(engine, tmp_path, target=40, filters=(truncated, no_threes), **options)
    first = engine.queries if finished else engine.queries[:30]
    threes = [q for q in first if "3" in q and not any(q == each.text for each in LENGTHY)]
    assert len(threes) == 3
    asked = RecordingEngine(answer)
    manifest = run(asked, tmp_path, target=40, filters=(truncated,), **options)
    again = [query for query in asked.queries if query in first]
    assert again == ([] if stored else threes)
    assert manifest.rows == {"asked": 50, "kept": 40}
    assert manifest.dropped == {"truncated": 10}
    assert sorted(kept(tmp_path)) == texts(q for q in QUERIES[:50] if q not in LENGTHY)
    assert manifest.details["tokens"] == 50 * 6 + 10 * 2 + len(again) * 6


def test_cut_answers_are_judged_again_without_the_filter(tmp_path: Path) -> None:
    options: dict[str, Any] = {"sampling": SHORT, "keep_rejected": True}
    run(RecordingEngine(answer), tmp_path, target=8, filters=(truncated,), **options)
    asked = RecordingEngine(answer)
    manifest = run(asked, tmp_path, target=10, **options)
    assert asked.queries == []
    assert manifest.rows == {"asked": 10, "kept": 10}
    cut = {record.query: record.answer for record in read_cache(tmp_path)}[LENGTHY[0].text]
    assert cut == " ".join(answer(LENGTHY[0].text).split()[:8])


@pytest.mark.parametrize("keep", [False, True])
def test_reasoning_of_stored_answers_is_counted(tmp_path: Path, keep: bool) -> None:
    class Thinking(RecordingEngine):
        def generate(self, *arguments: Any) -> Any:
            for each in self.engine.generate(*arguments):
                yield replace(each, reasoning=True, thoughts="hm")

        def __getattr__(self, name: str) -> Any:
            return getattr(self.engine, name)

    def go(filters: Any, target: int) -> tuple[list[str], Any]:
        engine = Thinking(answer)
        options: dict[str, Any] = {"keep_rejected": True, "keep_reasoning": keep}
        manifest = sample(engine, QUERIES, tmp_path, target=target, filters=filters, **options)
        return engine.queries, manifest

    go((no_threes,), 5)
    queries, manifest = go((), 7)
    # Thoughts are not stored with rejected rows, so a run that keeps them requests the row again.
    assert queries == ([QUERIES[3].text] if keep else []) + [QUERIES[6].text]
    assert manifest.details["reasoning_removed"] == 7
    names = [pq.read_schema(file).names for file in sorted(tmp_path.glob("pairs-*"))]
    assert all(("reasoning" in each) == keep for each in names)


def test_a_higher_threshold_reopens_near_duplicates(tmp_path: Path) -> None:
    def alike(query: str) -> str:
        words = [f"word{place}" for place in range(40)]
        words[20] = query.split()[-1]
        return " ".join(words)

    low, high = (default_filters(near_duplicates=value) for value in (0.6, None))
    assert run(RecordingEngine(alike), tmp_path, queries=QUERIES[:9], filters=low).rows["kept"] < 3
    manifest = run(RecordingEngine(alike), tmp_path, queries=QUERIES[:9], filters=high)
    assert manifest.rows == {"asked": 9, "kept": 9}


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"sampling": Sampling(max_tokens=4)}, r"max_tokens was 8 and is now 4\)"),
        ({"filters": (truncated, no_threes)}, "filters was "),
        ({"sampling": LONG, "seed": 1}, r"\(seed was 0 and is now 1\)"),
    ],
)
def test_stricter_settings_are_refused(
    tmp_path: Path, changed: dict[str, Any], difference: str
) -> None:
    options: dict[str, Any] = {"sampling": SHORT, "filters": (truncated,), "target": 10}
    run(RecordingEngine(answer), tmp_path, **options)
    before = files(tmp_path)
    with pytest.raises(SettingsError, match=difference):
        run(RecordingEngine(answer), tmp_path, **{**options, "target": 20, **changed})
    assert files(tmp_path) == before


def test_looser_filters_keep_the_order_and_the_settings() -> None:
    low, high = ({"filter": "duplicates", "threshold": value} for value in (0.7, 0.9))
    exact = {"filter": "duplicates", "threshold": None}
    assert are_looser(["echo", "refusal", low], ["refusal", high])
    assert are_looser([low], [exact])
    assert are_looser([low], [])
    assert not are_looser([high], [low])
    assert not are_looser([exact], [low])
    assert not are_looser(["echo", "refusal"], ["refusal", "echo"])
    assert are_looser([{**low, "similarity": 0.9}], [low])
    assert not are_looser([low], [{**low, "similarity": 0.9}])
    assert not are_looser([{**low, "filter": "mine"}], [{**high, "filter": "mine"}])


def test_settings_that_no_pair_has_are_not_shown(delia: Delia, tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text("".join(f'{{"query": "What is {n}?"}}\n' for n in range(8)))
    arguments = ["sample", tmp_path / "cache", "--engine", "mock", "--queries", queries]
    arguments += ["--target", 4, "--max-tokens"]
    refused(delia(*arguments, 1), "no answer was accepted (8 truncated)")
    result = delia(*arguments, 64)
    assert result.code == 0
    assert "earlier settings" not in result.out


def test_a_met_target_changes_nothing(delia: Delia, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    arguments = ["sample", cache, "--engine", "mock", "--target", 10, "--max-tokens"]
    assert delia(*arguments, 20).code == 0
    before = files(cache)
    result = delia(*arguments, 30)
    assert result.code == 0
    assert "raise --target to sample with the new settings" in result.out
    assert files(cache) == before
    assert read_manifest(cache, verify=True).settings["sampling"]["max_tokens"] == 20
    refused(delia(*arguments, 10), "max_tokens can rise and filters can be left out")
    result = delia(*arguments[:-2], 15, "--max-tokens", 30)
    assert "10 of 15 pairs have earlier settings (max_tokens 20)" in result.out
    copy = ["sample", tmp_path / "copy", "--from", cache, "--target", 20, "--max-tokens", 40]
    assert delia(*copy).code == 0
    details = read_manifest(tmp_path / "copy", verify=True).details
    assert [each["pairs"] for each in details["earlier_settings"]] == [10, 15]


KILLED = """
    import os, sys
    from killing import kills
    from delia_data.engines import MockEngine, Sampling
    from delia_data.sampling import Query, sample
    from delia_data.sampling.filters import truncated

    folder, log = sys.argv[1:]
    queries = [Query(f"Tell me about number {i}.", "explain") for i in range(1600)]

    def run(name, stall_s, target, limit):
        asked = os.open(f"{log}{name}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

        def answer(request):
            text = request.messages[-1].content
            os.write(asked, f"{text}\\n".encode())
            return f"About {text}" + " and more of it" * (3 if "7" in text else 0)

        engine = MockEngine(answer, stall_s=stall_s, shuffle=16)
        sample(
            engine, queries, folder, target=target, filters=(truncated,),
            sampling=Sampling(max_tokens=limit),
        )

    run("first", 0, 500, 8)
    for number in kills(log, lambda number: run(number, 0.002, 1000, 32)):
        pass
    run("last", 0, 1000, 32)
"""


def test_growth_to_a_higher_limit_survives_kills(tmp_path: Path) -> None:
    folder, log = tmp_path / "cache", tmp_path / f"log-{random.randrange(2**32)}"
    run_to_end("-c", textwrap.dedent(KILLED), folder, log)
    every = [f"Tell me about number {i}." for i in range(1600)]
    assert sorted(kept(folder)) == sorted(every[:1000])
    manifest = read_manifest(folder, verify=True)
    assert manifest.rows == {"asked": 1000, "kept": 1000}
    assert manifest.dropped == {}
    assert [each["pairs"] for each in manifest.details["earlier_settings"]] == [500]
    first = Path(f"{log}first").read_text().splitlines()
    cut = [query for query in first if "7" in query]
    assert len(first) == 500 + len(cut)
    later = [
        q for name in (*range(5), "last") for q in Path(f"{log}{name}").read_text().split("\n")
    ]
    assert set(later) & set(first) == set(cut)
    extra = len(later) - len([query for query in later if not query]) - (1000 - 500)
    assert 0 <= extra <= 5, "each kill repeats at most the answer in flight"
    spent = sum(
        sum(pq.read_table(file)["tokens"].to_pylist()) for file in folder.glob("*-*.parquet")
    )
    assert manifest.details["tokens"] == spent


@pytest.mark.parametrize("moment", ["before the plan", "before the first row"])
def test_a_kill_at_the_change_loses_nothing(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"filters": (truncated,), "target": 20}
    with pytest.raises(KeyboardInterrupt):
        run(RecordingEngine(interrupted_after(12, answer)), tmp_path, sampling=SHORT, **options)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "before the plan":
            patch.setattr("delia_data.sampling.store.write_json", die)
        with pytest.raises(KeyboardInterrupt):
            run(RecordingEngine(die), tmp_path, sampling=LONG, **options)
    assert not is_finished(tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert ("earlier" in plan) == (moment == "before the first row")
    asked = RecordingEngine(answer)
    manifest = run(asked, tmp_path, sampling=LONG, **options)
    cut = texts(LENGTHY[:2])
    assert sorted(asked.queries) == sorted(cut + texts(QUERIES[12:20]))
    assert manifest.rows == {"asked": 20, "kept": 20}
    assert [each["pairs"] for each in manifest.details["earlier_settings"]] == [10]
