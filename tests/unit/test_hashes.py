"""A large file is hashed once, and again after a change."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from delia_data import outputs as hashes
from delia_data.errors import InputError
from delia_data.outputs import known_sha256


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hashes, "_WORTH_KEEPING_BYTES", 4)
    monkeypatch.setattr(hashes, "_SETTLED_S", -1.0)
    monkeypatch.setenv("DELIA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that were read."""
    seen: list[Path] = []
    real = hashes.file_sha256

    def watched(path: Path) -> str:
        seen.append(path)
        return real(path)

    monkeypatch.setattr(hashes, "file_sha256", watched)
    return seen


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_it_is_read_once(tmp_path: Path, read: list[Path]) -> None:
    file = tmp_path / "a"
    file.write_text("content")
    assert known_sha256(file) == known_sha256(file) == sha("content")
    assert read == [file]


def test_a_change_is_seen_even_of_the_same_size_and_time(tmp_path: Path, read: list[Path]) -> None:
    file = tmp_path / "a"
    file.write_text("content")
    known_sha256(file)
    before = file.stat()
    file.write_text("CONTENT")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert known_sha256(file) == sha("CONTENT")
    assert len(read) == 2


def test_another_file_in_its_place_is_seen(tmp_path: Path) -> None:
    file, other = tmp_path / "a", tmp_path / "b"
    file.write_text("content")
    other.write_text("another")
    known_sha256(file)
    other.replace(file)
    assert known_sha256(file) == sha("another")


@pytest.mark.parametrize(("name", "value"), [("_WORTH_KEEPING_BYTES", 100), ("_SETTLED_S", 60.0)])
def test_small_and_fresh_files_are_always_read(
    tmp_path: Path, read: list[Path], monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    monkeypatch.setattr(hashes, name, value)
    file = tmp_path / "a"
    file.write_text("content")
    assert known_sha256(file) == known_sha256(file) == sha("content")
    assert len(read) == 2


def test_a_damaged_note_is_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("content")
    known_sha256(file)
    for note in (tmp_path / "cache" / "hashes").iterdir():
        note.write_text("{")
    assert known_sha256(file) == sha("content")


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    file = tmp_path / "a"
    file.write_text("content")
    assert known_sha256(file) == sha("content")


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        known_sha256(tmp_path / "none")
