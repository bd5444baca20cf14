"""Publishing a finished folder to the Hugging Face Hub, in one commit."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from delia_data.errors import OutputError
from delia_data.manifest import FINISHED, MANIFEST, read_manifest

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["PlannedFile", "plan_push", "push"]


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file that a push sends.

    Attributes:
        path: Its path in the repository.
        size: Its size in bytes.
    """

    path: str
    size: int


def plan_push(folder: str | os.PathLike[str]) -> list[PlannedFile]:
    """List what a push would send; nothing reaches the network.

    Raises:
        UnfinishedError: The folder is not a finished output, or a file was changed since.
    """
    root = Path(folder)
    names = [*read_manifest(root, verify=True).files, MANIFEST, FINISHED]
    return [PlannedFile(name, (root / name).stat().st_size) for name in sorted(names)]


def push(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    api: HfApi | None = None,
) -> str:
    """Send a finished output to a dataset repository, made where it is not there.

    The login is that of `huggingface_hub` (`hf auth login`, or `HF_TOKEN`); it is never written.

    Args:
        folder: A finished cache, task or mixture.
        repo_id: `"user/name"` or `"organisation/name"`.
        private: Make a new repository private.
        api: The client to use; one with the default login when not given.

    Returns:
        The commit's hash.

    Raises:
        UnfinishedError: The folder is not a finished output, or a file was changed since.
        OutputError: The Hub refused, or could not be reached; the repository is as it was.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    root = Path(folder)
    kind = read_manifest(root).kind
    operations = [
        CommitOperationAdd(path_in_repo=file.path, path_or_fileobj=str(root / file.path))
        for file in plan_push(root)
    ]
    client = api or HfApi(library_name="delia_data")
    try:
        client.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        commit = client.create_commit(
            repo_id, operations, repo_type="dataset", commit_message=f"Add a DELIA {kind}"
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise OutputError(
            f"{repo_id} could not be written on the Hub: {str(error).splitlines()[0]}; "
            "check the name, the login (hf auth login) and the connection, and push again"
        ) from error
    return str(commit.oid)
