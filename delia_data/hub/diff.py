"""Compare two versions or two folders: settings, rows, and wordings.

Rows are compared by content. A row at another place is the same row; a part counts as reordered
if the rows that both sides have are in another order.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from delia_data.hub.parts import (
    CACHE,
    CARD,
    MODELS,
    NAMED,
    TASK,
    Part,
    cache_ids,
    files_of,
    part_manifest,
    read_parts,
    row_files,
    train_shards,
)
from delia_data.hub.pull import download_parts, find_version
from delia_data.mixing import TaskRow, read_task_rows
from delia_data.outputs import flattened

Keys = Sequence[str]


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
    (old, old_settings), (new, new_settings) = map(_read, (before, after))
    settings = _settings("publication", old_settings, new_settings)
    names = sorted(old.keys() | new.keys())
    for name in names:
        if name in old and name in new:
            settings += _settings(name, *(_settings_of(side[name]) for side in (old, new)))
    rows = [_row_change(name, _keys(old.get(name)), _keys(new.get(name))) for name in names]
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


def _read(given: str | os.PathLike[str]) -> tuple[dict[str, Part], Mapping[str, Any]]:
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


def _settings(
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


def _row_change(name: str, before: Keys, after: Keys) -> RowChange:
    old, new = Counter(before), Counter(after)
    both = old & new
    moved = _in_order(before, both) != _in_order(after, both)
    return RowChange(name, (new - old).total(), (old - new).total(), both.total(), moved)


def _in_order(keys: Keys, both: Counter[str]) -> list[str]:
    """Return the rows that both sides have, in the order of one side."""
    left = Counter(both)
    ordered = []
    for key in keys:
        if left[key] > 0:
            left[key] -= 1
            ordered.append(key)
    return ordered


def _keys(part: Part | None) -> Keys:
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
