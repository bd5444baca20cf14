"""The query of a row, whatever the row's format.

    messages, conversations     the user's first turn
    query, question, prompt     the text as it is; a prompt may hold turns too
    instruction, input          both, with an empty line between them

Later turns build on answers that another model gave, so they are left out. A system turn, or the
column `system`, goes in front of the query with an empty line between, as the chat templates of
models without system turns do it (Gemma's, Mistral's).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from delia_data.errors import FormatError, UnsupportedRowError
from delia_data.records import (
    Message,
    Record,
    check_supported,
    is_blank,
    join_input,
    read_history,
    read_text,
    read_turns,
    system_turn,
)
from delia_data.sampling.queries import Query

_COLUMNS: Final = ("query", "question", "messages", "conversations", "prompt", "instruction")
_ANSWERS: Final = ("reference", "output", "completion", "answer", "response")


def read_query(row: Any, *, kind: str = "user") -> Query:
    """Read the query of one row.

    Args:
        row: A mapping in one of the row formats, or with a column `query` or `question`; or a
            `Record`, a `Query`, or a text. Its reference is the answer to the user's first turn;
            or, without turns, the first of the columns `reference`, `output`, `completion`,
            `answer` and `response` that is not empty. An answer that is labeled as bad is none.
        kind: Kind of the query, if the row has no column `kind`.

    Raises:
        UnsupportedRowError: The row has tools, images or audio.
        FormatError: The row has no query.
    """
    if isinstance(row, Query):
        query = row
    elif isinstance(row, str):
        query = Query(row, kind)
    elif isinstance(row, Record):
        query = _first_of(row.messages, kind)
    elif isinstance(row, Mapping):
        check_supported(row, answers=False)
        query = _first_of(_turns_of(row), str(row.get("kind") or kind))
    else:
        raise FormatError(f"it is a {type(row).__name__}: give mappings or texts")
    if is_blank(query.text):
        raise FormatError("the query is empty")
    return query


def _turns_of(row: Mapping[str, Any]) -> list[Message]:
    """Return the turns of a row; they need not end with an answer."""
    column = next((name for name in _COLUMNS if row.get(name) is not None), None)
    if column is None:
        columns = ", ".join(map(str, row)) or "none"
        raise FormatError(f"its columns ({columns}) are none of {', '.join(_COLUMNS)}")
    value = row[column].tolist() if hasattr(row[column], "tolist") else row[column]
    if isinstance(value, list | tuple) and column in ("messages", "conversations", "prompt"):
        turns = read_turns([turn for turn in value if not _is_unanswered(turn)], column)
        if column == "prompt":
            turns += _answer_of(row)
    else:
        if column in ("messages", "conversations"):
            read_turns(value, column)  # which says what is wrong with it
        query = read_text(value, column)
        given = row.get("input") if column == "instruction" else None
        turns = [
            *(
                Message(role, text)  # type: ignore[arg-type]
                for pair in read_history(row.get("history"))
                for role, text in zip(("user", "assistant"), pair, strict=True)
            ),
            Message("user", join_input(query, given)),
            *_answer_of(row),
        ]
    try:
        check_supported(row)
    except UnsupportedRowError:
        turns = [turn for turn in turns if turn.role != "assistant"]
    return [*system_turn(row, turns), *turns]


def _is_unanswered(turn: Any) -> bool:
    """Return whether a turn is an empty one of the assistant."""
    if not isinstance(turn, Mapping):
        return False
    role = turn.get("role") or turn.get("from")
    return role in ("assistant", "gpt") and not (turn.get("content") or turn.get("value"))


def _answer_of(row: Mapping[str, Any]) -> Sequence[Message]:
    """Return the first answer that is not empty as a turn; numbers as text."""
    for name in _ANSWERS:
        value = row.get(name)
        if isinstance(value, int | float):
            return [Message("assistant", str(value))]
        if isinstance(value, str) and not is_blank(value):
            return [Message("assistant", value)]
        if isinstance(value, list | tuple) and value and name == "completion":
            return read_turns(value, name)
    return []


def _first_of(turns: Sequence[Message], kind: str) -> Query:
    """Return the user's first turn, after what the system says, with the answer to it."""
    place = next((i for i, turn in enumerate(turns) if turn.role == "user"), None)
    if place is None:
        raise FormatError("the row has no question: one turn must be the user's")
    said = [turn.content for turn in turns[:place] if turn.role == "system"]
    answer = next(iter(turns[place + 1 :]), None)
    answered = answer is not None and answer.role == "assistant" and not is_blank(answer.content)
    text = "\n\n".join([*said, turns[place].content])
    return Query(text, kind, answer.content if answer is not None and answered else None)
