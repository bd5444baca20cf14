"""Permissions to read and write, and logins that never leak."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_folders import READER, STRANGER, UNKNOWN, WRITER, WRITES, routes_since
from hub_server import HubServer
from hub_worker import ClientError, Worker

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "needs a login"),
        (UNKNOWN, "rejected the access token"),
        (READER, "may not write"),
        (STRANGER, "may not write"),
    ],
)
def test_who_may_not_write_changes_nothing(
    hub: HubServer,
    client: Worker,
    folders: dict[str, Path],
    repo: str,
    token: str | None,
    message: str,
) -> None:
    before = dict(hub.repos[repo].refs)
    for name in (repo, "org/not-there-yet"):
        given = {"folders": [folders["grown"], folders["task"]], "repo": name}
        with pytest.raises(ClientError, match=message) as error:
            client("push", token, **given, license="mit")
        assert error.value.kind == "HubError"
    assert hub.repos[repo].refs == before
    assert "org/not-there-yet" not in hub.repos


def test_a_private_repository_is_seen_by_its_own(
    hub: HubServer, client: Worker, folders: dict[str, Path], tmp_path: Path
) -> None:
    options = {"ratios": [1], "license": "mit", "private": True}
    given = [folders["task"], folders["cache"]]
    client("push", WRITER, folders=given, repo="org/secret", **options)
    assert hub.repos["org/secret"].private
    client("load", READER, path="org/secret", name="ratio-1", revision="v1.0.0")
    for token in (None, STRANGER):
        with pytest.raises(ClientError, match="may not see it"):
            client("pull", token, name="org/secret", folder=tmp_path / "pulled")


def test_private_rows_never_go_to_a_public_repository(
    hub: HubServer, client: Worker, folders: dict[str, Path], repo: str
) -> None:
    begin = len(hub.log)
    with pytest.raises(ClientError, match="is public, and --private was given"):
        client("push", WRITER, folders=[folders["grown"]], repo=repo, private=True)
    assert not WRITES & set(routes_since(hub, begin))


def test_a_proposal_is_a_pull_request_and_only_one(
    hub: HubServer, client: Worker, folders: dict[str, Path], repo: str
) -> None:
    before = hub.files(repo)
    given = {"folders": [folders["grown"]], "repo": repo, "create_pr": True}
    done = client("push", READER, **given)
    assert done["proposal"].endswith("/discussions/1")
    assert done["tag"] is None
    assert hub.files(repo) == before
    assert client("push", READER, **given)["proposal"] == done["proposal"]
    assert "refs/pr/2" not in hub.repos[repo].refs
    hub.repos[repo].refs["refs/heads/main"] = hub.repos[repo].refs["refs/pr/1"]  # merged
    merged = client("push", WRITER, folders=[folders["grown"]], repo=repo)
    assert (merged["changed"], merged["tag"]) == (False, "v1.1.0")
    assert "refs/tags/v1.1.0" in hub.repos[repo].refs


class TestRepositoriesOutOfReach:
    """Gated, disabled, private, and renamed repositories, for reading and for writing."""

    @pytest.fixture
    def attempts(
        self, client: Worker, folders: dict[str, Path], repo: str, tmp_path: Path
    ) -> dict[str, Callable[[str | None], Any]]:
        return {
            "pull": lambda token: client("pull", token, name=repo, folder=tmp_path / "pulled"),
            "load": lambda token: client(
                "load", token, path="delia_mix", repo=repo, ratio=1, home=tmp_path / "home"
            ),
            "push": lambda token: client("push", token, folders=[folders["grown"]], repo=repo),
        }

    @pytest.mark.parametrize("how", ["pull", "load", "push"])
    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            ("gated", "is gated, .*says: Access to dataset org/.* is restricted"),
            ("disabled", "is disabled .*says: Access to this resource is disabled"),
            ("private", "does not exist, or is private"),
        ],
    )
    def test_the_error_says_which_it_is(
        self, hub: HubServer, repo: str, attempts: Any, how: str, kind: str, message: str
    ) -> None:
        setattr(hub.repos[repo], kind, True)
        before = dict(hub.repos[repo].refs)
        if (kind, how) == ("private", "push"):
            message = "needs a license"  # like a repository that does not exist
        with pytest.raises(ClientError, match=message):
            attempts[how](STRANGER)
        assert hub.repos[repo].refs == before

    @pytest.mark.parametrize("how", ["pull", "load"])
    def test_a_gated_repository_asks_for_a_login_first(
        self, hub: HubServer, repo: str, attempts: Any, how: str
    ) -> None:
        hub.repos[repo].gated = True
        with pytest.raises(ClientError, match=r"is gated.*hf auth login, request access"):
            attempts[how](None)
        assert attempts[how](READER)

    def test_a_token_that_may_not_read_is_not_asked_to_write(
        self, hub: HubServer, repo: str, attempts: Any
    ) -> None:
        hub.fail("info", status=403)
        with pytest.raises(ClientError, match=r"may not read .*says: .*403"):
            attempts["pull"](READER)

    def test_a_renamed_repository_is_read_with_a_warning_and_not_written(
        self, hub: HubServer, client: Worker, folders: dict[str, Path], repo: str, tmp_path: Path
    ) -> None:
        old = f"{repo}-old"
        hub.renamed[old] = repo
        message = f"{old} was renamed to {repo} on the Hub: use {repo}"
        done = client("pull", None, name=f"{old}@v1.0.0", folder=tmp_path / "pulled")
        assert (done["repo"], done["warnings"]) == (repo, [message])
        shown = client("main", None, arguments=["pull", old, str(tmp_path / "again")])
        assert shown["code"] == 0 and message in shown["err"]
        commit = hub.repos[repo].refs["refs/tags/v1.0.0"]
        client("pull", None, name=f"{old}@{commit}", folder=tmp_path / "commit")
        before = dict(hub.repos[repo].refs)
        with pytest.raises(ClientError, match=f"renamed to {repo} on the Hub: push to {repo}"):
            client("push", WRITER, folders=[folders["grown"]], repo=old)
        assert hub.repos[repo].refs == before
