"""Versions of a published repository, and what a change asks of the next one.

    patch   other wordings, another licence, nothing that changes what the task or the cache says
    minor   the cache has grown, a mixture is new
    major   the task or the model is another, pairs are gone, a mixture has other settings

A version is a tag, `v1.2.0`, and stands in the manifest as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast, get_args

from delia_data.errors import InputError, VersionError
from delia_data.outputs import Manifest

Bump = Literal["patch", "minor", "major"]
BUMPS: Final[tuple[Bump, ...]] = get_args(Bump)
_FORM: Final = re.compile(r"v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


@dataclass(frozen=True, order=True, slots=True)
class Version:
    """A semantic version."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @property
    def tag(self) -> str:
        """Its tag on the Hub."""
        return f"v{self}"

    @classmethod
    def parse(cls, text: str) -> Version:
        """Read `1.2.0` or `v1.2.0`.

        Raises:
            VersionError: It is not of that form.
        """
        found = _FORM.fullmatch(text)
        if not found:
            raise VersionError(f"{text!r} is no version: give one such as 1.2.0")
        return cls(*(int(part) for part in found.groups()))

    def bumped(self, bump: Bump) -> Version:
        """The next version of a kind."""
        if bump == "major":
            return Version(self.major + 1, 0, 0)
        if bump == "minor":
            return Version(self.major, self.minor + 1, 0)
        return Version(self.major, self.minor, self.patch + 1)


FIRST: Final = Version(1, 0, 0)


@dataclass(frozen=True, slots=True)
class Change:
    """Something that differs from the version before, and the bump that it asks for."""

    bump: Bump
    what: str


def latest(tags: Iterable[str], manifest: Manifest | None) -> Version | None:
    """The highest version among tags and in the newest manifest; None where there is none."""
    found = [Version.parse(tag) for tag in tags if tag.startswith("v") and _FORM.fullmatch(tag)]
    if manifest is not None:
        found.append(Version.parse(str(manifest.settings["version"])))
    return max(found, default=None)


def changes(old: Manifest, new: Manifest) -> list[Change]:
    """Tell what differs between the manifests of two publications, the greatest change first."""
    found = [*_cache_changes(old, new), *_task_changes(old, new), *_mixture_changes(old, new)]
    if old.settings.get("licence") != new.settings.get("licence"):
        was, now = old.settings.get("licence"), new.settings.get("licence")
        found.append(Change("patch", f"the licence was {was} and is {now}"))
    if not found and old.inputs.get("content") != new.inputs.get("content"):
        found.append(Change("patch", "files differ in their bytes alone"))
    return sorted(found, key=lambda change: -BUMPS.index(change.bump))


def next_version(
    before: Version | None, found: list[Change], *, version: str | None, bump: str
) -> tuple[Version, str]:
    """Decide the version of what is to be published, and say why.

    Args:
        before: The highest version that is there.
        found: What changed since.
        version: The version that was asked for, if any.
        bump: `"auto"`, or the bump that was asked for.

    Raises:
        VersionError: What was asked for is too small a step for what changed.
        InputError: The bump is unknown.
    """
    if bump not in ("auto", *BUMPS):
        raise InputError(f"bump {bump!r} is unknown: use auto, {', '.join(BUMPS)}")
    asked = Version.parse(version) if version is not None else None
    if before is None:
        return asked or FIRST, "the first version"
    needed: Bump = found[0].bump if found else "patch"
    why = "; ".join(change.what for change in found) or "nothing but the card changed"
    least = before.bumped(needed)
    if asked is not None:
        if asked < least:
            raise VersionError(
                f"version {asked} is too small a step from {before} ({why}): give {least} or more"
            )
        return asked, why
    if bump == "auto":
        return least, f"{needed}: {why}"
    chosen = cast("Bump", bump)
    if BUMPS.index(chosen) < BUMPS.index(needed):
        raise VersionError(
            f"a {chosen} step from {before} is too small ({why}): give --bump {needed} or more"
        )
    return before.bumped(chosen), f"{chosen}: {why}"


def _cache_changes(old: Manifest, new: Manifest) -> list[Change]:
    before, after = (_part(manifest, "cache") for manifest in (old, new))
    if before is None or after is None:
        return _come_or_gone("the cache", before, after)
    if _model(before) != _model(after):
        return [Change("major", "another model wrote the cache")]
    shards, now = _files(old, "cache/pairs"), _files(new, "cache/pairs")
    if any(now.get(name) != digest for name, digest in shards.items()):
        return [Change("major", "pairs of the cache changed")]
    if len(now) > len(shards):
        was, there = before["rows"].get("kept"), after["rows"].get("kept")
        return [Change("minor", f"the cache has grown from {was} to {there} pairs")]
    return []


def _task_changes(old: Manifest, new: Manifest) -> list[Change]:
    before, after = (_part(manifest, "task") for manifest in (old, new))
    if before is None or after is None:
        return _come_or_gone("the task", before, after)
    if _files(old, "task/") == _files(new, "task/"):
        return []
    token = [part["settings"].get("token") for part in (before, after)]
    plain = [part["inputs"].get("task") for part in (before, after)]
    if token[0] != token[1] or plain[0] is None or plain[0] != plain[1]:
        return [Change("major", "the task changed")]
    return [Change("patch", "the wordings changed")]


def _mixture_changes(old: Manifest, new: Manifest) -> list[Change]:
    before, after = (manifest.details.get("mixtures", {}) for manifest in (old, new))
    found = [Change("minor", f"{name} is new") for name in sorted(set(after) - set(before))]
    found += [Change("major", f"{name} is gone") for name in sorted(set(before) - set(after))]
    for name in sorted(set(before) & set(after)):
        for key in ("settings", "form"):
            if before[name][key] != after[name][key]:
                found.append(Change("major", f"{name} has another {key.removesuffix('s')}"))
    return found


def _come_or_gone(what: str, before: object, after: object) -> list[Change]:
    if before is None and after is None:
        return []
    if before is None:
        return [Change("minor", f"{what} is new")]
    return [Change("major", f"{what} is gone")]


def _part(manifest: Manifest, name: str) -> Mapping[str, Any] | None:
    part: Mapping[str, Any] | None = manifest.details.get(name)
    return part


def _model(part: Mapping[str, Any]) -> Any:
    return part["settings"].get("model")


def _files(manifest: Manifest, prefix: str) -> dict[str, str]:
    return {n: d for n, d in manifest.files.items() if n.startswith(prefix) and _is_rows(n)}


def _is_rows(name: str) -> bool:
    return name.endswith((".parquet", ".jsonl"))
