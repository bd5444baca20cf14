"""The bundled cache and its name."""

from __future__ import annotations

import os
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final, TypeVar

from delia_data.errors import InputError
from delia_data.outputs import is_finished

BUNDLED: Final = "bundled"
"""The name; it comes before a folder of that name."""

_Given = TypeVar("_Given")


def bundled_cache_folder() -> Path:
    """Where the cache lies that comes with the package.

    Raises:
        InputError: This installation lacks it.
    """
    if not is_finished(folder := _folder()):
        raise InputError(
            "the cache that comes with delia_data is not in this installation: install it anew, "
            "or sample a cache with delia sample, and give its folder"
        )
    return folder


def cache_path(given: _Given) -> _Given | Path:
    """Give the folder of the bundled cache where its name is given, and else what is given.

    Raises:
        InputError: The bundled cache is named, and this installation lacks it.
    """
    return bundled_cache_folder() if _is_its_name(given) else given


def is_bundled(given: object) -> bool:
    """Whether what was given as a cache is the bundled one, by its name or its path."""
    return _is_its_name(given) or (
        isinstance(given, str | os.PathLike) and Path(given) == _folder()
    )


def _is_its_name(given: object) -> bool:
    return isinstance(given, str | os.PathLike) and os.fspath(given) == BUNDLED


def _folder() -> Path:
    with as_file(files("delia_data") / "sampling" / "data" / "cache") as folder:
        return folder
