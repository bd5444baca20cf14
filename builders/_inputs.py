"""What the builders read: a task or a cache, bundled or at a path, and the hash of its bytes.

The hash is what a prepared dataset is filed under, so that a changed source is never served
from an old copy. It is taken of bytes alone: it neither parses anything nor depends on where
the source lies.
"""

from __future__ import annotations

import glob
import hashlib
import os
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from delia_data.bundled_cache import bundled_cache_folder, is_bundled
from delia_data.errors import InputError, TokenError
from delia_data.outputs import canonical_json, known_sha256
from delia_data.tasks import (
    BUNDLED_TASKS,
    TaskRows,
    bundled_task,
    bundled_wordings,
    read_task_rows,
)

Location = str | os.PathLike[str]


def read_task(task: Location | None, *, token: str | None = None, seed: int = 0) -> TaskRows:
    """Read the rows of a task, each in its wording.

    Args:
        task: A task folder, a JSON Lines or JSON file, or the name of a bundled task, which
            comes before a folder of that name; None for the bundled one.
        token: The special token, `""` for a task that has none; None for the task's own, which
            is `<sep>` for a file.
        seed: Seed of the bundled task's wordings; other tasks are worded already.

    Raises:
        InputError: The task is not there or cannot be read.
        TokenError: The task has another token than the one given.
    """
    name = _bundled_name(task)
    if name is not None:
        from delia_data.diversify import diversify  # not before, as it takes a while

        rows = diversify(bundled_task(name), bundled_wordings(name), seed=seed)
    else:
        return read_task_rows(_path("task", task), token=token)
    if token is not None and token != rows.token:
        raise TokenError(
            f"the task's token is {rows.token!r}, and {token!r} was given: leave the token out"
        )
    return rows


def locate_cache(cache: Location | None) -> Location:
    """Where the pairs lie: what was given, where there is something.

    Raises:
        InputError: The cache is not there, or none is bundled.
    """
    if cache is None or is_bundled(cache):
        return bundled_cache_folder()
    return _path("cache", cache)


def task_sha256(task: Location | None) -> str:
    """Hash the bytes that `read_task` reads.

    Raises:
        InputError: The task is not there or cannot be read.
    """
    name = _bundled_name(task)
    return _path_sha256(_path("task", task)) if name is None else _data_sha256("tasks", name)


def cache_sha256(cache: Location | None) -> str:
    """Hash the bytes of a cache.

    Raises:
        InputError: The cache is not there or cannot be read.
    """
    if cache is None or is_bundled(cache):
        return _data_sha256("sampling", "cache")
    return _path_sha256(_path("cache", cache))


def _bundled_name(task: Location | None) -> str | None:
    if task is None:
        return BUNDLED_TASKS[0]
    return task if isinstance(task, str) and task in BUNDLED_TASKS else None


def _path(kind: str, given: Any) -> Path:
    names = f", or a bundled one ({', '.join(BUNDLED_TASKS)})" if kind == "task" else ""
    known = f"give a {kind} folder, or a file such as {kind}.jsonl{names}"
    if not isinstance(given, str | os.PathLike):
        raise InputError(f"{kind}={given!r} is not a path: {known}")
    path = Path(given)
    if not path.exists() and not glob.glob(str(path), recursive=True):
        raise InputError(f"{kind} {os.fspath(given)!r} is not there: {known}")
    return path


def _data_sha256(part: str, name: str) -> str:
    """Hash all the data that one part of the package carries."""
    with as_file(files("delia_data") / part / "data") as folder:
        return hashlib.sha256(f"{name}:{_path_sha256(folder)}".encode()).hexdigest()


def _path_sha256(path: Path) -> str:
    """Hash a file, or the files of a glob or a folder by their names; hidden ones are left out."""
    if path.is_file():
        content = [[path.suffix, known_sha256(path)]]
    elif not path.exists():
        found = sorted(glob.glob(str(path), recursive=True))
        content = [[Path(name).name, _path_sha256(Path(name))] for name in found]
    else:
        inside = [(file.relative_to(path).as_posix(), file) for file in path.rglob("[!.]*")]
        content = [[name, known_sha256(file)] for name, file in sorted(inside) if file.is_file()]
    return hashlib.sha256(canonical_json(content)).hexdigest()
