"""Pull exactly one version, with every file compared with its hash.

my-folder/
cache/  task/  ratio-65/ ...    finished folders
README.md  manifest.json  FINISHED

my-adapter/     of a model repository: itself the finished folder of the adapter or the model
evaluation/     its evaluation
publication/    manifest.json and FINISHED of the version
README.md
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from delia_data.errors import FormatError, HubError, InputError, RatioError
from delia_data.hub.client import (
    Repository,
    RepoType,
    Retry,
    client,
    follow_rename,
    is_commit,
    is_missing,
    parse_name,
    translated,
)
from delia_data.hub.parts import (
    CARD,
    LEAN,
    PICTURES,
    PUBLICATION,
    SOURCES,
    check_publication,
    files_of,
    home_of,
    is_part_path,
    part_manifest,
    refuse_lean,
)
from delia_data.mixing import config_name
from delia_data.outputs import (
    FINISHED,
    LOCK,
    MANIFEST,
    Manifest,
    check_folder_is_ours,
    file_sha256,
    folder_lock,
    is_finished,
    read_manifest,
    write_text,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_READING: Final = Retry(tries=5)
"""Shorter than that of a push: a reader waits for seconds, not for minutes."""


@dataclass(frozen=True, slots=True)
class Published:
    """One version on the Hub, resolved to its commit.

    Attributes:
        repo: The repository, under its current name.
        commit: Full hash of the commit.
        manifest: The manifest of the publication.
        repo_type: Whether the repository holds datasets or a model.
    """

    repo: str
    commit: str
    manifest: Manifest
    repo_type: RepoType = "dataset"


def find_version(
    name: str,
    *,
    repo_type: RepoType | None = "dataset",
    retry: Retry | None = None,
    api: HfApi | None = None,
) -> Published:
    """Ask the Hub for the commit of a version, and read its manifest.

    The answer never comes from a cache. The full hash of a commit needs no question.

    Args:
        name: `org/name@v1.2.0`; the newest version without `@`.
        repo_type: Whether the repository holds datasets or a model; None takes a model if there
            are no datasets of this name.
        retry: Retries of each request.
        api: The client; default: one that uses the login of `huggingface_hub`.

    Raises:
        InputError: The name is invalid, or `delia push` did not write the repository.
        HubError: The Hub refused or could not be reached.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    repo, revision = parse_name(name)
    remote = Repository(api or client(), repo, repo_type or "dataset", retry or _READING)
    with translated(repo, revision):
        try:
            return _find(remote, revision)
        except RepositoryNotFoundError as error:
            if repo_type is not None or not is_missing(error):
                raise
            try:
                return _find(replace(remote, type="model"), revision)
            except RepositoryNotFoundError:
                raise error from None


def _find(remote: Repository, revision: str | None) -> Published:
    if revision is None or not is_commit(revision):
        info = remote.resolve(revision)
        remote, revision = replace(remote, name=follow_rename(remote.name, info)), str(info.sha)
    return Published(remote.name, revision, read_manifest_at(remote, revision), remote.type)


def read_manifest_at(remote: Repository, commit: str) -> Manifest:
    """Read the manifest of a publication at a commit, and compare it with its finish marker.

    Raises:
        InputError: There is no manifest, or it is of an unknown form.
        HubError: The marker and the manifest differ.
    """
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repo = remote.name
    try:
        file = remote.download(commit, home_of(remote.type) + MANIFEST)
        marker = remote.download(commit, home_of(remote.type) + FINISHED)
        manifest = Manifest.model_validate_json(file.read_text(encoding="utf-8"))
        if manifest.kind == "publication":
            check_publication(manifest)
    except LocalEntryNotFoundError:  # the Hub could not be asked
        raise
    except (EntryNotFoundError, ValidationError, UnicodeDecodeError, InputError) as error:
        reason = f" ({error})" if isinstance(error, FormatError) else ""
        raise InputError(
            f"{repo} at {commit[:8]} has no {MANIFEST} that this version of delia_data reads"
            f"{reason}: give a repository that delia push wrote"
        ) from error
    if marker.read_text(encoding="utf-8", errors="replace").strip() != file_sha256(file):
        raise HubError(f"{repo} at {commit[:8]}: {FINISHED} and {MANIFEST} differ: push it again")
    if manifest.kind != "publication":
        raise InputError(f"{repo} holds only a {manifest.kind}: publish it with delia push")
    return manifest


def pull(
    name: str,
    folder: str | os.PathLike[str],
    *,
    repo_type: RepoType | None = None,
    retry: Retry | None = None,
    api: HfApi | None = None,
    on_file: Callable[[int, int], None] = lambda done, total: None,
) -> Published:
    """Download a version into a folder; a rerun resumes an interrupted download.

    Args:
        name: `org/name@v1.2.0`; the newest version without `@`.
        folder: Output folder; made if missing.
        repo_type: Whether the repository holds datasets or a model; None takes a model if there
            are no datasets of this name.
        retry: Retries of each request.
        api: The client; default: one that uses the login of `huggingface_hub`.
        on_file: Called with the numbers of complete files and of all files.

    Raises:
        ForeignFolderError: The folder holds something else.
        LockedError: Another process writes to the folder.
        InputError: The version holds mixtures in the lean form of version 0.1.0.
        HubError: The Hub refused, could not be reached, or sent other bytes.
    """
    api, retry = api or client(), retry or _READING
    version = find_version(name, repo_type=repo_type, retry=retry, api=api)
    refuse_lean(version.repo, version.manifest, version.manifest.details["mixtures"])
    remote = Repository(api, version.repo, version.repo_type, retry)
    files, root = version.manifest.files, Path(folder)
    home = root / home_of(version.repo_type)
    earlier = {} if home == root or not is_finished(home) else read_manifest(home).files
    ours = {path.name for path in root.glob("ratio-*")} | {*SOURCES, LEAN, PICTURES, CARD}
    ours |= {path.split("/")[0] for path in (*files, *earlier)} | {PUBLICATION}
    # A trained adapter has the same names, so only the folder of the version shows a pulled one.
    pulled = home == root or home.is_dir()
    check_folder_is_ours(root, frozenset(ours) if pulled else frozenset(), sign=LOCK)
    with folder_lock(root), translated(version.repo):
        home.mkdir(exist_ok=True)
        _remove_earlier(home, root, keep=files)
        remote.download_verified(
            version.commit, files, into=root, on_file=lambda done: on_file(done, len(files))
        )
        for file in (root / CARD, home / MANIFEST):
            name = file.relative_to(root).as_posix()
            shutil.copyfile(remote.download(version.commit, name), file)
        shutil.rmtree(root / ".cache", ignore_errors=True)
        for finished in {home: None, root: None}:
            if (finished / MANIFEST).is_file():
                write_text(finished / FINISHED, file_sha256(finished / MANIFEST) + "\n")
    return version


def download_parts(version: Published, names: Iterable[str]) -> Path:
    """Download parts of a version into the cache of `huggingface_hub`, and verify each file.

    Args:
        version: The version.
        names: Names of parts: `cache`, `task`, mixtures.

    Returns:
        The folder that holds the parts.

    Raises:
        InputError: A part is a mixture in the lean form of version 0.1.0.
        HubError: The Hub refused, could not be reached, or sent other bytes.
    """
    names = list(names)
    refuse_lean(version.repo, version.manifest, names)
    files = files_of(version.manifest, names)
    with translated(version.repo):
        remote = Repository(client(), version.repo, version.repo_type, _READING)
        return remote.download_verified(version.commit, files)


def published_mixture(version: Published, ratio: float) -> Manifest:
    """Return the manifest of a version's mixture.

    Raises:
        RatioError: The version has no such mixture.
    """
    name, mixtures = config_name(ratio), version.manifest.details["mixtures"]
    if name not in mixtures:
        raise RatioError(
            f"{version.repo} v{version.manifest.settings['version']} has no {name}, only "
            f"{', '.join(mixtures) or 'no mixture'}: run delia pull, and mix another ratio with "
            "delia mix"
        )
    return part_manifest(version.manifest, name)


def _remove_earlier(home: Path, root: Path, keep: Container[str]) -> None:
    """Remove the markers of an earlier version, and the files that only that version has."""
    earlier = read_manifest(home).files if is_finished(home) else {}
    for folder in (root, home):
        (folder / FINISHED).unlink(missing_ok=True)
    for path in earlier:
        if path not in keep and is_part_path(path, in_root=home != root):
            (root / path).unlink(missing_ok=True)
