"""Planning a push: what is given and what lies there make a version, its card, its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from delia_data.errors import HubError, VersionError
from delia_data.hub.card import make_card
from delia_data.hub.client import Retry, login_token
from delia_data.hub.publication import PICTURES, Draft, draft
from delia_data.hub.remote import CARD, Remote, read_manifest_at
from delia_data.hub.versions import Change, Version, changes, latest, next_version
from delia_data.hub.workshop import Options, Workshop, check_licence
from delia_data.outputs import FINISHED, MANIFEST, Manifest
from delia_data.sampling.embeddings import Embed

if TYPE_CHECKING:
    from huggingface_hub import HfApi

State = Literal["new", "changed", "same", "deleted"]


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file of a publication, and what a push does with it.

    Attributes:
        path: Its path in the repository.
        size: Its size in bytes; None where it lies on the Hub alone.
        state: Whether it is sent, stays, or goes.
    """

    path: str
    size: int | None
    state: State


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did; of a dry run, what it would do.

    Attributes:
        repo: The repository.
        version: The version that holds the content.
        why: Why it is this version.
        changed: Whether there is a new version; the same content again changes nothing.
        files: Its files.
        card: Its card.
        allowed: Secrets and addresses that were let through, by kind.
        commit: The commit that holds it; None for a dry run.
        tag: The version's tag; None for a dry run, and where it was only proposed.
        proposal: Address of the pull request, where it was proposed.
    """

    repo: str
    version: Version
    why: str
    changed: bool
    files: tuple[PlannedFile, ...]
    card: str
    allowed: Mapping[str, int] = field(default_factory=dict)
    commit: str | None = None
    tag: str | None = None
    proposal: str | None = None


@dataclass(frozen=True)
class Plan:
    """A push, given what lies on the Hub.

    Attributes:
        result: What it does.
        manifest: The manifest of the version.
        sources: What is to be sent, by path.
    """

    result: Pushed
    manifest: Manifest
    sources: Mapping[str, Path | bytes]


def make_plan(
    api: HfApi, repo: str, shop: Workshop, remote: Remote | None, retry: Retry, embed: Embed | None
) -> Plan:
    """Plan a push, given what lies on the Hub.

    Args:
        api: The client.
        repo: The repository.
        shop: The parts, and what is asked for.
        remote: What lies there; None where there is no such repository.
        retry: How often downloads are tried.
        embed: Gives texts as vectors for the card's map.

    Raises:
        InputError: The parts do not fit each other, or something that is needed is missing.
        VersionError: The version is taken by other content, or is too small a step.
        SecretError: A row holds what looks like a secret.
        HubError: A file that is to stay is not there.
    """
    options = shop.options
    parts = shop.parts(api, repo, remote, retry)
    allowed = shop.scanned(parts, login_token())
    before = remote.manifest if remote else None
    made = draft(
        parts,
        before,
        licence=check_licence(options, remote),
        citation=options.citation,
        found=allowed,
        pairs=shop.pairs,
    )
    found: list[Change] = []
    if remote is not None and before is not None:
        missing = len(set(before.files) - remote.paths)
        if made.content == before.inputs["content"] and not missing:
            return _same(repo, options, remote, before)
        if options.version is not None:
            _check_free(api, repo, options.version, made, remote, retry)
        found = changes(before, made.manifest)
        found += [Change("patch", f"{missing} files were missing")] if missing else []
    last = latest(remote.tags if remote else (), before)
    asked, bump = options.version, options.bump
    version, why = next_version(last, found, version=asked, bump=bump)
    drawn = any(path.startswith(f"{PICTURES}/") for path in made.manifest.files)
    pictures = {} if drawn else shop.pictures(parts, embed)
    return _whole(repo, made, remote, version, why, pictures)


def _same(repo: str, options: Options, remote: Remote, before: Manifest) -> Plan:
    """The plan of a push whose content is there already."""
    version = Version.parse(before.settings["version"])
    asked = options.version
    if asked is not None and Version.parse(asked) != version:
        raise VersionError(
            f"the content is that of version {version} already, and {asked} was asked for: "
            f"leave --version out, or load {version.tag}"
        )
    files = tuple(PlannedFile(path, None, "same") for path in sorted(before.files))
    why = "the same content is there already"
    result = Pushed(repo, version, why, False, files, remote.card, tag=version.tag)
    return Plan(result, before, {})


def _check_free(
    api: HfApi, repo: str, asked: str, made: Draft, remote: Remote, retry: Retry
) -> None:
    """Refuse a version that is taken by other content."""
    version = Version.parse(asked)
    if version.tag in remote.tags:
        taken = read_manifest_at(api, repo, remote.tags[version.tag], retry)
        found = "; ".join(change.what for change in changes(taken, made.manifest))
        raise VersionError(
            f"{repo} has a version {version} with other content ({found}): a version "
            "never changes; give a higher one, or --bump"
        )


def _whole(
    repo: str,
    made: Draft,
    remote: Remote | None,
    version: Version,
    why: str,
    pictures: Mapping[str, bytes],
) -> Plan:
    """Manifest, card and files of a new version."""
    drawn = {f"{PICTURES}/{name}": png for name, png in pictures.items()}
    hashes = {path: hashlib.sha256(png).hexdigest() for path, png in drawn.items()}
    files = dict(sorted({**made.manifest.files, **hashes}.items()))
    settings = {**made.manifest.settings, "version": str(version)}
    details = {**made.manifest.details, "why": why}
    manifest = made.manifest.model_copy(
        update={"files": files, "settings": settings, "details": details}
    )
    shown = [path for path in files if path.startswith(f"{PICTURES}/")]
    card = make_card(repo, manifest, shown, remote.card if remote else "")
    told = json.dumps(
        manifest.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False
    )
    whole = (told + "\n").encode()
    sources: dict[str, Path | bytes] = {**made.sources, **drawn}
    sources |= {CARD: card.encode(), MANIFEST: whole}
    sources[FINISHED] = (hashlib.sha256(whole).hexdigest() + "\n").encode()
    planned = _planned(files, sources, remote)
    allowed = manifest.details["allowed"]
    result = Pushed(repo, version, why, True, planned, card, allowed)
    return Plan(result, manifest, sources)


def _planned(
    files: Mapping[str, str], sources: Mapping[str, Path | bytes], remote: Remote | None
) -> tuple[PlannedFile, ...]:
    """What becomes of every file of the new version and of the one before.

    Raises:
        HubError: A file that is to stay is not there.
    """
    there = remote.paths if remote else frozenset()
    old = remote.files if remote else {}
    planned = []
    for path in sorted({*files, *sources}):
        source = sources.get(path)
        if path in there and path in files and files[path] == old.get(path):
            state: State = "same"
        elif source is None:
            raise HubError(
                f"{path} is not there any more, and its manifest names it: push the task, the "
                "cache and all mixtures again"
            )
        else:
            state = "changed" if path in there else "new"
        planned.append(PlannedFile(path, _size(source), state))
    gone = sorted(path for path in old if path not in files and path in there)
    return (*planned, *(PlannedFile(path, None, "deleted") for path in gone))


def _size(source: Path | bytes | None) -> int | None:
    if source is None:
        return None
    return len(source) if isinstance(source, bytes) else source.stat().st_size
