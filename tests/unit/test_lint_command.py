"""`delia lint`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Delia, refused
from mixtures import save_one_row
from row_files import write_jsonl

from delia_data.tokens import add_token_to_tokenizer

MARKED = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@pytest.fixture
def tokenizer(tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("delia_data.cli.lint.load_tokenizer", lambda *_: tiny_tokenizer)
    return tiny_tokenizer


def test_a_sound_mixture(delia: Delia, tmp_path: Path, tokenizer: Any) -> None:
    result = delia("lint", save_one_row(tmp_path, "a question <sep>"))
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        "1 pair: 15 tokens, 7 with a loss",
        "1 task row: 25 tokens, 10 with a loss",
        "longest row: 25 tokens",
        "2 rows: <sep> is always a single id, the labeled tokens are the answers and their ends",
    ]


def test_rows_are_shown_with_what_is_labelled(delia: Delia, tmp_path: Path, tokenizer: Any) -> None:
    out = delia("lint", save_one_row(tmp_path, "a question <sep>"), "--show", 1).out
    assert "task row:\n<|user|>a question <sep><|end|><|assistant|>[[an answer<|end|>]]\n" in out
    assert "pair:\n<|user|>query<|end|><|assistant|>[[answer<|end|>]]\n" in out
    assert "\x1b" not in out


def test_rows_that_are_too_long(delia: Delia, tmp_path: Path, tokenizer: Any) -> None:
    mixture = save_one_row(tmp_path, "a question <sep>")
    result = delia("lint", mixture, "--max-length", 8)
    refused(result, "problems in 2 rows: correct the rows")
    assert "<sep> is named 1 times, and 0 are left after truncation" in result.out
    assert "rows of more than 8: 2" in result.out
    refused(delia("lint", mixture, "--max-length", 20), "1 problem in 2 rows")
    kept = delia("lint", mixture, "--max-length", 20, "--truncate")
    assert kept.code == 0
    assert "1 task row: 20 tokens, 5 with a loss" in kept.out
    refused(delia("lint", mixture, "--truncate"), "give --max-length too")


def test_json(delia: Delia, tmp_path: Path, tokenizer: Any) -> None:
    mixture = save_one_row(tmp_path, "a question <sep>")
    result = delia("lint", mixture, "--json", "--show", 1)
    values = json.loads(result.out)
    assert (result.code, result.err) == (0, "")
    assert values["labelled"] == {"cache": 7, "task": 10}
    assert values["special_tokens"] == ["<sep>"]
    assert values["loss"] == "prompt-completion"
    assert len(values["examples"]) == 2
    wrong = delia("lint", mixture, "--json", "--max-length", 8)
    refused(wrong, "problems in 2 rows")
    assert json.loads(wrong.out)["problems_by_check"]["token-cut"] == 1


def test_generation_marks(delia: Delia, tmp_path: Path, tokenizer: Any) -> None:
    mixture = save_one_row(tmp_path, "a question <sep>")
    refused(delia("lint", mixture, "--loss", "generation-marks"), "no generation marks")
    tokenizer.chat_template = MARKED
    result = delia("lint", mixture, "--loss", "generation-marks")
    assert result.code == 0
    assert "1 task row: 25 tokens, 10 with a loss" in result.out
    assert delia("lint", mixture, "--loss", "everything").code == 2


def test_a_mixture_without_a_token(delia: Delia, tmp_path: Path, tokenizer: Any) -> None:
    result = delia("lint", save_one_row(tmp_path, "a question", token=None))
    assert result.code == 0
    assert "2 rows: the labeled tokens are the answers and their ends" in result.out


def test_rows_of_a_file_are_linted(delia: Delia, tmp_path: Path, tokenizer: Any) -> None:
    """A row that names the token is a task row, any other a pair."""
    rows = [{"prompt": "as <sep:x>", "completion": "a"}, {"prompt": "q", "completion": "b"}]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    printed = json.loads(delia("lint", file, "--token", "<sep:x>", "--json").out)
    assert printed["rows"] == {"cache": 1, "task": 1}
    assert printed["problems"] == []


def test_problems_and_errors_name_file_and_line(
    delia: Delia, tmp_path: Path, tokenizer: Any
) -> None:
    rows = [{"prompt": "as <sep>", "completion": "a"}, {"prompt": "<|end|>", "completion": "b"}]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    result = delia("lint", file)
    refused(result, "rows.jsonl: 1 problem in 2 rows")
    assert f"{file}:2: the user turn holds the control token <|end|>" in result.out
    file.write_text(json.dumps(rows[0]) + '\n{"prompt": "q"}\n', "utf-8")
    refused(delia("lint", file), f"{file}:2: ")


def test_another_token_than_the_mixtures(delia: Delia, tmp_path: Path, tokenizer: Any) -> None:
    mixture = save_one_row(tmp_path / "one", "a question <sep>")
    refused(delia("lint", mixture, "--token", "<json>"), "was mixed with <sep>, and <json>")
    assert delia("lint", mixture, "--token", "<sep>").code == 0


def test_a_token_that_the_model_knows(delia: Delia, tmp_path: Path, tokenizer: Any) -> None:
    mixture = save_one_row(tmp_path, "a question <|end|>", token="<|end|>")
    refused(delia("lint", mixture), "is already in the model's vocabulary with another role")
    add_token_to_tokenizer(tokenizer)
    assert delia("lint", save_one_row(tmp_path / "other", "a question <sep>")).code == 0
