"""A finished output has a marker, and its manifest has its kind and inputs."""

import json
from pathlib import Path
from typing import Any

import pytest

from delia_data import __version__
from delia_data.errors import ForeignFolderError, SettingsError, UnfinishedError
from delia_data.outputs import (
    FINISHED,
    MANIFEST,
    Manifest,
    check_folder_is_ours,
    check_same_settings,
    file_sha256,
    finish,
    is_finished,
    read_manifest,
)

KNOWN = frozenset({"rows.jsonl", "data"})
PLAN = Manifest(
    kind="cache",
    settings={"seed": 1},
    inputs={"queries": "ab"},
    rows={"kept": 2},
    dropped={"empty": 1},
    details={"tokens": 9},
)


def make(folder: Path) -> Manifest:
    (folder / "data").mkdir(parents=True)
    (folder / "rows.jsonl").write_text("{}\n")
    (folder / "data" / "part.parquet").write_bytes(b"PAR1")
    (folder / ".lock").write_text("")
    return finish(folder, PLAN)


def test_what_is_finished_is_read_back(tmp_path: Path) -> None:
    written = make(tmp_path)
    assert is_finished(tmp_path)
    assert read_manifest(tmp_path) == written
    assert read_manifest(tmp_path, verify=True) == written
    assert written.model_copy(update={"files": {}}) == PLAN
    assert written.code_version == __version__


def test_every_file_is_hashed_but_our_own_and_hidden_ones(tmp_path: Path) -> None:
    assert make(tmp_path).files == {
        "data/part.parquet": file_sha256(tmp_path / "data" / "part.parquet"),
        "rows.jsonl": file_sha256(tmp_path / "rows.jsonl"),
    }


def test_the_marker_holds_the_hash_of_the_manifest(tmp_path: Path) -> None:
    make(tmp_path)
    assert (tmp_path / FINISHED).read_text() == file_sha256(tmp_path / MANIFEST) + "\n"


def test_there_is_no_path_and_no_time_in_it(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two" / "three"]
    for folder in folders:
        make(folder)
    one, two = ((folder / MANIFEST).read_bytes() for folder in folders)
    assert one == two
    assert str(tmp_path).encode() not in one
    assert set(json.loads(one)) == set(Manifest.model_fields)


def test_finishing_again_changes_nothing(tmp_path: Path) -> None:
    first = make(tmp_path)
    assert finish(tmp_path, PLAN) == first


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (FINISHED, None),
        (MANIFEST, None),
        (FINISHED, b""),
        (FINISHED, b"\xff\xfe"),
        (MANIFEST, b"{}"),
    ],
)
def test_a_folder_without_a_marker_that_fits_is_refused(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    make(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
    reason = ".*: no FINISHED marker" if content is None else ""
    assert not is_finished(tmp_path)
    with pytest.raises(UnfinishedError, match=f"is not a finished output{reason}"):
        read_manifest(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert not is_finished(tmp_path / "missing")
    with pytest.raises(UnfinishedError, match="missing does not exist: give a folder"):
        read_manifest(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(UnfinishedError, match="file is a file: give a folder"):
        read_manifest(tmp_path / "file")


def test_a_manifest_of_another_shape_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / MANIFEST).write_text('{"kind": "cache", "made_by": "another version"}')
    (tmp_path / FINISHED).write_text(file_sha256(tmp_path / MANIFEST))
    with pytest.raises(UnfinishedError, match="was written by another version of this package"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["rows.jsonl", "data/part.parquet"])
def test_verify_finds_a_changed_or_missing_file(tmp_path: Path, name: str) -> None:
    make(tmp_path)
    (tmp_path / name).write_text("changed")
    read_manifest(tmp_path)
    with pytest.raises(UnfinishedError, match=f"{name} is not what its manifest says"):
        read_manifest(tmp_path, verify=True)
    (tmp_path / name).unlink()
    with pytest.raises(UnfinishedError, match=f"{name} is not what its manifest says"):
        read_manifest(tmp_path, verify=True)


def test_unknown_keys_and_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="extra_forbidden"):
        Manifest.model_validate({"kind": "cache", "row": {}})
    with pytest.raises(ValueError, match="literal_error"):
        Manifest.model_validate({"kind": "novel"})


def test_equal_settings_pass() -> None:
    check_same_settings("folder", {"seed": 1, "a": None}, {"a": None, "seed": 1})


@pytest.mark.parametrize(
    ("now", "difference"),
    [
        ({"seed": 2, "model": "m"}, "(seed was 1 and is now 2)"),
        ({"seed": 1}, "(model was 'm' and is now None)"),
        ({"seed": 1, "model": "m", "top_p": 1.0}, "(top_p was None and is now 1.0)"),
        ({"seed": 2, "model": "n"}, "(model was 'm' and is now 'n'; seed was 1 and is now 2)"),
    ],
)
def test_every_difference_is_shown(now: dict[str, Any], difference: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_same_settings("folder", {"seed": 1, "model": "m"}, now)
    assert str(caught.value) == (
        f"folder was begun with other settings {difference}: "
        "give the earlier settings, or another folder"
    )


def test_a_new_empty_or_own_folder_is_ours(tmp_path: Path) -> None:
    check_folder_is_ours(tmp_path / "missing", KNOWN)
    (tmp_path / "empty").mkdir()
    check_folder_is_ours(tmp_path / "empty", KNOWN, sign=".lock")
    make(tmp_path / "own")
    check_folder_is_ours(tmp_path / "own", KNOWN)
    assert not (tmp_path / "missing").exists()


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    for name in ("z.txt", "a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(ForeignFolderError, match=r"holds something else \(a.txt, b.txt, c.txt\)"):
        check_folder_is_ours(tmp_path, KNOWN)


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ForeignFolderError, match="file is a file: give a folder"):
        check_folder_is_ours(tmp_path / "file", KNOWN)


def test_known_names_without_our_sign_are_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("mine")
    check_folder_is_ours(tmp_path, KNOWN)
    with pytest.raises(ForeignFolderError, match=r"holds something else \(rows.jsonl\)"):
        check_folder_is_ours(tmp_path, KNOWN, sign=".lock")
    (tmp_path / ".lock").write_text("")
    check_folder_is_ours(tmp_path, KNOWN, sign=".lock")


def test_a_finished_folder_needs_no_sign(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / ".lock").unlink()
    check_folder_is_ours(tmp_path, KNOWN, sign=".lock")
    (tmp_path / FINISHED).write_text("changed")
    with pytest.raises(ForeignFolderError, match="holds something else"):
        check_folder_is_ours(tmp_path, KNOWN, sign=".lock")
