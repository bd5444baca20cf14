"""Queries of files and datasets, in any of the row formats.

Everything is read row by row, so that a million queries need no more memory than one; only a
`.json` file is one value, and is read whole.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from delia_data.errors import FormatError, InputError
from delia_data.mixing.sources import Pairs, rows_of, shards_of
from delia_data.outputs import canonical_json
from delia_data.sampling.queries import Query
from delia_data.sampling.query_rows import read_query

GivenQueries: TypeAlias = Pairs | Sequence[Query] | Sequence[str]
"""What queries can be given as: a path, glob, folder or Hub id, a dataset, or rows."""

_NAMED: Final = 3  # rows that an error names


@dataclass(frozen=True)
class _Contents:
    """What a pass over all rows found."""

    rows: int
    referenced: int
    sha256: str


class FileQueries:
    """Queries of a file, a glob, a folder, a Hub id, a dataset or rows in memory.

    The first use reads all rows once, before anything is asked of a model: it finds every row
    without a query, and hashes the others.
    """

    def __init__(self, given: GivenQueries, *, kind: str = "user") -> None:
        """Point at queries; nothing is read yet.

        Args:
            given: What holds them. Rows are mappings, records, queries or plain texts.
            kind: What their `kind` says, for rows without a kind of their own.

        Raises:
            InputError: It is a dictionary of splits, or can be read only once.
        """
        if isinstance(given, Mapping):
            raise InputError(
                f"a mapping of {', '.join(map(str, given)) or 'nothing'} is no list of queries: "
                "give one of its splits, or a list of rows"
            )
        if isinstance(given, Iterator):
            raise InputError(
                "an iterator gives its queries only once: give a list, a dataset or a path"
            )
        self._given = given
        self._kind = kind
        self._contents: _Contents | None = None

    @property
    def rows(self) -> int:
        """How many queries there are."""
        return self._checked().rows

    @property
    def referenced(self) -> int:
        """How many of them come with an answer, which asking with an exemplar needs."""
        return self._checked().referenced

    def describe(self) -> dict[str, Any]:
        """Their number, and a hash of all texts and references in their order; no path.

        Raises:
            InputError: There is nothing there, it cannot be read, or rows have no query; the
                message counts them and names the first three.
        """
        contents = self._checked()
        return {"source": "rows", "rows": contents.rows, "sha256": contents.sha256}

    def __iter__(self) -> Iterator[Query]:
        """Give the queries in the order of the rows.

        Raises:
            InputError: As `describe`; or the rows are others than they were then.
        """
        before = self._checked()
        digest = hashlib.sha256()
        for where, row in _rows(self._given):
            try:
                query = read_query(row, kind=self._kind)
            except FormatError as error:
                raise InputError(f"{where} changed while it was read: {error}") from error
            _add(digest, query)
            yield query
        if digest.hexdigest() != before.sha256:
            raise InputError("the queries changed while they were read: run again")

    def _checked(self) -> _Contents:
        if self._contents is None:
            self._contents = self._check()
        return self._contents

    def _check(self) -> _Contents:
        """Read all rows once."""
        digest = hashlib.sha256()
        rows = referenced = wrong = 0
        named: list[str] = []
        for where, row in _rows(self._given):
            rows += 1
            try:
                query = read_query(row, kind=self._kind)
            except FormatError as error:
                wrong += 1
                if len(named) < _NAMED:
                    named.append(f"{where} ({error})")
                continue
            referenced += query.reference is not None
            _add(digest, query)
        if wrong:
            more = f" and {wrong - len(named):,} more" if wrong > len(named) else ""
            raise FormatError(
                f"{wrong:,} of {rows:,} rows have no query: {', '.join(named)}{more}; "
                "mend or remove them"
            )
        if not rows:
            raise InputError("there are no queries: give at least one")
        return _Contents(rows, referenced, digest.hexdigest())


def _rows(given: Any) -> Iterator[tuple[str, Any]]:
    """All rows with their places, one after another."""
    if isinstance(given, str | os.PathLike) and _is_here(given):
        for file in shards_of(given)[0]:
            yield from rows_of(file)
    else:
        yield from rows_of(given)


def _is_here(given: str | os.PathLike[str]) -> bool:
    return Path(given).exists() or glob.has_magic(str(given))


def _add(digest: Any, query: Query) -> None:
    digest.update(canonical_json([query.text, query.reference]) + b"\n")
