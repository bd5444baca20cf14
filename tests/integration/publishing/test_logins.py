"""Who may read and write, and where a login never goes."""

from __future__ import annotations

from pathlib import Path

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
