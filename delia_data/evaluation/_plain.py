"""Measured numbers as plain values: what a JSON file holds, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from delia_data.errors import FormatError

__all__ = ["from_plain", "to_plain"]

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Give a dataclass as dictionaries, lists and values, which `from_plain` takes."""
    return _listed(asdict(value) if is_dataclass(value) and not isinstance(value, type) else value)


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


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _listed(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_listed(one) for one in value]
    return value
