"""A flag for each setting of a training, made from the fields of `TrainSettings`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from delia_data.cli._flags import option
from delia_data.tokens import parse_assignments
from delia_data.training import TrainSettings, read_recipe, recipe_names

_PANEL: Final = "Settings that replace the recipe's"


def recipe_option(default: str = "smollm2-135m-cpu") -> Any:
    """Return the declaration of `--recipe`."""
    names = recipe_names()
    return option(default, f"A .yaml file, or one of {', '.join(names)}.", complete=names)


def with_setting_flags(function: Callable[..., None]) -> Callable[..., None]:
    """Add a flag for each training setting to a command; `**given` receives the given values."""
    signature = inspect.signature(function, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    hints = get_type_hints(TrainSettings)
    flags = []
    for field in fields(TrainSettings):
        kind = hints[field.name]
        flag, is_switch = f"--{field.name.replace('_', '-')}", bool in _types(kind)
        by_name = dict in _types(kind)  # repeatable, as in --template-option NAME=VALUE
        flag = flag.removesuffix("s") if by_name else flag
        declared = option(
            None,
            field.metadata["description"],
            _PANEL,
            names=[f"{flag}/--no-{flag[2:]}" if is_switch else flag],
            metavar=None if is_switch else _metavar(kind),
            show_default=False,
        )
        # Values are typed as text: "none" clears a setting of any type.
        typed: Any = bool if is_switch else list[str] if by_name else str
        flags.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=declared,
                annotation=typed | None,
            )
        )
    function.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
    return function


def settings_from(recipe: str, given: Mapping[str, Any]) -> TrainSettings:
    """Read a recipe, and replace its values by those of flags.

    Raises:
        InputError: There is no such recipe.
        SettingsError: A value is wrong; the message names all.
    """
    hints = get_type_hints(TrainSettings)
    overrides = {
        name: _value(value, hints[name]) for name, value in given.items() if value is not None
    }
    return read_recipe(recipe, overrides)


def _value(typed: Any, hint: Any) -> Any:
    if isinstance(typed, list):
        return parse_assignments(typed, "--template-option")
    if not isinstance(typed, str):
        return typed
    if typed.casefold() == "none" and type(None) in _types(hint):
        return None
    if tuple in _types(hint):
        return tuple(part.strip() for part in typed.split(",") if part.strip() not in ("", "none"))
    return typed


def _types(hint: Any) -> set[Any]:
    """Return the plain types of a type hint, such as {int, NoneType} of `int | None`."""
    if get_origin(hint) in (Literal, tuple, dict) or not get_args(hint):
        return {get_origin(hint) or hint}
    return {inner for part in get_args(hint) for inner in _types(part)}


def _metavar(hint: Any) -> str:
    types = _types(hint)
    if Literal in types:
        kinds = [hint] if get_origin(hint) is Literal else get_args(hint)
        return "|".join(name for kind in kinds for name in (get_args(kind) or ("none",)))
    if dict in types:
        return "NAME=VALUE"
    names = {tuple: "NAMES", int: "INTEGER", float: "NUMBER", str: "TEXT"}
    plain = next(name for each, name in names.items() if each in types)
    return f"{plain}|none" if type(None) in types else plain
