"""Measured numbers as plain values: what a JSON file holds, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from delia_data.errors import FormatError

T = TypeVar("T")

_ORDER: Final = (
    *("before", "after", "change", "with", "without", "mean", "normal"),
    *("task", "common", "pairs", "mixture", "common_mixture", "held_out"),
)
"""Names of what is measured, as they are shown; files have them in the alphabet's order."""


def in_order(mapping: Mapping[Any, T]) -> list[tuple[str, T]]:
    """Give the items of a mapping as they are shown."""
    return sorted(mapping.items(), key=lambda item: (*_ORDER, item[0]).index(item[0]))


def to_plain(value: Any) -> Any:
    """Give dataclasses, mappings and sequences of them as JSON takes them."""
    if is_dataclass(value) and not isinstance(value, type):
        return to_plain({field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, Mapping):
        return {str(name): to_plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(one) for one in value]
    return value


def from_plain(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Make a dataclass of plain values.

    Args:
        kind: The dataclass.
        values: What `to_plain` gave, be it through JSON.
        where: Where the values come from, for the error.

    Raises:
        FormatError: A value is missing or has the wrong type.
    """
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise FormatError(
            f"{where} was written by another version, or changed: {place}: {first['msg']}; "
            "measure again"
        ) from error
