"""`delia evaluate` and `delia compare`, with the mock engine, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import Delia, refused

from delia_data.diversify import diversify, gate_task_wordings, save_task_rows
from delia_data.engines import MockEngine, Request
from delia_data.errors import InputError, SettingsError
from delia_data.evaluation import EvalTask, compare_folders, evaluate, read_evaluation
from delia_data.outputs import Manifest, finish, is_finished, read_manifest
from delia_data.records import Record
from delia_data.tasks import Task, Wording, bundled_task, bundled_wordings, make_task

JSON = "{'thought': 'x', 'hallucination': 'no'}"


def save(folder: Path, task: Task, wordings: list[Wording]) -> Path:
    rows, gates = diversify(task, wordings), gate_task_wordings(task, wordings)
    save_task_rows(folder, rows, task, seed=0, gates=gates)
    return folder


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole = bundled_task()
    few = replace(whole, test=whole.test[:12])
    return save(tmp_path_factory.mktemp("tasks") / "task", few, bundled_wordings())


def selective(request: Request) -> str:
    return JSON if "<sep>" in request.messages[-1].content else "no"


def leaky(request: Request) -> str:
    return JSON


def run(out: Path, task: Path, answer: object = selective, **settings: object) -> None:
    engine = MockEngine(answer=answer)  # type: ignore[arg-type]
    evaluate(engine, EvalTask.read(task), out, **settings)  # type: ignore[arg-type]


def test_the_output_folder(tmp_path: Path, task: Path) -> None:
    run(tmp_path / "out", task, notes=["a note"])
    manifest = read_manifest(tmp_path / "out", verify=True)
    assert manifest.kind == "evaluation"
    assert manifest.rows == {"held-out": 12, "training": 12, "bare": 12, "negative": 12}
    assert manifest.settings["format"]["keys"] == ["thought", "hallucination"]
    assert set(manifest.files) == {"asking.json", "answers.jsonl", "rows.jsonl", "evaluation.json"}
    found, rows = read_evaluation(tmp_path / "out")
    assert [probe.selectivity.value for probe in found.probes] == [1, 1, 1, 1]
    assert found.notes == ("a note",)
    assert len(rows) == 48
    assert found.system["system"]["engine"] == "mock"


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
    assert [probe.selectivity.value for probe in found.probes] == [1, 1, 1, 1]
    assert [probe.in_format.value for probe in found.probes] == [0, 0, 0, 0]
    assert [probe.without_token.value for probe in found.probes] == [-1, -1, -1, -1]
    run(tmp_path / "short", task, max_tokens=50)
    assert compare_folders(tmp_path / "delia", tmp_path / "short").notes == (
        "answers were cut off at 96 and at 50 tokens",
    )


def test_errors_of_compare_folders(tmp_path: Path, task: Path) -> None:
    run(tmp_path / "delia", task, rows=3)
    with pytest.raises(InputError, match=r"no evaluation\.json, it contains a task"):
        compare_folders(tmp_path / "delia", task)
    rows = [Record.pair(f"text {i}", ["good", "bad"][i % 2]) for i in range(8)]
    other = make_task(
        name="o", train=rows[:4], test=rows[4:], instruction="Judge.", request="Judge it."
    )
    wordings = [
        Wording("Judge it as <sep>: {query}"),
        Wording("{query}\nWhat of it, in <sep>?", split="test", plain="{query}\nWhat of it?"),
    ]
    asked = EvalTask.of(other, diversify(other, wordings), wordings)
    evaluate(MockEngine(), asked, tmp_path / "other", probes=["bare"])
    with pytest.raises(InputError, match="compare two evaluations of the same task"):
        compare_folders(tmp_path / "delia", tmp_path / "other")


def test_answers_that_are_labels(tmp_path: Path) -> None:
    rows = [Record.pair(f"text {i}", ["good", "bad"][i % 2]) for i in range(20)]
    task = make_task(
        name="o", train=rows[:8], test=rows[8:], instruction="Judge.", request="Judge it."
    )
    wordings = [
        Wording("Judge it as <sep>: {query}"),
        Wording("{query}\nWhat of it, in <sep>?", split="test", plain="{query}\nWhat of it?"),
    ]
    asked = EvalTask.of(task, diversify(task, wordings), wordings)

    def answer(request: Request) -> str:
        return "good" if "<sep>" in request.messages[-1].content else "I like it, it is good"

    found = evaluate(MockEngine(answer=answer), asked, tmp_path, probes=["held-out"])
    (probe,) = found.probes
    assert probe.selectivity.value == 1
    assert probe.score is not None
    assert probe.score.value == probe.labels[0].accuracy.value == 0.5
    assert probe.labels[0].key == "answer"


def test_the_command(tmp_path: Path, task: Path, delia: Delia) -> None:
    out = tmp_path / "out"
    told = delia("evaluate", "any", task, out, "--engine", "mock", "--rows", "4")
    assert told.code == 0, told.err
    table = told.out.splitlines()
    head = next(line for line in table if "selectivity" in line)
    assert head.split()[:2] == ["probe", "selectivity"]
    assert [line.split()[0] for line in table if "+0.00" in line] == [
        *("held-out", "training", "bare", "negative")
    ]
    assert "note: hallucination: undefined: precision of 'no'" in told.out
    assert f"All answers: {out}" in told.out
    again = delia("evaluate", "any", task, out, "--engine", "mock", "--rows", "4")
    begins = told.out.index("hallucination-check")
    assert again.out == f"answers: 28 of 28\n{told.out[begins:]}"


def test_json(tmp_path: Path, task: Path, delia: Delia) -> None:
    arguments = (
        "--engine",
        "mock",
        "--rows",
        4,
        "--probe",
        "bare",
        "--probe",
        "held-out",
        "--json",
    )
    told = delia("evaluate", "any", task, tmp_path / "out", *arguments)
    found = json.loads(told.out)
    assert [probe["probe"] for probe in found["probes"]] == ["bare", "held-out"]
    assert found["probes"][0]["selectivity"]["value"] == 0
    assert found == json.loads((tmp_path / "out" / "evaluation.json").read_text())
    told = delia("evaluate", tmp_path / "out", "--against", tmp_path / "out", "--json")
    assert json.loads(told.out)["probes"][0]["rows"] == 4
    told = delia("compare", tmp_path / "out", tmp_path / "out")
    assert "selectivity" in told.out
    assert "+0.00 [-1.20, 1.20]" in told.out


def test_translations_get_corpus_scores(tmp_path: Path, delia: Delia) -> None:
    rows = [Record.pair(f"The dog {i} sleeps.", f"Hundurinn {i} sefur vel.") for i in range(8)]
    task = make_task(
        name="t",
        train=rows[:4],
        test=rows[4:],
        instruction="Translate it.",
        stands_for="the translation alone",
        scoring="translation",
    )
    wordings = [
        Wording("Translate into Icelandic as <sep>: {query}"),
        Wording("{query}\nIn Icelandic, <sep>.", split="test", plain="{query}\nIn Icelandic."),
    ]
    folder = save(tmp_path / "task", task, wordings)
    told = delia("evaluate", "any", folder, tmp_path / "out", "--engine", "mock", "--probe", "bare")
    assert "chrF" in told.out
    assert "BLEU" in told.out
    told = delia("compare", tmp_path / "out", tmp_path / "out", "--metric", "chrf")
    assert "chrF" in told.out


def test_free_text_needs_a_pattern(tmp_path: Path, delia: Delia) -> None:
    rows = [Record.pair(f"text {i}", f"- point {i}\n- more of {i}") for i in range(8)]
    task = make_task(
        name="t",
        train=rows[:4],
        test=rows[4:],
        instruction="Sum it up.",
        stands_for="two bullet points",
    )
    wordings = [
        Wording("Sum up as <sep>: {query}"),
        Wording("{query}\nIn short, <sep>.", split="test", plain="{query}\nIn short."),
    ]
    folder = save(tmp_path / "task", task, wordings)
    arguments = ("evaluate", "any", folder, tmp_path / "out", "--engine", "mock", "--probe", "bare")
    refused(delia(*arguments), "two bullet points", "--pattern")
    told = delia(*arguments, "--pattern", r"[A-Z].*\.")
    assert told.code == 0
    assert "100%" in told.out


def test_errors_of_the_command(tmp_path: Path, task: Path, delia: Delia) -> None:
    out = tmp_path / "out"

    mock = ("--engine", "mock")
    refused(
        delia("evaluate", "any", tmp_path / "no", out, *mock), "is not a folder", "delia diversify"
    )
    refused(delia("evaluate", "any", task, out, *mock, "--probe", "free"), "use one of held-out")
    refused(delia("evaluate", "any", task, out, *mock, "--rows", 0), "give at least 1")
    refused(delia("evaluate", "any", task, out, *mock, "--add-token", "mean"), "delia prepare")
    refused(delia("evaluate", "any", task, out, "--add-token", "random"), "use one of mean, normal")
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
    refused(delia("evaluate", adapter, task, out, "--add-token", "mean"), "omit --add-token")
    assert not out.exists()


def test_a_folder_holds_answers_of_one_model(tmp_path: Path, task: Path) -> None:
    run(tmp_path, task, rows=2)

    class Other(MockEngine):
        def describe(self) -> dict[str, object]:
            return {"engine": "mock", "model": {"name": "other"}}

    with pytest.raises(SettingsError, match=r"model\.name was 'mock' and is now 'other'"):
        evaluate(Other(), EvalTask.read(task), tmp_path)
