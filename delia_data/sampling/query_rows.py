"""The query of a row, whatever the row's format.

    messages, conversations     the first turn of the user
    query, question, prompt     the text as it stands; a prompt may hold turns too
    instruction, input          both, with an empty line between them

A query is what the user says first: later turns lean on answers that another model gave. A system
turn before it goes in front of it, with an empty line between, as the chat templates of models
without system turns do it (Gemma's, Mistral's). Alpaca's instruction and input are joined as
`records` joins them; where a row's input only says in words that there is none (`<noinput>`, "No
input required."), as 638 rows of Alpaca's own file do, there is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from delia_data.errors import FormatError
from delia_data.records import Message, Record, read_record
from delia_data.sampling.queries import Query

_COLUMNS: Final = ("query", "question", "messages", "conversations", "prompt", "instruction")
_ANSWERS: Final = ("reference", "output", "completion", "answer", "response")
_TURNS: Final = {"messages": ("role", "content"), "conversations": ("from", "value")}
_ASSISTANTS: Final = ("assistant", "gpt")
_NO_INPUT: Final = re.compile(r"\W*no ?inputs?( (is )?(needed|required|provided))?\W*", re.I)
_NONE: Final = "\0"
"""Stands where a row has no answer, as a `Record` has one."""


def read_query(row: Any, *, kind: str = "user") -> Query:
    """Read the query of one row.

    Args:
        row: A mapping in one of the row formats, or with a column `query` or `question`; or a
            `Record`, a `Query`, or a text. Its reference is the answer to the user's first turn;
            or, where there are no turns, the first of the columns `reference`, `output`,
            `completion`, `answer` and `response` that holds something.
        kind: The query's kind, where the row has no column `kind`.

    Raises:
        FormatError: The row has no query.
    """
    if isinstance(row, Query):
        query = row
    elif isinstance(row, str):
        query = Query(row, kind)
    elif isinstance(row, Record):
        query = _first_of(row, kind)
    elif isinstance(row, Mapping):
        query = _first_of(_record_of(row), str(row.get("kind") or kind))
    else:
        raise FormatError(f"it is a {type(row).__name__}: give mappings or texts")
    if not query.text.strip():
        raise FormatError("the query is empty")
    return query


def _record_of(row: Mapping[str, Any]) -> Record:
    """The row as a record; where it has no answer, one that stands for none."""
    column = next((name for name in _COLUMNS if row.get(name) is not None), None)
    match column:
        case None:
            columns = ", ".join(map(str, row)) or "none"
            raise FormatError(f"its columns ({columns}) are none of {', '.join(_COLUMNS)}")
        case "messages" | "conversations":
            return read_record({column: _turns_of(row[column], *_TURNS[column])}, _FORMATS[column])
        case "prompt":
            answer = _answer_of(row, str | list | tuple)
            return read_record({column: row[column], "completion": answer}, "prompt_completion")
    if not isinstance(row[column], str):
        raise FormatError(f"column {column!r} must hold text")
    given = row.get("input")
    if isinstance(given, str) and (not given.strip() or _NO_INPUT.fullmatch(given)):
        given = ""
    parts = {"instruction": row[column], "input": given, "output": _answer_of(row, str)}
    around = {name: row.get(name) for name in ("system", "history")}
    return read_record({**parts, **around}, "alpaca")


_FORMATS: Final[dict[str, Any]] = {"messages": "messages", "conversations": "sharegpt"}


def _turns_of(turns: Any, role: str, content: str) -> Any:
    """The turns, ending with an answer; `read_record` says what else is wrong with them."""
    if not isinstance(turns, list | tuple) or not all(isinstance(turn, Mapping) for turn in turns):
        return turns
    said = [turn for turn in turns if turn.get(role) not in _ASSISTANTS or turn.get(content)]
    if said and said[-1].get(role) in _ASSISTANTS:
        return said
    return [*said, {role: "assistant", content: _NONE}]


def _answer_of(row: Mapping[str, Any], kinds: Any) -> Any:
    """The first column of answers that holds something; numbers as texts."""
    for value in (row.get(name) for name in _ANSWERS):
        if isinstance(value, int | float):
            return str(value)
        if isinstance(value, kinds) and (value.strip() if isinstance(value, str) else value):
            return value
    return _NONE


def _first_of(record: Record, kind: str) -> Query:
    """What the user says first, after what the system says; and what is answered to it."""
    turns: Sequence[Message] = record.messages
    place = next(i for i, turn in enumerate(turns) if turn.role == "user")
    said = [turn.content for turn in turns[:place] if turn.role == "system"]
    answer = turns[place + 1]  # a record does not end with the user
    answered = answer.role == "assistant" and answer.content != _NONE
    text = "\n\n".join([*said, turns[place].content])
    return Query(text, kind, answer.content if answered else None)
