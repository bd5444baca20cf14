"""Queries that are in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from delia_data.errors import InputError
from delia_data.outputs import canonical_json
from delia_data.sampling.queries import Query


class QueryList:
    """A sequence of queries, as `Queries`."""

    def __init__(self, queries: Sequence[Query]) -> None:
        """Take queries.

        Raises:
            InputError: There are none, or one is empty.
        """
        if not queries:
            raise InputError("there are no queries: give at least one")
        if any(not query.text.strip() for query in queries):
            raise InputError("a query is empty: fill it or drop it")
        self._queries = tuple(queries)

    def describe(self) -> dict[str, Any]:
        """The hash of all texts and references, in their order."""
        texts = [[query.text, query.reference] for query in self._queries]
        return {"source": "list", "sha256": hashlib.sha256(canonical_json(texts)).hexdigest()}

    def __iter__(self) -> Iterator[Query]:
        """Give the queries in their order."""
        return iter(self._queries)
