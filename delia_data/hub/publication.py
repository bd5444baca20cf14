"""A publication: parts put together with what is there already, and the manifest of it all.

One version is one task, one cache and the mixtures of these two. What is not given again stays as
it is in the version before; a mixture that is there and was made of another task or cache is
mixed again, so that a version never holds a mixture of something else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from delia_data.errors import InputError
from delia_data.hub.parts import CACHE, TASK, Part, lean_file
from delia_data.mixing import read_task_rows
from delia_data.outputs import Manifest, canonical_json

PICTURES: Final = "pictures"


@dataclass(frozen=True)
class Draft:
    """A publication without its version, card and pictures.

    Attributes:
        manifest: Its manifest so far.
        sources: Files that lie here, by their path in the repository; the rest is there already.
    """

    manifest: Manifest
    sources: Mapping[str, Path]

    @property
    def content(self) -> str:
        """Hash of all that the publication says: rows, settings, licence."""
        return self.manifest.inputs["content"]


def draft(
    parts: Mapping[str, Part],
    before: Manifest | None,
    *,
    licence: str,
    citation: str | None,
    found: Mapping[str, int],
    pairs: Mapping[str, int],
) -> Draft:
    """Put parts together with what the version before has beside them.

    Args:
        parts: What is given, by name.
        before: The manifest of the version before, where there is one.
        licence: The licence.
        citation: What to cite beside the paper, as BibTeX.
        found: Secrets and addresses that were let through, by kind.
        pairs: For each given mixture, how many of its pairs are in the cache.
    """
    kept = _kept(parts, before)
    files = dict(kept)
    sources: dict[str, Path] = {}
    for part in parts.values():
        files |= part.hashes()
        sources |= part.sources()
    details = _details(parts, before, pairs)
    details["citation"] = citation or (before.details.get("citation") if before else None)
    details["allowed"] = dict(found)
    details["shared"] = _shared(details)
    rows = {
        **{f"{name}_{key}": count for name in (CACHE, TASK) for key, count in _rows(details, name)},
        "mixtures": len(details["mixtures"]),
    }
    told = {name: [m["form"], m["settings"]] for name, m in details["mixtures"].items()}
    content = {"licence": licence, "files": _row_files(files), "mixtures": told}
    manifest = Manifest(
        kind="publication",
        settings={"licence": licence},
        inputs={"content": hashlib.sha256(canonical_json(content)).hexdigest()},
        rows=rows,
        details=details,
        files=dict(sorted(files.items())),
    )
    return Draft(manifest, sources)


def outdated(parts: Mapping[str, Part], before: Manifest | None) -> dict[str, dict[str, Any]]:
    """Mixtures of the version before that are not given, and were made of something else.

    Returns:
        Their entries in the manifest, by name.
    """
    if before is None:
        return {}
    if not _changed(parts, before):
        return {}
    return {name: m for name, m in before.details["mixtures"].items() if name not in parts}


def parts_of_path(path: str) -> str:
    """Name of the part that a path in the repository belongs to."""
    first, _, rest = path.partition("/")
    return rest.removesuffix(".parquet") if lean_file("") == f"{first}/.parquet" else first


def _kept(parts: Mapping[str, Part], before: Manifest | None) -> dict[str, str]:
    """Files of the version before that belong to no part that is given; pictures while they fit."""
    if before is None:
        return {}
    gone = {*parts, *([PICTURES] if _changed(parts, before) else [])}
    return {path: sha for path, sha in before.files.items() if parts_of_path(path) not in gone}


def _changed(parts: Mapping[str, Part], before: Manifest) -> bool:
    """Whether the given cache or task has other rows than the version before."""
    return any(
        _row_files(parts[name].hashes()) != _row_files(_of(before, name))
        for name in (CACHE, TASK)
        if name in parts
    )


def _details(
    parts: Mapping[str, Part], before: Manifest | None, pairs: Mapping[str, int]
) -> dict[str, Any]:
    old = before.details if before else {}
    details: dict[str, Any] = {
        name: _told(parts[name]) if name in parts else old[name]
        for name in (CACHE, TASK)
        if name in parts or name in old
    }
    mixtures = dict(old.get("mixtures", {}))
    for name, part in parts.items():
        if name not in (CACHE, TASK):
            mixtures[name] = {
                "form": part.form,
                **_told(part),
                "pairs_in_cache": pairs.get(name, 0),
            }
    details["mixtures"] = dict(sorted(mixtures.items(), key=lambda m: m[1]["settings"]["ratio"]))
    return details


def _told(part: Part) -> dict[str, Any]:
    """What the publication's manifest says of a part."""
    size = sum(file.stat().st_size for file in part.sources().values())
    told = part.manifest.model_dump(mode="json", exclude={"kind", "files"})
    if part.name == TASK:
        told["examples"] = [row.record.query for row in read_task_rows(part.folder).train[:3]]
    return {**told, "bytes": size}


def _shared(details: Mapping[str, Any]) -> dict[str, Any]:
    """How much of the mixtures lies in the repository once, in the cache and the task.

    `plain_copies_bytes` is what mixtures in the plain form take beside them.
    """
    mixtures = details["mixtures"].values()
    by_form = {
        form: sum(m["bytes"] for m in mixtures if m["form"] == form) for form in ("plain", "lean")
    }
    return {
        "once_bytes": sum(details[name]["bytes"] for name in (CACHE, TASK) if name in details),
        "plain_copies_bytes": by_form["plain"],
        "lean_indexes_bytes": by_form["lean"],
        "pairs_in_mixtures": sum(m["rows"].get("cache", 0) for m in mixtures),
        "of_these_in_cache": sum(m["pairs_in_cache"] for m in mixtures),
    }


def _rows(details: Mapping[str, Any], name: str) -> Iterable[tuple[str, int]]:
    rows: dict[str, int] = details.get(name, {}).get("rows", {})
    return rows.items()


def _of(manifest: Manifest, name: str) -> dict[str, str]:
    return {path: sha for path, sha in manifest.files.items() if parts_of_path(path) == name}


def _row_files(files: Mapping[str, str]) -> dict[str, str]:
    """Those that hold rows: what makes two publications the same or not."""
    return {
        path: sha for path, sha in sorted(files.items()) if path.endswith((".parquet", ".jsonl"))
    }


def check_complete(parts: Mapping[str, Part], ratios: Iterable[float]) -> None:
    """Refuse to mix ratios without a task and a cache.

    Raises:
        InputError: One of them is missing.
    """
    missing = [name for name in (TASK, CACHE) if name not in parts]
    if missing and any(True for _ in ratios):
        raise InputError(
            f"mixtures are made of a task and a cache, and there is no {' and no '.join(missing)}: "
            "give the folder as well"
        )
