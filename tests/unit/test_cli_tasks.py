"""`delia task inspect` and `delia diversify` on the user's own rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Delia, names, refused
from wordings import bag_of_words

from delia_data.engines import MockEngine, Request
from delia_data.mixing import read_task_rows
from delia_data.outputs import read_manifest

ROWS = 'id,question,label\n1,"Is it, so?",yes\n2,Is it?,no\n3,Why?,no\n4,"Two\nlines?",yes\n'
OPTIONS = ["--query", "{question}", "--answer", "{label}", "--instruction", "Say if it is so."]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (tmp_path / "mine.csv").write_text(ROWS)
    return tmp_path / "mine.csv"


@pytest.fixture
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use embeddings that count words, and a detector of English only."""
    monkeypatch.setattr("delia_data.sampling.embeddings.Embedder", lambda: bag_of_words)
    monkeypatch.setattr("delia_data.diversify.folder.load_detector", lambda: lambda _: {"en": 1.0})


def written(folder: Path, wordings: list[str]) -> Path:
    file = folder / "wordings.txt"
    file.write_text("\n".join(wordings))
    return file


# Inspecting


def test_inspect_prints_a_summary(delia: Delia, rows: Path) -> None:
    before = names(rows.parent)
    result = delia("task", "inspect", rows, *OPTIONS, "--test-share", 0.25)
    assert result.code == 0, result.err
    shown = dict(line.split("  ", 1) for line in result.out.splitlines() if "  " in line)
    facts = {name.strip(): value.strip() for name, value in shown.items()}
    assert facts["name"] == "mine"
    assert facts["rows"] == "3"
    assert facts["held-out rows"] == "1"
    assert facts["stands for"] == "one of no or yes, and nothing else"
    assert facts["words to avoid"] == "json, no, yes"
    assert "Say if it is so. Reply in the <sep> format." in result.out
    assert names(rows.parent) == before


def test_inspect_as_json(delia: Delia, rows: Path) -> None:
    result = delia("task", "inspect", rows, *OPTIONS, "--token", "<sep:x>", "--json")
    found = json.loads(result.out)
    assert found["token"] == "<sep:x>"
    assert found["labels"] == {"no": 2, "yes": 2}
    assert found["shown"][0]["answer"] == "yes"
    assert found["notes"] == ["no rows are held out: nothing can be measured on unseen rows"]


def test_inspect_a_ready_task(delia: Delia, tmp_path: Path) -> None:
    result = delia("task", "inspect", "hallucination-check", "--rows", 30)
    assert "rows              30" in result.out
    for language in ("en", "is"):
        (tmp_path / f"dev.{language}").write_text("".join(f"{language} {i}\n" for i in range(10)))
    given = ["--data", tmp_path, "--from-language", "is", "--to-language", "en", "--json"]
    found = json.loads(delia("task", "inspect", "translation", *given).out)
    assert (found["rows"], found["held-out rows"]) == (8, 2)
    assert found["scored by"] == "translation"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ["poetry"],
            [
                "'poetry' is neither a ready task nor a file",
                "use one of hallucination-check, halueval",
            ],
        ),
        (["halueval"], ["task halueval needs its data", "--data"]),
        (["halueval", "--query", "{q}"], ["is a ready task, and --query is for your own rows"]),
        (["mine.csv"], ["4 of 4 rows cannot be used", "columns (id, label, question)"]),
        (["mine.csv", "--data", "."], ["and 'mine.csv' is not one"]),
        (["mine.csv", "--format", "xml"], ["format 'xml' is unknown"]),
        (["mine.csv", *OPTIONS[:4]], ["no instruction was found", "--instruction-column"]),
        (["mine.csv", *OPTIONS[:5], " "], ["the instruction is empty"]),
        (["mine.csv", *OPTIONS, "--token", "so"], ["hold", "so already, as text", "--token"]),
        (["mine.csv", "--query", "{qestion}", "--answer", "{label}"], ["names column 'qestion'"]),
        (["none.csv", *OPTIONS], ["none.csv does not exist"]),
    ],
)
def test_bad_input(
    delia: Delia,
    rows: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    parts: list[str],
) -> None:
    monkeypatch.chdir(rows.parent)
    before = names(rows.parent)
    refused(delia("task", "inspect", *arguments), *parts)
    refused(delia("diversify", "out", "--task", *arguments), *parts)
    assert names(rows.parent) == before


# Diversifying


MINE = [
    "Is it so? Use <sep>.",
    "Tell me whether it is so, in <sep>.",
    "<sep> is wanted here. So it is, or not?",
    "Is it? Reply without the token.",
    "Does the question hold, if you look at it twice? Answer in <sep>.",
]


@pytest.mark.usefixtures("_light")
def test_a_csv_becomes_a_diversified_task(delia: Delia, rows: Path) -> None:
    out, wordings = rows.parent / "out", written(rows.parent, MINE)
    given = [*OPTIONS, "--test-share", 0.25, "--meaning", "Does the question hold?"]
    result = delia("diversify", out, "--task", rows, *given, "--wordings-from", wordings)
    assert result.code == 0, result.err
    assert "3 training and 1 held-out rows in 4 wordings" in result.out
    assert "wordings rejected: 1 no_token" in result.out
    assert "spread: effective rank " in result.out
    made, manifest = read_task_rows(out), read_manifest(out, verify=True)
    assert (len(made.train), len(made.test), made.token) == (3, 1, "<sep>")
    assert made.test[0].plain is not None
    spread = manifest.details["spread"]["wordings"]
    assert spread["texts"] == 4
    assert np.isclose(sum(spread["spectrum"]), 1, atol=1e-3)
    assert delia("diversify", out, "--task", rows, *given, "--wordings-from", wordings).code == 0
    assert read_manifest(out) == manifest
    assert delia("mix", out / "undiversified", rows.parent / "none", out, "--ratio", 1).code == 2


@pytest.mark.usefixtures("_light")
def test_unused_columns_files_and_reasoning_are_noted(delia: Delia, tmp_path: Path) -> None:
    folder, wordings = tmp_path / "rows", written(tmp_path, MINE)
    folder.mkdir()
    (folder / "notes.md").write_text("notes")
    thoughts = {"role": "assistant", "content": "yes", "reasoning_content": "Let me see."}
    rows = [
        {"messages": [{"role": "user", "content": "A?"}, thoughts], "topic": "x"},
        {"messages": [{"role": "user", "content": "B?"}, {"role": "assistant", "content": "no"}]},
    ]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["--instruction", "Is it so?", "--stands-for", "one word"]
    note = "not read: notes.md (unknown kind); 1 column ignored (topic); "
    note += "reasoning removed from 1 row"
    assert note in delia("task", "inspect", folder, *options).err
    out = tmp_path / "out"
    result = delia("diversify", out, "--task", folder, *options, "--wordings-from", wordings)
    assert result.code == 0, result.err
    assert note in result.err
    read = read_manifest(out).details["read"]
    assert read["skipped"] == ["notes.md (unknown kind)"]
    assert read["ignored"] == ["topic"]
    assert read["changed"] == {"reasoning_removed": 1}


@pytest.mark.usefixtures("_light")
def test_fewer_wordings_are_chosen(delia: Delia, rows: Path) -> None:
    out, wordings = rows.parent / "out", written(rows.parent, MINE)
    given = [*OPTIONS, "--meaning", "Does the question hold?", "--wordings-from", wordings]
    result = delia("diversify", out, "--task", rows, *given, "--wordings", 2)
    assert "in 2 wordings" in result.out
    assert "1 no_token, 2 not_chosen" in result.out
    refused(
        delia("diversify", out, "--task", rows, *given, "--wordings", 9),
        "4 of 9 wordings pass the gates; no_token rejects most",
    )


def a_model(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    monkeypatch.setattr(MockEngine, "load", classmethod(lambda cls, model: cls(answer)))


@pytest.mark.usefixtures("_light")
def test_a_model_writes_them(delia: Delia, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(request: Request) -> str:
        seed = request.seed
        if seed % 2:
            return "I cannot say."
        words = [f"{seed % n}x" for n in (97, 89, 83, 79, 73, 71)]
        return f"Say if it is so, {' '.join(words)}. Reply in <sep>."

    a_model(monkeypatch, answer)
    out = rows.parent / "out"
    given = ["--task", rows, *OPTIONS, "--wordings-from", "model", "--engine", "mock", "--lenient"]
    result = delia("diversify", out, *given, "--wordings", 8)
    assert result.code == 0, result.err
    assert "in 8 wordings" in result.out
    assert "texts passed" in result.out
    manifest = read_manifest(out, verify=True)
    assert manifest.details["writing"]["plan"]["writer"]["engine"] == "mock"
    assert manifest.dropped["not_chosen"] == 2
    assert {"written/written.jsonl", "rejected.jsonl"} <= set(manifest.files)
    asked = (out / "written" / "written.jsonl").read_text()
    assert delia("diversify", out, *given, "--wordings", 8).code == 0
    assert (out / "written" / "written.jsonl").read_text() == asked


@pytest.mark.usefixtures("_light")
def test_a_model_that_never_writes_one(
    delia: Delia, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_model(monkeypatch, lambda request: f"Say it {request.seed}.")
    out = rows.parent / "out"
    given = ["--task", rows, *OPTIONS, "--wordings-from", "model", "--engine", "mock"]
    result = delia("diversify", out, *given, "--wordings", 5, "--tries", 40)
    refused(
        result,
        "0 of 5 wordings passed in 40 tries",
        "no_token rejects most, 40 of 40: ",
        "raise --tries",
    )
    assert not (out / "FINISHED").exists()
    assert len((out / "written" / "written.jsonl").read_text().splitlines()) == 40


def test_invalid_requests_for_wordings_are_refused(delia: Delia, rows: Path) -> None:
    out = rows.parent / "out"
    given = ["--task", rows, *OPTIONS, "--no-embeddings", "--any-language"]
    refused(
        delia("diversify", out, *given, "--request", "Say yes or no.", "--engine", "mock"),
        "names the format (no, yes)",
        "--request",
    )
    refused(delia("diversify", out, *given, "--wordings", 0), "0 wordings are too few")
    refused(
        delia("diversify", out, *given, "--wordings", 3, "--wordings-from", "list.txt"),
        "leave --no-embeddings (embed=False) out",
    )
    assert not out.exists()
    refused(
        delia("diversify", out, *given, "--wordings-from", "bundled"),
        "no wordings for task mine are bundled",
    )
    refused(
        delia("diversify", out, *given, "--wordings-from", rows.parent / "none.txt"),
        "none.txt cannot be read",
    )
