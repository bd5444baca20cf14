"""Find the bundled cache, by its name or as a folder."""

from __future__ import annotations

import os
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final, TypeVar

from delia_data.errors import InputError
from delia_data.outputs import is_finished

BUNDLED: Final = "bundled"
"""Name of the bundled cache; takes precedence over a folder with that name."""

_Given = TypeVar("_Given")


def bundled_cache_folder() -> Path:
    """Return the folder of the bundled cache.

    Raises:
        InputError: The installation does not contain it.
    """
    if not is_finished(folder := _folder()):
        raise InputError(
            "this installation of delia_data does not contain the bundled cache: reinstall "
            "delia_data, or sample a cache with delia sample and give its folder"
        )
    return folder


def cache_path(given: _Given) -> _Given | Path:
    """Replace the name of the bundled cache by its folder; return anything else unchanged.

    Raises:
        InputError: The installation does not contain the bundled cache.
    """
    return bundled_cache_folder() if _is_its_name(given) else given


def is_bundled(given: object) -> bool:
    """Return whether a cache is the bundled one, given by its name or its path."""
    return _is_its_name(given) or (
        isinstance(given, str | os.PathLike) and Path(given) == _folder()
    )


def _is_its_name(given: object) -> bool:
    return isinstance(given, str | os.PathLike) and os.fspath(given) == BUNDLED


def _folder() -> Path:
    with as_file(files("delia_data") / "sampling" / "data" / "cache") as folder:
        return folder
