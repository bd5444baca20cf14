"""Task and cache folders to publish, and their publishers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hub_server import HubServer

from delia_data.mixing import mix, read_task_rows, save_mixture
from delia_data.outputs import Manifest, finish
from delia_data.records import Record, write_record

WRITER, READER, STRANGER = "hf_writerwriterwriter", "hf_readerreaderreader", "hf_strangerstranger"
UNKNOWN = "hf_unknownunknownunknown"
TOKENS = (WRITER, READER, STRANGER, UNKNOWN)
WRITES = {"create", "preupload", "batch", "upload", "commit", "tag"}


def make_task(folder: Path, *, wording: str = "As <sep>, is {} even?", rows: int = 6) -> Path:
    folder.mkdir(exist_ok=True)
    for name, numbers in (("train", range(rows)), ("test", range(100, 102))):
        lines = [
            {
                **write_record(Record.pair(wording.format(n), f"{{'even': '{n % 2 == 0}'}}")),
                "wording_id": wording[:2],
            }
            for n in numbers
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
    settings = {"name": "parity", "token": "<sep>", "seed": 0}
    counts = {"train": rows, "test": 2}
    manifest = Manifest(kind="task", settings=settings, inputs={"task": f"{rows}"}, rows=counts)
    finish(folder, manifest)
    return folder


def make_cache(folder: Path, *shards: int, extra: str = "", last: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    done = 0
    for number, size in enumerate(shards):
        extra += last if number == len(shards) - 1 else ""
        records = [
            Record.pair(f"Question {n}?", f"Answer {n}.{extra}") for n in range(done, done + size)
        ]
        rows = [{**write_record(r), "source_id": r.id, "tokens": 3} for r in records]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"pairs-{number:05}.parquet")
        done += size
    settings = {"model": {"name": "tiny", "weights_sha256": "ab"}, "sampling": {"top_p": 0.9}}
    manifest = Manifest(
        kind="cache", settings=settings, rows={"kept": done}, dropped={"empty": 2}, details={}
    )
    finish(folder, manifest)
    return folder


def rows_of(folder: Path, ratio: float, task: Path, cache: Path) -> dict[str, list[Any]]:
    """Return the rows of the mixture in this process, without a Hub."""
    rows = read_task_rows(task)
    shards = str(cache / "pairs*.parquet")
    save_mixture(mix(rows.train, shards, ratio=ratio, test=rows.test), folder)
    return {n: pq.read_table(folder / f"{n}.parquet").to_pylist() for n in ("train", "test")}


def routes_since(hub: HubServer, begin: int) -> list[str]:
    return [request.route for request in hub.log[begin:]]
