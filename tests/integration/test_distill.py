"""Distillation of system prompts: rows with a teacher, the whole run, resume, agreement."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from command_line import Delia, refused
from micro_run import micro_model
from mixtures import pairs
from recording_engine import RecordingEngine
from trained import MARKS
from transformers import AutoTokenizer

from delia_data.distill import DistillSettings, distill, make_task, prompt_wordings
from delia_data.diversify import diversify, make_task_folder
from delia_data.errors import InputError, SettingsError
from delia_data.evaluation import AnswerFormat, EvalTask, make_probes
from delia_data.evaluation.evaluate import read_divergences
from delia_data.evaluation.keep import divergences
from delia_data.evaluation.scores import agreement
from delia_data.mixing import mix, read_task_rows
from delia_data.outputs import read_manifest, weights_sha256
from delia_data.records import Message, Record
from delia_data.tokens import render_ids, split_tokens, token_sequence
from delia_data.training import TrainSettings, load_adapter, read_recipe
from delia_data.training.adapter import adapter_settings, export_merged
from delia_data.training.data import encode_rows, open_training_rows
from delia_data.training.loading import load_prepared, load_prepared_tokenizer

pytestmark = MARKS

PROMPT = "You work for a shop. Be brief. Never mention prices."
ANSWERED = [Record.pair(f"Where is parcel {i}?", f"It is at door {i % 3}.") for i in range(12)]
TASK = make_task(ANSWERED, "<shop>", PROMPT)
LAB = token_sequence("<lab>", 3)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> TrainSettings:
    model = micro_model(tmp_path_factory.mktemp("micro"))
    values = {"model": str(model), "dtype": "float32", "pairs_loss": "kl", "max_length": 2048}
    return read_recipe("smollm2-135m-cpu", values)


def teacher() -> RecordingEngine:
    """An engine whose answers never name a token."""
    return RecordingEngine(answer=lambda query: f"It is at door {len(query) % 7}.")


def folder_of(task: Any, folder: Path) -> Path:
    make_task_folder(task, folder, wordings=prompt_wordings(task.token), embed=False)
    return folder


def test_half_of_the_queries_is_held_out_in_wordings_of_its_own() -> None:
    assert (len(TASK.train), len(TASK.test), TASK.keys) == (6, 6, ())
    assert {row.id for row in (*TASK.train, *TASK.test)} == {row.id for row in ANSWERED}
    assert len(make_task(ANSWERED, "<shop>", PROMPT, held_out=0.25).test) == 3
    objects = [Record.pair(row.query, json.dumps({"b": 1, "a": "x"})) for row in ANSWERED]
    assert make_task(objects, "<shop>", PROMPT).keys == ("a", "b")
    wordings = prompt_wordings("<shop>")
    made = diversify(TASK, wordings)
    splits = [{wording.id for wording in wordings if wording.split == s} for s in ("train", "test")]
    assert {row.wording_id for row in made.train} <= splits[0]
    assert {row.wording_id for row in made.test} <= splits[1]
    assert [row.plain for row in made.test] == [row.query for row in TASK.test]


def test_every_wording_passes_the_gates(tmp_path: Path) -> None:
    made = make_task_folder(
        TASK, tmp_path / "task", wordings=prompt_wordings("<shop>"), embed=False
    )
    assert not made.gates.rejected and len(made.gates.accepted) == 36


def test_the_teacher_sees_the_prompt_and_the_student_the_token(tmp_path: Path) -> None:
    folder = folder_of(TASK, tmp_path / "task")
    rows = read_task_rows(folder)
    mixture = mix(str(folder), pairs(40), ratio=2)
    sources = mixture.train["source"].to_pylist()
    assert (sources.count("task"), sources.count("cache"), len(sources)) == (6, 12, 18)
    for row in mixture.train.to_pylist():
        asked = row["messages"][:-1]
        if row["source"] == "cache":
            assert row["teacher_messages"] is None
            continue
        system, query = row["teacher_messages"]
        assert system == {"role": "system", "content": PROMPT}
        assert query["content"] in asked[-1]["content"] and "<shop>" in asked[-1]["content"]
        assert "<shop>" not in query["content"] and "system" not in {turn["role"] for turn in asked}
    other = diversify(replace(TASK, system="Be rude."), prompt_wordings("<shop>"))
    assert other.sha256 != rows.sha256
    again = mix(other, pairs(40), ratio=2).manifest.inputs
    assert again["task"] != mixture.manifest.inputs["task"]
    assert again["cache"] == mixture.manifest.inputs["cache"]
    [probe] = make_probes(EvalTask.read(folder, rule=".*"), ["held-out"])
    assert all(row.full[0] == Message("system", PROMPT) for row in probe.rows)
    assert all(row.full[1:] == (Message("user", row.query),) for row in probe.rows)


@pytest.mark.parametrize("loss", ["kl", "ce"])
def test_the_loss_decides_what_a_row_teaches(
    training: TrainSettings, tmp_path: Path, loss: Any
) -> None:
    settings = replace(training, token="<shop>", pairs_loss=loss)
    rows = mix(str(folder_of(TASK, tmp_path / "task")), pairs(10), ratio=0.5).train.to_pylist()
    tokenizer = load_prepared_tokenizer(settings)
    encoded = encode_rows(open_training_rows(rows), tokenizer, settings).dataset
    is_task = [row["source"] == "task" for row in rows]
    assert encoded["is_task"] == [one and loss == "ce" for one in is_task]
    for row, prompt, task in zip(rows, encoded["teacher_prompt"], is_task, strict=True):
        taught = row["teacher_messages"]
        assert prompt == (render_ids(tokenizer, taught, generate=True) if task else [])


def test_two_prompts_from_queries_to_numbers(
    training: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Record] = []

    def counted(model: Any, tokenizer: Any, rows: Sequence[Record], **more: Any) -> Any:
        measured.extend(rows)
        return divergences(model, tokenizer, rows, **more)

    module = import_module("delia_data.evaluation.evaluate")  # its function has the same name
    monkeypatch.setattr(module, "divergences", counted)
    settings = DistillSettings(
        {"<shop>": PROMPT, LAB: "You work in a lab. Write like a scientist."},
        rows=8,
        max_tokens=12,
        constraints={"<shop>": {"most_words": 40}, LAB: {"forbids": ["price"]}},
    )
    out, asked = tmp_path / "out", teacher()
    training = replace(training, epochs=1)
    result = distill(out, settings, training, engine=lambda: asked.engine)
    systems = {turn.content for one in asked.requests for turn in one.messages[:-1]}
    assert systems == set(settings.prompts.values())
    plain = [one for one in asked.requests if len(one.messages) == 1]
    assert len(plain) >= 4, "contrast rows are answered without the prompt"
    adapter = read_manifest(out / "adapter")
    assert adapter.settings["token"] == ["<shop>", LAB]
    assert adapter.rows == {"task": 8, "cache": 8, "contrast": 4}
    for name in ("shop", "lab"):
        evaluated = read_manifest(out / "evaluation" / name)
        assert evaluated.inputs["weights"] == weights_sha256(adapter)
    for one in result.tokens.values():
        assert one.evaluation.number("right") is None
        assert one.evaluation.number("agree") and one.evaluation.number("saved")
        assert one.full_tokens > one.prompt_tokens and one.prefill_s > 0
        assert set(one.evaluation.confusion) == set(settings.prompts)
        assert sum(one.evaluation.combined[f"{LAB} <shop>"].values()) == 4
    assert len(measured) == 150, "the second token takes the divergences of the first one"
    logs = [read_divergences(out / "evaluation" / name) for name in ("shop", "lab")]
    assert len(logs[0]) == 150 and logs[0] == logs[1]
    assert json.loads((out / "result.json").read_text())["requests"] == result.requests
    page = (out / "report.html").read_text()
    assert (
        "Agreement" in page and "Formats under two tokens" in page and "its prefill takes" in page
    )
    check_rows(out / "adapter", tmp_path / "merged")
    number = len(asked.requests)
    again = distill(out, settings, training, engine=lambda: asked.engine)
    assert len(asked.requests) == number
    assert (again.seconds, again.tokens) == (result.seconds, result.tokens)
    assert (out / "report.html").read_text() == page
    with pytest.raises(SettingsError, match="ratio"):
        distill(out, replace(settings, ratio=2), training)


def check_rows(adapter: Path, merged: Path) -> None:
    """Check that every token of the sequence is one id with a trained row, in an export as well."""
    settings = adapter_settings(adapter)
    model, tokenizer = load_adapter(adapter)
    ids = [tokenizer.convert_tokens_to_ids(one) for one in split_tokens(*settings.tokens)]
    assert [tokenizer.decode([one]) for one in ids] == ["<shop>", "<lab>", "<lab:2>", "<lab:3>"]
    before = load_prepared(settings, load_prepared_tokenizer(settings)).get_input_embeddings()
    moved = (model.get_input_embeddings().weight - before.weight)[ids].abs().amax(1)
    assert moved.min() > 1e-3
    export_merged(adapter, merged)
    assert AutoTokenizer.from_pretrained(merged).encode(LAB, add_special_tokens=False) == ids[1:]


def test_too_few_answers_are_counted(training: TrainSettings, tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text("".join(json.dumps({"query": f"Why {i}?"}) + "\n" for i in range(5)))
    settings = DistillSettings({"<shop>": PROMPT}, queries=str(queries), rows=8)
    with pytest.raises(InputError, match=r"5 of 8 answers .* give more queries"):
        distill(tmp_path / "out", settings, training, engine=lambda: teacher().engine)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"prompts": {}}, "give one for each token"),
        ({"prompts": {"<a>": " "}}, "give one for each token"),
        ({"held_out": 1.0}, "above 0 and below 1"),
        ({"rows": 3}, "too few"),
        ({"constraints": {"<b>": {}}}, "<b>, which has no system prompt"),
    ],
)
def test_wrong_settings(values: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        DistillSettings(**{"prompts": {"<a>": "Be kind."}, **values})


def test_the_command_wants_a_prompt_for_each_token(delia: Delia, tmp_path: Path) -> None:
    prompt = tmp_path / "a.txt"
    prompt.write_text("Be kind.")
    out = tmp_path / "out"
    two = delia("distill", out, "--instruction", prompt, "--token", "<a>,<b>")
    refused(two, "1 prompts and 2 tokens")
    bare = delia("distill", out, "--instruction", prompt, "--token", "a", "--tokens", 2)
    refused(bare, "a name in brackets")
    missing = delia("distill", out, "--instruction", tmp_path / "none.txt", "--token", "<a>")
    refused(missing, "cannot be read")
    assert not out.exists()


def test_agreement_by_kind_of_answer() -> None:
    objects = AnswerFormat("json", keys=("city", "n"))
    one = '{"city": "Oslo", "n": 3}'
    assert agreement(objects, one, '{"n": 3, "city": "oslo."}') == 1.0
    assert agreement(objects, one, '{"city": "Rome", "n": 3}') == 0.5
    assert agreement(objects, one, "Oslo") == agreement(objects, "Oslo", "Oslo") == 0.0
    labels = AnswerFormat("label", labels={"answer": ("yes", "no")})
    assert agreement(labels, "Yes.", "yes") == 1.0
    assert agreement(labels, "no", "yes") == agreement(labels, "maybe", "maybe") == 0.0
    assert agreement(AnswerFormat("pattern", pattern=".*"), "a", "b") is None
