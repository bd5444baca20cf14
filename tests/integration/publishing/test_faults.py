"""Faults of the Hub at any route, and four pushes at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_folders import TOKENS, WRITER, make_cache, routes_since, rows_of
from hub_server import HubServer
from hub_worker import ClientError, Worker

pytestmark = pytest.mark.integration


FAULTS = [
    ("info", "status", {"status": 503}),
    ("refs", "status", {"status": 500}),
    ("resolve", "drop-before", {}),
    ("validate", "status", {"status": 503}),
    ("preupload", "status", {"status": 503}),
    ("batch", "status", {"status": 500}),
    ("upload", "drop-before", {}),
    ("upload", "status", {"status": 500}),
    ("verify", "drop-after", {}),
    ("commit", "drop-before", {}),
    ("commit", "drop-after", {}),
    ("commit", "status", {"status": 500}),
    ("commit", "status", {"status": 503}),
    ("commit", "status", {"status": 409}),
    ("commit", "status", {"status": 412}),
    ("commit", "status", {"status": 429, "headers": {"Retry-After": "0"}}),
    ("tag", "drop-before", {}),
    ("tag", "drop-after", {}),
    ("tag", "status", {"status": 503}),
    ("tag", "status", {"status": 429}),
]


@pytest.mark.parametrize(("route", "kind", "more"), FAULTS)
def test_one_fault_ends_in_success(
    hub: HubServer,
    client: Worker,
    folders: dict[str, Path],
    repo: str,
    route: str,
    kind: str,
    more: dict[str, Any],
    tmp_path: Path,
) -> None:
    grown = make_cache(tmp_path / "grown", 40, 20, last=f" ({repo})")  # no LFS object is there
    old = hub.files(repo, "v1.0.0")
    commits = len(hub.repos[repo].commits)
    fault = len(hub.log)
    hub.fail(route, kind, **more)
    done = client("push", WRITER, folders=[grown], repo=repo)
    assert hub.faults == [], f"{route} was never asked: {routes_since(hub, fault)}"
    assert (done["version"], done["tag"], done["changed"]) == ("1.1.0", "v1.1.0", True)
    assert len(hub.repos[repo].commits) == commits + 1
    assert hub.files(repo, "v1.0.0") == old
    assert hub.files(repo, "v1.1.0") == hub.files(repo)


def test_a_lasting_fault_leaves_the_old_version_and_a_rerun_completes_it(
    hub: HubServer, client: Worker, folders: dict[str, Path], repo: str, tmp_path: Path
) -> None:
    given = {"folders": [folders["grown"]], "repo": repo}
    before = dict(hub.repos[repo].refs)
    rows = rows_of(tmp_path / "m", 3, folders["task"], folders["cache"])
    hub.fail("commit", status=500, times=-1)
    with pytest.raises(ClientError, match="run the same command again") as error:
        client("push", WRITER, **given)
    assert error.value.kind == "HubError"
    assert hub.repos[repo].refs == before
    loaded = client("load", None, path=repo, name="ratio-3", home=tmp_path / "a")
    assert loaded == rows

    hub.faults.clear()
    hub.fail("tag", "drop-before", times=-1)
    with pytest.raises(ClientError, match="run the same command again"):
        client("push", WRITER, **given)
    assert "refs/tags/v1.1.0" not in hub.repos[repo].refs
    commits = len(hub.repos[repo].commits)

    hub.faults.clear()
    done = client("push", WRITER, **given)
    assert done["tag"] == "v1.1.0"
    assert len(hub.repos[repo].commits) == commits
    assert hub.files(repo, "v1.1.0") == hub.files(repo)


def test_a_commit_without_its_tag_gets_it_from_the_next_push(
    hub: HubServer, client: Worker, folders: dict[str, Path], repo: str
) -> None:
    given = [folders["task"], folders["cache"]]
    client("push", WRITER, folders=given, repo=repo, ratios=[2])
    head = hub.repos[repo].refs["refs/heads/main"]
    del hub.repos[repo].refs["refs/tags/v1.1.0"]
    done = client("push", WRITER, folders=given, repo=repo, ratios=[4])
    assert done["tag"] == "v1.2.0"
    assert hub.repos[repo].refs["refs/tags/v1.1.0"] == head


def test_a_new_repository_through_a_fault(
    hub: HubServer, client: Worker, folders: dict[str, Path]
) -> None:
    hub.fail("create", "drop-after")
    given = [folders["task"], folders["cache"]]
    done = client("push", WRITER, folders=given, repo="org/through", license="mit")
    assert (done["tag"], done["changed"]) == ("v1.0.0", True)


def test_four_processes_at_once_leave_all_their_mixtures(
    hub: HubServer, client: Worker, folders: dict[str, Path], home: Path
) -> None:
    delia = Path(sys.executable).parent / "delia"
    environment = client.environment | hub.environment(WRITER) | {"OMP_NUM_THREADS": "1"}
    given = [str(folders["task"]), str(folders["cache"])]
    options = ["--license", "mit"]
    processes = [
        subprocess.Popen(
            [str(delia), "push", "org/four", *given, "--ratio", str(ratio), *options],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=home,
        )
        for ratio in (1, 2, 3, 4)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0, 0], outputs
    repo = hub.repos["org/four"]
    tags = sorted(ref for ref in repo.refs if ref.startswith("refs/tags/"))
    assert tags == [f"refs/tags/v1.{minor}.0" for minor in range(4)]
    assert len(repo.commits) == 5  # the empty one, and one for each
    manifest = json.loads(hub.files("org/four")["manifest.json"])
    assert list(manifest["details"]["mixtures"]) == [f"ratio-{ratio}" for ratio in (1, 2, 3, 4)]
    assert all(f"ratio-{ratio}/train.parquet" in hub.files("org/four") for ratio in (1, 2, 3, 4))
    assert not any(token in output for token in TOKENS for output in outputs)
