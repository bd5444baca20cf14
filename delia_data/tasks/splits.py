"""Which rows of a task are used, and which are held out: by keyed hash, whatever their order."""

from __future__ import annotations

from collections.abc import Sequence

from delia_data.errors import InputError
from delia_data.ranking import rank
from delia_data.records import Message, Record, content_id


def limit(rows: Sequence[Record], most: int | None, seed: int) -> tuple[Record, ...]:
    """Take at most so many rows; those of a smaller number are among those of a larger one.

    Raises:
        InputError: The number is below 1.
    """
    if most is None:
        return tuple(rows)
    if most < 1:
        raise InputError(f"{most} rows are too few: give at least 1")
    order = sorted(range(len(rows)), key=lambda i: (rank(seed, rows[i].id, "task rows"), i))
    return tuple(rows[i] for i in sorted(order[:most]))


def hold_out(
    rows: Sequence[Record], share: float, seed: int
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Set a share of the rows aside; rows with the same query stay together.

    Returns:
        The rows to train on, and those that are held out.

    Raises:
        InputError: The share is not between 0 and 1, or leaves one side without rows.
    """
    if not 0 <= share < 1:
        raise InputError(f"test share {share} is out of bounds: give 0 or more, below 1")
    if not share:
        return tuple(rows), ()
    queries = sorted(
        {_query_id(row) for row in rows}, key=lambda query: rank(seed, query, "held out")
    )
    count = round(share * len(queries))
    if not 0 < count < len(queries):
        raise InputError(
            f"a test share of {share:g} of {len(queries)} queries leaves {count} held out: "
            "give another share, or rows to test on"
        )
    held = set(queries[:count])
    return (
        tuple(row for row in rows if _query_id(row) not in held),
        tuple(row for row in rows if _query_id(row) in held),
    )


def _query_id(row: Record) -> str:
    return content_id([Message("user", row.query)])
