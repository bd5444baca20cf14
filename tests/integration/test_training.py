"""Training on a random tiny model: losses, order, resuming, watching, and what is refused."""

from __future__ import annotations

import json
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command_line import Delia, refused
from huggingface_hub.utils._telemetry import _TELEMETRY_QUEUE
from mixtures import pairs, task_rows
from safetensors.torch import load_file
from trained import MARKS, ROWS, losses, row, stop_at
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase
from word_models import word_model, word_tokenizer

from delia_data.errors import (
    ForeignFolderError,
    InputError,
    LockedError,
    SettingsError,
    TokenError,
    UnfinishedError,
)
from delia_data.experiments.cells import answer_loss, answer_losses
from delia_data.mixing import mix, save_mixture
from delia_data.models import identify_files, load_tokenizer
from delia_data.outputs import Manifest, finish, folder_lock, read_manifest
from delia_data.records import Record, read_record, write_record
from delia_data.tokens import add_token, add_token_to_tokenizer, encode, render_ids
from delia_data.training import TrainSettings, load_adapter, read_recipe, train
from delia_data.training.data import (
    NO_ANSWER,
    ProvenanceWarning,
    encode_rows,
    mismatched_sources,
    open_training_rows,
)
from delia_data.training.prepare import prepare
from delia_data.training.settings import as_recipe
from delia_data.training.watching import WATCHED, AlignmentWatch, drop_after, read_watched

pytestmark = MARKS


def read_losses(folder: Path) -> list[dict[str, float]]:
    return list(json.loads((folder / "losses.json").read_text()))


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def untrained(settings: TrainSettings, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return the model in float32 with the token added."""
    model = AutoModelForCausalLM.from_pretrained(settings.model, dtype=torch.float32)
    add_token(model, tokenizer)
    return model


# Losses


def test_the_first_loss_is_the_mean_over_the_answers_tokens(
    settings: TrainSettings, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    """Computed here from all logits of the untrained model, row by row."""
    settings = replace(settings, dtype="float32")
    model = untrained(settings, tiny_tokenizer)
    total, count = 0.0, 0
    for values in ROWS[:4]:
        encoded = encode(tiny_tokenizer, read_record(values))
        ids = torch.tensor([encoded.ids])
        with torch.no_grad():
            logits = model(ids).logits[0, :-1]
        begin = len(encoded.prompt_ids) - 1
        loss = torch.nn.functional.cross_entropy(
            logits[begin:], ids[0, begin + 1 :], reduction="sum"
        )
        total, count = total + float(loss), count + len(encoded.answer_ids)
    train(settings, ROWS, tmp_path / "adapter")
    assert losses(tmp_path / "adapter")[0] == pytest.approx(total / count, rel=1e-5)
    files = read_manifest(tmp_path / "adapter", verify=True).files
    assert {"adapter_model.safetensors", "losses.json", "tokenizer.json"} <= set(files)


def test_every_answer_of_a_pair_is_labeled(
    settings: TrainSettings, tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    """The loss of pairs of two turns, computed here from all logits of the untrained model."""
    settings = replace(settings, dtype="float32")
    model = untrained(settings, tiny_tokenizer)
    more = [{"role": "user", "content": "And why?"}, {"role": "assistant", "content": "It is so."}]
    rows = [{**each, "messages": [*each["messages"], *more]} for each in ROWS]
    total, count = 0.0, 0
    for values in rows[6:10]:
        turns = values["messages"]
        ids = render_ids(tiny_tokenizer, turns, generate=False)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
        for place in (1, 3):
            begin = len(render_ids(tiny_tokenizer, turns[:place], generate=True))
            end = len(render_ids(tiny_tokenizer, turns[: place + 1], generate=False))
            loss = torch.nn.functional.cross_entropy(
                logits[begin - 1 : end - 1], torch.tensor(ids[begin:end]), reduction="sum"
            )
            total, count = total + float(loss), count + end - begin
    train(settings, [*rows[6:], *rows[:6]], tmp_path / "adapter")
    assert losses(tmp_path / "adapter")[0] == pytest.approx(total / count, rel=1e-5)


def test_rows_are_taken_in_order_and_the_loss_falls(
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
    train(replace(settings, micro_batch_size=2), ROWS, tmp_path / "micro")
    assert losses(tmp_path / "micro") == pytest.approx(losses(tmp_path / "a"), rel=2e-2)


def test_a_training_opens_no_connection(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All other tests run with HF_HUB_OFFLINE, which hides what libraries would send."""
    hosts: list[Any] = []

    def refuse(host: Any, *_: Any, **__: Any) -> NoReturn:
        hosts.append(host)
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("CI", raising=False)
    train(settings, ROWS[:4], tmp_path / "adapter")
    _TELEMETRY_QUEUE.join()
    assert hosts == []


def test_losses_are_logged_by_source(settings: TrainSettings, tmp_path: Path) -> None:
    """Steps one and four hold task rows alone, steps three and six pairs alone."""
    train(settings, ROWS, tmp_path / "adapter")
    logged = read_losses(tmp_path / "adapter")
    for first in (0, 3):
        task, mixed, cache = logged[first : first + 3]
        assert task["loss_task"] == pytest.approx(task["loss"], rel=1e-5)
        assert cache["loss_pairs"] == pytest.approx(cache["loss"], rel=1e-5)
        assert "loss_pairs" not in task and "loss_task" not in cache
        low, high = sorted([mixed["loss_task"], mixed["loss_pairs"]])
        assert low < mixed["loss"] < high


def test_the_teacher_of_a_contrast_row_reads_the_plain_request(
    settings: TrainSettings, tmp_path: Path
) -> None:
    plain = [{"role": "user", "content": "Is 9 even?"}]
    contrast = row("Is 9 even? Do not use <sep>.", "It is odd.", "contrast")
    rows = [*ROWS, {**contrast, "teacher_messages": plain}]
    manifest = train(replace(settings, pairs_loss="kl"), rows, tmp_path / "adapter")
    assert manifest.rows == {"task": 6, "cache": 6, "contrast": 1}
    _, tokenizer = load_adapter(tmp_path / "adapter")
    encoded = encode_rows(open_training_rows(rows), tokenizer, settings).dataset
    taught = render_ids(tokenizer, plain, generate=True)
    assert encoded["teacher_prompt"][-1] == taught
    assert encoded["input_ids"][-1][: len(taught)] != taught
    assert not any(encoded["teacher_prompt"][:-1]) and not encoded["is_task"][-1]


@pytest.mark.parametrize("size", [1, 10])
def test_the_rate_of_the_row_is_relative_to_the_embedding(
    settings: TrainSettings, tmp_path: Path, size: int
) -> None:
    """Adam moves a value by about one learning rate per step, for any gradient."""
    base = AutoModelForCausalLM.from_pretrained(settings.model, dtype=torch.float32)
    with torch.no_grad():
        weight = base.get_input_embeddings().weight.mul_(size)
    base.save_pretrained(settings.model)
    train(replace(settings, token_rate=0.1), ROWS, tmp_path / "adapter")
    model, tokenizer = load_adapter(tmp_path / "adapter")
    trained = model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("<sep>")]
    step = (trained - weight.mean(0)).abs().max() / 6
    assert 0.05 < step / weight.square().mean().sqrt() < 0.15


def test_the_loss_of_each_answer_is_in_its_rows_place(
    settings: TrainSettings, tmp_path: Path
) -> None:
    train(settings, ROWS[:4], tmp_path / "adapter")
    model, tokenizer = load_adapter(tmp_path / "adapter")
    rows = [*map(read_record, ROWS[:3]), Record.pair("Why? <sep>", "A longer answer than others.")]
    together = answer_losses(model, tokenizer, rows, batch_size=3)
    for one, loss in zip(rows, together, strict=True):
        (alone,) = answer_losses(model, tokenizer, [one])
        assert alone.tokens == loss.tokens
        assert alone.nats == pytest.approx(loss.nats, rel=1e-4)
    assert together[3].tokens > together[0].tokens


# Resuming, and folders


def test_a_stopped_run_resumes_to_the_same_losses(settings: TrainSettings, tmp_path: Path) -> None:
    settings = replace(settings, save_every_steps=2)
    whole = train(settings, ROWS, tmp_path / "whole")

    with pytest.raises(KeyboardInterrupt):
        train(settings, ROWS, tmp_path / "cut", on_step=stop_at(5))
    with pytest.raises(UnfinishedError):
        load_adapter(tmp_path / "cut")
    seen: list[int] = []
    train(settings, ROWS, tmp_path / "cut", on_step=lambda step, *_: seen.append(step))
    assert seen == [5, 6]
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")

    def never(*_: Any) -> None:
        raise AssertionError("trained again")

    assert train(settings, ROWS, tmp_path / "whole", on_step=never) == whole
    with pytest.raises(SettingsError, match="epochs was 2"):
        train(replace(settings, epochs=3), ROWS, tmp_path / "whole")
    with pytest.raises(SettingsError, match="rows_sha256"):
        train(settings, ROWS[::-1], tmp_path / "whole")


def test_a_training_begins_with_the_weights_of_another(
    settings: TrainSettings, tmp_path: Path
) -> None:
    settings = replace(settings, dtype="float32", save_every_steps=1)
    first, start = tmp_path / "first", {"start": tmp_path / "first"}
    train(settings, ROWS, first)
    trained = answer_loss(*load_adapter(first), [read_record(each) for each in ROWS[:4]])
    manifest = train(settings, ROWS, tmp_path / "whole", **start)
    assert losses(tmp_path / "whole")[0] == pytest.approx(trained, rel=1e-3)
    assert losses(first)[0] > 1.02 * trained
    assert manifest.inputs["start"] == read_manifest(first).files["adapter_model.safetensors"]

    with pytest.raises(KeyboardInterrupt):
        train(settings, ROWS, tmp_path / "cut", on_step=stop_at(3), **start)
    with pytest.raises(SettingsError, match="start_sha256"):
        train(settings, ROWS, tmp_path / "cut")
    train(settings, ROWS, tmp_path / "cut", **start)
    assert weights(tmp_path / "whole") == weights(tmp_path / "cut")

    with pytest.raises(SettingsError, match="rank is 4 there and 8 here"):
        train(replace(settings, rank=8), ROWS, tmp_path / "a", **start)
    full = replace(settings, adaptation="full", token_rate=None)
    with pytest.raises(SettingsError, match="give the earlier one as model"):
        train(full, ROWS, tmp_path / "b", **start)
    with pytest.raises(UnfinishedError):
        train(settings, ROWS, tmp_path / "c", start=tmp_path / "nothing")
    assert not any((tmp_path / name).exists() for name in "abc")


def test_an_adapter_with_an_absolute_rate_is_still_read(
    settings: TrainSettings, tmp_path: Path
) -> None:
    train(replace(settings, epochs=1), ROWS, tmp_path / "adapter")
    manifest = read_manifest(tmp_path / "adapter")
    earlier = {k: v for k, v in manifest.settings.items() if k not in ("token_rate", "pairs_loss")}
    earlier["token_learning_rate"] = 0.02
    finish(tmp_path / "adapter", manifest.model_copy(update={"settings": earlier}))
    model, tokenizer = load_adapter(tmp_path / "adapter")
    assert len(tokenizer) == model.get_input_embeddings().weight.shape[0]
    with pytest.raises(SettingsError, match=r"relative: .*0\.02 is 0\.15"):
        TrainSettings.from_dict(earlier)


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


# Mixtures


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    """Write a mixture of 4 task rows and 8 pairs."""
    return saved(tmp_path / "mixture")


@pytest.fixture
def one_epoch(settings: TrainSettings) -> TrainSettings:
    return replace(settings, epochs=1, batch_size=6)


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
    """Record the rows that the model is given, a set for each micro-batch."""
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
    """Return the mixture's rows through the chat template, in their order."""
    records = [read_record(each) for each in pq.read_table(folder / "train.parquet").to_pylist()]
    turns = [[message.as_dict() for message in record.messages] for record in records]
    return [tokenizer.decode(render_ids(tokenizer, each, generate=False)) for each in turns]


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("order", ["interleaved", "shuffled"])
def test_nothing_shuffles_the_rows_again(
    one_epoch: TrainSettings, tmp_path: Path, order: Any, packing: bool
) -> None:
    folder = saved(tmp_path / "mixture", order=order)
    if order == "interleaved":
        sources = pq.read_table(folder / "train.parquet")["source"].to_pylist()
        assert sources == ["task", "cache", "cache"] * 4
    tokenizer = load_tokenizer(one_epoch.model)
    add_token_to_tokenizer(tokenizer)
    with seen_rows(tokenizer) as seen:
        alone = replace(one_epoch, batch_size=1, epochs=2, packing=packing)
        train(alone, folder, tmp_path / "alone")
    expected = texts(folder, tokenizer)
    assert [text for each in seen for text in each] == expected * 2
    with seen_rows(tokenizer) as seen:
        train(replace(one_epoch, batch_size=4, packing=packing), folder, tmp_path / "four")
    assert [set(expected[i : i + 4]) for i in (0, 4, 8)] == seen


def test_every_form_of_a_mixture_trains_alike(
    one_epoch: TrainSettings, mixture: Path, tmp_path: Path
) -> None:
    rows = pq.read_table(mixture / "train.parquet").to_pylist()
    lines = "".join(json.dumps(write_record(read_record(each))) + "\n" for each in rows)
    (tmp_path / "rows.jsonl").write_text(lines)  # without a column that names the source
    mixed = mix(task_rows(4), pairs(12), ratio=2)
    given = [mixture, rows, mixture / "train.parquet", tmp_path / "rows.jsonl", mixed]
    made = [train(one_epoch, each, tmp_path / f"{i}") for i, each in enumerate(given)]
    assert all(each.rows == {"task": 4, "cache": 8} for each in made)
    assert len({json.dumps(each.inputs) for each in made}) == 1
    assert len({each.files["adapter_model.safetensors"] for each in made}) == 1


def test_a_mixture_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))
    rows = open_training_rows("delia_mix:ratio-0.1")
    assert rows.tokens == ["<sep>"]
    assert rows.written_by["cache"]["name"]
    assert len(list(rows.records([]))) == 110


def test_the_resolved_settings_are_a_recipe(
    one_epoch: TrainSettings, mixture: Path, tmp_path: Path, delia: Delia
) -> None:
    (tmp_path / "mine.yaml").write_text(as_recipe(replace(one_epoch, batch_size=None)))
    command = ("train", mixture, tmp_path / "a", "--recipe", tmp_path / "mine.yaml", "--json")
    result = delia(*command, "--seed", 3)
    assert result.code == 0, result.err
    shown = json.loads(result.out)
    assert (shown["rows"], shown["details"]["steps"]) == ({"task": 4, "cache": 8}, 1)
    recipe = read_recipe(tmp_path / "a" / "recipe.yaml")
    assert (recipe.seed, recipe.batch_size, recipe.dtype != "auto") == (3, 16, True)
    assert "batch_size: 16" in result.err
    again = delia("train", mixture, tmp_path / "b", "--recipe", tmp_path / "a" / "recipe.yaml")
    assert again.code == 0 and "1 steps, last loss" in again.out
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_pairs_of_another_model_cause_a_warning(
    one_epoch: TrainSettings, tmp_path: Path, delia: Delia
) -> None:
    own = identify_files(one_epoch.model, load_tokenizer(one_epoch.model))
    cases = [
        ({**own, "weights_sha256": "0" * 64, "name": "other"}, "were written by other, and model"),
        ({**own, "chat_template_sha256": "0" * 64}, "sampled through another chat template"),
        ({**own, "template_options": {"x": 1}}, "sampled with template options x=1, and model"),
        ({**own, "system": "Be brief."}, "sampled with the system prompt 'Be brief.' and are tra"),
        ("org/other", "were written by org/other, and model"),
    ]
    for number, (writer, line) in enumerate(cases):
        folder = saved(tmp_path / f"mixture-{number}", writer=writer)
        with pytest.warns(ProvenanceWarning, match=line):
            made = train(one_epoch, folder, tmp_path / f"{number}")
        assert line in made.details["foreign_words"][0]
    (tmp_path / "mine.yaml").write_text(as_recipe(one_epoch))
    shown = delia("train", folder, tmp_path / "shown", "--recipe", tmp_path / "mine.yaml")
    assert shown.code == 0
    assert "\nwarning: the cache's pairs were written by org/other" in shown.err
    assert "warnings.warn" not in shown.err


def test_a_models_own_pairs_are_recognized_in_any_type_of_weights(
    one_epoch: TrainSettings, tmp_path: Path
) -> None:
    model, tokenizer = one_epoch.model, load_tokenizer(one_epoch.model)
    own = [identify_files(model, tokenizer, dtype=dtype) for dtype in ("bfloat16", "float32")]
    for writer in (*own, {"name": "Model"}, "some/model-True"):
        expected = 1 if writer == {"name": "Model"} else 0
        assert len(mismatched_sources({"cache": writer}, model, tokenizer)) == expected
    folder = saved(tmp_path / "mixture", writer=own[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ProvenanceWarning)
        assert "foreign_words" not in train(one_epoch, folder, tmp_path / "a").details
    prepare(model, tmp_path / "prepared")
    assert mismatched_sources({"cache": own[0]}, str(tmp_path / "prepared"), tokenizer) == []
    other = {"cache": {"name": "Model", "system": "Be brief."}}
    assert mismatched_sources(other, model, tokenizer, pairs_loss="kl") == []


def test_cut_rows_are_counted_and_those_without_an_answer_dropped(
    one_epoch: TrainSettings, mixture: Path, tmp_path: Path, delia: Delia
) -> None:
    tokenizer = load_tokenizer(one_epoch.model)
    add_token_to_tokenizer(tokenizer)
    lengths = [len(tokenizer(text).input_ids) for text in texts(mixture, tokenizer)]
    longest = max(lengths)
    (tmp_path / "mine.yaml").write_text(as_recipe(replace(one_epoch, max_length=longest - 2)))
    command = ("--recipe", tmp_path / "mine.yaml", "--truncate")
    result = delia("train", mixture, tmp_path / "a", *command)
    assert result.code == 0, result.err
    made = read_manifest(tmp_path / "a")
    assert made.details["cut"] == sum(length > longest - 2 for length in lengths)
    assert made.dropped == {}
    assert f"{made.details['cut']} rows were cut" in result.out
    rows = [write_record(record) | {"source": "cache"} for record in pairs(4)]
    rows[2]["messages"][0]["content"] = "long " * 40
    made = train(replace(one_epoch, max_length=60, truncate=True), rows, tmp_path / "b")
    assert (made.dropped, made.details["cut"]) == ({NO_ANSWER: 1}, 1)
    with pytest.raises(InputError, match="no answer token of any of the 4 rows"):
        train(replace(one_epoch, max_length=5, truncate=True), rows, tmp_path / "c")


# Watching


class RowNorm:
    """Measure the size of the token's row (a `Watch`)."""

    def measure(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, step: int
    ) -> dict[str, float]:
        token_id = tokenizer.convert_tokens_to_ids("<sep>")
        row_ = model.get_input_embeddings().weight[token_id].detach()
        return {"row/norm": float(row_.float().norm()), "row/norm/step": float(step)}


@pytest.fixture
def watched(settings: TrainSettings) -> TrainSettings:
    return replace(
        settings, dropout=0.05, save_every_steps=2, watch_every_steps=4, watch_keywords=("json",)
    )


def test_a_watched_training_is_the_same_training(watched: TrainSettings, tmp_path: Path) -> None:
    """Dropout is on, so a watch that drew a random number would change the losses."""
    train(watched, ROWS, tmp_path / "watched", watches=[RowNorm()])
    plain = replace(watched, watch_every_steps=None, watch_keywords=())
    train(plain, ROWS, tmp_path / "plain")
    for name in ("losses.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "watched" / name).read_text() == (tmp_path / "plain" / name).read_text()
    ours, theirs = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("watched", "plain")
    )
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
    assert not (tmp_path / "plain" / WATCHED).exists()
    lines = read_watched(tmp_path / "watched")
    assert [line["step"] for line in lines] == [0, 4, 6]
    assert [line["row/norm/step"] for line in lines] == [0, 4, 6]
    assert lines[0]["row/norm"] != lines[2]["row/norm"]
    with pytest.raises(SettingsError, match="two watches return row/norm, row/norm/step"):
        train(watched, ROWS, tmp_path / "twice", watches=[RowNorm(), RowNorm()])


def test_a_resumed_run_measures_no_step_twice(watched: TrainSettings, tmp_path: Path) -> None:
    often = replace(watched, watch_every_steps=1)
    train(often, ROWS, tmp_path / "whole", watches=[RowNorm()])

    with pytest.raises(KeyboardInterrupt):
        train(often, ROWS, tmp_path / "cut", watches=[RowNorm()], on_step=stop_at(5))
    file = tmp_path / "cut" / WATCHED
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [*range(5)]
    with file.open("a") as half:
        half.write('{"step": 5, "row/no')
    train(often, ROWS, tmp_path / "cut", watches=[RowNorm()])
    assert read_watched(tmp_path / "cut") == read_watched(tmp_path / "whole")


def test_keywords_are_watched_with_two_controls(
    watched: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    tokenizer, keywords = word_tokenizer(), ("json", "thought")
    word_model(tokenizer).save_pretrained(tmp_path / "words")
    tokenizer.save_pretrained(tmp_path / "words")
    rows = [row("is it even ? <sep>", "{ even : yes }", "task"), row("is it red ?", "so", "cache")]
    settings = replace(
        watched,
        model=str(tmp_path / "words"),
        watch_keywords=keywords,
        dtype="float32",
        epochs=8,
        report_to=("tensorboard",),
    )
    train(settings, rows * 2, tmp_path / "adapter")
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


def test_watches_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no keywords"):
        AlignmentWatch("<sep>", [])
    with pytest.raises(SettingsError, match="watch_keywords needs watch_every_steps"):
        TrainSettings(watch_keywords=("json",))
    with pytest.raises(InputError, match="train with watch_every_steps"):
        read_watched(tmp_path)
    (tmp_path / WATCHED).write_text("[1]\n")
    with pytest.raises(InputError, match="is broken"):
        read_watched(tmp_path)
    drop_after(tmp_path / "nothing.jsonl", 3)
    assert not (tmp_path / "nothing.jsonl").exists()


def test_trackers_receive_the_losses_and_unknown_ones_are_refused(
    one_epoch: TrainSettings, mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    train(replace(one_epoch, report_to=("tensorboard",)), mixture, tmp_path / "a")
    (events,) = (tmp_path / "a" / ".tensorboard").iterdir()
    content = events.read_bytes()
    assert b"train/loss_task" in content and b"train/loss_pairs" in content
    read_manifest(tmp_path / "a", verify=True)
    with pytest.raises(InputError, match="report_to: no_such is not supported, only"):
        train(replace(one_epoch, report_to=("no_such",)), mixture, tmp_path / "b")
    with pytest.raises(ImportError, match="report_to: WandbCallback requires wandb"):
        train(replace(one_epoch, report_to=("wandb",)), mixture, tmp_path / "c")


def test_trl_gives_the_column_of_template_options_to_the_template(
    make_settings: Callable[..., TrainSettings],
    tmp_path: Path,
    delia: Delia,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    base = make_settings().model
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = "{%- if short %}SHORT{% endif %}" + str(tokenizer.chat_template)
    tokenizer.save_pretrained(base)
    for name, count, query in (("task", 3, "what <sep>"), ("pairs", 9, "say")):
        lines = [{"prompt": f"{query} {i}", "completion": f"{i}"} for i in range(count)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{name}.jsonl").write_text(text)
    inputs = (tmp_path / "task.jsonl", tmp_path / "pairs.jsonl")
    flags = ("--ratio", "2", "--tokenizer", base)
    options = ("--template-option", "short=true")
    for name, more in (("plain", ()), ("short", options)):
        result = delia("mix", *inputs, tmp_path / name, *flags, *more)
        assert result.code == 0, result.err
    plain, short = (
        load_dataset(str(tmp_path / name), split="train") for name in ("plain", "short")
    )
    assert short[0]["chat_template_kwargs"] == {"short": True}
    assert plain.column_names == short.remove_columns("chat_template_kwargs").column_names
    assert plain.to_list() == short.remove_columns("chat_template_kwargs").to_list()
    assert read_manifest(tmp_path / "short").settings["template_options"] == {"short": True}
    assert "template_options" not in read_manifest(tmp_path / "plain").settings
    texts = []
    for rows in (plain, short):
        config = SFTConfig(
            output_dir=str(tmp_path / "out"), use_cpu=True, bf16=False, report_to="none"
        )
        model = AutoModelForCausalLM.from_pretrained(base)
        prepared = SFTTrainer(model, config, train_dataset=rows, processing_class=tokenizer)
        texts.append([tokenizer.decode(ids) for ids in prepared.train_dataset["input_ids"]])
    assert texts[1] == [f"SHORT{text}" for text in texts[0]]
    tokens = [read_manifest(tmp_path / name).details["tokens"] for name in ("plain", "short")]
    assert tokens[0]["task"] < tokens[1]["task"], "the counts use the options"
    capsys.readouterr()
    for option, problem in (("shrt=1", "did you mean 'short'"), ("a=[]", "cannot be a column of")):
        chosen = flags if option == "shrt=1" else flags[:2]
        result = delia("mix", *inputs, tmp_path / "x", *chosen, "--template-option", option)
        refused(result, problem)


# Refusals: one line each, exit code 2, and nothing half-saved


@pytest.mark.parametrize(
    ("rows", "error", "reason"),
    [
        ([], InputError, "no training rows"),
        ([row("no token", "x", "task")], TokenError, "a task row does not name <sep>"),
        ([row("<sep>", "x", "cache")], TokenError, "in row 0: a pair names <sep>"),
        ("nowhere", InputError, "nowhere does not exist: give a folder"),
    ],
)
def test_unsound_rows_are_refused(
    settings: TrainSettings, tmp_path: Path, rows: Any, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        train(settings, rows, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_inputs_that_are_not_mixtures_are_refused(
    settings: TrainSettings, mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").mkdir()
    finish(tmp_path / "cache", Manifest(kind="cache"))
    with pytest.raises(InputError, match="holds a cache, not a mixture"):
        train(settings, tmp_path / "cache", tmp_path / "out")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match=r"FSDP shards it: launch with ddp\.yaml"):
        train(replace(settings, adaptation="qlora"), mixture, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def unfinished(place: Path) -> None:
    (place / "mixture" / "FINISHED").unlink()


def other_token(place: Path) -> None:
    (place / "mixture").rename(place / "before")
    save_mixture(mix(task_rows(2), pairs(6), ratio=2, token=None), place / "mixture")


def without_template(place: Path) -> None:
    (place / "model-True" / "chat_template.jinja").unlink()


def short_context(place: Path) -> None:
    file = place / "model-True" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_position_embeddings": 30}))


def unknown_key(place: Path) -> None:
    recipe = place / "mine.yaml"
    recipe.write_text(recipe.read_text() + "lerning_rate: 1.0e-4\nranks: 3\n")


def nothing(place: Path) -> None:
    """Change nothing: the flags are wrong."""


@pytest.fixture
def place(one_epoch: TrainSettings, mixture: Path, tmp_path: Path) -> Path:
    (tmp_path / "mine.yaml").write_text(as_recipe(one_epoch))
    return tmp_path


@pytest.mark.parametrize(
    ("spoil", "flags", "parts"),
    [
        (unfinished, [], ["is not a finished output"]),
        (other_token, [], ["was mixed without a token, but token is <sep>"]),
        (nothing, ["--token", "<fmt>"], ["is for the token <sep>", "--token '<sep>'"]),
        (nothing, ["--max-length", "9"], ["12 of 12 rows are longer", "--truncate"]),
        (short_context, [], ["longer than the model's context of 30 tokens"]),
        (without_template, [], ["has no chat template"]),
        (unknown_key, [], ["'lerning_rate', did you mean 'learning_rate'", "'ranks'"]),
        (nothing, ["--targets", "w_proj"], ["targets w_proj are not modules of"]),
        (nothing, ["--device", "cuda"], ["torch finds no CUDA; try --device cpu"]),
        (nothing, ["--adaptation", "qlora"], ["bitsandbytes is not installed", "[qlora]"]),
        (nothing, ["--model", "nowhere/at-all"], ["nowhere/at-all"]),
        (nothing, ["--rank", "x", "--dropout", "2"], ["rank 'x' is wrong", "dropout '2'"]),
    ],
)
def test_a_training_that_cannot_run_leaves_one_line_and_no_folder(
    place: Path,
    delia: Delia,
    spoil: Callable[[Path], None],
    flags: list[str],
    parts: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "cuda" in flags:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    spoil(place)
    given = ("train", place / "mixture", place / "out", "--recipe", place / "mine.yaml")
    result = delia(*given, *flags)
    refused(result._replace(err="".join(result.err.splitlines(keepends=True)[-1:])), *parts)
    assert "Traceback" not in result.err
    assert result.out == ""
    assert not (place / "out").exists()


def test_running_out_of_memory_leaves_one_line_and_nothing_that_looks_finished(
    place: Path, delia: Delia, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")

    given = ("train", place / "mixture", place / "out", "--recipe", place / "mine.yaml")
    with monkeypatch.context() as patch:
        patch.setattr("delia_data.training.trainer.MixtureTrainer.compute_loss", fail)
        result = delia(*given)
    assert result.code != 0 and "Traceback" not in result.err
    (line,) = [line for line in result.err.splitlines() if line.startswith("delia: ")]
    assert "out of memory: lower micro_batch_tokens" in line
    names = {path.name for path in (place / "out").iterdir()}
    assert not names & {"FINISHED", "manifest.json", "adapter_model.safetensors", "recipe.yaml"}
    again = delia(*given)  # the files that are left do not prevent a rerun
    assert again.code == 0, again.err
