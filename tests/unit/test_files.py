"""A file is the old or the new one, never a part of it; a folder has one writer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delia_data.errors import InputError, LockedError, OutputError
from delia_data.outputs import (
    atomic_path,
    canonical_json,
    file_sha256,
    folder_lock,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_half(target: Path, error: BaseException) -> None:
    with atomic_path(target) as part:
        part.write_text("half of the n")
        raise error


def test_the_new_file_takes_the_place_of_the_old(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "file.txt"
    write_text(target, "old")
    with atomic_path(target) as part:
        part.write_text("new")
        assert part.parent == target.parent
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(target.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OutputError])
def test_a_failing_writer_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "file.txt"
    write_text(target, "old")
    with pytest.raises(error, match="full stop"):
        write_half(target, error("full stop"))
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_failing_writer_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "file.txt", "good, then half a character: \ud83d")
    assert names(tmp_path) == []


def test_what_the_system_refuses_is_an_output_error(tmp_path: Path) -> None:
    full = OSError(28, "No space left on device")
    with pytest.raises(OutputError, match=r"file\.txt cannot be written: No space left"):
        write_half(tmp_path / "file.txt", full)
    assert names(tmp_path) == []


def test_a_file_in_the_way_is_an_output_error(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "text")
    with pytest.raises(OutputError, match="cannot be written: "):
        write_text(tmp_path / "file" / "below", "text")
    with pytest.raises(OutputError, match="cannot be written: "):
        write_text(tmp_path / "file" / "far" / "below", "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot be written: Is a directory"):
        write_text(tmp_path / "folder", "text")
    assert names(tmp_path) == ["file", "folder"]


def test_write_json_is_for_people_and_the_same_each_time(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"b": [1], "a": "é"})
    assert (tmp_path / "file.json").read_bytes() == (
        '{\n  "a": "é",\n  "b": [\n    1\n  ]\n}\n'.encode()
    )


def test_canonical_json_is_pinned() -> None:
    value = {"b": [1, 2.5, None, True], "a": {"é": "\N{GRINNING FACE}", "d": ""}}
    assert canonical_json(value) == (
        b'{"a":{"d":"","\xc3\xa9":"\xf0\x9f\x98\x80"},"b":[1,2.5,null,true]}'
    )


def test_canonical_json_takes_half_a_character() -> None:
    assert canonical_json("\ud83d") != canonical_json("\ud83e")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None)
@given(value=st.dictionaries(st.text(max_size=3), values, max_size=4))
def test_canonical_json_does_not_see_the_order_of_keys(value: dict[str, object]) -> None:
    turned = dict(reversed(value.items()))
    assert canonical_json(turned) == canonical_json(value)
    assert json.loads(canonical_json(value)) == value


def test_file_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert file_sha256(tmp_path / "file") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    with pytest.raises(InputError, match="missing cannot be read: No such file"):
        file_sha256(tmp_path / "missing")


def hold(folder: Path) -> None:
    with folder_lock(folder):
        pass


def test_the_lock_keeps_another_process_out(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    script = (
        "import fcntl, sys\n"
        "lock = open(sys.argv[1], 'a')\n"
        "fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    hold(folder)
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(folder / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match="is being written by another process"):
            hold(folder)
        holder.kill()
    hold(folder)  # the kernel let go of it


def test_the_lock_is_held_inside_and_let_go_after(tmp_path: Path) -> None:
    with folder_lock(tmp_path), pytest.raises(LockedError):
        hold(tmp_path)
    with pytest.raises(ValueError, match="stop"), folder_lock(tmp_path):
        raise ValueError("stop")
    hold(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(OutputError, match="cannot be written: "):
        hold(tmp_path / "file")
    assert names(tmp_path) == ["file"]


def test_parts_of_two_processes_do_not_meet(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "file") as part:
        part.write_text("text")
        assert str(os.getpid()) in part.name
        assert part.name.startswith(".")
