"""The JSON beside every output, and the marker that says it is finished.

    folder/
        train.parquet ...    what was made
        manifest.json        what made it, from what, with which hashes, how many rows
        FINISHED             hash of the manifest; written last, by atomic rename

A reader refuses a folder without the marker, so that a killed run is never taken for a whole one.
A manifest holds no times and no paths: equal inputs give equal bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from delia_data._version import __version__
from delia_data.errors import ForeignFolderError, SettingsError, UnfinishedError
from delia_data.files import file_sha256, write_json, write_text

MANIFEST: Final = "manifest.json"
FINISHED: Final = "FINISHED"


class Manifest(BaseModel):
    """What an output is, and all that it depends on.

    Attributes:
        kind: What the folder holds.
        settings: Every setting that the bytes depend on.
        inputs: Content hashes of what it was made from, by name.
        rows: Row counts, by split or by source.
        dropped: Rows that were not kept, by reason.
        details: What else is worth knowing, such as the model that wrote a cache.
        files: SHA-256 of every file of the output, by its path inside the folder.
        code_version: Version of this package that made it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["cache", "task", "mixture", "adapter", "model", "evaluation", "publication"]
    settings: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict)
    rows: dict[str, int] = Field(default_factory=dict)
    dropped: dict[str, int] = Field(default_factory=dict)
    details: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)
    code_version: str = __version__


def finish(folder: str | os.PathLike[str], manifest: Manifest) -> Manifest:
    """Hash the output's files, write the manifest, and last of all the finish marker.

    Args:
        folder: The output folder; hidden files and folders in it are left out.
        manifest: What is known so far; its `files` are filled in here.

    Returns:
        The manifest as written.
    """
    root = Path(folder)
    names = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and not _is_own(path.relative_to(root))
    )
    done = manifest.model_copy(update={"files": {n: file_sha256(root / n) for n in names}})
    write_json(root / MANIFEST, done.model_dump(mode="json"))
    write_text(root / FINISHED, file_sha256(root / MANIFEST) + "\n")
    return done


def is_finished(folder: str | os.PathLike[str]) -> bool:
    """Tell whether the folder holds a finished output: a marker that fits its manifest."""
    root = Path(folder)
    try:
        return (root / FINISHED).read_text().strip() == file_sha256(root / MANIFEST)
    except (OSError, ValueError):
        return False


def read_manifest(folder: str | os.PathLike[str], *, verify: bool = False) -> Manifest:
    """Read the manifest of a finished output.

    Args:
        folder: The output folder.
        verify: Hash every file again and compare.

    Raises:
        UnfinishedError: There is no finish marker, or a file differs from what was written.
    """
    root = Path(folder)
    if not is_finished(root):
        raise UnfinishedError(
            f"{root} is not a finished output: no {FINISHED} marker fits a {MANIFEST} in it; "
            "run the command that makes it again, and it goes on where it stopped"
        )
    try:
        manifest = Manifest.model_validate_json((root / MANIFEST).read_text(encoding="utf-8"))
    except ValidationError as error:
        raise UnfinishedError(
            f"{root / MANIFEST} was written by another version of this package: make it again"
        ) from error
    if verify:
        for name, digest in manifest.files.items():
            if not (root / name).is_file() or file_sha256(root / name) != digest:
                raise UnfinishedError(
                    f"{root / name} is not what its manifest says: make the folder again"
                )
    return manifest


def check_same_settings(
    where: str | os.PathLike[str],
    earlier: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    hint: str = "",
) -> None:
    """Refuse to go on with a run under other settings, and show the difference.

    Args:
        where: What was begun.
        earlier: The settings that it was begun with.
        now: The settings of today.
        hint: What else can be done about a difference.

    Raises:
        SettingsError: A setting differs; the message names each with both values.
    """
    before, after = _flat(earlier), _flat(now)
    differing = [
        f"{name} was {before.get(name)!r} and is now {after.get(name)!r}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
    if differing:
        raise SettingsError(
            f"{where} was begun with other settings ({'; '.join(differing)}): "
            f"give the earlier settings, or another folder{hint}"
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings within settings under joined names, such as `sampling.top_p`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def check_folder_is_ours(
    folder: str | os.PathLike[str], known: frozenset[str], *, sign: str | None = None
) -> None:
    """Refuse to write into a folder that holds something else.

    Args:
        folder: The output folder; it need not be there.
        known: Names that the command itself puts there.
        sign: Name of a file without which the known names are somebody else's, unless the folder
            is finished: a `train.parquet` can be anyone's.

    Raises:
        ForeignFolderError: It is a file, or holds names other than the known ones.
    """
    root = Path(folder)
    if root.exists() and not root.is_dir():
        raise ForeignFolderError(f"{root} is a file: give a folder that is empty or not there")
    if not root.is_dir():
        return
    names = {path.name for path in root.iterdir() if not path.name.startswith(".")}
    signed = sign is None or (root / sign).exists() or is_finished(root)
    others = sorted(names - known - {MANIFEST, FINISHED} if signed else names)
    if others:
        raise ForeignFolderError(
            f"{root} holds something else ({', '.join(others[:3])}): "
            "give a folder that is empty or not there"
        )


def _is_own(relative: Path) -> bool:
    hidden = any(part.startswith(".") for part in relative.parts)
    return hidden or relative.as_posix() in {MANIFEST, FINISHED}
