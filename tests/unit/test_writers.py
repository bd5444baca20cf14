"""A mixture's manifest names the models that wrote its pairs."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from mixtures import pairs, task_rows

from delia_data.engines.mock import MockEngine
from delia_data.mixing import mix
from delia_data.outputs import Manifest, finish
from delia_data.records import write_record
from delia_data.sampling import Query, sample

WRITER = {"name": "small", "weights_sha256": "1f", "chat_template_sha256": "2e"}


def cache_by(folder: Path, model: object, first: int = 0) -> Path:
    folder.mkdir()
    rows = [write_record(record) for record in pairs(first + 8)[first:]]
    pq.write_table(pa.Table.from_pylist(rows), folder / "pairs.parquet")
    finish(folder, Manifest(kind="cache", settings={"model": model} if model else {}))
    return folder


def test_the_writer_of_a_cache_folder_is_named(tmp_path: Path) -> None:
    cache = cache_by(tmp_path / "cache", WRITER)
    assert mix(task_rows(2), cache, ratio=2).manifest.details == {"written_by": {"cache": WRITER}}
    assert mix(task_rows(2), cache, ratio=0).manifest.details == {"written_by": {"cache": WRITER}}


def test_every_cache_has_its_own(tmp_path: Path) -> None:
    caches = {
        "one": cache_by(tmp_path / "one", WRITER),
        "two": cache_by(tmp_path / "two", "gpt-x", 8),
        "three": cache_by(tmp_path / "three", None, 16),
    }
    written = mix(task_rows(2), caches, ratio=3).manifest.details["written_by"]
    assert written == {"one": WRITER, "two": "gpt-x"}


def test_nothing_is_claimed_of_rows_and_files(tmp_path: Path) -> None:
    cache = cache_by(tmp_path / "cache", WRITER)
    assert mix(task_rows(2), pairs(8), ratio=2).manifest.details == {}
    assert mix(task_rows(2), cache / "pairs.parquet", ratio=2).manifest.details == {}


def test_what_the_engine_says_is_what_the_mixture_says(tmp_path: Path) -> None:
    engine = MockEngine()
    queries = [Query(f"Tell me about the number {i}.", "test") for i in range(4)]
    sample(engine, queries, tmp_path / "cache", target=4, filters=[])
    written = mix(task_rows(2), tmp_path / "cache", ratio=2).manifest.details["written_by"]
    assert written == {"cache": engine.describe()["model"]}
