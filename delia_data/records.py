"""Row formats and row ids.

Four formats are read into one record, and written back:

    messages            {"messages": [{"role": "user", "content": ...}, ...]}
    prompt_completion   {"prompt": [message, ...] or text, "completion": [message] or text}
    alpaca              {"instruction": ..., "input": ..., "output": ...}, also system, history
    sharegpt            {"conversations": [{"from": "human", "value": ...}, ...]}

A record is a conversation that ends with the assistant's answer.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import jsonlines

from delia_data.errors import FormatError, InputError

Format = Literal["messages", "prompt_completion", "alpaca", "sharegpt"]
Role = Literal["system", "user", "assistant"]

FORMATS: Final[tuple[Format, ...]] = get_args(Format)

_MARKS: Final[dict[str, Format]] = {
    "messages": "messages",
    "prompt": "prompt_completion",
    "instruction": "alpaca",
    "conversations": "sharegpt",
}
_SPEAKERS: Final[dict[str, Role]] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
_FROM: Final[dict[Role, str]] = {"system": "system", "user": "human", "assistant": "gpt"}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str

    def as_dict(self) -> dict[str, str]:
        """Give the turn the way chat templates take it."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True)
class Record:
    """One row: a conversation whose last turn is the assistant's answer.

    Raises:
        FormatError: There is no question, or no answer, or a turn is empty.
    """

    messages: tuple[Message, ...]

    def __post_init__(self) -> None:
        if not self.messages or self.messages[-1].role != "assistant":
            raise FormatError("the row has no answer: its last turn must be the assistant's")
        if not any(message.role == "user" for message in self.messages):
            raise FormatError("the row has no question: one turn must be the user's")
        for message in self.messages:
            if not message.content.strip():
                raise FormatError(
                    f"the row's {message.role} turn is empty: fill it or drop the row"
                )

    @classmethod
    def pair(cls, query: str, answer: str, *, system: str | None = None) -> Record:
        """Make the record of one question and its answer."""
        head = (Message("system", system),) if system else ()
        return cls((*head, Message("user", query), Message("assistant", answer)))

    @property
    def query(self) -> str:
        """The last thing that the user says."""
        return next(m.content for m in reversed(self.messages) if m.role == "user")

    @property
    def answer(self) -> str:
        """The assistant's last turn."""
        return self.messages[-1].content

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Every turn before the answer."""
        return self.messages[:-1]

    @property
    def id(self) -> str:
        """Content id of the whole conversation."""
        return content_id(self.messages)


def content_id(messages: Sequence[Message]) -> str:
    """Content id of turns: 32 hexadecimal digits that depend on roles and contents alone.

    It is the MD5 of every turn's role, length of its content in bytes, and content, so that no
    two lists of turns spell the same text, and that every engine can work it out.
    """
    digest = hashlib.md5(usedforsecurity=False)
    for message in messages:
        content = message.content.encode("utf-8", "surrogatepass")
        digest.update(f"{message.role}:{len(content)}:".encode() + content)
    return digest.hexdigest()


def check_format(name: str) -> Format:
    """Give `name` back where it is one of the row formats.

    Raises:
        FormatError: It is not; the message lists those that are.
    """
    for known in FORMATS:
        if name == known:
            return known
    raise FormatError(f"format {name!r} is unknown: use one of {', '.join(FORMATS)}")


def detect_format(row: Mapping[str, Any]) -> Format:
    """Tell the format of a row by its columns.

    Raises:
        FormatError: No known format has such columns.
    """
    for column, known in _MARKS.items():
        if row.get(column) is not None:
            return known
    columns = ", ".join(sorted(map(str, row))) or "none"
    raise FormatError(
        f"the row's columns ({columns}) fit no known format: it needs one of {', '.join(_MARKS)}"
    )


def read_record(row: Mapping[str, Any], format: Format | None = None) -> Record:
    """Read one row of any format.

    Args:
        row: Columns and their values.
        format: The row's format; told by its columns where it is not given.

    Returns:
        The record.

    Raises:
        FormatError: The columns fit no format, a value has the wrong type, or the row has no
            question or no answer.
    """
    match check_format(format) if format else detect_format(row):
        case "messages":
            turns = _turns(row.get("messages"), "role", "content", "messages")
        case "sharegpt":
            turns = _turns(row.get("conversations"), "from", "value", "conversations")
        case "prompt_completion":
            turns = [
                *_turns_or_text(row.get("prompt"), "user", "prompt"),
                *_turns_or_text(row.get("completion"), "assistant", "completion"),
            ]
        case "alpaca":
            turns = _alpaca_turns(row)
    return Record(tuple(turns))


def write_record(record: Record, format: Format = "messages") -> dict[str, Any]:
    """Write a record as a row; reading it again gives the same record.

    Alpaca has one field for the last question, so that a question which was read from an
    `instruction` and an `input` is written as one `instruction` with an empty `input`.

    Raises:
        FormatError: The format is unknown, or cannot hold this conversation.
    """
    match check_format(format):
        case "messages":
            return {"messages": [message.as_dict() for message in record.messages]}
        case "sharegpt":
            turns = [{"from": _FROM[m.role], "value": m.content} for m in record.messages]
            return {"conversations": turns}
        case "prompt_completion":
            return {
                "prompt": [message.as_dict() for message in record.prompt],
                "completion": [record.messages[-1].as_dict()],
            }
        case "alpaca":
            return _alpaca_row(record)


def read_rows(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read the rows of a JSON Lines or JSON file, one after another.

    Args:
        path: File of one JSON object a line, or, where it ends in `.json`, of one list of objects.

    Yields:
        Where the row stands (`"file:line"`, or `"file[index]"`), and the row.

    Raises:
        InputError: The file cannot be read, or is empty.
        FormatError: A line is not JSON, or not an object, or its text cannot be UTF-8.
    """
    file = Path(path)
    try:
        rows = _json_rows(file) if file.suffix == ".json" else _jsonl_rows(file)
        empty = True
        for where, row in rows:
            empty = False
            _check_encodes(where, row)
            yield where, row
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{file} is not UTF-8 text: byte {error.start} is {error.reason}"
        ) from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}; check the path") from error
    if empty:
        raise InputError(f"{file} is empty: it must hold at least one row")


def read_records(path: str | os.PathLike[str], format: Format | None = None) -> Iterator[Record]:
    """Read the records of a file.

    Raises:
        InputError: As `read_rows` and `read_record`, the message beginning with the row's place.
    """
    for where, row in read_rows(path):
        try:
            yield read_record(row, format)
        except FormatError as error:
            raise FormatError(f"{where}: {error}") from error


def _jsonl_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield f"{file}:{number}", jsonlines.Reader([line]).read(type=dict)
            except jsonlines.InvalidLineError as error:
                fault = (
                    "UTF-8 text" if isinstance(error.__cause__, UnicodeError) else "a JSON object"
                )
                raise FormatError(
                    f"{file}:{number}: the line is not {fault}: mend or remove it"
                ) from error


def _json_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        value = json.loads(file.read_text(encoding="utf-8-sig").strip() or "[]")
    except json.JSONDecodeError as error:
        raise FormatError(f"{file}:{error.lineno}: the file is not JSON: {error.msg}") from error
    if not isinstance(value, list):
        raise FormatError(f"{file} holds one JSON value: it must hold a list of objects")
    for index, row in enumerate(value):
        if not isinstance(row, dict):
            raise FormatError(f"{file}[{index}]: the row is not a JSON object: mend or remove it")
        yield f"{file}[{index}]", row


def _check_encodes(where: str, row: dict[str, Any]) -> None:
    """Refuse half a character: JSON can spell a lone surrogate, and no file can hold it."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise FormatError(
            f"{where}: the row holds half a character ({error.object[error.start]!a}): "
            "mend or remove it"
        ) from error


def _turns(value: Any, role_key: str, content_key: str, column: str) -> list[Message]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise FormatError(f"column {column!r} must hold a list of turns, and holds {_kind(value)}")
    turns = []
    for turn in value:
        if not isinstance(turn, Mapping):
            raise FormatError(f"column {column!r} must hold a list of turns, one is {_kind(turn)}")
        role = _SPEAKERS.get(str(turn.get(role_key)))
        if role is None:
            raise FormatError(
                f"speaker {turn.get(role_key)!r} in column {column!r} is unknown: "
                f"use one of {', '.join(_SPEAKERS)}"
            )
        turns.append(Message(role, _text(turn.get(content_key), column)))
    return turns


def _turns_or_text(value: Any, role: Role, column: str) -> list[Message]:
    return (
        [Message(role, value)]
        if isinstance(value, str)
        else _turns(value, "role", "content", column)
    )


def _alpaca_turns(row: Mapping[str, Any]) -> list[Message]:
    system, given = _text(row.get("system") or "", "system"), _text(row.get("input") or "", "input")
    turns = [Message("system", system)] if system else []
    for query, answer in _alpaca_history(row.get("history") or []):
        turns += [Message("user", query), Message("assistant", answer)]
    instruction = _text(row.get("instruction"), "instruction")
    query = f"{instruction}\n\n{given}" if given else instruction
    return [
        *turns,
        Message("user", query),
        Message("assistant", _text(row.get("output"), "output")),
    ]


def _alpaca_history(value: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(value, list | tuple):
        raise FormatError(f"column 'history' must hold a list of pairs, and holds {_kind(value)}")
    for pair in value:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise FormatError(f"column 'history' must hold pairs of texts, one is {_kind(pair)}")
        yield _text(pair[0], "history"), _text(pair[1], "history")


def _alpaca_row(record: Record) -> dict[str, Any]:
    system, turns = "", list(record.messages)
    if turns[0].role == "system":
        system = turns.pop(0).content
    if [turn.role for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
        raise FormatError(
            "a conversation whose turns do not alternate cannot be written as alpaca: use messages"
        )
    *history, query, answer = (turn.content for turn in turns)
    row: dict[str, Any] = {"instruction": query, "input": "", "output": answer}
    if system:
        row["system"] = system
    if history:
        row["history"] = [list(pair) for pair in zip(history[::2], history[1::2], strict=True)]
    return row


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise FormatError(f"column {column!r} must hold text, and holds {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
