"""Declaration of an option: help, panel, and the values that the shell completes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import typer


def option(
    help: str,
    panel: str | None = None,
    *,
    names: Iterable[str] = (),
    complete: Iterable[str] = (),
    **more: Any,
) -> Any:
    """Return the declaration of an option, for `Annotated`.

    Args:
        help: Its help.
        panel: Its panel in `--help`.
        names: Its names. Default: that of the parameter.
        complete: Values that the shell offers; others stay valid.
        more: Other arguments of `typer.Option`.
    """
    offered = among(complete) if complete else None
    return typer.Option(*names, help=help, rich_help_panel=panel, autocompletion=offered, **more)


def among(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a function for Typer's `autocompletion=` that offers names."""
    known = list(names)

    def complete(incomplete: str) -> list[str]:
        return [name for name in known if name.startswith(incomplete)]

    return complete
