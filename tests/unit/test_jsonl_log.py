"""Rows appended to a JSON Lines log survive a kill, line by line."""

import io
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from delia_data.errors import OutputError
from delia_data.outputs import JsonlLog


@dataclass(frozen=True)
class Row:
    id: str
    text: str
    cost: float | None = 0.0


ROWS = [
    Row("a1", "Water."),
    Row("b2", ""),
    Row("c3", 'Sagt «é» \u2028 \N{GRINNING FACE}\ntwo lines \\ and "more"', None),
    Row("d4", "And then?", 0.25),
]


def log_in(folder: Path, name: str = "rows.jsonl") -> JsonlLog[Row]:
    return JsonlLog(folder / name, Row, if_damaged="and its query is asked again")


def write(folder: Path, rows: list[Row] = ROWS) -> None:
    with log_in(folder) as log:
        log.append(*rows)


def rows_of(folder: Path) -> list[Row]:
    return [row for row, *_ in log_in(folder).read()]


def test_rows_are_readable_before_the_log_is_closed(tmp_path: Path) -> None:
    with log_in(tmp_path / "new") as log:
        for row in ROWS:
            log.append(row)
        assert rows_of(tmp_path / "new") == ROWS
    assert rows_of(tmp_path / "new") == ROWS


def test_a_log_without_rows_creates_no_file(tmp_path: Path) -> None:
    with log_in(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
    assert rows_of(tmp_path) == []


def test_rows_are_appended_by_later_writers(tmp_path: Path) -> None:
    write(tmp_path, ROWS[:2])
    with log_in(tmp_path) as log:
        log.append(ROWS[2])
        log.close()
        log.append(ROWS[3])
    assert rows_of(tmp_path) == ROWS


def test_all_rows_are_synced_with_few_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(file: int) -> None:
        real(file)
        synced.append(os.fstat(file).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    with log_in(tmp_path) as log:
        for row in ROWS * 10:
            log.append(row)
    assert synced[-1] == (tmp_path / "rows.jsonl").stat().st_size
    assert len(synced) < len(ROWS * 10)


def test_a_thread_syncs_while_the_log_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = log_in(tmp_path)
    log.append(ROWS[0])
    monkeypatch.setattr(log, "sync", lambda: setattr(log, "_error", OSError("the disk is gone")))
    assert log._thread is not None
    log._dirty.set()
    while log._error is None:  # the thread reports to the next append
        log._thread.join(0.01)
    with pytest.raises(OutputError, match="the disk is gone"):
        log.append(ROWS[1])
    monkeypatch.undo()
    with pytest.raises(OutputError, match="the disk is gone"):
        log.close()


def test_each_line_is_found_at_its_offset(tmp_path: Path) -> None:
    write(tmp_path)
    log = log_in(tmp_path)
    content = log.path.read_bytes()
    for row, start, length in log.read():
        assert log.parse(content[start : start + length], start) == row
        assert [row for row, *_ in log.read(start)] == ROWS[ROWS.index(row) :]


def test_a_line_cut_anywhere_is_dropped_and_the_others_stay(tmp_path: Path) -> None:
    write(tmp_path)
    file = tmp_path / "rows.jsonl"
    content = file.read_bytes()
    last = content.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(content)):
        file.write_bytes(content[:end])
        assert rows_of(tmp_path) == ROWS[:3], end
        write(tmp_path, ROWS[3:])
        assert file.read_bytes() == content
    file.write_bytes(content[:5])
    write(tmp_path)
    assert file.read_bytes() == content


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"id": "a", "extra": 1}', b"\xff", b""])
def test_a_damaged_complete_line_is_an_error_and_nothing_is_lost(
    tmp_path: Path, line: bytes
) -> None:
    write(tmp_path)
    file = tmp_path / "rows.jsonl"
    content = file.read_bytes() + line + b"\n"
    file.write_bytes(content)
    match = r"rows\.jsonl:5: the line is damaged: remove it, and its query is asked again"
    with pytest.raises(OutputError, match=match):
        rows_of(tmp_path)
    assert file.read_bytes() == content


def test_a_full_disk_is_an_error_at_once_and_for_good(tmp_path: Path) -> None:
    log = log_in(tmp_path, "full.jsonl")
    (tmp_path / "full.jsonl").symlink_to("/dev/full")
    for _ in range(2):
        with pytest.raises(OutputError, match=r"full\.jsonl cannot be written: No space left"):
            log.append(*ROWS)
    with pytest.raises(OutputError, match="free some space and run again"):
        log.close()


class Pieces(io.FileIO):
    """A file that takes seven bytes at a time, as a raw write may."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        return super().write(data[:7])


def test_a_write_in_pieces_is_complete(tmp_path: Path) -> None:
    with log_in(tmp_path) as log:
        log._file = Pieces(log.path, "ab")
        log.append(*ROWS)
    assert rows_of(tmp_path) == ROWS
