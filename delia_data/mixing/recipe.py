"""Recipes: YAML files with the tasks and caches of a mixture, their weights, and settings.

    tasks:
      halu: {path: my-halu-task, weight: 1.0}
      translate: {path: translate.jsonl, weight: 2.0, token: <de>}
    caches:
      own: {path: my-cache, weight: 3}
      other: shards/*.parquet             # a path without a mapping: weight 1
    ratio: 4
    order: interleaved                    # seed, on_short, format, epochs, strict, ... too

The weight of a task is a multiple of its rows. The weight of a cache is its relative share of the
pairs. Paths are relative to the working folder, as on the command line.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from delia_data.errors import InputError, SettingsError, printable, unknown_name
from delia_data.mixing.options import MixOptions
from delia_data.mixing.task_rows import TaskRows, read_task_rows
from delia_data.outputs import read_mapping

_SETTINGS: Final = tuple(field.name for field in fields(MixOptions))
_KEYS: Final = ("tasks", "caches", *_SETTINGS)


@dataclass(frozen=True, slots=True)
class Source:
    """A task or a cache of a recipe.

    Attributes:
        path: Path of the input.
        weight: Multiple of a task's rows, or a cache's relative share of the pairs.
        token: Special token of a task, `""` for none; None for that of a task folder, or `<sep>`.
    """

    path: str
    weight: float = 1.0
    token: str | None = None


@dataclass(frozen=True, slots=True)
class MixRecipe:
    """Inputs and settings of a mixture.

    Attributes:
        tasks: Tasks by name.
        caches: Caches by name.
        settings: Settings of `mix` in the file.
    """

    tasks: Mapping[str, Source]
    caches: Mapping[str, Source]
    settings: Mapping[str, Any]

    def arguments(self) -> dict[str, Any]:
        """Read the tasks, and return the arguments of `mix`; the ratio only if the file has one.

        Raises:
            InputError: A task cannot be read.
            TokenError: The token of a task differs from that in the recipe.
        """
        tasks: dict[str, TaskRows] = {
            name: read_task_rows(source.path, token=source.token)
            for name, source in self.tasks.items()
        }
        return {
            "task": tasks,
            "cache": {name: source.path for name, source in self.caches.items()},
            "task_weights": {name: source.weight for name, source in self.tasks.items()},
            "cache_weights": {name: source.weight for name, source in self.caches.items()},
            **self.settings,
        }


def read_mix_recipe(path: str | os.PathLike[str]) -> MixRecipe:
    """Read a recipe.

    Raises:
        InputError: The file cannot be read.
        SettingsError: It is not a YAML mapping, or keys or values are wrong; the error lists all.
    """
    values = read_mapping(Path(path), str(path), ", ".join(_KEYS))
    if values.get("select") == "uniform":  # a key of version 0.1.0, which had only this value
        del values["select"]
    problems = [*_unknown(values, _KEYS)]
    problems += [fault for kind in ("tasks", "caches") for fault in _faults(kind, values.get(kind))]
    settings = {key: values[key] for key in _SETTINGS if key in values}
    try:
        MixOptions(**{"ratio": 0, **settings})
    except InputError as error:
        problems.append(str(error))
    if problems:
        raise SettingsError(f"{path}: {'; '.join(problems)}")
    tasks, caches = (
        {name: _source(given) for name, given in values[kind].items()}
        for kind in ("tasks", "caches")
    )
    return MixRecipe(tasks, caches, settings)


def _source(given: Any) -> Source:
    return Source(given) if isinstance(given, str) else Source(**given)


def _faults(kind: str, given: Any) -> Iterator[str]:
    """Yield the errors in the tasks or the caches of a recipe."""
    if not isinstance(given, dict) or not given:
        yield f"{kind} must map at least one name to a path"
        return
    names = ("path", "weight", "token") if kind == "tasks" else ("path", "weight")
    for name, source in given.items():
        where = f"{kind}.{printable(name)}"
        if not isinstance(name, str):
            yield f"{where}: a name must be text"
        if isinstance(source, str):
            continue
        if not isinstance(source, dict) or not isinstance(source.get("path"), str):
            yield f"{where} must be a path, or a mapping with a path"
            continue
        yield from (f"{where}: {fault}" for fault in _unknown(source, names))
        weight, token = source.get("weight", 1.0), source.get("token")
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight < 0:
            yield f"{where}: weight {weight!r} is no number of at least 0, such as 2.0"
        if token is not None and not isinstance(token, str):
            yield f"{where}: token {token!r} is no text"


def _unknown(given: Mapping[Any, Any], names: tuple[str, ...]) -> Iterator[str]:
    return (unknown_name("key", key, names) for key in given if key not in names)
