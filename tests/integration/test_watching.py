"""Watching a training: figures by source, measurements by step, and nothing changed by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trained import row, stop_at, tiny_settings
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from word_models import word_model, word_tokenizer

from delia_data.errors import InputError, SettingsError
from delia_data.models import load_model, load_tokenizer
from delia_data.tokens import add_token
from delia_data.training import TrainSettings, load_adapter, train
from delia_data.training.watching import WATCHED, AlignmentWatch, drop_after, read_watched

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


ROWS = [
    *(row(f"Is {i} even? <sep>", f"{{'even': {i % 2 == 0}}}", "task") for i in range(5)),
    *(row(f"Tell me about {i}.", f"It is a number, {i}.", "cache") for i in range(7)),
]


class RowNorm:
    """A watch of the test: the size of the token's row, and a draw of its own."""

    def __init__(self, name: str = "row/norm") -> None:
        self.name = name

    def measure(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, step: int
    ) -> dict[str, float]:
        token_id = tokenizer.convert_tokens_to_ids("<sep>")
        state = model.get_input_embeddings().weight[token_id]
        return {self.name: float(state.float().norm()), f"{self.name}/step": float(step)}


@pytest.fixture
def settings(
    tmp_path: Path,
    make_tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerBase,
) -> TrainSettings:
    return tiny_settings(
        tmp_path / "model",
        make_tiny_model(),
        tiny_tokenizer,
        dropout=0.05,
        save_every_steps=2,
        watch_every_steps=4,
        watch_keywords=("json",),
    )


def test_a_watched_training_is_the_same_training(settings: TrainSettings, tmp_path: Path) -> None:
    """Dropout is on: a watch that drew a random number would show."""
    train(settings, ROWS, tmp_path / "watched", watches=[RowNorm()])
    plain = replace(settings, watch_every_steps=None, watch_keywords=())
    train(plain, ROWS, tmp_path / "plain")
    for name in ("losses.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "watched" / name).read_text() == (tmp_path / "plain" / name).read_text()
    ours, theirs = (
        load_file(tmp_path / n / "adapter_model.safetensors") for n in ("watched", "plain")
    )
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
    assert not (tmp_path / "plain" / WATCHED).exists()
    watched = read_watched(tmp_path / "watched")
    assert [line["step"] for line in watched] == [0, 4, 6]
    assert [line["row/norm/step"] for line in watched] == [0, 4, 6]
    assert watched[0]["row/norm"] != watched[2]["row/norm"]


def test_a_run_that_goes_on_measures_no_step_twice(settings: TrainSettings, tmp_path: Path) -> None:
    often = replace(settings, watch_every_steps=1)
    train(often, ROWS, tmp_path / "unbroken", watches=[RowNorm()])

    with pytest.raises(KeyboardInterrupt):
        train(often, ROWS, tmp_path / "broken", watches=[RowNorm()], on_step=stop_at(5))
    file = tmp_path / "broken" / WATCHED
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [
        0,
        1,
        2,
        3,
        4,
        5,
    ]
    with file.open("a") as half:
        half.write('{"step": 6, "row/no')
    train(often, ROWS, tmp_path / "broken", watches=[RowNorm()])
    assert read_watched(tmp_path / "broken") == read_watched(tmp_path / "unbroken")


def test_losses_are_told_by_source(settings: TrainSettings, tmp_path: Path) -> None:
    """Steps one and four hold task rows alone, steps three and six pairs alone."""
    plain = replace(settings, watch_every_steps=None, watch_keywords=())
    train(plain, ROWS, tmp_path / "adapter")
    losses = json.loads((tmp_path / "adapter" / "losses.json").read_text())
    for first in (0, 3):
        task, mixed, pairs = losses[first : first + 3]
        assert task["loss_task"] == pytest.approx(task["loss"], rel=1e-5)
        assert pairs["loss_pairs"] == pytest.approx(pairs["loss"], rel=1e-5)
        assert "loss_pairs" not in task and "loss_task" not in pairs
        low, high = sorted([mixed["loss_task"], mixed["loss_pairs"]])
        assert low < mixed["loss"] < high


def test_two_watches_of_one_name_are_refused(settings: TrainSettings, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="two watches return row/norm, row/norm/step"):
        train(settings, ROWS, tmp_path / "adapter", watches=[RowNorm(), RowNorm()])


def test_what_cannot_be_watched_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no keywords"):
        AlignmentWatch("<sep>", [])
    with pytest.raises(SettingsError, match="watch_keywords require each other"):
        TrainSettings(watch_every_steps=5)
    with pytest.raises(InputError, match="train with watch_every_steps"):
        read_watched(tmp_path)
    (tmp_path / WATCHED).write_text("[1]\n")
    with pytest.raises(InputError, match="is broken"):
        read_watched(tmp_path)
    drop_after(tmp_path / "nothing.jsonl", 3)
    assert not (tmp_path / "nothing.jsonl").exists()


def test_keywords_of_the_settings_are_watched_beside_two_controls(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    tokenizer = word_tokenizer()
    model = tmp_path / "words"
    word_model(tokenizer).save_pretrained(model)
    tokenizer.save_pretrained(model)
    rows = [
        row("is it even ? <sep>", "{ even : yes }", "task"),
        row("is it red ?", "so", "cache"),
    ]
    keywords = ("json", "thought")
    over = {"model": str(model), "watch_keywords": keywords, "dtype": "float32", "epochs": 8}
    watched = replace(settings, report_to=("tensorboard",), **over)
    train(watched, rows * 2, tmp_path / "adapter")
    first, *_, last = read_watched(tmp_path / "adapter")
    assert (first["step"], last["step"]) == (0, 8)
    names = {f"l2/{word}/{place}" for word in keywords for place in ("first", "middle", "last")}
    assert names <= first.keys() == last.keys()
    for name in names:  # nothing trains the two controls; the token's row is trained
        assert first[name] == pytest.approx(first[f"{name}/untrained"], rel=0.02)
        assert last[name] != pytest.approx(last[f"{name}/untrained"], rel=0.02)
    again = AlignmentWatch("<sep>", keywords).measure(*load_adapter(tmp_path / "adapter"), 8)
    assert {"step": 8, **again} == pytest.approx(last, rel=1e-3)
    assert {f"{name}/ordinary" for name in names} <= again.keys()
    (events,) = (tmp_path / "events").iterdir()
    assert b"l2/json/middle/untrained" in events.read_bytes()
    vocabulary = load_tokenizer(str(tmp_path / "adapter")).get_vocab()
    assert len(vocabulary) == len(tokenizer) + 1, "the controls are not saved"


def test_the_embedded_models_token_beside_its_controls() -> None:
    """An untrained token stands where the second one does; moved, it alone stands elsewhere."""
    model, tokenizer = load_model(), load_tokenizer()
    token_id = add_token(model, tokenizer)
    before = json.dumps(tokenizer.get_vocab(), sort_keys=True), model.state_dict()
    before = before[0], {name: weight.clone() for name, weight in before[1].items()}
    watch = AlignmentWatch("<sep>", ["json", "thought"], words=4)
    untouched = watch.measure(model, tokenizer, 0)
    assert len(untouched) == 3 * 2 * 3 * 3  # measures, keywords, blocks, the token and two controls
    for keyword in ("json", "thought"):
        assert untouched[f"l2/{keyword}/middle"] == pytest.approx(
            untouched[f"l2/{keyword}/middle/untrained"], rel=0.02
        )
    assert json.dumps(tokenizer.get_vocab(), sort_keys=True) == before[0]
    assert all(torch.equal(weight, before[1][name]) for name, weight in model.state_dict().items())
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        weight[token_id] = weight[tokenizer.encode(" json", add_special_tokens=False)[-1]]
    moved = watch.measure(model, tokenizer, 1)
    assert moved["l2/json/first"] < 0.5 * untouched["l2/json/first"]
    for name in untouched:
        if name.endswith(("/untrained", "/ordinary")):
            assert moved[name] == pytest.approx(untouched[name], rel=1e-3)
