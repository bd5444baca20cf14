"""What is appended to a journal outlives a kill, line by line."""

import io
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delia_data.errors import OutputError
from delia_data.sampling import Sampled
from delia_data.sampling.journal import Journal, read_line, recover, shards

ROWS = [
    Sampled(0, "a1", "What is rain?", "Water.", 2),
    Sampled(1, "b2", "Say it.", "", 0, rejected="empty"),
    Sampled(2, "c3", "Sagt «é» \u2028 \N{GRINNING FACE}", 'two\nlines \\ and "more"', 5, 7, None),
    Sampled(3, "d4", "And then?", "", 0, rejected="failed", error="no answer"),
]


def write(folder: Path, rows: list[Sampled] = ROWS, *, shard_lines: int = 100) -> None:
    journal = Journal(folder, "sampled", shard_lines=shard_lines)
    journal.append(rows)
    journal.close()


def rows_of(folder: Path) -> list[Sampled]:
    return [row for row, *_ in recover(folder, "sampled")]


def test_what_was_appended_is_there_before_the_journal_is_closed(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "sampled")
    for row in ROWS:
        journal.append([row])
    assert rows_of(tmp_path) == ROWS
    journal.close()
    assert rows_of(tmp_path) == ROWS


def test_a_journal_without_rows_leaves_no_file(tmp_path: Path) -> None:
    Journal(tmp_path, "sampled").close()
    assert list(tmp_path.iterdir()) == []
    assert rows_of(tmp_path) == []


def test_all_is_synced_soon_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(file: int) -> None:
        real(file)
        synced.append(os.fstat(file).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    journal = Journal(tmp_path, "sampled")
    for row in ROWS:
        journal.append([row])
    journal.close()
    assert synced
    assert synced[-1] == (tmp_path / "sampled-000.jsonl").stat().st_size
    assert len(synced) < len(ROWS)  # one for many


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 7), max_size=6), shard_lines=st.integers(1, 5))
def test_shards_are_full_but_the_last(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], shard_lines: int
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    rows = [Sampled(i, f"id{i}", "q", "a", 1) for i in range(sum(sizes))]
    journal = Journal(folder, "sampled", shard_lines=shard_lines)
    left = list(rows)
    for size in sizes:
        journal.append(left[:size])
        left = left[size:]
    journal.close()
    assert rows_of(folder) == rows
    counts = [len(shard.read_bytes().splitlines()) for shard in shards(folder, "sampled")]
    assert all(count == shard_lines for count in counts[:-1])
    assert all(0 < count <= shard_lines for count in counts[-1:])


def test_a_rerun_writes_a_shard_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, ROWS[:2])
    write(tmp_path, ROWS[2:])
    assert [shard.name for shard in shards(tmp_path, "sampled")] == [
        "sampled-000.jsonl",
        "sampled-001.jsonl",
    ]
    assert rows_of(tmp_path) == ROWS


def test_more_than_a_thousand_shards_stay_in_order(tmp_path: Path) -> None:
    for number in (2, 10, 999, 1000, 1001):
        (tmp_path / f"sampled-{number:03}.jsonl").touch()
    assert [int(path.stem[8:]) for path in shards(tmp_path, "sampled")] == [2, 10, 999, 1000, 1001]


def test_a_line_is_found_again_where_it_was_said_to_be(tmp_path: Path) -> None:
    write(tmp_path, shard_lines=3)
    for row, shard, start, length in list(recover(tmp_path, "sampled")):
        file = os.open(shard, os.O_RDONLY)
        assert read_line(file, start, length) == row
        os.close(file)


def test_a_line_cut_anywhere_is_dropped_and_the_others_stay(tmp_path: Path) -> None:
    write(tmp_path)
    file = tmp_path / "sampled-000.jsonl"
    content = file.read_bytes()
    last = content.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(content)):
        file.write_bytes(content[:end])
        assert rows_of(tmp_path) == ROWS[:3], end
        assert file.read_bytes() == content[:last]
    file.write_bytes(content)
    assert rows_of(tmp_path) == ROWS


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"query": "a"}', b'{"id": "a", "extra": 1}', b"\xff", b""]
)
def test_a_damaged_whole_line_is_an_error_and_nothing_is_lost(tmp_path: Path, line: bytes) -> None:
    write(tmp_path)
    file = tmp_path / "sampled-000.jsonl"
    content = file.read_bytes() + line + b"\n"
    file.write_bytes(content)
    with pytest.raises(OutputError, match=r"sampled-000\.jsonl:5: the line is damaged: remove it"):
        rows_of(tmp_path)
    assert file.read_bytes() == content


def test_a_full_disk_is_an_error_at_once_and_for_good(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "full")
    (tmp_path / "full-000.jsonl").symlink_to("/dev/full")
    for _ in range(2):
        with pytest.raises(OutputError, match=r"full-000\.jsonl cannot be written: No space left"):
            journal.append(ROWS)
    with pytest.raises(OutputError, match="free some space and run again"):
        journal.close()


class Pieces(io.FileIO):
    """A file that takes seven bytes at a time, as a raw write may."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        return super().write(data[:7])


def test_a_write_in_pieces_is_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "sampled")
    journal._file = Pieces(tmp_path / "sampled-000.jsonl", "ab")
    journal.append(ROWS)
    journal.close()
    assert rows_of(tmp_path) == ROWS
