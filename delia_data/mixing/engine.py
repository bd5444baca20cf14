"""DuckDB as the mixture uses it: one connection, bounded memory, and the SQL of ids and places.

Why DuckDB: it reads JSON Lines and Parquet in parallel, hashes as Python's standard library does
(MD5), and hands rows over as Arrow without a copy, a batch at a time. It does not sort: sorts of
whole rows took half of the time, and beyond memory it gave up at times (`mixing/kept.py` sorts).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from delia_data.errors import DeliaError, OutputError
from delia_data.outputs import LOCK

if TYPE_CHECKING:
    import duckdb

MEMORY_MIB: Final = int(os.environ.get("DELIA_MIX_MEMORY_MIB", "1280"))
"""Memory of DuckDB; half as much again is taken by rows before they go to disk."""

_PREFIX: Final = "delia-mix-"

ID_SQL: Final = (
    "md5(array_to_string(list_transform(messages, "
    "lambda m: m.role || ':' || strlen(m.content) || ':' || m.content), ''))"
)
"""Content id of a row's `messages`; `records.content_id` is the same in Python."""


class Spill:
    """A folder for temporary files, which goes with the last reference to this object.

    A process that was killed leaves its folder; the next one that makes a folder removes it.

    Attributes:
        path: The folder.
    """

    def __init__(self) -> None:
        """Make the folder, and hold it for this process."""
        _remove_abandoned()
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        new = self.path / f"{LOCK}.new"
        lock = new.open("a")
        fcntl.flock(lock, fcntl.LOCK_EX)
        new.rename(self.path / LOCK)  # whoever sees it finds it held
        self._finalizer = weakref.finalize(self, _release, self.path, lock)

    def remove(self) -> None:
        """Remove the folder now."""
        self._finalizer()

    def __getstate__(self) -> dict[str, Path]:
        """Let another process know the folder, which stays this one's to remove."""
        return {"path": self.path}


def _release(folder: Path, lock: IO[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.close()


def _remove_abandoned() -> None:
    """Remove the folders of processes that are no more: those that nobody holds."""
    for file in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{LOCK}"):
        with suppress(OSError), file.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(file.parent, ignore_errors=True)


@contextmanager
def connect() -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database in memory that spills to a temporary folder, removed at the end.

    Raises:
        OutputError: The disk is full or gone.
    """
    import duckdb  # here, as importing it takes a while that `import delia_data` need not

    spill = Spill()
    connection = duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"})
    try:
        connection.execute(f"SET memory_limit = '{MEMORY_MIB}MiB'")
        connection.execute(f"SET temp_directory = {quote(str(spill.path))}")
        connection.execute("SET preserve_insertion_order = false")
        connection.execute("SET streaming_buffer_size = '64MiB'")  # it reads on while we work
        with suppress(duckdb.InvalidInputException):  # raised in a notebook without ipywidgets
            connection.execute("SET enable_progress_bar = false")
        if threads := int(os.environ.get("DELIA_MIX_THREADS", "0")):  # else one a core
            connection.execute(f"SET threads = {threads}")
        yield connection
    except (duckdb.Error, OSError) as error:  # an Arrow reader passes errors on as OSError
        if isinstance(error, DeliaError) or "Out of Memory" not in str(error):
            raise
        raise OutputError(
            f"the mixture needs more than {MEMORY_MIB} MiB and the space left for temporary "
            "files: free some space, set TMPDIR to a larger disk, or raise DELIA_MIX_MEMORY_MIB"
        ) from error
    finally:
        connection.close()
        spill.remove()


def rank_sql(seed: int, purpose: str, key: str, half: str = "") -> str:
    """SQL of `ranking.rank` over a column or expression of text.

    Args:
        seed: Seed of the run.
        purpose: What the order is for.
        key: SQL of the text.
        half: `"_upper"` or `"_lower"` for 64 of the 128 bits.
    """
    return f"md5_number{half}({quote(f'{seed}:{purpose}:')} || {key})"


def place_sql(seed: int, purpose: str, key: str) -> str:
    """SQL of `ranking.rank` as 16 bytes, of which `kept.keys_of` makes numbers.

    One hash as bytes takes half the time of its two halves as numbers.
    """
    return f"unhex(md5({quote(f'{seed}:{purpose}:')} || {key}))"


def names_sql(tokens: tuple[str, ...]) -> str:
    """SQL that tells whether any turn of `messages` names one of the tokens."""
    tests = " OR ".join(f"contains(m.content, {quote(token)})" for token in tokens)
    return f"len(list_filter(messages, lambda m: {tests})) > 0" if tests else "false"


def quote(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
