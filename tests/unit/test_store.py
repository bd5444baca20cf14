"""The pair store keeps every finished request, whatever happens to the process."""

import io
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from delia_data.errors import (
    ForeignFolderError,
    FormatError,
    InputError,
    LockedError,
    OutputError,
    SettingsError,
    UnfinishedError,
)
from delia_data.manifest import Manifest, finish, is_finished
from delia_data.records import Record
from delia_data.sampling import PairStore, Sampled, read_cache

PLAN: dict[str, Any] = {"engine": "mock", "model": {"name": "m"}, "seed": 1}
ROWS = [
    Sampled("a1", "What is rain?", "Water.", 2),
    Sampled("b2", "Say it.", "", 0, "empty"),
    Sampled("c3", "Sagt «é» \u2028 \N{GRINNING FACE}", 'two\nlines \\ and "more"', 5),
    Sampled("d4", "And then?", "Snow.", 2),
]


def fill(folder: Path, rows: list[Sampled] = ROWS) -> None:
    with PairStore.open(folder, PLAN) as store:
        store.append(rows)


def reopened(folder: Path) -> list[Sampled]:
    with PairStore.open(folder, PLAN) as store:
        return list(store.sampled)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_what_was_appended_is_there_again(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "cache"
    with PairStore.open(folder, PLAN) as store:
        assert store.sampled == []
        store.append(ROWS[:1])
        store.append(row for row in ROWS[1:3])
        assert store.sampled == ROWS[:3]
    with PairStore.open(folder, PLAN) as store:
        assert store.sampled == ROWS[:3]
        store.append(ROWS[3:])
    assert reopened(folder) == ROWS
    assert names(folder) == ["pairs.jsonl", "plan.json"]


def test_rows_are_on_disk_when_append_returns(tmp_path: Path) -> None:
    with PairStore.open(tmp_path, PLAN) as store:
        store.append(ROWS)
        lines = (tmp_path / "pairs.jsonl").read_bytes().decode().split("\n")
        assert [json.loads(line) for line in lines[:-1]] == [asdict(row) for row in ROWS]
        assert lines[-1] == ""


def test_kept_and_dropped(tmp_path: Path) -> None:
    with PairStore.open(tmp_path, PLAN) as store:
        store.append(ROWS)
        store.append([Sampled("e5", "q", "", 0, "empty"), Sampled("f6", "q", "q", 1, "echo")])
        assert store.kept == [ROWS[0], ROWS[2], ROWS[3]]
        assert store.dropped == {"empty": 2, "echo": 1}


def test_a_line_cut_anywhere_is_dropped_and_the_others_stay(tmp_path: Path) -> None:
    fill(tmp_path)
    file = tmp_path / "pairs.jsonl"
    content = file.read_bytes()
    last = content.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(content)):
        file.write_bytes(content[:end])
        assert reopened(tmp_path) == ROWS[:3], end
        assert file.read_bytes() == content[:last]
    file.write_bytes(content)
    assert reopened(tmp_path) == ROWS


def test_what_is_appended_after_a_cut_line_is_whole(tmp_path: Path) -> None:
    fill(tmp_path, ROWS[:3])
    with (tmp_path / "pairs.jsonl").open("ab") as lines:
        lines.write(b'{"query_id": "d4", "qu')
    fill(tmp_path, ROWS[3:])
    assert reopened(tmp_path) == ROWS


def test_a_file_cut_to_nothing_is_begun_anew(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "pairs.jsonl").write_bytes(b'{"query_id"')
    assert reopened(tmp_path) == []


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"query": "a"}', b'{"query_id": "a", "extra": 1}', b"\xff"]
)
def test_a_damaged_whole_line_is_an_error_and_nothing_is_lost(tmp_path: Path, line: bytes) -> None:
    fill(tmp_path)
    file = tmp_path / "pairs.jsonl"
    content = file.read_bytes() + line + b"\n"
    file.write_bytes(content)
    with pytest.raises(OutputError, match=r"pairs\.jsonl is damaged .*: remove the damaged line"):
        reopened(tmp_path)
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"seed": 2}, "seed was 1 and is now 2"),
        ({"token": "<sep>"}, "token was None and is now '<sep>'"),
        ({"model": {"name": "n"}}, "model was {'name': 'm'} and is now {'name': 'n'}"),
    ],
)
def test_other_settings_are_refused(
    tmp_path: Path, changed: dict[str, Any], difference: str
) -> None:
    fill(tmp_path)
    with pytest.raises(SettingsError) as caught, PairStore.open(tmp_path, {**PLAN, **changed}):
        pass
    assert f"({difference})" in str(caught.value)
    assert reopened(tmp_path) == ROWS


def test_a_plan_of_tuples_is_the_same_plan_again(tmp_path: Path) -> None:
    for _ in range(2):
        with PairStore.open(tmp_path, {"tuple": (1, 2)}):
            pass


def test_a_second_writer_is_kept_out(tmp_path: Path) -> None:
    script = (
        "import fcntl, sys\n"
        "lock = open(sys.argv[1], 'a')\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    fill(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match="is being written by another process"):
            reopened(tmp_path)
        os.kill(other.pid, 9)
    assert reopened(tmp_path) == ROWS


def test_a_second_store_in_the_same_process_is_kept_out(tmp_path: Path) -> None:
    with PairStore.open(tmp_path, PLAN), pytest.raises(LockedError):
        reopened(tmp_path)


@pytest.mark.parametrize("name", ["notes.txt", "plan.json", "pairs.jsonl", "manifest.json"])
def test_a_foreign_folder_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ForeignFolderError, match=rf"holds something else \({name}\)"):
        reopened(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_file_in_its_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("mine")
    with pytest.raises(ForeignFolderError, match="is a file"):
        reopened(tmp_path / "cache")
    with pytest.raises(OutputError, match="cannot be written"):
        reopened(tmp_path / "cache" / "below")


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    fill(tmp_path, ROWS[:1])
    (tmp_path / "pairs.jsonl").unlink()
    (tmp_path / "pairs.jsonl").symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"pairs\.jsonl cannot be written: No space left"):
        fill(tmp_path)


class Pieces(io.FileIO):
    """A file that takes seven bytes at a time, as a raw write may."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        return super().write(data[:7])


def test_a_write_in_pieces_is_whole(tmp_path: Path) -> None:
    with Pieces(tmp_path / "pairs.jsonl", "ab") as lines:
        PairStore(tmp_path, [], lines).append(ROWS)
    (tmp_path / ".lock").touch()
    assert reopened(tmp_path) == ROWS


def test_finish_writes_the_kept_pairs(tmp_path: Path) -> None:
    with PairStore.open(tmp_path, PLAN) as store:
        store.append(ROWS)
        written = store.finish(Manifest(kind="cache", settings=PLAN), store.kept)
    assert is_finished(tmp_path)
    assert set(written.files) == {"pairs.jsonl", "pairs.parquet", "plan.json"}
    kept = [ROWS[0], ROWS[2], ROWS[3]]
    records = [Record.pair(row.query, row.answer) for row in kept]
    table = pq.read_table(tmp_path / "pairs.parquet")
    assert table.column_names == ["messages", "source_id", "tokens"]
    assert table["source_id"].to_pylist() == [record.id for record in records]
    assert table["tokens"].to_pylist() == [2, 5, 2]
    assert read_cache(tmp_path) == records


def test_a_cache_without_its_marker_is_refused(tmp_path: Path) -> None:
    fill(tmp_path)
    with pytest.raises(UnfinishedError, match="is not a finished output"):
        read_cache(tmp_path)


def test_a_cache_can_be_a_file_in_any_format(tmp_path: Path) -> None:
    lines = tmp_path / "pairs.jsonl"
    lines.write_text('{"prompt": "a", "completion": "b"}\n{"instruction": "c", "output": "d"}\n')
    assert read_cache(lines) == [Record.pair("a", "b"), Record.pair("c", "d")]
    listed = tmp_path / "pairs.json"
    listed.write_text('[{"prompt": "a", "completion": "b"}]')
    assert read_cache(listed) == [Record.pair("a", "b")]
    lines.write_text('{"prompt": "a"}\n')
    with pytest.raises(FormatError, match=r"pairs\.jsonl:1: "):
        read_cache(lines)


def test_what_is_no_cache(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there: give a cache folder"):
        read_cache(tmp_path / "missing")
    (tmp_path / "train.jsonl").write_text("{}")
    finish(tmp_path, Manifest(kind="task"))
    with pytest.raises(InputError, match="holds a task, not a cache"):
        read_cache(tmp_path)
