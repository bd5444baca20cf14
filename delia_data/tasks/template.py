"""Templates: the query or the answer of a row, made of its columns."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from typing import Any

from delia_data.errors import FormatError, InputError


class Template:
    """A text with the names of columns in braces, such as `"{title}: {body}"`.

    `{{` and `}}` stand for braces. A column that holds an object or a list is written as JSON.

    Attributes:
        columns: The columns that it names.
    """

    def __init__(self, text: str, what: str) -> None:
        """Read a template.

        Args:
            text: The template.
            what: What it makes, for errors: `"query"` or `"answer"`.

        Raises:
            InputError: Its braces do not match, or it names no column.
        """
        self.text = text
        self._what = what
        try:
            self._parts = [
                (literal, _whole(name, spec, conversion))
                for literal, name, spec, conversion in string.Formatter().parse(text)
            ]
        except ValueError as error:
            raise InputError(
                f"{what} template {text!r} has a brace without its other half: "
                "write {{ for a brace, and {column} for a column"
            ) from error
        self.columns = tuple(dict.fromkeys(name for _, name in self._parts if name))
        if not self.columns:
            raise InputError(
                f"{what} template {text!r} names no column: write {{{text or 'column'}}} "
                "for what stands in one"
            )

    def fill(self, row: Mapping[str, Any]) -> str:
        """Make the text of a row, outer spaces stripped.

        Raises:
            FormatError: The row has no such column, or the columns hold nothing.
        """
        for column in self.columns:
            if column not in row:
                known = ", ".join(map(str, row)) or "none"
                raise FormatError(
                    f"{self._what} template {self.text!r} names column {column!r}, "
                    f"and the row has {known}"
                )
        if not any(_text(row[column]).strip() for column in self.columns):
            named = ", ".join(map(repr, self.columns))
            raise FormatError(f"the row has no {self._what}: it holds nothing under {named}")
        return "".join(
            literal + (_text(row[name]) if name else "") for literal, name in self._parts
        ).strip()


def _whole(name: str | None, spec: str | None, conversion: str | None) -> str:
    """A column's name; `!` and `:` mean nothing in it."""
    return f"{name or ''}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}"


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case str():
            return value
        case bool() | dict() | list() | tuple():
            return json.dumps(value, ensure_ascii=False, default=str)
        case _:
            return str(value)
