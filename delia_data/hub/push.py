"""Push folders to the Hub: one commit and one tag, or nothing.

    read, mix, scan --> read the Hub --> plan --> commit --> tag
                             ^                      |
                             +-- conflict, limit, --+
                                 broken connection

A commit succeeds only if the branch is still the one that it was planned for. After a conflict or
a lost answer the next round reads the Hub again: it takes over the mixtures of a concurrent push,
and finds a commit that was applied although its answer was lost. If a version has its commit but
not its tag, the next push adds the tag.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from delia_data.errors import ForeignFolderError, HubError, InputError, VersionError
from delia_data.hub.card import make_card
from delia_data.hub.client import (
    Repository,
    Retry,
    client,
    is_missing,
    login_token,
    parse_name,
    translated,
)
from delia_data.hub.parts import (
    CACHE,
    CARD,
    MODEL,
    NAMED,
    SOURCES,
    TASK,
    Part,
    cache_ids,
    check_evaluation,
    check_mixture,
    check_weights,
    files_of,
    home_of,
    mix_ratios,
    name_base_model,
    part_of,
    publication_manifest,
    read_parts,
    refuse_lean,
    repo_type_of,
    row_files,
)
from delia_data.hub.pull import read_manifest_at
from delia_data.hub.secrets import check_secrets
from delia_data.mixing import read_task_rows
from delia_data.outputs import FINISHED, MANIFEST, Manifest

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_NUMBERS: Final = r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
_VERSION, _TAG = re.compile(f"v?{_NUMBERS}"), re.compile(f"v{_NUMBERS}")
_HARMLESS: Final = frozenset({".gitattributes", CARD})


@dataclass(frozen=True, order=True, slots=True)
class Version:
    """A version of a publication; its tag on the Hub is `v1.2.0`."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @property
    def tag(self) -> str:
        """Its tag on the Hub."""
        return f"v{self}"

    @property
    def next(self) -> Version:
        """The next minor version."""
        return Version(self.major, self.minor + 1, 0)

    @classmethod
    def parse(cls, text: str) -> Version:
        """Read `1.2.0` or `v1.2.0`.

        Raises:
            VersionError: The text has another form.
        """
        match = _VERSION.fullmatch(text)
        if not match:
            raise VersionError(f"{text!r} is not a version: give one such as 1.2.0")
        return cls(*(int(part) for part in match.groups()))


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file of a publication, and what a push does with it.

    Attributes:
        path: Its path in the repository.
        size: Its size in bytes; None if only the Hub has it.
        state: Whether it is sent, stays, or is deleted.
    """

    path: str
    size: int | None
    state: Literal["new", "changed", "same", "deleted"]


@dataclass(frozen=True, slots=True)
class Pushed:
    """The result of a push, or of its dry run.

    Attributes:
        repo: The repository.
        version: The version that holds the content.
        why: How the version differs from the one before.
        changed: Whether the version is new; False if the content was published before.
        files: Its files.
        card: Its card.
        allowed: Number of secrets and addresses that `allow` let pass, by kind.
        commit: The commit that holds it; None for a dry run.
        tag: The tag of the version; None for a dry run or a pull request.
        proposal: Address of the pull request, if it was proposed.
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
class _Remote:
    """The newest commit of a repository."""

    commit: str
    private: bool
    manifest: Manifest | None
    card: str
    tags: Mapping[str, str]
    paths: frozenset[str]


@dataclass(frozen=True)
class _Plan:
    result: Pushed
    content: str
    sources: Mapping[str, Path | bytes] = field(default_factory=dict)


def push(
    folders: Iterable[str | os.PathLike[str]],
    repo: str,
    *,
    ratios: Iterable[float] = (),
    license: str | Callable[[], str] | None = None,
    base_model: str | None = None,
    version: str | None = None,
    replace_all: bool = False,
    private: bool = False,
    create_pr: bool = False,
    allow: Sequence[str] = (),
    personal_data: bool = False,
    citation: str | None = None,
    dry_run: bool = False,
    retry: Retry | None = None,
    api: HfApi | None = None,
) -> Pushed:
    """Publish a task, a cache, and mixtures, or an adapter or a model, as one version.

    A task, a cache, and mixtures go into a dataset repository, an adapter or a model with its
    evaluation into a model repository.

    Parts that the repository has and that are not given stay. The login is that of
    `huggingface_hub` (`hf auth login` or `HF_TOKEN`); it is never written to a file.

    Args:
        folders: Finished folders of a task, a cache, or mixtures; or of an adapter, an exported
            adapter, or a model, and of its evaluation, which may also be its folder `evaluation`;
            or one that `delia pull` wrote.
        repo: `"user/name"` or `"organization/name"`; made if missing.
        ratios: Ratios at which to mix the given task with the given cache.
        license: License as the Hub names it, such as `"apache-2.0"`; default: that of the version
            before. The first version needs one: it follows from the model's and the task's. A
            function is called when the first version needs it.
        base_model: Name on the Hub of the model that an adapter or a model was trained from;
            an adapter that was trained from a local folder needs it.
        version: Version such as `"1.2.0"`; default: the next minor version.
        replace_all: Remove the parts that are not given.
        private: Make a new repository private.
        create_pr: Propose the version as a pull request.
        allow: Kinds of secrets, or patterns of values, that the rows may contain.
        personal_data: Also refuse phone numbers, IP addresses, and numbers of cards, accounts and
            persons, which presidio finds.
        citation: BibTeX entry to cite in addition to the paper.
        dry_run: Send nothing.
        retry: Retries after transient errors.
        api: The client; default: one that uses the login of `huggingface_hub`.

    Raises:
        UnfinishedError: A folder is not a finished output, or a file has changed since.
        InputError: Parts do not fit each other, or something that is needed is missing.
        VersionError: The version is invalid, taken, or not above the latest one.
        SecretError: A row holds a secret or an address; nothing was sent.
        HubError: The Hub refused or could not be reached; the repository is unchanged.
    """
    name, revision = parse_name(repo)
    if revision is not None:
        raise InputError(f"{repo} names a revision: give {name}, and the version with --version")
    given = read_parts(folders)
    with tempfile.TemporaryDirectory() as folder, translated(name):
        parts = {**given, **mix_ratios(given, ratios, Path(folder))}
        parts = name_base_model(parts, base_model, Path(folder))
        job = _Push(
            remote=Repository(api or client(), name, repo_type_of(parts), retry or Retry()),
            parts=parts,
            license=license,
            version=None if version is None else Version.parse(version),
            replace_all=replace_all,
            private=private,
            create_pr=create_pr,
            citation=citation,
            allowed=check_secrets(parts, allow, login_token(), personal_data=personal_data),
        )
        return job.run(dry_run)


def _read_remote(repository: Repository) -> _Remote | None:
    """Read the newest commit of a repository; return None if there is no such repository.

    Raises:
        ForeignFolderError: The repository holds something that `delia push` did not write.
        HubError: The repository was renamed.
        Exception: Any error of the client; the caller translates it.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    repo, manifest_path = repository.name, home_of(repository.type) + MANIFEST
    try:
        info = repository.resolve(None)
    except RepositoryNotFoundError as error:
        if not is_missing(error):
            raise
        return None
    if info.id != repo:
        raise HubError(f"{repo} was renamed to {info.id} on the Hub: push to {info.id}")
    paths = frozenset(sibling.rfilename for sibling in info.siblings or [])
    if manifest_path not in paths and (others := sorted(paths - _HARMLESS)):
        raise ForeignFolderError(
            f"{repo} holds something else ({', '.join(others[:3])}): give the name of an empty or "
            "a new repository"
        )
    tags = repository.retry.call(repository.tags)
    manifest = read_manifest_at(repository, info.sha) if manifest_path in paths else None
    card = ""
    if CARD in paths:
        card = repository.download(info.sha, CARD).read_text(encoding="utf-8", errors="replace")
    return _Remote(info.sha, bool(info.private), manifest, card, tags, paths)


@dataclass(frozen=True, kw_only=True)
class _Push:
    remote: Repository
    parts: Mapping[str, Part]
    license: str | Callable[[], str] | None
    version: Version | None
    replace_all: bool
    private: bool
    create_pr: bool
    citation: str | None
    allowed: Mapping[str, int]
    _checked: dict[tuple[Path | None, ...], int] = field(default_factory=dict, init=False)

    def run(self, dry_run: bool) -> Pushed:
        """Read the Hub, plan, and commit, until the version is there or cannot be."""
        remote = _read_remote(self.remote)
        plan = self._plan(remote)  # every problem is reported before anything is created
        if dry_run:
            return plan.result
        if remote is None:
            self._create()
        sent = False

        def once() -> Pushed:
            nonlocal sent
            remote = _read_remote(replace(self.remote, retry=Retry(tries=1)))
            if remote is None:
                raise HubError(f"{self.repo} was made and is missing: run the command again")
            self._complete(remote)
            plan = self._plan(remote)
            if not plan.result.changed:
                return replace(plan.result, commit=remote.commit, changed=sent)
            sent = True
            return self._send(plan, remote)

        return self.remote.retry.call(once)

    @property
    def repo(self) -> str:
        return self.remote.name

    def _plan(self, remote: _Remote | None) -> _Plan:
        """Plan the version from the given parts and the newest commit."""
        before = remote.manifest if remote else None
        if self.private and remote is not None and not remote.private:
            raise InputError(
                f"{self.repo} is public, and --private was given: make it private in its settings, "
                "or give the name of a new repository"
            )
        license = self.license or (before.settings["licence"] if before else None)
        if callable(license):
            license = before.settings["licence"] if before else license()
        if not license:
            raise InputError(
                "the first version needs a license, such as --license apache-2.0: it follows from "
                "the licenses of the model and of the task's rows"
            )
        check_weights(self.parts, before)
        staying = None if self.replace_all else before
        if staying is not None:
            self._check_kept(staying)
        draft = publication_manifest(
            self.parts,
            staying,
            license=license,
            citation=self.citation,
            allowed=self.allowed,
            pairs_in_cache=self._check_mixtures(remote, staying),
        )
        if self.remote.type == "model" and MODEL not in draft.details:
            raise InputError(
                f"{self.repo} has no model to evaluate: give the folder of the adapter too"
            )
        content = draft.inputs["content"]
        missing = set(before.files) - remote.paths if before and remote else set()
        if before and remote and content == before.inputs["content"] and not missing:
            version = Version.parse(before.settings["version"])
            if self.version not in (None, version):
                raise VersionError(
                    f"the content is that of version {version} already, and {self.version} was "
                    f"given: leave --version out, or use {version.tag}"
                )
            files = tuple(PlannedFile(path, None, "same") for path in sorted(before.files))
            why = "the same content is published already"
            tag = version.tag
            result = Pushed(self.repo, version, why, False, files, remote.card, tag=tag)
            return _Plan(result, content)
        version = self._choose_version(remote)
        why = _differences(before, draft) if before else "the first version"
        manifest = draft.model_copy(
            update={
                "settings": {**draft.settings, "version": str(version)},
                "details": {**draft.details, "why": why},
            }
        )
        card = make_card(self.repo, manifest, remote.card if remote else "")
        home = home_of(self.remote.type)
        written = json.dumps(
            manifest.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False
        )
        body = (written + "\n").encode()
        sources: dict[str, Path | bytes] = {
            path: file for part in self.parts.values() for path, file in part.sources().items()
        }
        sources |= {CARD: card.encode(), home + MANIFEST: body}
        sources[home + FINISHED] = (hashlib.sha256(body).hexdigest() + "\n").encode()
        planned = _planned_files(manifest.files, sources, remote)
        result = Pushed(self.repo, version, why, True, planned, card, self.allowed)
        return _Plan(result, content, sources)

    def _check_kept(self, before: Manifest) -> None:
        """Check that the mixtures that stay fit the task and the cache that are given.

        Raises:
            InputError: A mixture was made from another task or from pairs that are gone, or is in
                the lean form of version 0.1.0.
        """
        check_evaluation(self.parts, before, self.repo)
        stay = [name for name in before.details["mixtures"] if name not in self.parts]
        refuse_lean(self.repo, before, stay)
        if not stay:
            return
        for source in SOURCES:
            old = row_files(files_of(before, [source]))
            new = row_files(self.parts[source].hashes()) if source in self.parts else old
            grown = source == CACHE and old.items() <= new.items()
            if old and old != new and not grown:
                raise InputError(
                    f"{self.repo} holds {', '.join(stay)}, mixed from another {source} than the "
                    f"given one: give it too, as a folder or with --ratio, or give --replace-all "
                    "to remove what is not given"
                )

    def _check_mixtures(self, remote: _Remote | None, staying: Manifest | None) -> dict[str, int]:
        """Check the given mixtures against the task and the cache, given or on the Hub.

        Returns:
            For each mixture, how many of its pairs are in the cache.
        """
        mixtures = [part for name, part in self.parts.items() if name not in NAMED]
        folders: dict[str, Path | None] = dict.fromkeys(SOURCES)
        for name in SOURCES if mixtures else ():
            if name in self.parts:
                folders[name] = self.parts[name].folder
            elif remote is not None and staying is not None and name in staying.details:
                files = files_of(staying, [name])
                folders[name] = self.remote.download_verified(remote.commit, files) / name
        task, cache = folders[TASK], folders[CACHE]
        for part in mixtures:
            key = (part.folder, task, cache)
            if key not in self._checked:
                rows = None if task is None else read_task_rows(task)
                ids = None if cache is None else cache_ids(cache)
                self._checked[key] = check_mixture(part, rows, ids)
        return {part.name: self._checked[part.folder, task, cache] for part in mixtures}

    def _choose_version(self, remote: _Remote | None) -> Version:
        """Return the version to publish.

        Raises:
            VersionError: The given version is taken or not above the latest one.
        """
        tags = remote.tags if remote else ()
        versions = [Version.parse(tag) for tag in tags if _TAG.fullmatch(tag)]
        if remote and remote.manifest:
            versions.append(Version.parse(remote.manifest.settings["version"]))
        latest = max(versions, default=None)
        if latest is None:
            return self.version or Version(1, 0, 0)
        if self.version is None:
            return latest.next
        if self.version in versions:
            raise VersionError(
                f"{self.repo} has a version {self.version} with other content, and a version "
                f"never changes: give a higher one than {latest}, or leave --version out"
            )
        if self.version < latest:
            raise VersionError(
                f"version {self.version} is below {latest}, the latest of {self.repo}: give a "
                "higher one, or leave --version out"
            )
        return self.version

    def _create(self) -> None:
        if self.create_pr:
            raise InputError(f"{self.repo} does not exist: leave --create-pr out")
        private = True if self.private else None
        self.remote.retry.call(
            lambda: self.remote.api.create_repo(
                self.repo, repo_type=self.remote.type, private=private, exist_ok=True
            )
        )

    def _complete(self, remote: _Remote) -> None:
        """Add the tag of the newest version if the push that made it could not."""
        if remote.manifest is None or self.create_pr:
            return
        version = Version.parse(remote.manifest.settings["version"])
        if version.tag not in remote.tags:
            self._tag(version, remote.commit)

    def _send(self, plan: _Plan, remote: _Remote) -> Pushed:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        if self.create_pr and (address := self._find_proposal(plan.content)):
            return replace(plan.result, proposal=address)
        operations: list[CommitOperationAdd | CommitOperationDelete] = []
        for file in plan.result.files:
            if file.state in ("new", "changed"):
                source = plan.sources[file.path]
                given = source if isinstance(source, bytes) else str(source)
                operations.append(CommitOperationAdd(file.path, given))
            elif file.state == "deleted":
                operations.append(CommitOperationDelete(file.path))
        version = plan.result.version
        info = self.remote.api.create_commit(
            self.repo,
            operations,
            repo_type=self.remote.type,
            commit_message=f"{version.tag}: {plan.result.why}"[:200],
            parent_commit=remote.commit,
            create_pr=self.create_pr,
        )
        if self.create_pr:
            return replace(plan.result, commit=info.oid, proposal=info.pr_url)
        self._tag(version, info.oid)
        return replace(plan.result, commit=info.oid, tag=version.tag)

    def _find_proposal(self, content: str) -> str | None:
        """Return the address of a pull request that has the same content."""
        for ref in reversed(self.remote.refs(pull_requests=True).pull_requests or []):
            try:
                manifest = read_manifest_at(self.remote, ref.target_commit)
            except InputError:  # a pull request with something else
                continue
            if manifest.inputs["content"] == content:
                number = ref.ref.rsplit("/", 1)[-1]
                return f"{self.remote.url}/discussions/{number}"
        return None

    def _tag(self, version: Version, commit: str) -> None:
        """Tag a commit; accept the same tag of a concurrent push."""
        from huggingface_hub.errors import HfHubHTTPError

        def once() -> None:
            try:
                self.remote.api.create_tag(
                    self.repo, tag=version.tag, revision=commit, repo_type=self.remote.type
                )
            except HfHubHTTPError as error:
                if error.response.status_code != 409:
                    raise
                tags = self.remote.tags()
                if version.tag not in tags:
                    raise
                if tags[version.tag] != commit:
                    raise VersionError(
                        f"another push gave {self.repo} a tag {version.tag} for other content: "
                        "run the command again"
                    ) from error

        self.remote.retry.call(once)


def _differences(before: Manifest, after: Manifest) -> str:
    """Return how a publication differs from the one before, by part."""
    old, new = row_files(before.files), row_files(after.files)
    differing = {
        part_of(path) for path in old.keys() | new.keys() if old.get(path) != new.get(path)
    }
    was, now = ({part_of(path) for path in files} for files in (old, new))
    texts = [
        f"{word}: {', '.join(names)}"
        for word, names in (
            ("new", sorted(now - was)),
            ("changed", sorted(differing & was & now)),
            ("removed", sorted(was - now)),
        )
        if names
    ]
    if before.settings["licence"] != after.settings["licence"]:
        texts.append(f"license: {after.settings['licence']}")
    same = before.inputs["content"] == after.inputs["content"]
    return "; ".join(texts) or ("missing files restored" if same else "changed settings")


def _planned_files(
    files: Mapping[str, str], sources: Mapping[str, Path | bytes], remote: _Remote | None
) -> tuple[PlannedFile, ...]:
    """Return what becomes of every file of the new version and of the one before.

    Raises:
        HubError: The Hub lost a file that is to stay.
    """
    there = remote.paths if remote else frozenset()
    old = remote.manifest.files if remote and remote.manifest else {}
    planned = []
    for path in sorted({*files, *sources}):
        source = sources.get(path)
        size = None
        if source is not None:
            size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if path in there and path in files and files[path] == old.get(path):
            planned.append(PlannedFile(path, size, "same"))
        elif source is None:
            raise HubError(
                f"{path} is missing on the Hub, although its manifest names it: push the task, "
                "the cache, and all mixtures again, or the model"
            )
        else:
            planned.append(PlannedFile(path, size, "changed" if path in there else "new"))
    deleted = sorted(path for path in old if path not in files and path in there)
    return (*planned, *(PlannedFile(path, None, "deleted") for path in deleted))
