"""The lean form of a mixture: an index over the task and the cache, in place of their rows.

A line of the index says of one row where it stands:

    split    source   row
    train    task      17     the task's training row 17, from 0
    train    cache    4021    the cache's pair 4021, its shards one after another
    test     task       3     the task's held-out row 3

Ten bytes or fewer for a row of hundreds. It is not a recipe to mix by: the rows and their order
are these, whatever version of this package reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from delia_data.errors import InputError
from delia_data.hub.parts import Part, cache_ids, lean_file, pair_shards, train_shards
from delia_data.mixing import read_task_rows, schema
from delia_data.mixing.folder import card, mixture_folder, write_rows
from delia_data.mixing.mixture import convert
from delia_data.mixing.options import MESSAGES
from delia_data.outputs import Manifest, atomic_path, finish, write_text
from delia_data.records import write_record

_BATCH: Final = 10_000
_NAME: Final = pa.dictionary(pa.int8(), pa.string())
_INDEX: Final = pa.schema([("split", _NAME), ("source", _NAME), ("row", pa.int64())])


def index_mixture(part: Part, task: Path, cache: Path) -> pa.Table:
    """Make the index of a mixture that was mixed from a task and a cache.

    Raises:
        InputError: A row of it is in neither.
    """
    rows = read_task_rows(task)
    keys = {
        ("train", "task"): pa.array([_key(r.record.id, r.wording_id) for r in rows.train]),
        ("test", "task"): pa.array([_key(r.record.id, r.wording_id) for r in rows.test]),
        ("train", "cache"): cache_ids(cache),
    }
    parts = []
    for split in ("train", "test"):
        for file in train_shards(part.folder) if split == "train" else _test_files(part.folder):
            for batch in pq.ParquetFile(file).iter_batches(
                _BATCH, columns=["source", "source_id", "wording_id"]
            ):
                parts.append(_places(batch, split, keys, part))
    return pa.concat_tables(parts) if parts else _INDEX.empty_table()


def write_lean(part: Part, task: Part, cache: Part, folder: Path) -> Part:
    """Turn a plain mixture into a lean one, whose index is written into a folder."""
    path = lean_file(part.name)
    index = index_mixture(part, task.folder, cache.folder)
    with atomic_path(folder / path) as file:
        pq.write_table(index, file, compression="zstd")
    return Part(part.name, part.folder, part.manifest, "lean", {path: folder / path})


def lean_rows(
    index: Path, task: Path, cache: Path, manifest: Manifest, split: str
) -> Iterator[pa.RecordBatch]:
    """Give the rows of a split, in their order and format.

    Args:
        index: The index.
        task: Folder of the task.
        cache: Folder of the cache.
        manifest: The mixture's manifest, which names the format.
        split: `"train"` or `"test"`.
    """
    places = pq.read_table(index)
    places = places.filter(pc.equal(places["split"], split))
    rows = read_task_rows(task)
    worded = rows.train if split == "train" else rows.test
    of_task = pa.array([write_record(row.record)["messages"] for row in worded], MESSAGES)
    shards = [pq.read_table(f, columns=["messages"])["messages"] for f in pair_shards(cache)]
    of_cache = [chunk.cast(MESSAGES) for column in shards for chunk in column.chunks]
    messages = pa.chunked_array([of_task, *of_cache], MESSAGES)
    task_ids = pa.array([row.record.id for row in worded], pa.string())
    ids = pa.chunked_array([task_ids, *cache_ids(cache).chunks], pa.string())
    wordings = pa.array([row.wording_id for row in worded], pa.string())
    for batch in places.combine_chunks().to_batches(_BATCH):
        source = batch["source"].cast(pa.string())
        from_cache = pc.equal(source, "cache")
        at = pc.add(batch["row"], pc.if_else(from_cache, len(worded), 0))
        wording = wordings.take(pc.if_else(from_cache, pa.scalar(None, pa.int64()), batch["row"]))
        columns = {
            "messages": messages.take(at).combine_chunks(),
            "source": source,
            "source_id": ids.take(at).combine_chunks(),
            "wording_id": wording,
        }
        yield convert(pa.RecordBatch.from_pydict(columns), manifest.settings["format"])


def expand(index: Path, task: Path, cache: Path, manifest: Manifest, folder: Path) -> Manifest:
    """Write a lean mixture as the folder that it would be in the plain form."""
    columns = schema(manifest.settings["format"])
    with mixture_folder(folder) as root:
        splits = {"train": "train.parquet"}
        if manifest.rows.get("test"):
            splits["test"] = "test.parquet"
        for split, name in splits.items():
            write_rows(root / name, lean_rows(index, task, cache, manifest, split), columns)
        write_text(root / "README.md", card(manifest, splits))
        return finish(root, manifest)


def _test_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("test*.parquet"))


def _key(row_id: str, wording_id: str | None) -> str:
    return f"{row_id}:{wording_id or ''}"


def _places(
    batch: pa.RecordBatch, split: str, keys: dict[tuple[str, str], pa.Array], part: Part
) -> pa.Table:
    wording = pc.fill_null(batch["wording_id"], "")
    worded = pc.binary_join_element_wise(batch["source_id"], wording, ":")
    in_task = pc.index_in(worded, keys[split, "task"])
    in_cache = pc.index_in(batch["source_id"], keys["train", "cache"])
    from_cache = pc.equal(batch["source"], "cache")
    rows = pc.if_else(from_cache, in_cache, in_task)
    if rows.null_count:
        raise InputError(
            f"{part.folder} has {rows.null_count} rows that are in neither the task nor the cache: "
            "mix it again from these, or publish it in the plain form"
        )
    splits = pa.array([split] * len(batch)).dictionary_encode().cast(_NAME)
    sources = batch["source"].dictionary_encode().cast(_NAME)
    return pa.Table.from_arrays([splits, sources, rows.cast(pa.int64())], schema=_INDEX)
