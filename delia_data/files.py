"""Atomic writes, hashes of files, and the lock of a folder.

A file appears under its name only when all of it is on disk: it is written beside its place,
flushed, and renamed. A rename is atomic on one file system, so a reader sees the old file or
the new one, never a part. The price is one more copy on disk while writing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from delia_data.errors import InputError, LockedError, OutputError

LOCK: Final = ".lock"


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to; it takes the place of `path` when the block succeeds.

    Raises:
        OutputError: The folder cannot be written to, or the disk is full.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(target)
        _sync_folder(target.parent)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(NotADirectoryError):
            part.unlink(missing_ok=True)


def cache_home() -> Path:
    """Folder for what can be made again: `DELIA_CACHE`, or `delia_data` in the user's cache."""
    base = os.environ.get("DELIA_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "delia_data"


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8, atomically."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a JSON file that a person can read, keys sorted, atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def canonical_json(value: Any) -> bytes:
    """Encode a JSON value so that equal values give equal bytes: what every hash is taken of."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Hash the bytes of a file.

    Raises:
        InputError: The file is not there or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; check the path") from error


@contextmanager
def folder_lock(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold the folder for this process; the kernel lets go of it when the process dies.

    The file `.lock` stays, and tells that the folder is ours.

    Raises:
        LockedError: Another process holds it.
    """
    root = Path(folder)
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / LOCK).open("a")
    except OSError as error:
        raise OutputError(f"{root} cannot be written: {error.strerror or error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(
                f"{root} is being written by another process: wait for it, or give another folder"
            ) from error
        yield


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, not only the file's content."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
