"""A user's wordings are read from any file, with or without plain forms."""

import json
from pathlib import Path
from typing import Any

import pytest
from wordings import TRAIN

from delia_data.diversify import plain_form, read_wordings
from delia_data.errors import FormatError, InputError
from delia_data.tasks import Wording, bundled_wordings


def test_lines_and_paragraphs(tmp_path: Path) -> None:
    file = tmp_path / "w.txt"
    file.write_text("Is it so? <sep>\n{query} Use <sep>.\nFirst\\n{query}\\nthen <sep>\n")
    assert [w.text for w in read_wordings(file)] == [
        "Is it so? <sep>\n{query}",
        "{query} Use <sep>.",
        "First\n{query}\nthen <sep>",
    ]
    file.write_text("One\nof two lines, <sep>\n\n  \n{query}\nTwo <sep>\n")
    assert [w.text for w in read_wordings(file)] == [
        "One\nof two lines, <sep>\n{query}",
        "{query}\nTwo <sep>",
    ]


@pytest.mark.parametrize("name", ["w.jsonl", "w.json", "w.csv"])
def test_rows(tmp_path: Path, name: str) -> None:
    rows = [
        {"text": "{query} <sep>", "split": "test", "kind": "terse", "plain": "{query}"},
        {"text": "Is it? <sep>", "split": "", "kind": "", "plain": ""},
    ]
    file = tmp_path / name
    match file.suffix:
        case ".jsonl":
            file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        case ".json":
            file.write_text(json.dumps(rows))
        case _:
            file.write_text(
                "text,split,kind,plain\n{query} <sep>,test,terse,{query}\nIs it? <sep>,,,\n"
            )
    assert read_wordings(file) == [
        Wording("{query} <sep>", "test", "terse", "{query}"),
        Wording("Is it? <sep>\n{query}"),
    ]


def test_a_list() -> None:
    assert read_wordings(["Is it? <sep>", TRAIN[0]]) == [Wording("Is it? <sep>\n{query}"), TRAIN[0]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "the list has no wordings"),
        ([{"wording": "x"}], 'wording 0: the wording has no text: give it as "text"'),
        ([{"text": " "}], "wording 0: the wording has no text"),
        ([{"text": "x", "split": "dev"}], "has split 'dev': use one of train, test"),
        (["a", 3, {"text": 4}], "2 of 3 rows cannot be used: wording 1: .*; wording 2: .* text"),
    ],
)
def test_what_is_no_wording(given: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_wordings(given)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.txt cannot be read: No such file"):
        read_wordings(tmp_path / "none.txt")
    (tmp_path / "w.txt").write_bytes("é <sep>".encode("latin-1"))
    with pytest.raises(FormatError, match="is not UTF-8 text"):
        read_wordings(tmp_path / "w.txt")
    (tmp_path / "w.txt").write_text("\n")
    with pytest.raises(InputError, match="has no wordings"):
        read_wordings(tmp_path / "w.txt")


# Plain forms


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("{query}\nIs it right? Follow the <sep> format.", "{query}\nIs it right?"),
        ("Is it right? Could I have your view as <sep>?\n{query}", "Is it right?\n{query}"),
        ("Use <sep> and nothing else. Is it right?\n{query}", "Is it right?\n{query}"),
        (
            "Judge whether it is right and reply in <sep>.\n{query}",
            "Judge whether it is right.\n{query}",
        ),
        ("Using the <sep> format, judge it.\n{query}", "Judge it.\n{query}"),
        ("Task: judge it\nOutput: <sep>\n{query}", "Task: judge it\n{query}"),
        ("Is it right, in <sep>?\n{query}", "Is it right?\n{query}"),
        ("What does <sep> say of this?\n{query}", None),
        ("<sep> would tell whether it is right.\n{query}", None),
        ("The verdict must come as <sep>.\n{query}", None),
        ("Use <sep> or <sep>. Is it right?\n{query}", None),
    ],
)
def test_plain_forms(text: str, plain: str | None) -> None:
    assert plain_form(text, "<sep>") == plain


def test_plain_forms_of_the_bundled_wordings() -> None:
    """What is found never names the token and keeps the query; most are those written by hand."""
    forms = {w.text: plain_form(w.text, "<sep>") for w in bundled_wordings()}
    found = [form for form in forms.values() if form is not None]
    assert len(found) >= 0.6 * len(forms)
    assert all("<sep>" not in form and form.count("{query}") == 1 for form in found)
    held = [w for w in bundled_wordings() if w.split == "test" and forms[w.text]]
    assert sum(forms[w.text] == w.plain for w in held) >= 0.75 * len(held)
