"""Pushing: parts in, one commit and one tag out, or nothing.

    read, mix, scan ──▶ look at the Hub ──▶ draft ──▶ commit ──▶ tag
                             ▲                          │
                             └── a conflict, a limit, ──┘
                                 a broken connection

A commit takes only where the branch is still what the draft was made of. Whatever stood in the
way, the next round looks at the Hub again: another push's mixtures are taken in, and a commit
that was applied though its answer was lost is found there. A version whose commit is there
without its tag gets the tag from whoever comes next.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from delia_data.errors import HubError, InputError, VersionError
from delia_data.hub.client import Retry, client, is_passing, parse_name, translated
from delia_data.hub.parts import read_parts
from delia_data.hub.plan import Plan, Pushed, make_plan
from delia_data.hub.remote import Remote, read_manifest_at, read_remote
from delia_data.hub.versions import Version
from delia_data.hub.workshop import Options, Workshop, check_licence, check_private
from delia_data.sampling.embeddings import Embed

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def push(
    folders: Iterable[str | os.PathLike[str]],
    repo: str,
    options: Options | None = None,
    *,
    dry_run: bool = False,
    embed: Embed | None = None,
    retry: Retry | None = None,
    api: HfApi | None = None,
) -> Pushed:
    """Publish a task, a cache and mixtures in one dataset repository, as one version.

    What the repository holds already and is not given again stays. The login is that of
    `huggingface_hub` (`hf auth login`, or `HF_TOKEN`); it is never written.

    Args:
        folders: Finished folders: a task, a cache, mixtures, or all that `delia pull` wrote.
        repo: `"user/name"` or `"organisation/name"`; made where it is not there.
        options: Ratios to mix, licence, version and more.
        dry_run: Send nothing.
        embed: Gives texts as vectors for the card's map; as `hub.pictures.draw` when not given.
        retry: How often what failed in passing is tried again.
        api: The client to use; one with the default login when not given.

    Returns:
        What was done.

    Raises:
        UnfinishedError: A folder is not a finished output, or a file was changed since.
        InputError: The parts do not fit each other, or something that is needed is missing.
        VersionError: The version is taken by other content, or is too small a step.
        SecretError: A row holds what looks like a secret; nothing left.
        HubError: The Hub refused, or could not be reached; what is there is as it was.
    """
    name, revision = parse_name(repo)
    if revision is not None:
        raise InputError(f"{repo} names a revision: give {name}, and the version by itself")
    options, retry = options or Options(), retry or Retry()
    given = read_parts(folders)
    with tempfile.TemporaryDirectory() as folder, translated(name):
        shop = Workshop(given, options, Path(folder))
        return _Push(name, options, shop, api or client(), retry, embed).run(dry_run)


def needs_licence(repo: str) -> bool:
    """Tell whether a push to a repository must name a licence: whether none was given before.

    Raises:
        HubError: The Hub refused, or could not be reached.
    """
    name, _ = parse_name(repo)
    with translated(name):
        remote = read_remote(client(), name, Retry(tries=3))
    return remote is None or remote.manifest is None


class _Push:
    def __init__(
        self,
        repo: str,
        options: Options,
        shop: Workshop,
        api: HfApi,
        retry: Retry,
        embed: Embed | None,
    ) -> None:
        self.repo = repo
        self.options = options
        self.shop = shop
        self.api = api
        self.retry = retry
        self.embed = embed

    def run(self, dry_run: bool) -> Pushed:
        """Look, draft and commit, again and again until it is there, or cannot be."""
        remote = read_remote(self.api, self.repo, self.retry)
        check_licence(self.options, remote)
        check_private(self.options, remote, self.repo)
        plan = self._plan(remote)  # whatever is wrong is told before anything is made
        if dry_run:
            return plan.result
        if remote is None:
            self._create()
        sent = False
        for tried in range(1, self.retry.tries + 1):
            try:
                remote = read_remote(self.api, self.repo, Retry(tries=1))
                check_private(self.options, remote, self.repo)
                self._complete(remote)
                plan = self._plan(remote)
                if remote is not None and not plan.result.changed:
                    return replace(plan.result, commit=remote.commit, changed=sent)
                if remote is None:
                    raise HubError(f"{self.repo} was made and is not there: push again")
                sent = True
                return self._send(plan, remote)
            except Exception as error:
                if tried == self.retry.tries or not is_passing(error):
                    raise
                time.sleep(self.retry.wait_s(tried, error))
        raise AssertionError("a push has at least one try")

    def _plan(self, remote: Remote | None) -> Plan:
        return make_plan(self.api, self.repo, self.shop, remote, self.retry, self.embed)

    def _create(self) -> None:
        if self.options.create_pr:
            raise InputError(f"{self.repo} is not there: leave --create-pr out, and push")
        private = True if self.options.private else None
        self.retry.call(
            lambda: self.api.create_repo(
                self.repo, repo_type="dataset", private=private, exist_ok=True
            )
        )

    def _complete(self, remote: Remote | None) -> None:
        """Give the newest version its tag, where the push that made it could not."""
        if remote is None or remote.manifest is None or self.options.create_pr:
            return
        version = Version.parse(remote.manifest.settings["version"])
        if version.tag not in remote.tags:
            self._tag(version, remote.commit)

    def _send(self, plan: Plan, remote: Remote) -> Pushed:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        if self.options.create_pr and (there := self._proposed(plan)):
            return replace(plan.result, proposal=there)
        operations: list[CommitOperationAdd | CommitOperationDelete] = []
        for file in plan.result.files:
            if file.state in ("new", "changed"):
                source = plan.sources[file.path]
                given = source if isinstance(source, bytes) else str(source)
                operations.append(CommitOperationAdd(file.path, given))
            elif file.state == "deleted":
                operations.append(CommitOperationDelete(file.path))
        version = plan.result.version
        info = self.api.create_commit(
            self.repo,
            operations,
            repo_type="dataset",
            commit_message=f"{version.tag}: {plan.result.why}"[:200],
            parent_commit=remote.commit,
            create_pr=self.options.create_pr,
        )
        if self.options.create_pr:
            return replace(plan.result, commit=info.oid, proposal=info.pr_url)
        self._tag(version, info.oid)
        return replace(plan.result, commit=info.oid, tag=version.tag)

    def _proposed(self, plan: Plan) -> str | None:
        """Address of a pull request that has the same content already."""
        refs = self.api.list_repo_refs(self.repo, repo_type="dataset", include_pull_requests=True)
        for ref in reversed(refs.pull_requests or []):
            try:
                manifest = read_manifest_at(self.api, self.repo, ref.target_commit, self.retry)
            except InputError:  # somebody's request for something else
                continue
            if manifest.inputs.get("content") == plan.manifest.inputs["content"]:
                number = ref.ref.rsplit("/", 1)[-1]
                return f"{self.api.endpoint}/datasets/{self.repo}/discussions/{number}"
        return None

    def _tag(self, version: Version, commit: str) -> None:
        """Tag a commit; one that another push has tagged so is fine."""
        from huggingface_hub.errors import HfHubHTTPError

        def once() -> None:
            try:
                self.api.create_tag(
                    self.repo, tag=version.tag, revision=commit, repo_type="dataset"
                )
            except HfHubHTTPError as error:
                if error.response.status_code != 409:
                    raise
                refs = self.api.list_repo_refs(self.repo, repo_type="dataset")
                tags = {tag.name: tag.target_commit for tag in refs.tags}
                if version.tag not in tags:
                    raise
                if tags[version.tag] != commit:
                    raise VersionError(
                        f"{self.repo} got a tag {version.tag} for something else meanwhile: "
                        "push again"
                    ) from error

        self.retry.call(once)
