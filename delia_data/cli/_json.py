"""The option `--json`: one JSON document on the standard output, and nothing else there."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Final

import typer

_aside: Final[list[tuple[Any, int | None]]] = []
"""The standard output while it is kept free: the stream, and a copy of its file descriptor."""


def _keep_stdout_free(context: typer.Context, wanted: bool) -> bool:
    """Send what anybody prints to the standard error until the document is shown."""
    if wanted and not _aside:
        sys.stdout.flush()
        try:
            copy = os.dup(1)
            os.dup2(2, 1)  # programs that an engine starts print too
        except OSError:
            copy = None
        _aside.append((sys.stdout, copy))
        sys.stdout = sys.stderr
        context.call_on_close(give_back_stdout)
    return wanted


AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        callback=_keep_stdout_free,
        help="Print one JSON document, and nothing else; progress goes to stderr.",
    ),
]
"""Type of a command's parameter `as_json`. Where it is true, all that is printed goes to the
standard error, until `show_json` prints the document."""


def show_json(value: object) -> None:
    """Print the document of a command.

    Args:
        value: Dataclasses, pydantic models, mappings, sequences, sets, paths and plain values,
            one in another. Numbers that are not finite become null.
    """
    give_back_stdout()
    print(json.dumps(plain(value), indent=2, allow_nan=False), flush=True)


def give_back_stdout() -> None:
    """Let the standard output be what it was; nothing happens where it is."""
    if not _aside:
        return
    stream, copy = _aside.pop()
    sys.stdout.flush()
    if copy is not None:
        os.dup2(copy, 1)
        os.close(copy)
    sys.stdout = stream


def plain(value: Any) -> Any:
    """What JSON can hold of a value."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, str | int | bool | None):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Set):
        return sorted(plain(each) for each in value)
    if isinstance(value, Sequence):
        return [plain(each) for each in value]
    return str(value)
