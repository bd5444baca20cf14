"""Training on mixtures as they are written: in their order, and refused where they do not fit."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import Delia, refused
from mixtures import pairs, task_rows
from trained import tiny_settings
from transformers import PreTrainedModel

from delia_data.errors import InputError
from delia_data.mixing import mix, save_mixture
from delia_data.models import identify_files, load_tokenizer
from delia_data.outputs import Manifest, finish, read_manifest
from delia_data.records import read_record, write_record
from delia_data.tokens import add_token_to_tokenizer, render_ids
from delia_data.training import TrainSettings, read_recipe, train
from delia_data.training.data import (
    NO_ANSWER,
    ProvenanceWarning,
    mismatched_sources,
    open_training_rows,
)
from delia_data.training.prepare import prepare
from delia_data.training.settings import as_recipe

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:(torch|peft|trl|transformers|accelerate).*"),
]


@pytest.fixture
def settings(
    tmp_path: Path, make_tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: Any
) -> TrainSettings:
    return tiny_settings(
        tmp_path / "model", make_tiny_model(), tiny_tokenizer, epochs=1, batch_size=6
    )


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    """4 task rows and 8 pairs."""
    return saved(tmp_path / "mixture")


def saved(folder: Path, *, writer: Any = None, **options: Any) -> Path:
    cache: Any = pairs(12)
    if writer is not None:
        place = folder.with_name(f"{folder.name}-cache")
        place.mkdir()
        rows = [write_record(record) for record in cache]
        pq.write_table(pa.Table.from_pylist(rows), place / "pairs.parquet")
        finish(place, Manifest(kind="cache", settings={"model": writer}))
        cache = place
    save_mixture(mix(task_rows(4), cache, ratio=2, **options), folder)
    return folder


@contextmanager
def seen_rows(tokenizer: Any) -> Iterator[list[set[str]]]:
    """The rows that the model is given, a set for each micro-batch."""
    from delia_data.training.trainer import MixtureTrainer

    seen: list[set[str]] = []
    own = MixtureTrainer.compute_loss

    def compute_loss(
        self: Any, model: Any, inputs: dict[str, Any], *args: Any, **given: Any
    ) -> Any:
        if "position_ids" in inputs:
            ids, places = inputs["input_ids"][0].tolist(), inputs["position_ids"][0].tolist()
            starts = [i for i, place in enumerate(places) if place == 0] + [len(ids)]
            rows = [ids[a:b] for a, b in pairwise(starts)]
        else:
            lengths = inputs["attention_mask"].sum(1).tolist()
            rows = [r[:n] for r, n in zip(inputs["input_ids"].tolist(), lengths, strict=True)]
        seen.append({tokenizer.decode(each) for each in rows})
        return own(self, model, inputs, *args, **given)

    MixtureTrainer.compute_loss = compute_loss
    try:
        yield seen
    finally:
        MixtureTrainer.compute_loss = own


def texts(folder: Path, tokenizer: Any) -> list[str]:
    """The mixture's rows through the chat template, in the order in which they lie there."""
    records = [read_record(row) for row in pq.read_table(folder / "train.parquet").to_pylist()]
    turns = [[message.as_dict() for message in record.messages] for record in records]
    return [tokenizer.decode(render_ids(tokenizer, each, generate=False)) for each in turns]


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("order", ["interleaved", "shuffled"])
def test_nothing_shuffles_again(
    settings: TrainSettings, tmp_path: Path, order: Any, packing: bool
) -> None:
    folder = saved(tmp_path / "mixture", order=order)
    sources = pq.read_table(folder / "train.parquet")["source"].to_pylist()
    if order == "interleaved":
        assert sources == ["task", "cache", "cache"] * 4
    tokenizer = load_tokenizer(settings.model)
    add_token_to_tokenizer(tokenizer)
    alone = replace(settings, batch_size=1, epochs=2, packing=packing)
    with seen_rows(tokenizer) as seen:
        train(alone, folder, tmp_path / "alone")
    expected = texts(folder, tokenizer)
    assert [text for each in seen for text in each] == expected * 2
    with seen_rows(tokenizer) as seen:
        train(replace(settings, batch_size=4, packing=packing), folder, tmp_path / "four")
    assert [set(expected[i : i + 4]) for i in (0, 4, 8)] == seen


def test_everything_that_a_mixture_can_be_is_trained_alike(
    settings: TrainSettings, mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pq.read_table(mixture / "train.parquet").to_pylist()
    lines = "".join(json.dumps(write_record(read_record(row))) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines)  # without a word on where each is from
    mixed = mix(task_rows(4), pairs(12), ratio=2)
    given = [mixture, rows, mixture / "train.parquet", tmp_path / "rows.jsonl", mixed]
    made = [train(settings, each, tmp_path / f"{i}") for i, each in enumerate(given)]
    assert all(each.rows == {"task": 4, "cache": 8} for each in made)
    assert len({json.dumps(each.inputs) for each in made}) == 1
    weights = {each.files["adapter_model.safetensors"] for each in made}
    assert len(weights) == 1


def test_a_mixture_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))
    rows = open_training_rows("delia_mix:ratio-0.1")
    assert rows.tokens == ["<sep>"]
    assert rows.written_by["cache"]["name"]
    assert len(list(rows.records([]))) == 110


def test_the_resolved_settings_are_a_recipe(
    settings: TrainSettings, mixture: Path, tmp_path: Path, delia: Delia
) -> None:
    (tmp_path / "mine.yaml").write_text(as_recipe(replace(settings, batch_size=None)))
    command = ("train", mixture, tmp_path / "a", "--recipe", tmp_path / "mine.yaml", "--json")
    result = delia(*command, "--seed", 3)
    assert result.code == 0, result.err
    told = json.loads(result.out)
    assert (told["rows"], told["details"]["steps"]) == ({"task": 4, "cache": 8}, 1)
    recipe = read_recipe(tmp_path / "a" / "recipe.yaml")
    assert (recipe.seed, recipe.batch_size, recipe.dtype) == (3, 16, "bfloat16")
    assert "batch_size: 16" in result.err
    again = delia("train", mixture, tmp_path / "b", "--recipe", tmp_path / "a" / "recipe.yaml")
    assert again.code == 0 and "1 steps, last loss" in again.out
    weights = [read_manifest(tmp_path / name).files["adapter_model.safetensors"] for name in "ab"]
    assert weights[0] == weights[1]


def test_pairs_of_another_model_are_warned_of(
    settings: TrainSettings, tmp_path: Path, delia: Delia
) -> None:
    own = identify_files(settings.model, load_tokenizer(settings.model))
    cases = [
        ({**own, "weights_sha256": "0" * 64, "name": "other"}, "were written by other, and model"),
        ({**own, "chat_template_sha256": "0" * 64}, "sampled through another chat template"),
        ("org/other", "were written by org/other, and model"),
    ]
    for number, (writer, told) in enumerate(cases):
        folder = saved(tmp_path / f"mixture-{number}", writer=writer)
        with pytest.warns(ProvenanceWarning, match=told):
            made = train(settings, folder, tmp_path / f"{number}")
        assert told in made.details["foreign_words"][0]
    (tmp_path / "mine.yaml").write_text(as_recipe(settings))
    shown = delia("train", folder, tmp_path / "shown", "--recipe", tmp_path / "mine.yaml")
    assert shown.code == 0
    assert "\nwarning: the cache's pairs were written by org/other" in shown.err
    assert "warnings.warn" not in shown.err


def test_a_models_own_pairs_are_known_whatever_type_it_wrote_them_in(
    settings: TrainSettings, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(settings.model)
    own = [
        identify_files(settings.model, tokenizer, dtype=dtype) for dtype in ("bfloat16", "float32")
    ]
    for writer in (*own, {"name": "Model"}, "some/model"):
        assert mismatched_sources({"cache": writer}, settings.model, tokenizer) == []
    folder = saved(tmp_path / "mixture", writer=own[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ProvenanceWarning)
        assert "foreign_words" not in train(settings, folder, tmp_path / "a").details
    prepare(settings.model, tmp_path / "prepared")
    assert mismatched_sources({"cache": own[0]}, str(tmp_path / "prepared"), tokenizer) == []


def test_what_is_no_mixture_is_refused_and_nothing_is_left(
    settings: TrainSettings, mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the command refuses besides is in test_training_refusals.py."""
    out = tmp_path / "out"
    with pytest.raises(InputError, match="nowhere is not there: give a folder"):
        train(settings, "nowhere", out)
    cache = tmp_path / "cache"
    cache.mkdir()
    finish(cache, Manifest(kind="cache"))
    with pytest.raises(InputError, match="holds a cache, not a mixture"):
        train(settings, cache, out)
    with monkeypatch.context() as patch:
        patch.setenv("ACCELERATE_USE_FSDP", "true")
        with pytest.raises(InputError, match=r"FSDP shards it: launch with ddp\.yaml"):
            train(replace(settings, adaptation="qlora"), mixture, out)
    assert not out.exists()


def test_cut_rows_are_counted_and_those_without_an_answer_left_out(
    settings: TrainSettings, mixture: Path, tmp_path: Path, delia: Delia
) -> None:
    tokenizer = load_tokenizer(settings.model)
    add_token_to_tokenizer(tokenizer)
    lengths = [len(tokenizer(text).input_ids) for text in texts(mixture, tokenizer)]
    longest = max(lengths)
    (tmp_path / "mine.yaml").write_text(as_recipe(replace(settings, max_length=longest - 2)))
    command = ("--recipe", tmp_path / "mine.yaml", "--truncate")
    result = delia("train", mixture, tmp_path / "a", *command)
    assert result.code == 0, result.err
    made = read_manifest(tmp_path / "a")
    assert made.details["cut"] == sum(length > longest - 2 for length in lengths)
    assert made.dropped == {}
    assert f"{made.details['cut']} rows were cut" in result.out
    rows = [write_record(record) | {"source": "cache"} for record in pairs(4)]
    rows[2]["messages"][0]["content"] = "long " * 40
    made = train(replace(settings, max_length=60, truncate=True), rows, tmp_path / "b")
    assert (made.dropped, made.details["cut"]) == ({NO_ANSWER: 1}, 1)
    with pytest.raises(InputError, match="no answer token of any of the 4 rows"):
        train(replace(settings, max_length=5, truncate=True), rows, tmp_path / "c")


def test_services_get_the_figures_or_one_line_says_why_not(
    settings: TrainSettings, mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    train(replace(settings, report_to=("tensorboard",)), mixture, tmp_path / "a")
    (events,) = (tmp_path / "a" / ".tensorboard").iterdir()
    content = events.read_bytes()
    assert b"train/loss_task" in content and b"train/loss_pairs" in content
    read_manifest(tmp_path / "a", verify=True)
    with pytest.raises(InputError, match="report_to: no_such is not supported, only"):
        train(replace(settings, report_to=("no_such",)), mixture, tmp_path / "b")
    with pytest.raises(ImportError, match="report_to: WandbCallback requires wandb"):
        train(replace(settings, report_to=("wandb",)), mixture, tmp_path / "c")


def test_wrong_flags_are_one_line_that_names_all(mixture: Path, delia: Delia) -> None:
    result = delia("train", mixture, "out", "--rank", "x", "--epochs", "many", "--dtype", "int4")
    refused(result, "rank 'x' is wrong", "epochs 'many' is wrong", "dtype 'int4' is wrong")
    refused(delia("train", mixture, "out", "--rank", 0, "--dropout", 2), "rank '0'", "dropout '2'")
    refused(delia("train", mixture, "out", "--recipe", "nope"), "recipe 'nope' is unknown")
