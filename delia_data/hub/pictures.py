"""The card's pictures: lengths by source, a map of pairs and task rows, accepted and dropped.

They are made where matplotlib is, of at most 500 rows each, and equal rows give equal pictures.
The map is that of `sampling.embeddings.map_texts`: the picture says how the queries became vectors.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from delia_data._optional import require
from delia_data.hub.parts import CACHE, TASK, Part, pair_shards
from delia_data.mixing import read_task_rows
from delia_data.ranking import rank
from delia_data.records import Record, read_record
from delia_data.sampling.embeddings import Embed, TextMap, map_texts
from delia_data.tokens import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROWS: Final = 500
_BLUE, _ORANGE, _GREY = "#2a6fb0", "#d9822b", "#9a9a9a"
_STYLE: Final = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "text.parse_math": False,
}


def can_draw() -> bool:
    """Tell whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(
    parts: Mapping[str, Part],
    dropped: Mapping[str, int],
    *,
    embed: Embed | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> dict[str, bytes]:
    """Draw what the given parts allow.

    Args:
        parts: What is to be published; its cache and task are looked at.
        dropped: Pairs that were dropped, by reason.
        embed: Gives texts as vectors; all-MiniLM-L6-v2 when not given, and where that is not
            installed, the words that they have.
        tokenizer: What counts the tokens of rows; words are counted when not given.

    Returns:
        PNG files by name.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    rows = _rows(parts)
    pictures = {}
    if rows:
        measured = {name: [_length(r, tokenizer) for r in found] for name, found in rows.items()}
        pictures["lengths.png"] = _lengths(measured, "tokens" if tokenizer else "words")
        texts = [record.query for records in rows.values() for record in records]
        names = [name for name, records in rows.items() for _ in records]
        if len(texts) > 2:
            pictures["map.png"] = _map(map_texts(texts, embed), names)
    if CACHE in parts and dropped:
        kept = parts[CACHE].manifest.rows.get("kept", 0)
        pictures["dropped.png"] = _bars({"accepted": kept, **dropped})
    return pictures


def _rows(parts: Mapping[str, Part]) -> dict[str, list[Record]]:
    """Some hundred rows of the cache and of the task, the same ones each time."""
    rows: dict[str, list[Record]] = {}
    if CACHE in parts:
        rows["pairs"] = _ranked(some_pairs(pair_shards(parts[CACHE].folder)))
    if TASK in parts:
        rows["task"] = _ranked([r.record for r in read_task_rows(parts[TASK].folder).train])
    return {name: records for name, records in rows.items() if records}


def some_pairs(shards: Sequence[Path]) -> list[Record]:
    """Every so many-th pair of a cache's shards, some thousands, a shard in memory at a time."""
    step = max(1, sum(pq.read_metadata(shard).num_rows for shard in shards) // (4 * _ROWS))
    some: list[Record] = []
    begin = 0
    for shard in shards:
        messages = pq.read_table(shard, columns=["messages"])["messages"]
        places = pa.array(range(-begin % step, len(messages), step), pa.int64())
        taken = messages.take(places).to_pylist()
        some += [read_record({"messages": turns}, "messages") for turns in taken]
        begin += len(messages)
    return some


def _ranked(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=lambda record: rank(0, record.id, "picture"))[:_ROWS]


def _length(record: Record, tokenizer: PreTrainedTokenizerBase | None) -> int:
    if tokenizer is not None:
        return len(encode(tokenizer, record).ids)
    return sum(len(message.content.split()) for message in record.messages)


def _lengths(measured: Mapping[str, Sequence[int]], unit: str) -> bytes:
    with _drawing() as (figure, axes):
        most = max(max(values) for values in measured.values())
        bins = np.linspace(0, max(1, most), 31)
        for (name, values), colour in zip(measured.items(), (_BLUE, _ORANGE), strict=False):
            share = np.full(len(values), 100 / len(values))
            axes.hist(values, bins, weights=share, color=colour, alpha=0.6, label=name)
        axes.set_xlabel(f"{unit} of a row")
        axes.set_ylabel("% of the rows")
        axes.legend()
        return _png(figure)


def _map(mapped: TextMap, names: Sequence[str]) -> bytes:
    places = mapped.places
    with _drawing() as (figure, axes):
        for name, colour, size in (("pairs", _BLUE, 4), ("task", _ORANGE, 12)):
            rows = np.array([each == name for each in names])
            if rows.any():
                axes.scatter(places[rows, 0], places[rows, 1], size, colour, alpha=0.6, label=name)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(
            f"queries, {mapped.by}: two principal components, {sum(mapped.variance):.0%} of the "
            "variance"
        )
        axes.legend()
        return _png(figure)


def _bars(counts: Mapping[str, int]) -> bytes:
    with _drawing() as (figure, axes):
        names = list(counts)[::-1]
        colours = [_BLUE if name == "accepted" else _GREY for name in names]
        bars = axes.barh([name.replace("_", " ") for name in names], list(counts.values())[::-1])
        for bar, colour in zip(bars, colours, strict=True):
            bar.set_color(colour)
        axes.bar_label(bars, padding=3)
        axes.set_xlabel("pairs")
        return _png(figure)


@contextmanager
def _drawing() -> Iterator[tuple[Any, Any]]:
    """Give a figure and its axes, whatever the user's own settings are."""
    matplotlib = require("matplotlib", extra="eval")
    figure_class = require("matplotlib.figure", extra="eval").Figure
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = figure_class(figsize=(6, 3.4), dpi=120, layout="constrained")
        yield figure, figure.add_subplot()


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
