"""Measured numbers as plain values, as a JSON file holds them, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from delia_data.errors import FormatError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Turn dataclasses, mappings and sequences into values that JSON can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): to_plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(one) for one in value]
    return value


def from_plain(kind: type[T], values: Any, where: str) -> T:
    """Build a dataclass from plain values.

    Args:
        kind: The dataclass.
        values: Result of `to_plain`, also after a way through JSON.
        where: Source of the values, for the error.

    Raises:
        FormatError: A value is missing or has the wrong type.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise FormatError(
            f"{where} was written by another version, or was changed: {place}: {first['msg']}; "
            "run its command again"
        ) from error
