"""Declaration of arguments and options, and flags made from settings classes.

A parameter of a command and a field of a settings class are declared alike:

    rows: int = option(100, "Maximum number of rows.", PANEL)        in a command
    rows: int = setting(100, "Maximum number of rows.", PANEL)       in a settings class
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from functools import wraps
from typing import Any, get_type_hints

import typer


def option(
    default: Any,
    help: str,
    panel: str | None = None,
    *,
    names: Iterable[str] = (),
    complete: Iterable[str] = (),
    **more: Any,
) -> Any:
    """Return the declaration of an option.

    Args:
        default: Its default; `...` if it is required.
        help: Its help.
        panel: Its panel in `--help`.
        names: Its names. Default: that of the parameter.
        complete: Values that the shell offers; others stay valid.
        more: Other arguments of `typer.Option`.
    """
    offered = _offer(complete) if complete else None
    return typer.Option(
        default, *names, help=help, rich_help_panel=panel, autocompletion=offered, **more
    )


def argument(help: str, default: Any = ..., *, complete: Iterable[str] = (), **more: Any) -> Any:
    """Return the declaration of an argument; as for `option`."""
    offered = _offer(complete) if complete else None
    return typer.Argument(default, help=help, autocompletion=offered, **more)


def _offer(names: Iterable[str]) -> Callable[[str], list[str]]:
    offered = list(names)

    def complete(incomplete: str) -> list[str]:
        return [name for name in offered if name.startswith(incomplete)]

    return complete


def with_options(
    *,
    panels: Mapping[str, str] | None = None,
    values: Mapping[str, type] | None = None,
    **kinds: type,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the flags of settings classes to a command.

    Args:
        panels: Panel of the flags of a class, by the name of the command's parameter.
        values: Settings class of each parameter that gets the values of the flags by name.
        kinds: Settings class of each parameter that gets an instance.
    """
    panels, values = panels or {}, values or {}
    makers: dict[str, Any] = {**dict.fromkeys(values, dict), **kinds}
    flags = {name: _flags(kind, panels.get(name)) for name, kind in {**values, **kinds}.items()}

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        own = [each for each in signature.parameters.values() if each.name not in flags]

        @wraps(function)
        def command(**given: Any) -> None:
            options = {
                name: make(**{flag.name: given.pop(flag.name) for flag in flags[name]})
                for name, make in makers.items()
            }
            function(**given, **options)

        added = [flag for some in flags.values() for flag in some]
        command.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        return command

    return decorate


def _flags(kind: type, panel: str | None) -> list[inspect.Parameter]:
    """Return a keyword parameter for each field that `setting` declared."""
    hints = get_type_hints(kind)
    flags = []
    for field in fields(kind):
        if "flag" in field.metadata:
            declared = {**field.metadata["flag"]}
            declared["panel"] = declared["panel"] or panel
            hint = declared.pop("typed") or hints[field.name]
            default = None if field.default is MISSING else field.default
            flag = option(default, field.metadata["description"], **declared)
            way = inspect.Parameter.KEYWORD_ONLY
            flags.append(inspect.Parameter(field.name, way, default=flag, annotation=hint))
    return flags
