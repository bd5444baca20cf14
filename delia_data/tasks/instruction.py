"""Where a task's instruction stands: given, in a column, or in the query's last paragraph."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from delia_data.errors import FormatError, InputError
from delia_data.records import Record

_PARAGRAPH: Final = re.compile(r"\n[ \t]*\n")
_SHOWN: Final = 60  # characters of an instruction that an error shows


def one_instruction(found: Sequence[str | None], where: str) -> str:
    """The one instruction of all rows, spaces aside.

    Args:
        found: The instruction of each row.
        where: Where it was looked for, for errors.

    Raises:
        InputError: Rows have none, or there are several.
    """
    texts = Counter(" ".join((text or "").split()) for text in found)
    if empty := texts.pop("", 0):
        raise InputError(f"{empty:,} of {len(found):,} rows have no instruction in {where}")
    if len(texts) > 1:
        shown = ", ".join(f"{_short(text)} ({n:,})" for text, n in texts.most_common(3))
        raise InputError(
            f"{where} holds {len(texts):,} instructions, and a task has one: {shown}; "
            "keep the rows of one of them, or give --instruction"
        )
    return next(text.strip() for text in found if text)


def split_last_paragraph(record: Record) -> tuple[Record, str]:
    """Take the last paragraph off the user's last turn.

    Returns:
        The record with what stands before it, and the paragraph.

    Raises:
        FormatError: There is one paragraph only.
    """
    breaks = list(_PARAGRAPH.finditer(record.query.rstrip()))
    if not breaks:
        raise FormatError("the query is one paragraph: its last one cannot be the instruction")
    last = breaks[-1]
    return with_query(record, record.query[: last.start()].strip()), record.query[
        last.end() :
    ].strip()


def with_query(record: Record, query: str) -> Record:
    """The record with another last turn of the user; all other turns stay."""
    place = max(i for i, turn in enumerate(record.messages) if turn.role == "user")
    turns = list(record.messages)
    turns[place] = replace(turns[place], content=query)
    return Record(tuple(turns))


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
