"""What goes wrong while a model trains, in one line: memory, disk, and what is not installed."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from delia_data.errors import DeliaError, EngineError, InputError, MissingExtraError, OutputError

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_SAID: Final = ("no space left", "quota exceeded", "file too large")
_CUT_SAID: Final = ("pytorchstreamwriter", "inline_container")
"""What torch says of a file that it could not write whole."""
_MEMORY_SAID: Final = ("out of memory", "can't allocate memory", "cannot allocate memory")


@contextmanager
def in_one_line(where: object, *, lower: str) -> Iterator[None]:
    """Turn what torch, transformers and peft raise for a full memory or disk into one line.

    Args:
        where: What is being written.
        lower: What to lower so that less memory is needed.

    Raises:
        EngineError: Memory ran out.
        OutputError: The disk is full.
        InputError: A service of `report_to` is unknown.
        MissingExtraError: A service of `report_to` is not installed.
    """
    try:
        yield
    except DeliaError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}".lower()
        first = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, MemoryError) or any(text in said for text in _MEMORY_SAID):
            raise EngineError(
                f"memory ran out: lower {lower}; the same command with that goes into a new folder"
            ) from error
        full = isinstance(error, OSError) and error.errno in _FULL
        if full or any(text in said for text in _FULL_SAID + _CUT_SAID):
            raise OutputError(
                f"{where} cannot be written ({first}): free some space; the same command goes on"
            ) from error
        if isinstance(error, ValueError) and "is not supported, only" in said:
            raise InputError(f"report_to: {first}") from error
        if (
            isinstance(error, RuntimeError | ImportError)
            and "requires" in said
            and "install" in said
        ):
            raise MissingExtraError(f"report_to: {first}") from error
        raise
