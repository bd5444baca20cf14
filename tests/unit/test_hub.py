"""Publishing: what is sent, and what is never sent."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from delia_data.errors import OutputError, UnfinishedError
from delia_data.hub import plan_push, push
from delia_data.manifest import Manifest, finish


class RecordingApi:
    """Takes the calls of a push; fails where it is told to."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.calls: list[tuple[str, Any]] = []

    def create_repo(self, repo_id: str, **options: Any) -> None:
        self.calls.append(("create_repo", (repo_id, options)))

    def create_commit(self, repo_id: str, operations: list[Any], **options: Any) -> Any:
        if self.failure:
            raise self.failure
        self.calls.append(("create_commit", [op.path_in_repo for op in operations]))
        return SimpleNamespace(oid="abc123")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.parquet").write_bytes(b"rows")
    finish(tmp_path, Manifest(kind="mixture"))
    (tmp_path / ".lock").write_text("")
    (tmp_path / "notes.txt").write_text("mine")
    return tmp_path


def test_a_plan_has_what_the_manifest_names(folder: Path) -> None:
    assert [file.path for file in plan_push(folder)] == [
        "FINISHED",
        "manifest.json",
        "train.parquet",
    ]
    assert [file.size for file in plan_push(folder) if file.path == "train.parquet"] == [4]


def test_a_push_is_one_commit_of_the_plan(folder: Path) -> None:
    api = RecordingApi()
    assert push(folder, "org/name", private=True, api=api) == "abc123"  # type: ignore[arg-type]
    names = [name for name, _ in api.calls]
    assert names == ["create_repo", "create_commit"]
    assert api.calls[0][1][1]["private"] is True
    assert api.calls[1][1] == [file.path for file in plan_push(folder)]


def test_a_changed_file_is_not_pushed(folder: Path) -> None:
    (folder / "train.parquet").write_bytes(b"other rows")
    api = RecordingApi()
    with pytest.raises(UnfinishedError, match=r"train\.parquet"):
        push(folder, "org/name", api=api)  # type: ignore[arg-type]
    assert api.calls == []


def test_an_unfinished_folder_is_not_pushed(tmp_path: Path) -> None:
    with pytest.raises(UnfinishedError):
        plan_push(tmp_path)


def test_a_failure_of_the_hub_is_one_line(folder: Path) -> None:
    api = RecordingApi(ConnectionError("refused\nby the host"))
    with pytest.raises(OutputError, match="refused") as error:
        push(folder, "org/name", api=api)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
