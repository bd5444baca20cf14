"""What differs between two versions, or two folders: settings, rows, wordings.

Rows are compared by their content: a row that stands elsewhere is the same row, and is counted
as moved where the order among the rows that both have is another.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from delia_data.hub.client import Retry
from delia_data.hub.lean import lean_rows
from delia_data.hub.parts import CACHE, TASK, Part, cache_ids, lean_file, read_parts, train_shards
from delia_data.hub.pull import find_version, mixture_manifest, snapshot
from delia_data.mixing import TaskRow, read_task_rows
from delia_data.outputs import Manifest

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Keys = Sequence[str]


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A setting that differs; None where a side has none."""

    where: str
    name: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class RowChange:
    """How the rows of a part differ.

    Attributes:
        where: The part.
        added: Rows that only the second has.
        removed: Rows that only the first has.
        same: Rows that both have.
        moved: Whether these stand in another order.
    """

    where: str
    added: int
    removed: int
    same: int
    moved: bool


@dataclass(frozen=True)
class Difference:
    """What differs.

    Attributes:
        settings: Settings that differ.
        rows: Parts whose rows differ.
        wordings_added: Ids of wordings that only the second has.
        wordings_removed: Ids of wordings that only the first has.
        reworded: Task rows that have another wording, before and after.
    """

    settings: list[SettingChange] = field(default_factory=list)
    rows: list[RowChange] = field(default_factory=list)
    wordings_added: list[str] = field(default_factory=list)
    wordings_removed: list[str] = field(default_factory=list)
    reworded: list[tuple[str, str]] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether nothing differs."""
        return not (self.settings or self.rows or self.wordings_added or self.wordings_removed)


@dataclass(frozen=True)
class _Side:
    """One side: parts with their manifests, and the settings of the publication itself."""

    parts: Mapping[str, Part]
    settings: Mapping[str, Any]


def diff(
    before: str | os.PathLike[str],
    after: str | os.PathLike[str],
    *,
    retry: Retry | None = None,
    api: HfApi | None = None,
) -> Difference:
    """Tell what differs between two versions on the Hub, two folders, or one of each.

    Args:
        before: `org/name@v1.0.0`, or a finished folder.
        after: The other one.
        retry: How often the Hub is asked.
        api: The client to use; one with the default login when not given.

    Raises:
        UnfinishedError: A folder is not a finished output.
        HubError: The Hub refused, or could not be reached.
    """
    sides = [_side(given, retry, api) for given in (before, after)]
    old, new = sides
    names = [name for name in (*old.parts, *new.parts) if name in old.parts and name in new.parts]
    settings = _settings("publication", old.settings, new.settings)
    for name in dict.fromkeys(names):
        told = [_told(side.parts[name].manifest) for side in sides]
        settings += _settings(name, *told)
    rows = [
        change
        for name in dict.fromkeys((*old.parts, *new.parts))
        if (change := _rows(name, *(_keys(side, name) for side in sides)))
    ]
    tasks = [_task_rows(side) for side in sides]
    wordings = [{row.wording_id for row in task if row.wording_id} for task in tasks]
    return Difference(
        settings,
        rows,
        sorted(wordings[1] - wordings[0]),
        sorted(wordings[0] - wordings[1]),
        _reworded(*tasks),
    )


def _side(given: str | os.PathLike[str], retry: Retry | None, api: HfApi | None) -> _Side:
    if Path(given).exists():
        parts = read_parts([given])
        return _Side(dict(sorted(parts.items())), {})
    found = find_version(os.fspath(given), retry=retry, api=api)
    mixtures = found.manifest.details["mixtures"]
    names = [name for name in (CACHE, TASK) if name in found.manifest.details]
    root = snapshot(found, [*names, *mixtures], retry=retry, api=api)
    parts = {name: Part(name, root / name, _kept(found.manifest, name)) for name in names}
    for name in mixtures:
        manifest, path = mixture_manifest(found.manifest, name), lean_file(name)
        lean = path in found.manifest.files
        extra = {path: root / path} if lean else {}
        parts[name] = Part(name, root / name, manifest, "lean" if lean else "plain", extra)
    return _Side(dict(sorted(parts.items())), found.manifest.settings)


def _kept(manifest: Manifest, name: str) -> Manifest:
    told = {
        key: value
        for key, value in manifest.details[name].items()
        if key not in ("bytes", "examples")
    }
    return Manifest(kind=name, **told)  # type: ignore[arg-type]  # "cache" or "task"


def _told(manifest: Manifest) -> dict[str, Any]:
    """All that a part depends on or says of itself, without hashes of its rows."""
    return {**manifest.settings, "code_version": manifest.code_version}


def _settings(
    where: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> list[SettingChange]:
    if not before or not after:
        return []
    old, new = dict(_flat(before)), dict(_flat(after))
    return [
        SettingChange(where, name, old.get(name), new.get(name))
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _rows(name: str, before: Keys, after: Keys) -> RowChange | None:
    old, new = Counter(before), Counter(after)
    both = old & new
    added, removed = (new - old).total(), (old - new).total()
    moved = _common(before, both) != _common(after, both)
    if not (added or removed or moved):
        return None
    return RowChange(name, added, removed, both.total(), moved)


def _common(keys: Keys, both: Counter[str]) -> list[str]:
    """The rows that both sides have, in the order of one."""
    left = Counter(both)
    found = []
    for key in keys:
        if left[key] > 0:
            left[key] -= 1
            found.append(key)
    return found


def _keys(side: _Side, name: str) -> Keys:
    """What each row of a part is known by, in its order."""
    part = side.parts.get(name)
    if part is None:
        return []
    if name == CACHE:
        return [str(row_id) for row_id in cache_ids(part.folder).to_pylist()]
    if name == TASK:
        return [f"{row.record.id}:{row.wording_id or ''}" for row in _task_rows(side)]
    columns = ("source_id", "wording_id")
    if part.form == "lean":
        index = part.extra[lean_file(name)]
        folders = side.parts[TASK].folder, side.parts[CACHE].folder
        batches = lean_rows(index, *folders, part.manifest, "train")
        rows = [row for batch in batches for row in batch.select(columns).to_pylist()]
    else:
        shards = train_shards(part.folder)
        rows = [row for f in shards for row in pq.read_table(f, columns=[*columns]).to_pylist()]
    return [f"{row['source_id']}:{row['wording_id'] or ''}" for row in rows]


def _task_rows(side: _Side) -> Sequence[TaskRow]:
    if TASK not in side.parts:
        return []
    rows = read_task_rows(side.parts[TASK].folder)
    return [*rows.train, *rows.test]


def _reworded(before: Sequence[TaskRow], after: Sequence[TaskRow]) -> list[tuple[str, str]]:
    """Rows that stand in the same place, have the same answer, and ask in other words."""
    return [
        (old.record.query, new.record.query)
        for old, new in zip(before, after, strict=False)
        if old.record.answer == new.record.answer and old.record.query != new.record.query
    ]
