"""Pull exactly one version, with every file compared with its hash; compare two versions.

my-folder/
cache/  task/  ratio-65/ ...    finished folders
README.md  manifest.json  FINISHED

my-adapter/     of a model repository: itself the finished folder of the adapter or the model
evaluation/     its evaluation
publication/    manifest.json and FINISHED of the version
README.md

Versions and folders are compared by settings, rows and wordings. A row at another place is the same
row; a part counts as reordered if the rows that both sides have are in another order.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow.parquet as pq
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
    CACHE,
    CARD,
    LEAN,
    MODELS,
    NAMED,
    PICTURES,
    PUBLICATION,
    SOURCES,
    TASK,
    Part,
    cache_ids,
    check_publication,
    files_of,
    home_of,
    is_part_path,
    part_manifest,
    read_parts,
    refuse_lean,
    row_files,
    train_shards,
)
from delia_data.mixing import TaskRow, config_name, read_task_rows
from delia_data.outputs import (
    FINISHED,
    LOCK,
    MANIFEST,
    Manifest,
    check_folder_is_ours,
    file_sha256,
    flattened,
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


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A setting that differs; None stands for a missing one."""

    where: str
    name: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class RowChange:
    """The difference between the rows of a part.

    Attributes:
        where: The part.
        added: Number of rows that only the second side has.
        removed: Number of rows that only the first side has.
        same: Number of rows that both sides have.
        moved: Whether these are in another order.
    """

    where: str
    added: int
    removed: int
    same: int
    moved: bool


@dataclass(frozen=True)
class Difference:
    """The difference between two sides.

    Attributes:
        settings: Settings that differ.
        rows: Parts whose rows differ.
        wordings_added: Ids of wordings that only the second side has.
        wordings_removed: Ids of wordings that only the first side has.
        reworded: Task rows with another wording, before and after.
    """

    settings: list[SettingChange] = field(default_factory=list)
    rows: list[RowChange] = field(default_factory=list)
    wordings_added: list[str] = field(default_factory=list)
    wordings_removed: list[str] = field(default_factory=list)
    reworded: list[tuple[str, str]] = field(default_factory=list)


def diff(before: str | os.PathLike[str], after: str | os.PathLike[str]) -> Difference:
    """Compare two versions on the Hub, two folders, or one of each.

    Args:
        before: `org/name@v1.0.0`, or a finished folder.
        after: The other one.

    Raises:
        UnfinishedError: A folder is not a finished output.
        InputError: A version holds mixtures in the lean form of version 0.1.0.
        HubError: The Hub refused or could not be reached.
    """
    (old, old_settings), (new, new_settings) = map(_read_side, (before, after))
    settings = _setting_changes("publication", old_settings, new_settings)
    names = sorted(old.keys() | new.keys())
    for name in names:
        if name in old and name in new:
            settings += _setting_changes(name, *(_settings_of(side[name]) for side in (old, new)))
    rows = [_row_change(name, _row_keys(old.get(name)), _row_keys(new.get(name))) for name in names]
    old_rows, new_rows = (_task_rows(side.get(TASK)) for side in (old, new))
    old_ids, new_ids = (
        {r.wording_id for r in rows if r.wording_id} for rows in (old_rows, new_rows)
    )
    return Difference(
        settings,
        [change for change in rows if change.added or change.removed or change.moved],
        sorted(new_ids - old_ids),
        sorted(old_ids - new_ids),
        [
            (one.record.query, other.record.query)
            for one, other in zip(old_rows, new_rows, strict=False)
            if one.record.answer == other.record.answer and one.record.query != other.record.query
        ],
    )


def _read_side(given: str | os.PathLike[str]) -> tuple[dict[str, Part], Mapping[str, Any]]:
    """Return the parts of a side, and the settings of the publication itself."""
    if Path(given).exists():
        return read_parts([given]), {}
    version = find_version(os.fspath(given), repo_type=None)
    manifest = version.manifest
    names = [*(name for name in NAMED if name in manifest.details), *manifest.details["mixtures"]]
    root = download_parts(version, names)

    def part(name: str) -> Part:
        files = row_files(files_of(manifest, [name])) if name in MODELS else {}
        files = {path.removeprefix(f"{name}/"): sha for path, sha in files.items()}
        described = part_manifest(manifest, name).model_copy(update={"files": files})
        return Part(name, root / name, described)

    return {name: part(name) for name in names}, manifest.settings


def _settings_of(part: Part) -> dict[str, Any]:
    """Return the settings of a part; of a model also its files, which are compared by hash."""
    manifest = part.manifest
    files = {"files": _files_of_model(part)} if part.name in MODELS else {}
    return {**manifest.settings, **files, "code_version": manifest.code_version}


def _files_of_model(part: Part) -> dict[str, str]:
    return {name: sha for name, sha in part.manifest.files.items() if name != CARD}


def _setting_changes(
    where: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> list[SettingChange]:
    if not before or not after:
        return []
    old, new = flattened(before), flattened(after)
    return [
        SettingChange(where, name, old.get(name), new.get(name))
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _row_change(name: str, before: Sequence[str], after: Sequence[str]) -> RowChange:
    old, new = Counter(before), Counter(after)
    both = old & new
    moved = _in_order(before, both) != _in_order(after, both)
    return RowChange(name, (new - old).total(), (old - new).total(), both.total(), moved)


def _in_order(keys: Sequence[str], both: Counter[str]) -> list[str]:
    """Return the rows that both sides have, in the order of one side."""
    left = Counter(both)
    ordered = []
    for key in keys:
        if left[key] > 0:
            left[key] -= 1
            ordered.append(key)
    return ordered


def _row_keys(part: Part | None) -> Sequence[str]:
    """Return an identifier of each row of a part, in order."""
    if part is None:
        return []
    if part.name in MODELS:
        return sorted(_files_of_model(part))
    if part.name == CACHE:
        return [str(row_id) for row_id in cache_ids(part.folder).to_pylist()]
    if part.name == TASK:
        contrast = read_task_rows(part.folder).contrast
        keys = [f"{row.record.id}:{row.wording_id or ''}" for row in _task_rows(part)]
        return [*keys, *(f"{row.record.id}:contrast" for row in contrast)]
    return [
        f"{row['source_id']}:{row['wording_id'] or ''}"
        for shard in train_shards(part.folder)
        for row in pq.read_table(shard, columns=["source_id", "wording_id"]).to_pylist()
    ]


def _task_rows(part: Part | None) -> Sequence[TaskRow]:
    if part is None:
        return []
    rows = read_task_rows(part.folder)
    return [*rows.train, *rows.test]
