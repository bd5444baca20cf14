"""Contrast rows in a mixture: places, counts, columns, and every way in and out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import Delia
from datasets import load_dataset
from mixtures import pairs
from row_files import pair_rows, write_jsonl
from transformers import PreTrainedTokenizerBase
from wordings import contrast_task

from delia_data.errors import FormatError, InputError
from delia_data.hub import diff
from delia_data.hub.card import make_card
from delia_data.hub.parts import check_mixture, mix_ratios, publication_manifest, read_parts
from delia_data.mixing import Mixture, Order, TaskRows, mix, read_task_rows, save_mixture, schema
from delia_data.outputs import Manifest, finish
from delia_data.records import FORMATS, Format, Message, Record, read_record, write_record
from delia_data.tokens import add_token_to_tokenizer, lint_rows

CACHE = pairs(100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of 12 rows, 5 held out, with 6 contrast rows."""
    made = tmp_path_factory.mktemp("contrast") / "task"
    contrast_task(made, contrast=0.5)
    return made


@pytest.fixture(scope="module")
def task(folder: Path) -> TaskRows:
    return read_task_rows(folder)


def without_contrast(mixture: Mixture) -> list[dict[str, Any]]:
    rows = [row for row in mixture.train.to_pylist() if row["source"] != "contrast"]
    assert all(row.pop("teacher_messages") is None for row in rows)
    return rows


@pytest.mark.parametrize("order", ["shuffled", "interleaved"])
@pytest.mark.parametrize("ratio", [0, 0.5, 4])
def test_they_change_nothing_else(task: TaskRows, order: Order, ratio: float) -> None:
    mixture = mix(task, CACHE, ratio=ratio, order=order)
    plain = mix(replace(task, contrast=()), CACHE, ratio=ratio, order=order)
    assert without_contrast(mixture) == plain.train.to_pylist()
    wanted = {"task": 12, "cache": round(12 * ratio), "contrast": 6}
    assert Counter(mixture.train["source"].to_pylist()) == +Counter(wanted)
    assert mixture.manifest.rows == {**wanted, "test": 5}
    assert mixture.num_rows == sum(wanted.values())
    assert mixture.manifest.details["contrast"] == {"forbid": 2, "mention": 2, "plain": 2}
    assert mixture.manifest.details["written_by"] == {"contrast": {"name": "mock"}}
    assert "contrast" not in {*plain.manifest.rows, *plain.manifest.details, *plain.manifest.inputs}
    assert plain.train.schema == schema("messages")


def test_each_has_its_answer_and_its_teacher(task: TaskRows) -> None:
    rows = mix(task, CACHE, ratio=2).train.to_pylist()
    known = {row.record.id: row for row in task.contrast}
    for row in (row for row in rows if row["source"] == "contrast"):
        own = known.pop(row["source_id"])
        assert read_record({"messages": row["messages"]}) == own.record
        assert row["teacher_messages"] == [turn.as_dict() for turn in own.teacher_messages]
        assert row["wording_id"] is None
    assert not known


def test_places_are_pinned(task: TaskRows) -> None:
    """Interleaved: after the groups 0, 2, 4, ... of 12, as there are half as many."""
    mixture = mix(task, CACHE, ratio=1, order="interleaved")
    sources = "".join({"task": "t", "cache": "p", "contrast": "c"}[s] for s in origins(mixture))
    assert sources == "tpctp" * 6
    shuffled = [i for i, s in enumerate(origins(mix(task, CACHE, ratio=1))) if s == "contrast"]
    again = mix(replace(task, contrast=task.contrast[::-1]), CACHE, ratio=1)
    assert shuffled == [i for i, source in enumerate(origins(again)) if source == "contrast"]
    assert again.train.equals(mix(task, CACHE, ratio=1).train)
    other = mix(task, CACHE, ratio=1, seed=1)
    assert shuffled != [i for i, source in enumerate(origins(other)) if source == "contrast"]


def origins(mixture: Mixture) -> list[str]:
    sources: list[str] = mixture.train["source"].to_pylist()
    return sources


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_has_the_column_in_both_splits(task: TaskRows, format: Format) -> None:
    mixture = mix(task, CACHE, ratio=2, format=format)
    assert mixture.test is not None
    columns = schema(format, taught=True)
    assert columns.names == [*schema(format).names, "teacher_messages"]
    assert mixture.train.schema == mixture.test.schema == mixture.schema == columns
    assert mixture.test["teacher_messages"].null_count == 5
    by_id = {row.record.id: row.record for row in task.contrast}
    for row in mixture.train.to_pylist():
        assert row["source_id"] not in by_id or read_record(row) == by_id[row["source_id"]]


def test_alpaca_refuses_a_system_turn(task: TaskRows) -> None:
    first = task.contrast[0]
    turns = (Message("system", "Be brief."), *first.record.messages)
    longer = replace(task, contrast=(replace(first, record=Record(turns)),))
    with pytest.raises(FormatError, match="the task has system turns"):
        mix(longer, CACHE, ratio=1, format="alpaca")


def test_weights_held_out_rows_and_equal_pairs(task: TaskRows) -> None:
    twice = mix({"a": task, "b": task}, CACHE, ratio=1, task_weights={"a": 2.0, "b": 0.5})
    assert twice.manifest.rows == {"task": 30, "cache": 30, "contrast": 15, "test": 10}
    by = {"name": "mock"}
    assert twice.manifest.details["written_by"] == {"contrast:a": by, "contrast:b": by}
    source = task.contrast[0].task_row
    held = [row for row in task.train if row.record.id == source]
    fewer = mix(task, CACHE, ratio=1, test=held)
    gone = sum(row.task_row == source for row in task.contrast)
    assert fewer.manifest.rows == {"task": 11, "cache": 11, "contrast": 6 - gone, "test": 1}
    assert fewer.manifest.dropped == {"task_row_is_held_out": 1, "contrast_row_is_held_out": gone}
    plain = next(row.record for row in task.contrast if row.kind == "plain")
    assert mix(task, [*CACHE, plain], ratio=1).manifest.dropped == {"also_in_task": 1}


def test_a_saved_mixture_loads_with_every_column(task: TaskRows, tmp_path: Path) -> None:
    mixture = mix(task, CACHE, ratio=2)
    save_mixture(mixture, tmp_path / "mixture")
    assert mixture.test is not None
    expected = {"train": mixture.train.to_pylist(), "test": mixture.test.to_pylist()}
    home = {"cache_dir": str(tmp_path / "home")}
    loaded = load_dataset(str(tmp_path / "mixture"), "ratio-2", **home)
    assert {name: rows.to_list() for name, rows in loaded.items()} == expected
    card = (tmp_path / "mixture" / "README.md").read_text()
    assert "12 task rows, 6 contrast rows and 24 pairs" in card


@pytest.mark.parametrize("streaming", [False, True])
def test_the_builder_gives_the_same_rows(
    folder: Path, task: TaskRows, tmp_path: Path, streaming: bool
) -> None:
    cache = write_jsonl(tmp_path / "cache.jsonl", pair_rows(60))
    expected = mix(task, cache, ratio=3)
    assert expected.test is not None
    home = {"cache_dir": str(tmp_path / "home"), "streaming": streaming}
    splits = load_dataset("delia_mix", ratio=3, task=folder, cache=cache, **home)
    assert list(splits["train"]) == expected.train.to_pylist()
    assert list(splits["test"]) == expected.test.to_pylist()
    assert set(splits["train"].features) == set(expected.schema.names)


def test_the_command_counts_them(delia: Delia, folder: Path, tmp_path: Path) -> None:
    cache = write_jsonl(tmp_path / "cache.jsonl", pair_rows(60))
    result = delia("mix", folder, cache, tmp_path / "out", "--ratio", 1)
    assert result.code == 0, result.err
    assert "ratio-1: 12 task rows, 6 contrast rows and 12 pairs" in result.out
    checked = delia("lint", tmp_path / "out", "--show", 1)
    assert checked.code == 0, checked.err
    assert "contrast row:" in checked.out
    assert "6 contrast rows: " in checked.out
    assert "30 rows: <sep> is always a single id" in checked.out


def test_tokens_are_counted_by_source(
    task: TaskRows, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    """One byte, one id: the answers of contrast rows, and an end mark for each."""
    add_token_to_tokenizer(tiny_tokenizer)
    mixture = mix(task, CACHE, ratio=1)
    tokens = save_mixture(mixture, tmp_path, tokenizer=tiny_tokenizer).details["tokens"]
    answers = sum(len(row.record.answer) + 1 for row in task.contrast)
    assert tokens["contrast"] > tokens["contrast_answers"] == answers


def test_a_publication_checks_them(folder: Path, task: TaskRows, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    save_pairs = [{**write_record(pair), "source_id": pair.id} for pair in CACHE]
    pq.write_table(pa.Table.from_pylist(save_pairs), cache / "pairs-00000.parquet")
    finish(cache, Manifest(kind="cache", rows={"kept": len(CACHE)}))
    parts = read_parts([folder, cache])
    part = mix_ratios(parts, [2], tmp_path / "mixed")["ratio-2"]
    assert part.manifest.rows["contrast"] == 6
    assert check_mixture(part, task, None) == 0
    with pytest.raises(InputError, match="has 1 contrast rows that the task does not have"):
        check_mixture(part, replace(task, contrast=task.contrast[1:]), None)
    counts = {"license": "mit", "citation": None, "allowed": {}, "pairs_in_cache": {"ratio-2": 24}}
    manifest = publication_manifest({**parts, "ratio-2": part}, None, **counts)
    settings = {**manifest.settings, "version": "1.0.0"}
    details = {**manifest.details, "why": "new"}
    text = make_card(
        "org/name", manifest.model_copy(update={"settings": settings, "details": details}), ""
    )
    assert "| configuration | ratio | task rows | contrast rows | pairs | held-out rows |" in text
    assert "| `ratio-2` | 2 | 12 | 6 | 24 | 5 |" in text


def test_a_difference_of_tasks_counts_them(folder: Path, tmp_path: Path) -> None:
    contrast_task(tmp_path / "fewer", contrast=0.25)
    (change,) = diff(tmp_path / "fewer", folder).rows
    assert (change.where, change.added, change.removed, change.same) == ("task", 3, 0, 20)


def test_lint_accepts_the_token_in_their_requests_only(
    task: TaskRows, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    add_token_to_tokenizer(tiny_tokenizer)
    rows = [(row.record, "contrast") for row in task.contrast]
    report = lint_rows([*rows, (task.train[0].record, "task")], tiny_tokenizer, examples=1)
    assert (report.rows, report.problems) == ({"contrast": 6, "task": 1}, ())
    assert [example.source for example in report.examples] == ["contrast", "task"]
    named = Record.pair("Say it.", "In <sep>, so.")
    (problem,) = lint_rows([(named, "contrast")], tiny_tokenizer).problems
    assert (problem.check, problem.reason) == (
        "pair-names-token",
        "the answer of a contrast row names <sep>",
    )
    forbid = next(row.record for row in task.contrast if row.kind == "forbid")
    (problem,) = lint_rows([(forbid, "cache")], tiny_tokenizer).problems
    assert problem.reason == "a pair names <sep>"
