"""Chapter: where the queries of task and cache lie, as their embeddings see it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from delia_data.evaluation._html import element
from delia_data.evaluation.figures import Drawing, Palette
from delia_data.hub.parts import pair_shards
from delia_data.mixing import read_task_rows
from delia_data.ranking import rank
from delia_data.records import Record, read_record
from delia_data.report.chapter import Figures, Found
from delia_data.report.runs import Run, Runs
from delia_data.sampling.embeddings import Embed, TextMap, map_texts

_ROWS: Final = 250
"""Rows of each source that are drawn at most, by hash."""
_READ: Final = 2_000
"""Rows of each source among which they are picked."""
_SHOWN: Final = {"cache": "pairs", "task": "task rows"}


class Maps:
    """Makes the chapter; the embedding model is loaded for the first map."""

    def __init__(self, embed: Embed | None = None) -> None:
        """Use a function that gives texts as vectors; `map_texts` finds one otherwise."""
        self._embed = embed

    def __call__(self, runs: Runs, figures: Figures) -> Found | None:
        """Draw a map for each mixture; where there is none, one of caches and tasks together."""
        drawn, data = [], []
        for label, texts in _sources(runs):
            every = [(name, text) for name in _SHOWN for text in texts.get(name, ())]
            if len(every) < 3:
                continue
            found = map_texts([text for _, text in every], self._embed)
            places = {
                name: found.places[[at for at, (one, _) in enumerate(every) if one == name]]
                for name in texts
            }
            share = sum(found.variance)
            drawn.append(
                figures(
                    map_drawing(places, found),
                    f"Queries of {label}",
                    f"Queries {found.by}, on their first two principal components, which hold "
                    f"{share:.0%} of the variance: what is far apart here differs, what is near "
                    "may differ too.",
                )
            )
            data.append(
                {
                    "run": label,
                    "by": found.by,
                    "variance": list(found.variance),
                    "rows": {name: len(part) for name, part in places.items()},
                }
            )
        if not drawn:
            return None
        return Found(element("div", "".join(drawn), kind="figures"), data)


def map_drawing(places: Mapping[str, np.ndarray], found: TextMap) -> Drawing:
    """Draw places on the plane, coloured by source.

    Args:
        places: By source (`cache`, `task`), of shape (rows, 2).
        found: What says how much of the variance each axis holds.
    """

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        marks = (("cache", "o", 9, palette.series[0]), ("task", "^", 16, palette.series[1]))
        for name, mark, size, colour in marks:
            if name in places:
                x, y = places[name].T
                label = f"{len(places[name])} {_SHOWN[name]}"
                axes.scatter(x, y, s=size, marker=mark, color=colour, alpha=0.6, lw=0, label=label)
        one, other = found.variance
        axes.set_xlabel(f"first component, {one:.0%} of the variance")
        axes.set_ylabel(f"second, {other:.0%}")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        legend = figure.legend(loc="outside upper left", ncols=2)
        for handle in legend.legend_handles:
            handle.set_alpha(1)

    counts = " and ".join(f"{len(part)} {_SHOWN[name]}" for name, part in places.items())
    told = f"Map of the queries of {counts}, two components with {sum(found.variance):.0%}"
    return Drawing("map", told, paint, height=3.3)


def _sources(runs: Runs) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Names of what is mapped, with queries by source."""
    mixtures = runs.of("mixture")
    for run in mixtures:
        yield run.label, _of_mixture(run)
    if mixtures:
        return
    caches, tasks = runs.of("cache"), runs.of("task")
    if caches and tasks:
        pairs = [r for run in caches for r in _some_pairs(pair_shards(run.folder))]
        rows = [r.record for run in tasks for r in read_task_rows(run.folder).train]
        label = " and ".join(run.label for run in (*caches, *tasks))
        yield label, {"cache": _picked(pairs), "task": _picked(rows)}


def _some_pairs(shards: Sequence[Path]) -> list[Record]:
    """Return every n-th pair of a cache's shards, some thousands, one shard in memory at a time."""
    step = max(1, sum(pq.read_metadata(shard).num_rows for shard in shards) // _READ)
    some: list[Record] = []
    begin = 0
    for shard in shards:
        messages = pq.read_table(shard, columns=["messages"])["messages"]
        places = pa.array(range(-begin % step, len(messages), step), pa.int64())
        taken = messages.take(places).to_pylist()
        some += [read_record({"messages": turns}, "messages") for turns in taken]
        begin += len(messages)
    return some


def _of_mixture(run: Run) -> dict[str, list[str]]:
    shards = sorted(run.folder.glob("train*.parquet"))
    return {name: texts for name in _SHOWN if (texts := _picked(_some_rows(shards, name)))}


def _some_rows(shards: Sequence[Path], source: str) -> list[Record]:
    """Every so many-th row of a source, a row group in memory at a time."""
    columns = [pq.read_table(shard, columns=["source"])["source"] for shard in shards]
    total = sum(column.to_pylist().count(source) for column in columns)
    step, seen = max(1, total // _READ), 0
    some: list[Record] = []
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches():
                own = batch.filter(pa.compute.equal(batch.column("source"), source))
                taken = own.take(pa.array(range(-seen % step, own.num_rows, step), pa.int64()))
                some += [read_record(row) for row in taken.to_pylist()]
                seen += own.num_rows
    return some


def _picked(records: Sequence[Record]) -> list[str]:
    ordered = sorted(records, key=lambda record: rank(0, record.id, "picture"))
    return [record.query for record in ordered[:_ROWS]]
