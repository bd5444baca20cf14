"""The same rows again and again, as often as fits: each pass in an order of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from delia_data.errors import InputError
from delia_data.ranking import rank


def repeated(
    rows: Sequence[Mapping[str, Any]], count: int, *, seed: int = 0
) -> tuple[Mapping[str, Any], ...]:
    """Go through rows until there are `count`; no row comes twice in one pass.

    Raises:
        InputError: There are no rows.
    """
    if not rows:
        raise InputError("there are no rows to repeat: give at least one")
    taken: list[Mapping[str, Any]] = []
    while len(taken) < count:
        taken += shuffled(rows, seed=seed, turn=len(taken) // len(rows))
    return tuple(taken[:count])


def shuffled(
    rows: Sequence[Mapping[str, Any]], *, seed: int, turn: int = 0
) -> list[Mapping[str, Any]]:
    """Put rows into an order by keyed hash, another one for each turn."""
    keys = [rank(seed, str(row["source_id"]), f"turn {turn}") for row in rows]
    return [rows[i] for i in sorted(range(len(rows)), key=lambda i: (keys[i], i))]
