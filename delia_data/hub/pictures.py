"""The card's pictures: lengths by source, a map of pairs and task rows, accepted and dropped.

They are made where matplotlib is, of at most 500 rows each, and equal rows give equal pictures.
The map shows two principal components of the queries as all-MiniLM-L6-v2 embeds them; where that
model is not installed, of the words that they have (TF-IDF). The picture says which.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from delia_data.sampling.embeddings import Embedder, weights_folder
from delia_data.tokens import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Embed", "can_draw", "can_embed", "draw", "place_by_words"]

Embed = Callable[[Sequence[str]], np.ndarray]
"""Gives texts as vectors, of the shape `(texts, dimensions)`."""

_ROWS: Final = 500
_WORDS: Final = 4_096
_SUBSPACE, _ROUNDS = 8, 12
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


def can_embed() -> bool:
    """Tell whether the embedding model and what runs it are installed."""
    libraries = all(find_spec(name) is not None for name in ("torch", "transformers"))
    return libraries and weights_folder() is not None


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
            told = "embedded" if embed else "placed by their words (TF-IDF)"
            if embed is None and can_embed():
                embed, told = Embedder.load(), "embedded by all-MiniLM-L6-v2"
            vectors = (embed or place_by_words)(texts)
            pictures["map.png"] = _map(_plane(vectors), names, told)
    if CACHE in parts and dropped:
        kept = parts[CACHE].manifest.rows.get("kept", 0)
        pictures["dropped.png"] = _bars({"accepted": kept, **dropped})
    return pictures


def place_by_words(texts: Sequence[str]) -> np.ndarray:
    """Give texts as vectors of their words' TF-IDF, each word in one of 4096 places by its hash."""
    counts = [Counter(_place(word) for word in _split(text)) for text in texts]
    spread = Counter(place for count in counts for place in count)
    vectors = np.zeros((len(texts), _WORDS), dtype=np.float32)
    for row, count in enumerate(counts):
        for place, number in count.items():
            vectors[row, place] = (1 + math.log(number)) * math.log(len(texts) / spread[place] + 1)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    used = np.flatnonzero(vectors.any(axis=0))
    return (vectors / np.where(norms == 0, 1, norms))[:, used]


def _rows(parts: Mapping[str, Part]) -> dict[str, list[Record]]:
    """Some hundred rows of the cache and of the task, the same ones each time."""
    rows: dict[str, list[Record]] = {}
    if CACHE in parts:
        rows["pairs"] = _ranked(_some_pairs(pair_shards(parts[CACHE].folder)))
    if TASK in parts:
        rows["task"] = _ranked([r.record for r in read_task_rows(parts[TASK].folder).train])
    return {name: records for name, records in rows.items() if records}


def _some_pairs(shards: Sequence[Path]) -> list[Record]:
    """Every so many-th pair, a shard in memory at a time."""
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


def _split(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _place(word: str) -> int:
    return int.from_bytes(hashlib.md5(word.encode(), usedforsecurity=False).digest()[:4]) % _WORDS


def _plane(vectors: np.ndarray) -> np.ndarray:
    """Two principal components, of the shape `(rows, 2)`; the larger loading is positive."""
    centred = vectors - vectors.mean(axis=0)
    # Of thousands of dimensions two are wanted: some rounds of a small subspace find them.
    basis = np.random.default_rng(0).standard_normal((vectors.shape[1], _SUBSPACE))
    for _ in range(_ROUNDS):
        basis, _ = np.linalg.qr(centred.T @ (centred @ basis))
    _, _, axes = np.linalg.svd(centred @ basis, full_matrices=False)
    two = (basis @ axes.T).T[:2]
    signs = np.sign(two[np.arange(len(two)), np.abs(two).argmax(axis=1)])
    places = centred @ (two * signs[:, None]).T
    return np.pad(places, ((0, 0), (0, 2 - places.shape[1])))


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


def _map(places: np.ndarray, names: Sequence[str], told: str) -> bytes:
    with _drawing() as (figure, axes):
        for name, colour, size in (("pairs", _BLUE, 4), ("task", _ORANGE, 12)):
            rows = np.array([each == name for each in names])
            if rows.any():
                axes.scatter(places[rows, 0], places[rows, 1], size, colour, alpha=0.6, label=name)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(f"queries, {told}: two principal components")
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
