"""Training rows from every kind of input, and errors of the libraries that train."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from command_line import Delia, refused
from mixtures import pairs, task_rows

from delia_data.errors import (
    DeliaError,
    EngineError,
    InputError,
    MissingExtraError,
    OutputError,
    TokenError,
)
from delia_data.mixing import mix, save_mixture
from delia_data.training.data import count_rows, open_training_rows
from delia_data.training.loading import training_errors

ROWS = [
    {"prompt": "as <sep>", "completion": "a"},
    {"prompt": "a question", "completion": "b"},
    {"prompt": "another <sep>", "completion": "c"},
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.fixture
def tokenizer(tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("delia_data.cli.lint.load_tokenizer", lambda *_: tiny_tokenizer)
    return tiny_tokenizer


def write_splits(folder: Path) -> Path:
    (folder / "train.jsonl").write_text(LINES)
    (folder / "test.jsonl").write_text(LINES)
    return folder


@pytest.mark.parametrize(
    "make",
    [
        write_splits,
        lambda _: datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
        lambda _: iter(ROWS),
    ],
)
def test_every_input_gives_the_same_rows(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    rows = open_training_rows(make(tmp_path))
    assert count_rows(rows, "<sep>") == count_rows(open_training_rows(ROWS), "<sep>")
    assert [source for _, source in rows.records(["<sep>"])] == ["task", "cache", "task"]


def turns(answer: Any, **more: Any) -> dict[str, Any]:
    """Return a row with an answer; `more` are other fields of its turn."""
    question = {"role": "user", "content": "q <sep>"}
    return {"messages": [question, {"role": "assistant", "content": answer, **more}]}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", turns("a", tool_calls=[{"id": "1"}]), "a.jsonl:1: the row uses tools"),
        ("a.jsonl", {**ROWS[0], "label": False}, "a.jsonl:1: the row is labeled as a bad answer"),
        ("a.json", [ROWS[0], {"prompt": "q"}], "a.json[1]: column 'completion' must hold text"),
        ("a.csv", 'prompt,completion\nq,a\n"r,b\ns,"c\n', "a.csv:3: the quotes of the row"),
        ("a.txt", "q a", "a.txt has an unknown ending"),
    ],
)
def test_rows_that_no_training_takes(
    name: str, content: Any, reason: str, delia: Delia, tmp_path: Path
) -> None:
    text = content if isinstance(content, str) else f"{json.dumps(content)}\n"
    (tmp_path / name).write_text(text)
    refused(delia("train", tmp_path / name, tmp_path / "out"), f"{tmp_path}/{reason}")
    assert not (tmp_path / "out").exists()


def test_files_of_a_folder_that_are_not_read_are_printed(
    delia: Delia, tmp_path: Path, tokenizer: Any
) -> None:
    (tmp_path / "train.jsonl").write_text(LINES)
    assert delia("lint", tmp_path).err == ""
    (tmp_path / "test.jsonl").write_text(LINES)
    (tmp_path / "notes.md").write_text("x")
    result = delia("lint", tmp_path)
    skipped = "notes.md (unknown kind), test.jsonl (split test)"
    note = f"note: {tmp_path}: not read: {skipped}\n"
    assert (result.code, result.err) == (0, note)
    result = delia("train", tmp_path, tmp_path / "out", "--model", tmp_path / "no-model")
    assert result.code == 2
    assert 0 < result.err.index(note) < result.err.index("delia: ")  # before a model is loaded


def test_a_column_names_the_source_of_a_row(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "source": "cache"}, {**ROWS[1], "source": "task"}]
    assert [source for _, source in open_training_rows(rows).records(["<sep>"])] == [
        "cache",
        "task",
    ]


def test_reasoning_is_removed_and_counted() -> None:
    rows = open_training_rows([turns("a", thinking="because")])
    assert [record.answer for record, _ in rows.records([])] == ["a"]
    assert rows.source.report.details() == {"changed": {"reasoning_removed": 1}}


def test_places_of_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n" + LINES)
    rows = open_training_rows(tmp_path / "rows.jsonl")
    assert rows.places({-1, 0, 2}) == {
        -1: "the tokenizer",
        0: f"{tmp_path / 'rows.jsonl'}:2",
        2: f"{tmp_path / 'rows.jsonl'}:4",
    }
    assert open_training_rows(ROWS).places([1])[1] == "row 1"


def test_a_mixture_in_memory_and_in_a_folder(tmp_path: Path) -> None:
    mixed = mix(task_rows(4), pairs(12), ratio=2)
    save_mixture(mixed, tmp_path / "mixture")
    opened = [open_training_rows(each) for each in (mixed, tmp_path / "mixture")]
    assert [rows.tokens for rows in opened] == [["<sep>"], ["<sep>"]]
    assert count_rows(opened[0], "<sep>") == count_rows(opened[1], "<sep>")
    assert opened[1].places([0])[0] == f"{tmp_path / 'mixture' / 'train.parquet'}: row 0"


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (RuntimeError("CUDA out of memory. Tried 2 GiB.\nSee"), EngineError, "lower max_length"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), EngineError, "lower max_leng"),
        (MemoryError(), EngineError, "out of memory: lower max_length"),
        (OSError(errno.ENOSPC, "No space left"), OutputError, "out cannot be written .*free some"),
        (RuntimeError("PytorchStreamWriter failed\nat"), OutputError, "rerun the same command"),
        (ValueError("x is not supported, only tensorboard"), InputError, "report_to: x is not"),
        (RuntimeError("X requires wandb: pip install wandb"), MissingExtraError, "report_to: X"),
        (TokenError("as it is"), TokenError, "^as it is$"),
        (ValueError("an internal error"), ValueError, "^an internal error$"),
    ],
)
def test_errors_of_other_libraries_become_one_line_with_the_next_step(
    error: Exception, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught, training_errors("out", lower="max_length"):
        raise error
    assert isinstance(caught.value, DeliaError | ValueError)
    assert "\n" not in str(caught.value)
