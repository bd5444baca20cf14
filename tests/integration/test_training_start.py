"""A training that begins where another one ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trained import stop_at, tiny_settings
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from delia_data.errors import SettingsError, UnfinishedError
from delia_data.experiments.cells import answer_loss, answer_losses
from delia_data.outputs import read_manifest
from delia_data.records import Record, write_record
from delia_data.training import TrainSettings, load_adapter, train

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

RECORDS = [Record.pair(f"Is {i} even? <sep>", f"{{'even': {i % 2 == 0}}}") for i in range(8)]
ROWS: list[dict[str, Any]] = [{**write_record(each), "source": "task"} for each in RECORDS]


@pytest.fixture
def settings(
    tmp_path: Path,
    make_tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerBase,
) -> TrainSettings:
    return tiny_settings(
        tmp_path / "model", make_tiny_model(), tiny_tokenizer, epochs=1, dtype="float32"
    )


def first_loss(folder: Path) -> float:
    return float(json.loads((folder / "losses.json").read_text())[0]["loss"])


def test_it_begins_with_the_weights_and_the_row_of_the_earlier_one(
    settings: TrainSettings, tmp_path: Path
) -> None:
    train(settings, ROWS, tmp_path / "first")
    model, tokenizer = load_adapter(tmp_path / "first")
    trained = answer_loss(model, tokenizer, RECORDS[:4])
    found = train(settings, ROWS, tmp_path / "second", start=tmp_path / "first")
    assert first_loss(tmp_path / "second") == pytest.approx(trained, rel=1e-3)
    assert first_loss(tmp_path / "first") > 1.02 * trained
    files = read_manifest(tmp_path / "first").files
    assert found.inputs["start"] == files["adapter_model.safetensors"]


def test_a_stopped_one_goes_on_and_another_start_is_refused(
    settings: TrainSettings, tmp_path: Path
) -> None:
    settings = replace(settings, save_every_steps=1, epochs=2)
    train(settings, ROWS, tmp_path / "first")
    train(settings, ROWS, tmp_path / "whole", start=tmp_path / "first")

    with pytest.raises(KeyboardInterrupt):
        train(settings, ROWS, tmp_path / "cut", start=tmp_path / "first", on_step=stop_at(3))
    with pytest.raises(SettingsError, match="start_sha256"):
        train(settings, ROWS, tmp_path / "cut")
    train(settings, ROWS, tmp_path / "cut", start=tmp_path / "first")
    weights = [
        (tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "cut")
    ]
    assert weights[0] == weights[1]


def test_wrong_starts_are_refused_in_one_line(settings: TrainSettings, tmp_path: Path) -> None:
    train(settings, ROWS[:4], tmp_path / "first")
    with pytest.raises(SettingsError, match="rank is 4 there and 8 here"):
        train(replace(settings, rank=8), ROWS, tmp_path / "a", start=tmp_path / "first")
    whole = replace(settings, adaptation="full", token_learning_rate=None)
    with pytest.raises(SettingsError, match="give the earlier one as model"):
        train(whole, ROWS, tmp_path / "b", start=tmp_path / "first")
    with pytest.raises(UnfinishedError):
        train(settings, ROWS, tmp_path / "c", start=tmp_path / "nothing")
    assert not any((tmp_path / name).exists() for name in "abc")


def test_the_loss_of_each_answer_stands_in_its_rows_place(
    settings: TrainSettings, tmp_path: Path
) -> None:
    train(settings, ROWS[:4], tmp_path / "adapter")
    model, tokenizer = load_adapter(tmp_path / "adapter")
    rows = [*RECORDS[:3], Record.pair("Why? <sep>", "A long answer, longer than the others.")]
    together = answer_losses(model, tokenizer, rows, batch_size=3)
    for row, loss in zip(rows, together, strict=True):
        (alone,) = answer_losses(model, tokenizer, [row])
        assert alone.tokens == loss.tokens
        assert alone.nats == pytest.approx(loss.nats, rel=1e-4)
    assert together[3].tokens > together[0].tokens
