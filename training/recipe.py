"""Recipes: the settings of a training as YAML, bundled or a user's own."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from delia_data.errors import InputError, SettingsError
from delia_data.training.settings import TrainSettings


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = files("delia_data.training") / "recipes"
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


def read_recipe(recipe: str | os.PathLike[str]) -> TrainSettings:
    """Read a recipe: the name of a bundled one, or a YAML file.

    Raises:
        InputError: There is no such recipe.
        SettingsError: It is not a YAML mapping, a key is unknown, or a value is wrong.
    """
    return TrainSettings.from_dict(recipe_values(recipe), where=str(recipe))


def recipe_values(recipe: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the values that a recipe writes down, as they stand there.

    Raises:
        InputError: There is no such recipe.
        SettingsError: It is not a YAML mapping.
    """
    path = Path(recipe)
    if path.suffix in {".yaml", ".yml"}:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}; check the path") from error
        except UnicodeDecodeError as error:
            raise SettingsError(f"{path} is not UTF-8 text: write it anew as UTF-8") from error
    elif str(recipe) in recipe_names():
        bundled = files("delia_data.training") / "recipes" / f"{recipe}.yaml"
        text = bundled.read_text(encoding="utf-8")
    else:
        raise InputError(
            f"recipe {str(recipe)!r} is unknown: give a .yaml file or one of "
            f"{', '.join(recipe_names())}"
        )
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{recipe} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{recipe} must hold a mapping of settings")
    return values


def as_recipe(settings: TrainSettings) -> str:
    """Word settings as a recipe that gives them back."""
    return yaml.safe_dump(settings.as_dict(), sort_keys=False, allow_unicode=True)
