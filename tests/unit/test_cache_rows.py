"""Rows of a cache with their ids: in memory, in the cache home, in a temporary file."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from row_files import write_jsonl

from delia_data.errors import InputError, OutputError
from delia_data.mixing import Mixture, Order, TaskRow, mix, store
from delia_data.mixing.store import CacheRows, content_ids, open_cache
from delia_data.records import Record, write_record

TASK = [TaskRow(Record.pair(f"question {i} <sep>", "{}"), f"w-{i % 3}") for i in range(10)]
PAIRS = [Record.pair(f"query {i} é", f"answer {i}") for i in range(400)]
ODD = [*PAIRS, *PAIRS[:9], TASK[3].record, Record.pair("it names", "a <sep>")]
OTHERS = [*(Record.pair(f"other {i}", "b") for i in range(40)), *PAIRS[50:60]]
LONGER = Record((*PAIRS[0].messages, *PAIRS[1].messages))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache home, which stores even small caches."""
    monkeypatch.setenv("DELIA_CACHE", str(tmp_path / "home"))
    monkeypatch.setattr(store, "_STORED_BYTES", 0)
    monkeypatch.setattr(store, "_WINDOW_BYTES", 1)  # the least: a thousand rows
    return tmp_path / "home"


def jsonl(path: Path, records: Sequence[Record]) -> Path:
    return write_jsonl(path, map(write_record, records))


def rows_files(home: Path) -> list[Path]:
    return sorted(home.glob("sources/*/rows.arrow"))


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise AssertionError("the cache was read again")

    monkeypatch.setattr(store, "content_ids", refuse)


CASES: dict[str, dict[str, Any]] = {
    "all pairs": {"cache": PAIRS, "ratio": 40},
    "some pairs": {"cache": PAIRS, "ratio": 25},
    "duplicates and other drops": {"cache": ODD, "ratio": 40},
    "a repeated cache": {"cache": ODD, "ratio": 199, "on_short": "repeat"},
    "several caches": {"cache": {"a": ODD, "b": OTHERS}, "ratio": 30, "on_short": "all"},
    "another format": {"cache": PAIRS, "ratio": 40, "format": "prompt_completion"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("order", ["shuffled", "interleaved"])
@pytest.mark.parametrize("place", ["home", "temporary"])
def test_rows_are_those_of_a_cache_in_memory(
    case: str, order: Order, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = CASES[case] | {"order": order}
    expected = mix(TASK, **settings)
    caches = settings["cache"] if isinstance(settings["cache"], dict) else {"c": settings["cache"]}
    if place == "home":
        paths = {name: jsonl(tmp_path / f"{name}.jsonl", rows) for name, rows in caches.items()}
        settings["cache"] = paths if len(paths) > 1 else paths["c"]
    monkeypatch.setattr(store, "_IN_MEMORY_BYTES", 0)
    mixture = mix(TASK, **settings)
    assert all((c.path is not None) == (place == "home") for c in mixture.caches)
    assert all(c.unnamed == (place == "temporary") for c in mixture.caches)
    assert mixture.manifest == expected.manifest
    assert mixture.train.equals(expected.train)


def test_a_second_ratio_reads_the_stored_rows(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = jsonl(tmp_path / "pairs.jsonl", ODD)
    mix(TASK, cache, ratio=4)
    assert len(rows_files(home)) == 1
    expected = [mix(TASK, ODD, ratio=20, seed=seed) for seed in (0, 3)]
    forbid_reading(monkeypatch)
    for seed in (0, 3):
        mixture = mix(TASK, cache, ratio=20, seed=seed)
        assert mixture.train.equals(expected[seed // 3].train)
        assert mixture.manifest == expected[seed // 3].manifest


def test_another_token_is_searched_for(tmp_path: Path) -> None:
    rows = open_cache(jsonl(tmp_path / "pairs.jsonl", [*ODD, Record.pair("<fmt>", "<sep>")]))
    for _ in range(2):
        assert rows.rows_with_token(["<sep>"]).tolist() == [409, 410, 411]
        assert rows.rows_with_token(["<fmt>"]).tolist() == [411]
        assert rows.rows_with_token(["<fmt>", "<sep>"]).tolist() == [409, 410, 411]
        assert rows.rows_with_token(["sep><"]).tolist() == []
        assert rows.rows_with_token([]).tolist() == []


def test_a_changed_file_is_read_again(tmp_path: Path, home: Path) -> None:
    cache = jsonl(tmp_path / "pairs.jsonl", PAIRS)
    before = mix(TASK, cache, ratio=4).manifest.inputs
    jsonl(cache, PAIRS[:-1])
    assert mix(TASK, cache, ratio=4).manifest.inputs != before
    assert len(rows_files(home)) == 2


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = jsonl(tmp_path / "pairs.jsonl", PAIRS)

    def change(messages: pa.ListArray) -> Any:
        jsonl(cache, PAIRS[:-1])
        return content_ids(messages)

    monkeypatch.setattr(store, "content_ids", change)
    with pytest.raises(InputError, match="changed while it was read: run the command again"):
        mix(TASK, cache, ratio=4)
    assert not rows_files(home)


@pytest.mark.parametrize("bytes_left", [0, 100, 5_000])
def test_a_file_cut_off_by_a_crash_is_written_again(
    tmp_path: Path, home: Path, bytes_left: int
) -> None:
    cache = jsonl(tmp_path / "pairs.jsonl", PAIRS)
    expected = mix(TASK, cache, ratio=4).train
    (file,) = rows_files(home)
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(whole[:bytes_left])
    assert mix(TASK, cache, ratio=4).train.equals(expected)
    assert file.read_bytes() == whole


def test_unused_rows_and_abandoned_files_are_removed(tmp_path: Path, home: Path) -> None:
    mix(TASK, jsonl(tmp_path / "a.jsonl", PAIRS), ratio=1)
    mix(TASK, jsonl(tmp_path / "b.jsonl", OTHERS), ratio=1)
    old, used = rows_files(home)
    for path, days in ((old, 31), (used, 29), (used.with_name("x.part"), 2)):
        path.touch()
        os.utime(path, (time.time() - days * 86_400,) * 2)
    mix(TASK, jsonl(tmp_path / "c.jsonl", ODD), ratio=1)
    assert not old.parent.exists()
    assert used.exists() and not used.with_name("x.part").exists()


def test_a_home_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    home.write_text("a file, in which no folder can be made")
    cache = jsonl(tmp_path / "pairs.jsonl", PAIRS)
    mixture = mix(TASK, cache, ratio=20)
    assert mixture.train.equals(mix(TASK, PAIRS, ratio=20).train)
    with pytest.raises(OutputError, match="set DELIA_CACHE to a folder that can be written"):
        pickle.dumps(mixture)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pa.ipc, "new_file", full)
    with pytest.raises(OutputError, match=r"No space left on device.*DELIA_CACHE and TMPDIR"):
        mix(TASK, jsonl(tmp_path / "pairs.jsonl", PAIRS), ratio=40)
    assert not list((tmp_path / "home").rglob("*.part"))


@pytest.mark.parametrize("place", ["memory", "home"])
@pytest.mark.parametrize("parts", [1, 3, 200])
def test_parts_in_another_process_are_the_whole(place: str, parts: int, tmp_path: Path) -> None:
    cache = ODD if place == "memory" else jsonl(tmp_path / "pairs.jsonl", ODD)
    mixture = mix(TASK, cache, ratio=39)
    copy: Mixture = pickle.loads(pickle.dumps(mixture))
    bounds = [mixture.num_rows * number // parts for number in range(parts + 1)]
    batches = [batch for n in range(parts) for batch in copy.batches(bounds[n], bounds[n + 1])]
    assert pa.Table.from_batches(batches).equals(mixture.train)
    if place == "home":
        assert len(pickle.dumps(mixture)) < 20_000


def test_ids_are_those_of_records() -> None:
    records = [*ODD, LONGER, Record.pair("q", "a", system="s")]
    rows = open_cache(records)
    assert [i.hex() for i in rows.ids.to_pylist()] == [record.id for record in records]
    sliced = pa.concat_batches(rows.batches).slice(405, 7)["messages"]
    assert [i.hex() for i in content_ids(sliced).to_pylist()] == [r.id for r in records[405:412]]


def test_longer_rows_and_positions(tmp_path: Path) -> None:
    assert open_cache([PAIRS[0], LONGER]).has_longer_rows
    assert not open_cache(PAIRS).has_longer_rows
    assert not open_cache([]).has_longer_rows
    rows = CacheRows(tuple(open_cache([pair]).batches[0] for pair in PAIRS[:7]))
    parts = [pa.Table.from_batches(rows.with_source_ids(a, b)) for a, b in ((0, 3), (3, 7))]
    ids = [text for part in parts for text in part["source_id"].to_pylist()]
    assert ids == [pair.id for pair in PAIRS[:7]]
