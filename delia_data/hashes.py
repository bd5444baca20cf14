"""Hashes of files that were hashed before, so that a large one is not read at every load.

A file is known by its path, size, inode and time of change. One that changed a moment ago is
hashed again, as the clock of the file system may be too coarse to tell two changes apart.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from delia_data.errors import InputError
from delia_data.files import cache_home, file_sha256, write_json

_WORTH_KEEPING_BYTES: Final = 4 << 20
_SETTLED_S: Final = 2.0


def known_sha256(path: str | os.PathLike[str]) -> str:
    """Hash the bytes of a file, or give the hash of the last time where it did not change since.

    Raises:
        InputError: The file is not there or cannot be read.
    """
    try:
        seen = Path(path).stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; check the path") from error
    settled = abs(time.time() - max(seen.st_mtime, seen.st_ctime)) > _SETTLED_S
    if seen.st_size < _WORTH_KEEPING_BYTES or not settled:
        return file_sha256(path)
    whole = os.path.realpath(path)
    sign = [whole, seen.st_size, seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns]
    name = hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    note = cache_home() / "hashes" / f"{name}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["file"] == sign:
            return str(known["sha256"])
    digest = file_sha256(path)
    with suppress(OSError, UnicodeError):  # a cache that cannot be written is none
        write_json(note, {"file": sign, "sha256": digest})
    return digest
