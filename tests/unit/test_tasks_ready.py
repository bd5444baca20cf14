"""Ready tasks: parallel files, HaluEval's rows, and the scoring of answers."""

import json
from pathlib import Path

import pytest

from delia_data.errors import FormatError, InputError
from delia_data.tasks import (
    chrf,
    exact,
    halueval_task,
    ready_task,
    ready_wordings,
    translation_task,
)
from delia_data.tasks.scoring import json_object, labels_of

DATA = Path(__file__).parents[3] / "shared" / "data"


def write(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


# Translation


@pytest.mark.parametrize(
    ("source", "target", "languages"),
    [
        ("dev.en", "dev.is", ("en", "is")),
        ("dev.en.txt", "dev.is.txt", ("en", "is")),
        ("eng_Latn.dev", "isl_Latn.dev", ("eng_Latn", "isl_Latn")),
        ("wmt21.en-is.src.en", "wmt21.en-is.ref.A.is", ("en", "is")),
        ("deep/er/dev.en", "deep/er/dev.is", ("en", "is")),
    ],
)
def test_files_of_a_folder_are_paired(
    tmp_path: Path, source: str, target: str, languages: tuple[str, str]
) -> None:
    write(tmp_path / source, ["One\u2028line.", "Two."])
    write(tmp_path / target, ["Ein.", "Tvö."])
    write(tmp_path / "README.en", ["nothing"])
    there, back = languages
    task = translation_task(tmp_path, from_language=there, to_language=back)
    assert [(row.query, row.answer) for row in task.train] == [
        ("One\u2028line.", "Ein."),
        ("Two.", "Tvö."),
    ]
    assert task.instruction.startswith("Translate the following text from English into Icelandic.")
    assert (task.scoring, task.keys, task.test) == ("translation", (), ())
    turned = translation_task(tmp_path, from_language=back, to_language=there)
    assert [row.answer for row in turned.train] == [row.query for row in task.train]
    assert turned.plain_request == "Translate the following text from Icelandic into English."
    assert not {"line", "quotes"} & set(turned.plain_request.split())


def test_test_files_are_held_out(tmp_path: Path) -> None:
    for split in ("dev", "devtest"):
        for language in ("en", "is"):
            write(
                tmp_path / split / f"{split}.{language}", [f"{split} {language} {i}" for i in "ab"]
            )
    task = translation_task(tmp_path)
    assert [row.query for row in task.train] == ["dev en a", "dev en b"]
    assert [row.query for row in task.test] == ["devtest en a", "devtest en b"]


def test_two_files_and_a_share(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", [f"line {i}" for i in range(10)])
    target = write(tmp_path / "b.txt", [f"lína {i}" for i in range(10)])
    task = translation_task(source, target, test_share=0.3, rows=5)
    assert (len(task.train), len(task.test)) == (5, 3)


def test_files_that_are_not_parallel(tmp_path: Path) -> None:
    source, target = write(tmp_path / "d.en", ["a", "b"]), write(tmp_path / "d.is", ["a"])
    with pytest.raises(InputError, match=r"d\.en has 2 lines and .*d\.is has 1"):
        translation_task(tmp_path)
    write(target, ["a", " "])
    with pytest.raises(FormatError, match=r"1 of 2 lines .* are empty in one of them \(lines 2\)"):
        translation_task(source, target)
    with pytest.raises(InputError, match="no parallel files that end or begin with en and de"):
        translation_task(tmp_path, to_language="de")
    with pytest.raises(InputError, match="language 'xx' is unknown"):
        translation_task(source, source, to_language="xx")
    with pytest.raises(InputError, match="is no folder"):
        translation_task(tmp_path / "none")
    target.write_bytes("é".encode("latin-1"))
    with pytest.raises(FormatError, match="is not UTF-8 text"):
        translation_task(source, target)


@pytest.mark.skipif(not (DATA / "flores").is_dir(), reason="the data is not here")
def test_flores_either_way() -> None:
    task = ready_task("translation", DATA / "flores", from_language="is", to_language="en")
    assert (len(task.train), len(task.test)) == (798, 199)
    assert task.name == "translation-is-en"


# HaluEval


def halueval(path: Path, rows: int = 10) -> Path:
    lines = [
        {"user_query": f"q{i}", "chatgpt_response": f"r{i}", "hallucination": ["no", "yes"][i % 2]}
        for i in range(rows)
    ]
    return write(path, [json.dumps(line) for line in lines])


def test_halueval(tmp_path: Path) -> None:
    task = halueval_task(halueval(tmp_path / "h.jsonl"), test_share=0.2)
    assert (len(task.train), len(task.test)) == (8, 2)
    assert (task.keys, task.labels, task.scoring) == (("hallucination",), ("no", "yes"), "json")
    row = task.train[0]
    number = row.query.removeprefix("Question: q")[0]
    assert row.query == f"Question: q{number}\nAnswer: r{number}"
    assert json_object(row.answer) == {"hallucination": ["no", "yes"][int(number) % 2]}
    assert {"json", "hallucination", "yes", "no", "key", "value"} <= task.leaks
    assert len(ready_wordings("halueval")) == 88


@pytest.mark.parametrize(
    "row",
    [
        {"user_query": "", "chatgpt_response": "r", "hallucination": "no"},
        {"user_query": "q", "chatgpt_response": "r", "hallucination": "maybe"},
        {"question": "q"},
    ],
)
def test_rows_that_are_not_halueval(tmp_path: Path, row: dict[str, str]) -> None:
    file = write(tmp_path / "h.jsonl", [json.dumps(row)])
    with pytest.raises(FormatError, match=r"h\.jsonl:1: the row is not one of HaluEval's"):
        halueval_task(file)


@pytest.mark.skipif(not (DATA / "halueval").is_dir(), reason="the data is not here")
def test_all_of_halueval() -> None:
    task = ready_task("halueval", next((DATA / "halueval").glob("*.jsonl")), rows=100)
    assert (len(task.train), len(task.test)) == (100, 600)


# By name


def test_ready_tasks_by_name(tmp_path: Path) -> None:
    task = ready_task("hallucination-check", rows=30, token="<json>")
    assert (len(task.train), len(task.test), task.token) == (30, 100, "<json>")
    assert "<json>" in task.common_wording.text
    wordings = ready_wordings("hallucination-check", "<json>")
    assert all(w.text.count("<json>") == 1 and "<sep>" not in w.text for w in wordings)
    assert ready_wordings("translation") == []
    with pytest.raises(InputError, match="no task 'poetry' is ready: use one of hallucination-c"):
        ready_task("poetry")
    with pytest.raises(InputError, match=r"task halueval needs its data.*--data"):
        ready_task("halueval")
    with pytest.raises(InputError, match="comes with its rows: leave the data out"):
        ready_task("hallucination-check", tmp_path)


# Scoring


def test_exact() -> None:
    assert exact(" Yes. ", "yes") == 1
    assert exact("yes, it is", "yes") == 0


def test_chrf() -> None:
    assert chrf("the cat sat", "the cat sat") == 1
    assert chrf("xyz", "the cat sat") == 0
    assert chrf("", "a") == 0
    # By hand: 3 of 3 and 3 of 4 characters, 2 of 2 and 2 of 3 pairs, 1 of 1 and 1 of 2 triples.
    precision, recall = 1, (3 / 4 + 2 / 3 + 1 / 2) / 3
    assert chrf("a b c", "abcd") == pytest.approx(5 * precision * recall / (4 * precision + recall))


def test_labels_are_short_few_and_come_again() -> None:
    assert labels_of(["a", "b", "a", "b"]) == ("a", "b")
    assert labels_of(["a", "b", "c"]) == ()
    assert labels_of(["a long answer that is free", "a long answer that is free"]) == ()
    assert labels_of(['{"x": "t1", "y": 1}', '{"x": "t2", "y": 1}']) == ("1",)
    assert labels_of([]) == ()
    assert json_object("{1: 2}") is None
    assert json_object('{"a": }') is None
    assert json_object("{'a': 'b'} and more") is None
