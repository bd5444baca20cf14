"""Parts of a split: what `datasets` hands out to workers and nodes, one or several to each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from delia_data.mixing import PLACES, Plan
from delia_data.mixing.sources import pairs_of

# Enough for many workers and nodes to share evenly; the cut never changes rows or their order.
_TABLE_PARTS: Final = 64
# Fewer where every part that is read by itself reads the whole cache.
_PLAN_PARTS: Final = 16


@dataclass(frozen=True)
class TablePart:
    """Rows in memory."""

    table: pa.Table

    @classmethod
    def cut(cls, table: pa.Table) -> list[TablePart]:
        """Cut a table into parts of nearly equal size, in order."""
        count = max(1, min(_TABLE_PARTS, table.num_rows))
        bounds = [part * table.num_rows // count for part in range(count + 1)]
        return [cls(table.slice(begin, end - begin)) for begin, end in pairwise(bounds)]

    def __getstate__(self) -> dict[str, pa.Table]:
        """A copy: a slice would carry the whole table with it into every worker."""
        return {"table": self.table.take(pa.array(range(self.table.num_rows), pa.int64()))}


@dataclass(frozen=True)
class PlanPart:
    """Rows that follow from a plan, from a place of its order up to another."""

    plan: Plan
    begin: int
    end: int

    @classmethod
    def cut(cls, plan: Plan) -> list[PlanPart]:
        """Cut a plan's order into parts; an interleaved one stays whole."""
        count = _PLAN_PARTS if plan.options.order == "shuffled" else 1
        bounds = [part * PLACES // count for part in range(count + 1)]
        return [cls(plan, begin, end) for begin, end in pairwise(bounds)]


@dataclass(frozen=True)
class FilePart:
    """Pairs of a file, or of row groups of it, read when they are asked for."""

    file: Path
    groups: tuple[int, int] | None = None

    @classmethod
    def cut(cls, files: Sequence[Path]) -> list[FilePart]:
        """Cut files into parts: Parquet by its row groups, any other file stays whole."""
        parts = []
        for file in files:
            count = pq.ParquetFile(file).num_row_groups if file.suffix == ".parquet" else 0
            cuts = min(count, _TABLE_PARTS)
            bounds = [part * count // cuts for part in range(cuts + 1)] if cuts else []
            parts += [cls(file, groups) for groups in pairwise(bounds)] or [cls(file)]
        return parts


Part = TablePart | PlanPart | FilePart


def tables(parts: Sequence[Part]) -> Iterator[pa.Table]:
    """Give the rows of parts; those of one plan are read together, in one go."""
    planned = [part for part in parts if isinstance(part, PlanPart)]
    if planned:
        ranges: list[tuple[int, int]] = []
        for one in planned:
            joined = bool(ranges) and ranges[-1][1] == one.begin
            begin = ranges.pop()[0] if joined else one.begin
            ranges.append((begin, one.end))
        for batch in planned[0].plan.stream(ranges):
            yield pa.Table.from_batches([batch])
    for part in parts:
        if isinstance(part, TablePart):
            yield part.table
        elif isinstance(part, FilePart):
            yield from pairs_of(part.file, part.groups)
