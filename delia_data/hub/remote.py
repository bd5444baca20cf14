"""What lies on the Hub: the newest version of a repository, its tags, and exact, verified files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from delia_data.errors import ForeignFolderError, HubError, InputError
from delia_data.hub.client import Retry, resolve
from delia_data.outputs import FINISHED, MANIFEST, Manifest, file_sha256, known_sha256

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD: Final = "README.md"
_STRANGERS: Final = frozenset({".gitattributes", CARD})
_AT_ONCE: Final = 4


@dataclass(frozen=True)
class Remote:
    """A repository at one commit.

    Attributes:
        commit: The commit.
        private: Whether the repository is private.
        manifest: The manifest of the publication there; None where there is none yet.
        card: The text of the card; empty where there is none.
        tags: Commits of the tags, by name.
        paths: Paths of all its files.
    """

    commit: str
    private: bool
    manifest: Manifest | None = None
    card: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    paths: frozenset[str] = frozenset()

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of the files of the publication; empty where there is none."""
        return dict(self.manifest.files) if self.manifest else {}


def read_remote(api: HfApi, repo: str, retry: Retry) -> Remote | None:
    """Read the newest commit of a repository; None where there is no such repository.

    Raises:
        ForeignFolderError: It holds something that we did not publish.
        Exception: Whatever the client raises; the caller translates it.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = resolve(api, repo, None, retry)
    except RepositoryNotFoundError as error:
        if "Invalid credentials" in str(error):
            raise
        return None
    paths = frozenset(sibling.rfilename for sibling in info.siblings or [])
    if MANIFEST not in paths and (strangers := sorted(paths - _STRANGERS)):
        raise ForeignFolderError(
            f"{repo} holds something else ({', '.join(strangers[:3])}): give the name of a "
            "repository that is empty or not there"
        )
    refs = retry.call(lambda: api.list_repo_refs(repo, repo_type="dataset"))
    manifest = read_manifest_at(api, repo, info.sha, retry) if MANIFEST in paths else None
    card = ""
    if CARD in paths:
        card = download(api, repo, info.sha, CARD, retry).read_text(encoding="utf-8")
    tags = {tag.name: tag.target_commit for tag in refs.tags}
    return Remote(info.sha, bool(info.private), manifest, card, tags, paths)


def read_manifest_at(api: HfApi, repo: str, commit: str, retry: Retry) -> Manifest:
    """Read the manifest of a publication at a commit, whose marker must fit it.

    Raises:
        InputError: There is none, or it was written by another version of this package.
        HubError: The marker does not fit.
    """
    from huggingface_hub.errors import EntryNotFoundError

    try:
        file = download(api, repo, commit, MANIFEST, retry)
        marker = download(api, repo, commit, FINISHED, retry)
        manifest = Manifest.model_validate_json(file.read_text(encoding="utf-8"))
    except (EntryNotFoundError, ValidationError) as error:
        if is_unreachable(error):
            raise
        raise InputError(
            f"{repo} at {commit[:8]} has no {MANIFEST} that this version reads: "
            "give a repository that delia push wrote"
        ) from error
    if marker.read_text(encoding="utf-8").strip() != file_sha256(file):
        raise HubError(f"{repo} at {commit[:8]}: {FINISHED} does not fit {MANIFEST}: push it again")
    if manifest.kind != "publication":
        raise InputError(f"{repo} holds a {manifest.kind} alone: push it again with this version")
    return manifest


def is_unreachable(error: BaseException) -> bool:
    """Whether a file was only not found here, since the Hub could not be asked."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    return isinstance(error, LocalEntryNotFoundError)


def fetch(
    api: HfApi,
    repo: str,
    commit: str,
    files: Mapping[str, str],
    *,
    retry: Retry,
    into: Path | None = None,
    on_file: Callable[[int], None] = lambda _: None,
) -> Path:
    """Download files of a commit, and compare each with its hash.

    Args:
        api: The client.
        repo: The repository.
        commit: The commit's full hash.
        files: SHA-256 of the files, by path.
        retry: How often each is tried.
        into: Folder to download to; the client's own cache when not given.
        on_file: Called with the number of files that are there.

    Returns:
        The folder in which the files lie under their paths.

    Raises:
        HubError: A file came with other bytes than it should have.
        Exception: Whatever the client raises; the caller translates it.
    """

    def one(item: tuple[str, str]) -> Path:
        name, digest = item
        if into is not None and (into / name).is_file() and file_sha256(into / name) == digest:
            return into
        for force in (False, True):
            file = download(api, repo, commit, name, retry, into=into, force=force)
            if (file_sha256 if into else known_sha256)(file) == digest:
                return file.parents[name.count("/")]
        raise HubError(
            f"{repo}: {name} at {commit[:8]} has other bytes than its manifest says, twice: "
            "try again later, and do not use it"
        )

    folders = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for folder in pool.map(one, files.items()):
            folders.append(folder)
            on_file(len(folders))
    if not folders:
        raise InputError(f"{repo} at {commit[:8]} has none of the files that were asked for")
    return folders[0]


def download(
    api: HfApi,
    repo: str,
    commit: str,
    name: str,
    retry: Retry,
    *,
    into: Path | None = None,
    force: bool = False,
) -> Path:
    """Download one file of a commit, whatever its hash, and give its path.

    Raises:
        Exception: Whatever the client raises; the caller translates it.
    """
    given: dict[str, Any] = {"force_download": force}
    if into is not None:
        given["local_dir"] = os.fspath(into)
    path = retry.call(
        lambda: api.hf_hub_download(repo, name, repo_type="dataset", revision=commit, **given)
    )
    return Path(path)
