"""Queries of files and datasets, in every row format and with every fault."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from row_files import write_jsonl

from delia_data.errors import FormatError, InputError
from delia_data.records import Record, is_blank, write_record
from delia_data.sampling.queries import FileQueries, Query, read_query

ALPACA = Path(__file__).parents[3] / "shared" / "data" / "alpaca" / "alpaca_data.json"

USER = {"role": "user", "content": "Why?"}
BECAUSE = {"role": "assistant", "content": "Because."}


@pytest.mark.parametrize(
    ("row", "text", "reference"),
    [
        ({"query": "Why?"}, "Why?", None),
        ({"query": "Why?", "reference": "Because."}, "Why?", "Because."),
        ({"question": "How many?", "answer": 42}, "How many?", "42"),
        ({"question": "How many?", "answer": {"text": "42"}}, "How many?", None),
        ({"prompt": "Why?"}, "Why?", None),
        ({"prompt": "Why?", "response": "Because."}, "Why?", "Because."),
        ({"prompt": [USER], "completion": [BECAUSE]}, "Why?", "Because."),
        ({"prompt": [USER, BECAUSE, USER]}, "Why?", "Because."),
        ({"instruction": "Why?"}, "Why?", None),
        ({"instruction": "Why?", "input": None, "output": ""}, "Why?", None),
        ({"instruction": "Add.", "input": "1, 2", "output": "3"}, "Add.\n\n1, 2", "3"),
        ({"instruction": "Why?", "input": "<noinput>", "output": "So."}, "Why?", "So."),
        ({"instruction": "Why?", "input": "No input required.", "output": "So."}, "Why?", "So."),
        ({"instruction": "Say", "input": "no inputs at all"}, "Say\n\nno inputs at all", None),
        ({"instruction": "And?", "history": [["Why?", "So."]], "output": "b"}, "Why?", "So."),
        ({"messages": [USER]}, "Why?", None),
        ({"messages": [USER, BECAUSE]}, "Why?", "Because."),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, "Why?", None),
        ({"messages": [USER, BECAUSE, {"role": "user", "content": "Really?"}]}, "Why?", "Because."),
        (
            {"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b"}]},
            "a?",
            "b",
        ),
        ({"conversations": [{"from": "human", "value": "a?"}]}, "a?", None),
        ("Why?", "Why?", None),
        ({"query": "Why?", "messages": None, "other": 4}, "Why?", None),
    ],
)
def test_rows(row: Any, text: str, reference: str | None) -> None:
    assert read_query(row) == Query(text, "user", reference)


@pytest.mark.parametrize(
    ("row", "reference"),
    [
        ({"instruction": "Why?", "system": "Be brief."}, None),
        ({"query": "Why?", "system_prompt": "Be brief."}, None),
        ({"messages": [{"role": "system", "content": "Be brief."}, USER, BECAUSE]}, "Because."),
        (
            {
                "system": "Be brief.",
                "conversations": [
                    {"from": "human", "value": "Why?"},
                    {"from": "gpt", "value": "Because."},
                ],
            },
            "Because.",
        ),
        (Record.pair("Why?", "Because.", system="Be brief."), "Because."),
    ],
)
def test_system_prompt_of_a_row(row: Any, reference: str | None) -> None:
    assert read_query(row) == Query("Why?", "user", reference, "Be brief.")


def test_a_row_may_say_its_kind() -> None:
    assert read_query({"query": "Why?", "kind": "explain"}).kind == "explain"
    assert read_query({"query": "Why?", "kind": None}).kind == "user"
    assert read_query(Query("Why?", "explain", "So.")) == Query("Why?", "explain", "So.")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, r"columns \(none\) are none of query, question, messages"),
        ({"text": "a"}, r"columns \(text\) are none of"),
        ({"query": None}, "are none of"),
        ({"query": " "}, "is empty"),
        ({"query": 4}, "'query' must hold text"),
        ({"instruction": ""}, "is empty"),
        ({"instruction": "a", "input": 4}, "'input' must hold text"),
        ({"prompt": ""}, "is empty"),
        ({"messages": []}, "no question"),
        ({"messages": "Why?"}, "must hold a list of turns"),
        ({"messages": ["Why?"]}, "must hold a list of turns"),
        ({"messages": [BECAUSE]}, "no question"),
        ({"messages": [{"role": "user", "content": " "}]}, "is empty"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "the row uses tools"),
        ("", "is empty"),
        (4, "it is a int"),
        (Query(" ", "user"), "is empty"),
    ],
)
def test_rows_without_a_query(row: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_query(row)


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(
    lambda text: not is_blank(text)
)


@given(
    query=texts, answer=texts, format=st.sampled_from(["messages", "prompt_completion", "sharegpt"])
)
def test_every_format_gives_the_same_query(query: str, answer: str, format: Any) -> None:
    record = Record.pair(query, answer)
    assert read_query(write_record(record, format)) == Query(query, "user", answer)
    assert read_query(write_record(record, "alpaca")) == Query(query, "user", answer)


def test_losses_of_reading_are_listed(tmp_path: Path) -> None:
    for name in ("train", "test"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"query": "Why?", "answer": "So.", "topic": "a"}])
    queries = FileQueries(tmp_path)
    list(queries)
    assert queries.read == {"ignored": ["topic"], "skipped": ["test.jsonl (split test)"]}
    assert FileQueries([{"query": "Why?", "n": None}]).read == {}


ROWS = [{"query": f'What is {n}?\nAnd why, "then"?', "answer": str(n)} for n in range(50)]
WANTED = [Query(row["query"], "user", row["answer"]) for row in ROWS]


def test_queries_do_not_depend_on_the_kind_of_input(tmp_path: Path) -> None:
    queries = FileQueries(write_jsonl(tmp_path / "a.jsonl", ROWS))
    assert list(queries) == list(queries) == WANTED
    assert list(FileQueries(datasets.Dataset.from_list(ROWS))) == WANTED
    assert (queries.rows, queries.referenced) == (50, 50)
    assert queries.describe() == FileQueries(ROWS).describe()


def test_files_that_can_be_read_only_once_are_rejected() -> None:
    with pytest.raises(InputError, match="only once"):
        FileQueries(row for row in ROWS)


def test_the_description_depends_on_texts_references_and_order() -> None:
    variants: list[list[Any]] = [
        ["a", "b"],
        ["b", "a"],
        ["ab"],
        ["a", "b", "b"],
        [{"query": "a", "reference": "b"}],
        [{"query": "a", "reference": "c"}],
    ]
    assert len({FileQueries(rows).describe()["sha256"] for rows in variants}) == len(variants)
    assert FileQueries(["a", "b"]).describe() == FileQueries([{"prompt": "a"}, "b"]).describe()


def test_every_row_without_a_query_is_counted_and_three_are_named(tmp_path: Path) -> None:
    rows: list[Any] = [{"query": "fine"}, *[{"text": "x"}] * 4, {"query": " "}]
    queries = FileQueries(write_jsonl(tmp_path / "a.jsonl", rows))
    with pytest.raises(FormatError) as caught:
        iter(queries).__next__()
    message = str(caught.value)
    assert message.startswith("5 of 6 rows cannot be used: ")
    assert [f"a.jsonl:{n}: " in message for n in range(1, 7)] == [0, 1, 1, 1, 0, 0]
    assert "and 2 more" in message


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"query": "a"}, {"query": "b"}])
    queries = FileQueries(path)
    assert queries.rows == 2
    write_jsonl(path, [{"query": "a"}, {"query": "c"}])
    with pytest.raises(InputError, match="changed while they were read"):
        list(queries)
    write_jsonl(path, [{"query": "a"}, {}])
    with pytest.raises(InputError, match=r"a\.jsonl:2 changed while it was read"):
        list(queries)


def test_memory_stays_flat(tmp_path: Path) -> None:
    """6,000 queries of 5,000 bytes, 30 MB, in a process that grows by a fraction of that."""
    path = tmp_path / "a.jsonl"
    with path.open("w") as file:
        file.writelines(f'{{"query": "{n} {"x" * 5000}"}}\n' for n in range(6_000))
    script = (
        "import resource, sys\n"
        "from delia_data.sampling.queries import FileQueries\n"
        "FileQueries([{'query': 'a'}]).describe()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "queries = FileQueries(sys.argv[1])\n"
        "assert sum(1 for _ in queries) == queries.rows == 6_000\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 15_000, "KiB"


@pytest.mark.skipif(not ALPACA.exists(), reason="Alpaca's file is not there")
def test_alpaca_as_published() -> None:
    queries = FileQueries(ALPACA)
    assert (queries.rows, queries.referenced) == (52_002, 51_974)
    texts = [query.text for query in queries]
    assert texts[0] == "Give three tips for staying healthy."
    assert texts[5] == "Identify the odd one out.\n\nTwitter, Instagram, Telegram"
    without = [
        (row["instruction"], text)
        for row, text in zip(json.loads(ALPACA.read_text()), texts, strict=True)
        if row["input"] in {"", "Noinput", "<No input>", "No input required."}
    ]
    assert len(without) > 31_000 and all(given == text for given, text in without)
