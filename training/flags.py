"""One flag for each setting, whatever reads the command line."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from delia_data.training.settings import TrainSettings, recipe_values


@dataclass(frozen=True, slots=True)
class SettingFlag:
    """The flag of one setting.

    Attributes:
        name: The setting.
        help: What it is, from the documentation of `TrainSettings`.
        is_switch: Whether it is given as `--name` or `--no-name`, without a value.
        metavar: How its value is written.
    """

    name: str
    help: str
    is_switch: bool
    metavar: str

    @property
    def option(self) -> str:
        """The flag as it is typed."""
        return f"--{self.name.replace('_', '-')}"


def setting_flags() -> list[SettingFlag]:
    """The flags of all settings, in their order."""
    types, told = get_type_hints(TrainSettings), _documented()
    return [
        SettingFlag(
            field.name,
            told[field.name],
            bool in _kinds(types[field.name]) and str not in _kinds(types[field.name]),
            _metavar(types[field.name]),
        )
        for field in fields(TrainSettings)
    ]


def settings_from(recipe: str, given: Mapping[str, Any]) -> TrainSettings:
    """Read a recipe, with values of flags over it.

    Args:
        recipe: Name of a bundled recipe, or a YAML file.
        given: Values by setting, as they were typed; None where a flag was not given. `none`
            empties a setting that can be empty; several names are parted by commas.

    Raises:
        InputError: There is no such recipe.
        SettingsError: A value is wrong; all are named at once.
    """
    types = get_type_hints(TrainSettings)
    over = {name: _value(value, types[name]) for name, value in given.items() if value is not None}
    where = f"{recipe} with {', '.join(sorted(over))}" if over else recipe
    return TrainSettings.from_dict({**recipe_values(recipe), **over}, where=where)


def _value(typed: Any, kind: Any) -> Any:
    if not isinstance(typed, str):
        return typed
    if typed.casefold() == "none" and type(None) in _kinds(kind):
        return None
    if tuple in _kinds(kind):
        return tuple(part.strip() for part in typed.split(",") if part.strip() not in ("", "none"))
    return typed


def _kinds(kind: Any) -> set[Any]:
    """The plain types that a type takes."""
    if get_origin(kind) is Literal or get_origin(kind) is tuple or not get_args(kind):
        return {get_origin(kind) or kind}
    return {inner for part in get_args(kind) for inner in _kinds(part)}


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    kinds = _kinds(kind)
    names = {tuple: "NAMES", int: "INTEGER", float: "NUMBER", str: "TEXT", bool: "BOOL"}
    plain = next(name for each, name in names.items() if each in kinds)
    return f"{plain}|none" if type(None) in kinds else plain


def _documented() -> dict[str, str]:
    """What the class says of each of its attributes."""
    lines = inspect.cleandoc(str(TrainSettings.__doc__)).partition("Attributes:\n")[2]
    entries = re.findall(r"^    (\w+): (.+(?:\n        .+)*)", lines, re.MULTILINE)
    return {name: " ".join(text.replace("`", "").split()) for name, text in entries}
