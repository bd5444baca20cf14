"""Pulling: exactly one version, every file compared with its hash, as folders to mix and train on.

my-folder/
cache/  task/  ratio-65/ ...    each a finished folder by itself
README.md  manifest.json  FINISHED
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.parquet as pq

from delia_data.errors import RatioError
from delia_data.hub.client import Retry, client, is_commit, parse_name, resolve, translated
from delia_data.hub.lean import expand, lean_rows
from delia_data.hub.parts import CACHE, LEAN, TASK, lean_file
from delia_data.hub.publication import PICTURES, parts_of_path
from delia_data.hub.remote import CARD, download, fetch, read_manifest_at
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
"""A reader waits for seconds, where one who publishes waits for a minute."""


@dataclass(frozen=True, slots=True)
class Published:
    """One version on the Hub, down to its commit.

    Attributes:
        repo: The repository.
        commit: The commit's full hash.
        manifest: Its manifest.
    """

    repo: str
    commit: str
    manifest: Manifest


def find_version(name: str, *, retry: Retry | None = None, api: HfApi | None = None) -> Published:
    """Ask the Hub which commit a version is, and read its manifest.

    Nothing older is given where the Hub cannot be asked. A commit's full hash needs no asking.

    Args:
        name: `org/name@v1.2.0`; the newest version where it names none.
        retry: How often the Hub is asked.
        api: The client to use; one with the default login when not given.

    Raises:
        InputError: The name is none, or what is there was not published by us.
        HubError: The Hub refused, or could not be reached.
    """
    repo, revision = parse_name(name)
    api, retry = api or client(), retry or _READING
    with translated(repo, revision):
        commit = revision if is_commit(revision) else None
        commit = commit or str(resolve(api, repo, revision, retry).sha)
        return Published(repo, commit, read_manifest_at(api, repo, commit, retry))


def pull(
    name: str,
    folder: str | os.PathLike[str],
    *,
    retry: Retry | None = None,
    api: HfApi | None = None,
    on_file: Callable[[int, int], None] = lambda done, total: None,
) -> Published:
    """Download a version into a folder; a rerun goes on where it stopped.

    A mixture in the lean form is written out.

    Args:
        name: `org/name@v1.2.0`; the newest version where it names none.
        folder: Where to; made where it is not there.
        retry: How often each request is tried.
        api: The client to use; one with the default login when not given.
        on_file: Called with how many files are there, and how many there are in all.

    Raises:
        ForeignFolderError: The folder holds something else.
        LockedError: Another process writes there.
        HubError: The Hub refused, could not be reached, or gave other bytes.
    """
    api, retry = api or client(), retry or _READING
    found = find_version(name, retry=retry, api=api)
    files = found.manifest.files
    mixtures = found.manifest.details["mixtures"]
    root = Path(folder)
    mine = {path.name for path in root.glob("ratio-*")} | {CACHE, TASK, LEAN, PICTURES, CARD}
    check_folder_is_ours(root, frozenset(mine), sign=LOCK)
    with folder_lock(root), translated(found.repo):
        _forget(root, keep=files)
        fetch(
            api,
            found.repo,
            found.commit,
            files,
            retry=retry,
            into=root,
            on_file=lambda done: on_file(done, len(files)),
        )
        for mixture in mixtures:
            if (index := lean_file(mixture)) in files:
                manifest = mixture_manifest(found.manifest, mixture)
                expand(root / index, root / TASK, root / CACHE, manifest, root / mixture)
        for name_of in (CARD, MANIFEST):
            shutil.copyfile(download(api, found.repo, found.commit, name_of, retry), root / name_of)
        shutil.rmtree(root / ".cache", ignore_errors=True)
        write_text(root / FINISHED, file_sha256(root / MANIFEST) + "\n")
    return found


def snapshot(
    found: Published, names: Iterable[str], *, retry: Retry | None = None, api: HfApi | None = None
) -> Path:
    """Download parts of a version into the client's own cache, each file compared with its hash.

    Args:
        found: The version.
        names: Names of parts: `cache`, `task`, mixtures.
        retry: How often each request is tried.
        api: The client to use; one with the default login when not given.

    Returns:
        The folder in which the parts lie.

    Raises:
        HubError: The Hub refused, could not be reached, or gave other bytes.
    """
    wanted = set(names)
    files = {p: s for p, s in found.manifest.files.items() if parts_of_path(p) in wanted}
    with translated(found.repo):
        return fetch(api or client(), found.repo, found.commit, files, retry=retry or _READING)


def mixture_manifest(manifest: Manifest, name: str) -> Manifest:
    """The manifest of a mixture, as the publication's manifest tells it."""
    told = manifest.details["mixtures"][name]
    keys = ("settings", "inputs", "rows", "dropped", "details", "code_version")
    return Manifest(kind="mixture", **{key: told[key] for key in keys})


def published_mixture(found: Published, ratio: float) -> Manifest:
    """The manifest of a version's mixture.

    Raises:
        RatioError: There is no such mixture in that version.
    """
    name, mixtures = config_name(ratio), found.manifest.details["mixtures"]
    if name not in mixtures:
        raise RatioError(
            f"{found.repo} v{found.manifest.settings['version']} has no {name}: it has "
            f"{', '.join(mixtures) or 'no mixture'}; delia pull it, and delia mix makes others"
        )
    return mixture_manifest(found.manifest, name)


@dataclass(frozen=True)
class PublishedMixture:
    """A mixture of a version, downloaded and checked.

    Attributes:
        name: Its name, such as `ratio-260`.
        manifest: Its manifest.
        root: Where the version's files lie.
        lean: Whether it is an index.
    """

    name: str
    manifest: Manifest
    root: Path
    lean: bool

    @property
    def splits(self) -> list[str]:
        """Its splits."""
        return ["train", "test"] if self.manifest.rows.get("test") else ["train"]

    def batches(self, split: str) -> Iterator[pa.RecordBatch]:
        """The rows of a split, in their order."""
        if self.lean:
            index = self.root / lean_file(self.name)
            yield from lean_rows(index, self.root / TASK, self.root / CACHE, self.manifest, split)
            return
        for file in sorted((self.root / self.name).glob(f"{split}*.parquet")):
            yield from pq.ParquetFile(file).iter_batches(10_000)


def open_mixture(
    found: Published, ratio: float, *, retry: Retry | None = None, api: HfApi | None = None
) -> PublishedMixture:
    """Download what a mixture of a version needs, and nothing else.

    Raises:
        RatioError: There is no such mixture in that version.
        HubError: The Hub refused, could not be reached, or gave other bytes.
    """
    name, manifest = config_name(ratio), published_mixture(found, ratio)
    lean = lean_file(name) in found.manifest.files
    names = (name, TASK, CACHE) if lean else (name,)
    root = snapshot(found, names, retry=retry, api=api)
    return PublishedMixture(name, manifest, root, lean)


def _forget(root: Path, keep: Container[str]) -> None:
    """Take the marker of an earlier version away, and the files that only that one had."""
    if not is_finished(root):
        return
    earlier = read_manifest(root).files
    (root / FINISHED).unlink()
    for path in earlier:
        if path not in keep:
            (root / path).unlink(missing_ok=True)
