"""Preserve diagrams and examples in docstrings, and add the descriptions of settings."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from sphinx.application import Sphinx

__all__ = ["setup"]

_BEFORE_NAPOLEON = 400


def literal_blocks(
    _app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    """Mark each indented block that follows an empty line after a line that is not indented."""
    marked: list[str] = []
    last = ""  # the last nonempty line
    for number, line in enumerate(lines):
        begins = line.startswith("    ") and number and not lines[number - 1].strip()
        if begins and last and not last.startswith(" "):
            marked += ["::", ""]
        marked.append(line)
        last = line if line.strip() else last
    lines[:] = marked


def settings(
    _app: Sphinx, what: str, _name: str, value: Any, _options: Any, lines: list[str]
) -> None:
    """Add the descriptions of fields."""
    if what == "class" and is_dataclass(value):
        described = {each.name: each.metadata.get("description") for each in fields(value)}
        lines += ["", *(f":ivar {name}: {text}" for name, text in described.items() if text), ""]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the handlers."""
    app.connect("autodoc-process-docstring", literal_blocks, priority=_BEFORE_NAPOLEON)
    app.connect("autodoc-process-docstring", settings)
    return {"parallel_read_safe": True}
