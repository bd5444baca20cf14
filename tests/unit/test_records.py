"""Row formats are read and written without loss, and errors of bad rows name the fault."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delia_data.errors import FormatError, InputError
from delia_data.reading import open_source, read_records
from delia_data.records import (
    FORMATS,
    Format,
    Message,
    Record,
    check_format,
    content_id,
    detect_format,
    is_blank,
    read_record,
    write_record,
)

SYSTEM, USER, ASSISTANT = (
    Message("system", "Be brief."),
    Message("user", "2 + 2?"),
    Message("assistant", "4"),
)
PLAIN = Record((USER, ASSISTANT))
LONG = Record((SYSTEM, USER, ASSISTANT, Message("user", "And 3?"), Message("assistant", "6")))

ROWS: list[tuple[Format, Record, dict[str, Any]]] = [
    (
        "messages",
        PLAIN,
        {
            "messages": [
                {"role": "user", "content": "2 + 2?"},
                {"role": "assistant", "content": "4"},
            ]
        },
    ),
    (
        "prompt_completion",
        PLAIN,
        {
            "prompt": [{"role": "user", "content": "2 + 2?"}],
            "completion": [{"role": "assistant", "content": "4"}],
        },
    ),
    ("alpaca", PLAIN, {"instruction": "2 + 2?", "input": "", "output": "4"}),
    (
        "sharegpt",
        PLAIN,
        {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
    ),
    (
        "alpaca",
        LONG,
        {
            "instruction": "And 3?",
            "input": "",
            "output": "6",
            "system": "Be brief.",
            "history": [["2 + 2?", "4"]],
        },
    ),
    (
        "sharegpt",
        LONG,
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "2 + 2?"},
                {"from": "gpt", "value": "4"},
                {"from": "human", "value": "And 3?"},
                {"from": "gpt", "value": "6"},
            ]
        },
    ),
]

texts = st.text(min_size=1, max_size=20).filter(lambda text: not is_blank(text))
turns = st.builds(Message, st.sampled_from(["system", "user", "assistant"]), texts)
conversations = st.builds(
    lambda before, question, after, answer: Record(
        (*before, Message("user", question), *after, Message("assistant", answer))
    ),
    st.lists(turns, max_size=3),
    texts,
    st.lists(turns, max_size=3),
    texts,
)


def conversation(system: str | None, exchanges: list[tuple[str, str]]) -> Record:
    turns = [Message("system", system)] if system else []
    for question, answer in exchanges:
        turns += [Message("user", question), Message("assistant", answer)]
    return Record(tuple(turns))


alternating = st.builds(
    conversation, st.none() | texts, st.lists(st.tuples(texts, texts), min_size=1, max_size=3)
)


@pytest.mark.parametrize(("format", "record", "row"), ROWS)
def test_every_format_both_ways(format: Format, record: Record, row: dict[str, Any]) -> None:
    assert write_record(record, format) == row
    assert read_record(row) == record
    assert read_record(row, format) == record
    assert detect_format(row) == format


def test_the_table_has_every_format() -> None:
    assert {format for format, _, _ in ROWS} == set(FORMATS)


@settings(max_examples=60, deadline=None)
@given(record=conversations, format=st.sampled_from(["messages", "prompt_completion", "sharegpt"]))
def test_any_conversation_comes_back(record: Record, format: Format) -> None:
    row = json.loads(json.dumps(write_record(record, format)))
    assert detect_format(row) == format
    assert read_record(row) == record
    assert read_record(row).id == record.id


@settings(max_examples=60, deadline=None)
@given(record=alternating)
def test_any_alternating_conversation_comes_back_from_alpaca(record: Record) -> None:
    assert read_record(json.loads(json.dumps(write_record(record, "alpaca")))) == record


def test_alpaca_input_is_part_of_the_question() -> None:
    row = {"instruction": "Translate.", "input": "chat", "output": "cat"}
    record = read_record(row)
    assert record.query == "Translate.\n\nchat"
    assert record == Record.pair("Translate.\n\nchat", "cat")


@pytest.mark.parametrize("extra", [{}, {"input": None}, {"system": None, "history": None}])
def test_alpaca_columns_may_be_missing_or_empty(extra: dict[str, Any]) -> None:
    assert read_record({"instruction": "2 + 2?", "output": "4", **extra}) == PLAIN


def test_prompt_and_completion_may_be_text() -> None:
    assert read_record({"prompt": "2 + 2?", "completion": "4"}) == PLAIN


@pytest.mark.parametrize(
    "messages",
    [
        (USER, SYSTEM, ASSISTANT),
        (USER, USER, ASSISTANT),
        (ASSISTANT, USER, ASSISTANT),
        (SYSTEM, SYSTEM, USER, ASSISTANT),
    ],
)
def test_alpaca_refuses_what_it_cannot_hold(messages: tuple[Message, ...]) -> None:
    with pytest.raises(FormatError, match="do not alternate"):
        write_record(Record(messages), "alpaca")


def test_parts_of_a_record() -> None:
    assert LONG.query == "And 3?"
    assert LONG.answer == "6"
    assert LONG.prompt == LONG.messages[:-1]
    assert Record.pair("2 + 2?", "4", system="Be brief.").messages == (SYSTEM, USER, ASSISTANT)


@pytest.mark.parametrize("row", [{}, {"text": "hello"}, {"messages": None, "answer": "4"}])
def test_unknown_columns(row: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="fit no known format: it needs one of messages, prompt"):
        read_record(row)


def test_a_null_column_is_no_format() -> None:
    assert detect_format({"messages": None, "instruction": "a"}) == "alpaca"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": []}, "has no answer"),
        ({"messages": [{"role": "user", "content": "a"}]}, "has no answer"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "has no question"),
        ({"messages": "text"}, "'messages' must hold a list of turns, and holds a str"),
        ({"messages": ["text"]}, "'messages' must hold a list of turns, one is a str"),
        ({"messages": [{"role": "user", "content": 4}]}, "must hold text, and holds a int"),
        ({"messages": [{"role": "user"}]}, "must hold text, and holds nothing"),
        ({"messages": [{"role": "narrator", "content": "a"}]}, "role 'narrator' .* is unknown"),
        ({"messages": [{"content": "a"}]}, "role None .* is unknown"),
        ({"conversations": [{"from": "tool", "value": "a"}]}, "the row uses tools"),
        ({"prompt": "a"}, "'completion' must hold text or a list of turns: the row has none"),
        ({"prompt": "a", "completion": "  "}, "assistant turn is empty"),
        ({"prompt": "", "completion": "b"}, "user turn is empty"),
        ({"prompt": 4, "completion": "b"}, "'prompt' must hold a list of turns, and holds a int"),
        ({"instruction": "a"}, "'output' must hold text, and holds nothing"),
        ({"instruction": "a", "output": ""}, "assistant turn is empty"),
        ({"instruction": "a", "output": 4}, "'output' must hold text, and holds a int"),
        ({"instruction": "a", "input": 5, "output": "b"}, "'input' must hold text"),
        ({"instruction": "a", "system": 5, "output": "b"}, "'system' must hold text"),
        ({"instruction": "a", "output": "b", "history": "c"}, "'history' must hold a list"),
        ({"instruction": "a", "output": "b", "history": [["c"]]}, "'history' must hold pairs"),
        ({"instruction": "a", "output": "b", "history": ["cd"]}, "'history' must hold pairs"),
        ({"instruction": "a", "output": "b", "history": [["c", 4]]}, "'history' must hold text"),
    ],
)
def test_bad_rows(row: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_record(row)


@pytest.mark.parametrize("name", ["", "Messages", "chatml"])
def test_an_unknown_format_is_named_with_the_known_ones(name: str) -> None:
    with pytest.raises(FormatError, match=f"format '{name}' is unknown: use one of messages, "):
        check_format(name)


def test_content_id_is_pinned() -> None:
    assert content_id([Message("user", "hi"), Message("assistant", "hello")]) == (
        "7879ffb52d84f156dac860d1b1193943"
    )
    assert LONG.id == content_id(LONG.messages)


def test_content_id_sees_roles_and_boundaries() -> None:
    conversations = [
        [Message("user", "ab"), Message("assistant", "c")],
        [Message("user", "a"), Message("assistant", "bc")],
        [Message("assistant", "ab"), Message("user", "c")],
        [Message("user", "ab"), Message("user", "c")],
        [Message("user", "abc")],
        [Message("user", 'ab"],["assistant","c')],
        [Message("user", "ab"), Message("assistant", "c ")],
        [Message("user", "ab"), Message("assistant", "C")],
    ]
    assert len({content_id(turns) for turns in conversations}) == len(conversations)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_rows_come_with_their_place(file: Path) -> None:
    write(file, '{"a": 1}\n\n  \n{"a": "\u2028"}\r\n{"a": 3}')
    assert list(open_source(file).rows()) == [
        (f"{file}:1", {"a": 1}),
        (f"{file}:4", {"a": "\u2028"}),
        (f"{file}:5", {"a": 3}),
    ]


def test_a_json_file_holds_a_list(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.json", json.dumps([{"a": 1}, {"a": 2}]))
    assert list(open_source(file).rows()) == [(f"{file}[0]", {"a": 1}), (f"{file}[1]", {"a": 2})]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_byte_order_mark_is_skipped(tmp_path: Path, name: str) -> None:
    content = '{"a": 1}\n' if name == "rows.jsonl" else '[{"a": 1}]'
    file = write(tmp_path / name, b"\xef\xbb\xbf" + content.encode())
    assert [row for _, row in open_source(file).rows()] == [{"a": 1}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"', "Unterminated string starting at at column 2"),
        ("nonsense", "Expecting value at column 1"),
        ("[1]", "it is [1]"),
        ("4", "it is 4"),
        ("null", "it is null"),
        ('{"a": 1} {"a": 2}', "Extra data at column 10"),
    ],
)
def test_a_line_that_is_no_json_object(file: Path, line: str, reason: str) -> None:
    write(file, f'{{"a": 1}}\n\n{line}\n{{"a": 2}}\n')
    with pytest.raises(FormatError) as caught:
        list(open_source(file).rows())
    message = f"{file}:3: the line is not a JSON object ({reason}): correct or remove it"
    assert str(caught.value) == f"1 of 3 rows cannot be used: {message}"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("rows.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', r"rows\.jsonl:2: the line is not UTF-8 text"),
        ("rows.json", b'[{"a": "\xff"}]', r"rows\.json is not UTF-8 text: byte 8"),
        ("rows.jsonl", b'[\n{"a": 1},\n{"a": 2}\n]', "write one object per line, or give a list"),
        ("rows.jsonl", b' [{"a": 1}, {"a": 2}]', "write one object per line, or give a list"),
        ("rows.jsonl", b'\xef\xbb\xbf{\r\n"a": 1\r\n}', "over several lines"),
    ],
)
def test_files_of_another_form(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        list(open_source(write(tmp_path / name, content)).rows())


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_half_a_character_is_refused(tmp_path: Path, name: str) -> None:
    row = r'{"messages": "\ud83d"}'
    file = write(tmp_path / name, row if name == "rows.jsonl" else f"[{row}]")
    with pytest.raises(FormatError, match=r"half a character \('\\ud83d'\)"):
        list(open_source(file).rows())


def test_both_halves_make_a_character(file: Path) -> None:
    write(file, r'{"a": "\ud83d\ude00"}')
    assert [row for _, row in open_source(file).rows()] == [{"a": "\N{GRINNING FACE}"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}', "holds one JSON value: it must hold a list of objects"),
        ('[{"a": 1}, 4]', r"\[1\]: the row is not a JSON object"),
        ('[\n{"a": 1}\n{', r"rows\.json:3: the file is not JSON"),
    ],
)
def test_bad_json_files(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        list(open_source(write(tmp_path / "rows.json", content)).rows())


@pytest.mark.parametrize(
    ("name", "content"),
    [("rows.jsonl", ""), ("rows.jsonl", "  \n\n"), ("rows.json", "\n"), ("rows.json", "[]")],
)
def test_an_empty_file(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(InputError, match="is empty: it must hold at least one row"):
        list(open_source(write(tmp_path / name, content)).rows())


def test_records_of_a_file_in_mixed_formats(file: Path) -> None:
    write(file, "".join(f"{json.dumps(row)}\n" for _, _, row in ROWS))
    assert list(read_records(file)) == [record for _, record, _ in ROWS]


def test_a_bad_record_is_named_with_its_place(file: Path) -> None:
    write(file, '{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n')
    with pytest.raises(FormatError, match=f"{file}:2: column 'completion' must hold"):
        list(read_records(file))


def test_a_given_format_is_not_guessed(file: Path) -> None:
    write(file, '{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(FormatError, match=":1: column 'messages' must hold"):
        list(read_records(file, "messages"))
