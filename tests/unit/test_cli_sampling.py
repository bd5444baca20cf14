"""`delia sample`: every option has an effect, and each error is one line."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from command_line import Delia, names, refused
from row_files import write_jsonl

from delia_data.engines import MockEngine
from delia_data.outputs import is_finished, read_manifest
from delia_data.sampling import read_cache


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    rows = [{"instruction": f"Tell me about {i}.", "output": f"About {i}."} for i in range(40)]
    return write_jsonl(tmp_path / "queries.jsonl", rows)


def test_sample_applies_every_option(delia: Delia, tmp_path: Path) -> None:
    (tmp_path / "queries.jsonl").write_text(
        '{"query": "What is rain?"}\n'
        '{"instruction": "Translate.", "input": "chat"}\n'
        '{"messages": [{"role": "user", "content": "Hello"}]}\n'
    )
    arguments = ["--queries", tmp_path / "queries.jsonl", "--engine", "mock", "--target", 3]
    arguments += ["--temperature", 0.1, "--top-p", 0.5, "--max-tokens", 4, "--seed", 9]
    arguments += ["--keep-truncated", "--keep-refusals", "--near-duplicates", 0]
    arguments += ["--system", "Be brief.", "--token", "<json>"]
    assert delia("sample", tmp_path / "cache", *arguments).code == 0
    settings = read_manifest(tmp_path / "cache").settings
    assert settings["sampling"] == {"temperature": 0.1, "top_p": 0.5, "max_tokens": 4}
    assert settings["asking"] == {"system": "Be brief.", "exemplar": False, "answers_per_query": 1}
    assert settings["filters"] == [
        "failed",
        "empty",
        "names_token",
        "echo",
        "repetition",
        {"filter": "duplicates", "threshold": None},
    ]
    assert (settings["seed"], settings["token"]) == (9, "<json>")
    records = read_cache(tmp_path / "cache")
    assert [r.query for r in records] == ["What is rain?", "Translate.\n\nchat", "Hello"]
    assert all(len(record.answer.split()) == 4 for record in records)


def test_keep_rejected_writes_truncated_answers(
    delia: Delia, tmp_path: Path, queries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(request: Any) -> str:
        text = request.messages[-1].content
        return f"{text} indeed so it is with this one" if "7" in text else f"All about {text}"

    monkeypatch.setattr(MockEngine, "load", lambda model: MockEngine(answer))
    arguments = ["sample", tmp_path / "cache", "--engine", "mock", "--queries", queries]
    arguments += ["--target", 30, "--max-tokens", 8, "--near-duplicates", 0, "--keep-rejected"]
    result = delia(*arguments)
    assert result.code == 0, result.err
    assert "30 pairs in " in result.out
    assert "dropped: 3 truncated" in result.out
    rejected = pq.read_table(tmp_path / "cache" / "rejected-00000.parquet").to_pylist()
    assert [row["query"] for row in rejected] == [f"Tell me about {n}7." for n in ("", 1, 2)]


def test_exemplar_and_answers_per_query(
    delia: Delia, tmp_path: Path, queries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def answer(request: Any) -> str:
        seen.append([turn.content for turn in request.messages])
        return f"An answer, drawn with {request.seed}."

    monkeypatch.setattr(MockEngine, "load", lambda model: MockEngine(answer))
    arguments = ["sample", tmp_path / "cache", "--engine", "mock", "--queries", queries]
    result = delia(*arguments, "--target", 4, "--exemplar", "--answers-per-query", 2)
    assert result.code == 0, result.err
    assert seen[0] == seen[1] == ["Tell me about 0.", "About 0.", "Tell me about 0."]
    assert len(read_cache(tmp_path / "cache")) == 4


def test_fewer_pairs_than_the_target_set_the_exit_code(
    delia: Delia, tmp_path: Path, queries: Path
) -> None:
    arguments = ["sample", tmp_path / "cache", "--engine", "mock", "--queries", queries]
    result = delia(*arguments, "--target", 50)
    assert result.code == 3
    assert "fewer than the target of 50: the queries ran out; add more" in result.out
    assert is_finished(tmp_path / "cache")
    assert delia(*arguments, "--target", 40).code == 0
    result = delia(*arguments[:-2], "--target", 50)
    refused(result, "queries.", "can be added with extend (--extend)")
    assert delia(*arguments[:-2], "--target", 50, "--extend").code == 0
    assert len(read_cache(tmp_path / "cache")) == 50


def test_token_budget_gives_a_smaller_cache(delia: Delia, tmp_path: Path) -> None:
    arguments = ["sample", tmp_path / "cache", "--engine", "mock", "--max-tokens", 16]
    result = delia(*arguments, "--target", 500, "--budget-tokens", 2000)
    assert result.code == 3
    assert "the budget is spent; raise it" in result.out
    manifest = read_manifest(tmp_path / "cache")
    assert manifest.details["tokens"] + manifest.details["prompt_tokens"] <= 2000
    assert 20 < manifest.rows["kept"] < 500


def test_model_writes_the_queries(
    delia: Delia, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(request: Any) -> str:
        if request.role == "user":
            return f"the river number {request.seed} and tell why it matters to people there?"
        return f"A short answer about {request.messages[-1].content}"

    monkeypatch.setattr(MockEngine, "load", lambda model: MockEngine(answer))
    arguments = ["sample", tmp_path / "cache", "--engine", "mock", "--queries", "self"]
    result = delia(*arguments, "--target", 12, "--near-duplicates", 0)
    assert result.code == 0, result.err
    manifest = read_manifest(tmp_path / "cache", verify=True)
    assert manifest.rows["kept"] == 12
    assert manifest.settings["queries"]["source"] == "self"
    assert "queries/written.jsonl" in manifest.files
    assert delia(*arguments, "--target", 20, "--near-duplicates", 0).code == 0
    assert len(read_cache(tmp_path / "cache")) == 20


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--target", "0"], "target 0 is wrong: give a whole number from 1"),
        (["--temperature=-1"], "temperature -1.0 is wrong: it must be greater"),
        (["--top-p", "0"], "top_p 0.0 is wrong: it must be greater than 0"),
        (["--max-tokens", "0"], "max_tokens 0 is wrong"),
        (["--engine", "gpt"], "engine 'gpt' is unknown: use one of transformers, "),
        (["--queries", "missing.jsonl"], "missing.jsonl"),
        (["--batch-size", "4"], "engine 'mock' has no option batch_size: it has none"),
        (["-o", "depth=3"], "engine 'mock' has no option depth: it has none"),
        (["-o", "depth"], "--engine-option 'depth' is not NAME=VALUE"),
        (["--expand", "10"], "--expand generates queries from a few of your own"),
        (["--answers-per-query", "0"], "answers_per_query 0 is wrong"),
        (["--system", " "], "system ' ' is wrong"),
        (["--budget-usd=-1"], "dollars (--budget-usd) -1.0 is wrong"),
        (["--max-failures=-1"], "failures (--max-failures) -1 is wrong"),
        (["--near-duplicates", "7"], "7.0"),
        (["--similar", "7"], "similarity 7.0 is out of range: give 0.5 to 1"),
        (["--language", "klingon"], "klingon"),
        (["--exemplar"], "--exemplar shows the query's reference answer"),
    ],
)
def test_bad_options(delia: Delia, tmp_path: Path, arguments: list[str], fault: str) -> None:
    given = ["--engine", "mock", "--target", 5, *arguments]
    refused(delia("sample", tmp_path / "out", *given), fault)
    assert not (tmp_path / "out" / "FINISHED").exists()
    if arguments[0] != "--target":
        refused(delia("sample", "--estimate", tmp_path / "out", *given), fault)


# Estimates


@pytest.mark.parametrize("command", [["sample", "--estimate"], ["plan"]])
def test_estimate_writes_nothing(delia: Delia, tmp_path: Path, command: list[str]) -> None:
    arguments = [*command, tmp_path / "cache", "--engine", "mock", "--target", 1000]
    result = delia(*arguments)
    assert result.code == 0, result.err
    lines = {line.strip().partition("  ")[0]: line.split()[-3:] for line in result.out.splitlines()}
    assert lines["rows to request"] == ["1,000", "1,000", "1,000"]
    assert lines["tokens to generate"] == ["12,000", "12,000", "12,000"]
    assert not (tmp_path / "cache").exists()
    printed = json.loads(delia(*arguments, "--json", "--probe-rows", 20).out)
    assert (printed["probed"], printed["tokens"]["value"]) == (20, 12_000)


def test_estimate_warns_of_too_few_queries(delia: Delia, tmp_path: Path, queries: Path) -> None:
    arguments = ["sample", "--estimate", tmp_path / "cache", "--engine", "mock"]
    arguments += ["--queries", queries]
    result = delia(*arguments, "--target", 100)
    assert "the queries provide only 40 rows: add queries" in result.out
    refused(delia(*arguments, "--target", 100, "--probe-rows", 0), "--probe-rows 0 is too few")


@pytest.fixture
def grown_from(delia: Delia, tmp_path: Path) -> Path:
    """A cache with other settings, over the bundled queries."""
    settings = ["--system", "Be brief.", "--max-tokens", 60, "--top-p", 0.5, "--seed", 3]
    settings += ["--keep-refusals", "--near-duplicates", 0, "--token", "<json>"]
    done = delia("sample", tmp_path / "first", "--engine", "mock", "--target", 9, *settings)
    assert done.code == 0, done.err
    return tmp_path / "first"


def test_from_starts_with_the_pairs_of_another_cache(
    delia: Delia, tmp_path: Path, grown_from: Path
) -> None:
    before = {path.name: path.read_bytes() for path in grown_from.iterdir()}
    for target in (15, 15, 20):
        done = delia("sample", tmp_path / "second", "--from", grown_from, "--target", target)
        assert done.code == 0, done.err
    first, second = read_cache(grown_from), read_cache(tmp_path / "second")
    assert second[: len(first)] == first
    assert len({pair.id for pair in second}) == 20
    assert read_manifest(tmp_path / "second").settings == read_manifest(grown_from).settings
    assert {path.name: path.read_bytes() for path in grown_from.iterdir()} == before


def test_options_override_the_settings_of_the_from_cache(
    delia: Delia, tmp_path: Path, grown_from: Path, queries: Path
) -> None:
    given = ["sample", tmp_path / "second", "--from", grown_from, "--target", 20]
    refused(delia(*given, "--top-p", 0.95), "top_p was 0.5 and is now 0.95")
    assert names(tmp_path / "second") == {".lock"}
    done = delia(*given, "--queries", queries)
    assert done.code == 0, done.err
    assert {pair.query for pair in read_cache(tmp_path / "second")[9:]} <= {
        f"Tell me about {i}." for i in range(40)
    }


def test_interrupted_copy_is_repeated(
    delia: Delia, tmp_path: Path, grown_from: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    given = ["sample", tmp_path / "second", "--target", 15]
    with monkeypatch.context() as patch:
        patch.setattr("delia_data.sampling.store.write_json", killed)
        delia(*given, "--from", grown_from)
    assert (tmp_path / "second" / "pairs-00000.parquet").exists()
    refused(delia(*given, "--engine", "mock"), "holds pairs but no plan.json")
    assert delia(*given, "--from", grown_from).code == 0
    assert read_cache(tmp_path / "second")[:9] == read_cache(grown_from)


def test_from_rejects_anything_but_a_cache(
    delia: Delia, tmp_path: Path, grown_from: Path, queries: Path
) -> None:
    given = ["sample", tmp_path / "out", "--from", tmp_path / "none", "--target", 5]
    refused(delia(*given), "none does not exist: give a folder that a command wrote")
    arguments = ["--queries", queries, "--engine", "mock", "--target", 5]
    assert delia("sample", tmp_path / "rows", *arguments).code == 0
    again = ["sample", tmp_path / "out", "--from", tmp_path / "rows", "--target", 7]
    refused(delia(*again), "--queries")
    assert not (tmp_path / "out").exists()
    assert delia(*again, "--queries", queries).code == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    given = ["sample", tmp_path / "mine", "--from", grown_from, "--target", 12]
    refused(delia(*given), "holds something else")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
