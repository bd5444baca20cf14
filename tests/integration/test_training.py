"""Training on a random tiny model: the loss, the token's row, going on after a stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trained import ROWS, losses, row, stop_at, tiny_settings
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from delia_data.errors import (
    ForeignFolderError,
    InputError,
    LockedError,
    SettingsError,
    TokenError,
    UnfinishedError,
)
from delia_data.outputs import folder_lock, read_manifest
from delia_data.records import Record
from delia_data.tokens import add_token, encode
from delia_data.training import TrainSettings, load_adapter, train

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture
def settings(
    tmp_path: Path,
    make_tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerBase,
) -> TrainSettings:
    return tiny_settings(tmp_path / "model", make_tiny_model(), tiny_tokenizer)


def test_the_first_loss_is_that_of_the_answers_alone(
    settings: TrainSettings, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    """Worked out here from all logits of the untrained model, row by row."""
    model = AutoModelForCausalLM.from_pretrained(settings.model, dtype=torch.bfloat16)
    add_token(model, tiny_tokenizer)
    total, count = 0.0, 0
    for values in ROWS[:4]:
        encoded = encode(tiny_tokenizer, Record.pair(*(m["content"] for m in values["messages"])))
        ids = torch.tensor([encoded.ids])
        with torch.no_grad():
            logits = model(ids).logits[0, :-1].float()
        begin = len(encoded.prompt_ids) - 1
        loss = torch.nn.functional.cross_entropy(
            logits[begin:], ids[0, begin + 1 :], reduction="sum"
        )
        total, count = total + float(loss), count + len(encoded.answer_ids)
    train(settings, ROWS, tmp_path / "adapter")
    assert losses(tmp_path / "adapter")[0] == pytest.approx(total / count, rel=2e-3)
    files = read_manifest(tmp_path / "adapter", verify=True).files
    assert {"adapter_model.safetensors", "losses.json", "tokenizer.json"} <= set(files)


def test_the_rows_are_taken_in_their_order_and_the_loss_falls(
    settings: TrainSettings, tmp_path: Path
) -> None:
    steps: list[tuple[int, int, float]] = []
    manifest = train(settings, ROWS, tmp_path / "a", on_step=lambda *step: steps.append(step))
    assert [step[:2] for step in steps] == [(i, 6) for i in range(1, 7)]
    assert manifest.rows == {"task": 6, "cache": 6}
    assert losses(tmp_path / "a")[-1] < losses(tmp_path / "a")[0]
    train(settings, [*ROWS[4:], *ROWS[:4]], tmp_path / "b")
    train(settings, [ROWS[3], ROWS[2], ROWS[1], ROWS[0], *ROWS[4:]], tmp_path / "c")
    first, later, same = (losses(tmp_path / name)[0] for name in "abc")
    assert abs(first - later) > 10 * abs(first - same)


def test_micro_batches_change_nothing_but_rounding(settings: TrainSettings, tmp_path: Path) -> None:
    train(settings, ROWS, tmp_path / "whole")
    train(replace(settings, micro_batch_size=2), ROWS, tmp_path / "cut")
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=2e-2)


def test_without_a_rate_of_its_own_the_row_moves_with_the_others(
    settings: TrainSettings, tmp_path: Path
) -> None:
    train(
        replace(settings, token_learning_rate=None, learning_rate=1e-3), ROWS, tmp_path / "adapter"
    )
    base = AutoModelForCausalLM.from_pretrained(settings.model, dtype=torch.bfloat16)
    model, tokenizer = load_adapter(tmp_path / "adapter")
    row_ = model.get_input_embeddings().weight.detach()[tokenizer.convert_tokens_to_ids("<sep>")]
    mean = base.get_input_embeddings().weight.detach().float().mean(0)
    assert (row_.float() - mean).abs().max() < 6 * 1e-3 * 1.5


def test_a_stopped_run_goes_on_to_the_same_losses(settings: TrainSettings, tmp_path: Path) -> None:
    settings = replace(settings, save_every_steps=2)
    train(settings, ROWS, tmp_path / "unbroken")

    with pytest.raises(KeyboardInterrupt):
        train(settings, ROWS, tmp_path / "broken", on_step=stop_at(5))
    with pytest.raises(UnfinishedError):
        load_adapter(tmp_path / "broken")
    seen: list[int] = []
    train(settings, ROWS, tmp_path / "broken", on_step=lambda step, *_: seen.append(step))
    assert seen == [5, 6]
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")


def test_a_finished_run_is_not_done_again(settings: TrainSettings, tmp_path: Path) -> None:
    train(settings, ROWS, tmp_path / "adapter")

    def never(*_: Any) -> None:
        raise AssertionError("trained again")

    assert train(settings, ROWS, tmp_path / "adapter", on_step=never) == read_manifest(
        tmp_path / "adapter"
    )
    with pytest.raises(SettingsError, match="epochs was 2"):
        train(replace(settings, epochs=3), ROWS, tmp_path / "adapter")
    with pytest.raises(SettingsError, match="rows_sha256"):
        train(settings, ROWS[::-1], tmp_path / "adapter")


@pytest.mark.parametrize(
    ("rows", "error", "reason"),
    [
        ([], InputError, "no training rows"),
        ([row("no token", "x", "task")], TokenError, "a task row does not name <sep>"),
        ([row("<sep>", "x", "cache")], TokenError, "in row 0: a pair names <sep>"),
    ],
)
def test_unsound_rows_are_refused(
    settings: TrainSettings, tmp_path: Path, rows: Any, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        train(settings, rows, tmp_path / "adapter")


def test_a_foreign_or_busy_folder_is_left_alone(settings: TrainSettings, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    with pytest.raises(ForeignFolderError):
        train(settings, ROWS, folder)
    assert (folder / "README.md").read_text() == "mine"
    (folder / "README.md").unlink()
    with folder_lock(folder), pytest.raises(LockedError):
        train(settings, ROWS, folder)
