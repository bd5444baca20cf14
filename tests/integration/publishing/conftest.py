"""A loopback Hub, a client process, and a published repository."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_folders import READER, STRANGER, TOKENS, WRITER, make_cache, make_task
from hub_server import CDN_ROUTES, HubServer
from hub_worker import Worker


@pytest.fixture(scope="package")
def hub() -> Iterator[HubServer]:
    with HubServer(page=7) as server:
        server.add_user(WRITER, "alice", organisations=("org",))
        server.add_user(READER, "bob", "read", organisations=("org",))
        server.add_user(STRANGER, "carol")
        yield server


@pytest.fixture(autouse=True)
def no_faults_are_left(hub: HubServer) -> Iterator[None]:
    yield
    hub.faults.clear()


@pytest.fixture(scope="package")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("client")


@pytest.fixture(scope="package")
def client(hub: HubServer, home: Path) -> Iterator[Worker]:
    with Worker(hub, home) as worker:
        yield worker


@pytest.fixture(scope="package")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A task, the same in other wordings, another task; a cache, and the same cache grown."""
    root = tmp_path_factory.mktemp("folders")
    return {
        "task": make_task(root / "task"),
        "reworded": make_task(root / "reworded", wording="With <sep>: {}, even?"),
        "other": make_task(root / "other", rows=5),
        "cache": make_cache(root / "cache", 40),
        "grown": make_cache(root / "grown", 40, 20),
    }


@pytest.fixture(scope="package")
def published(hub: HubServer, client: Worker, folders: dict[str, Path]) -> str:
    """A repository with a version of two ratios; tests that change it copy it first."""
    given = [folders["task"], folders["cache"]]
    options = {"ratios": [1, 3], "license": "apache-2.0"}
    done = client("push", WRITER, folders=given, repo="org/base", **options)
    assert (done["version"], done["tag"], done["changed"]) == ("1.0.0", "v1.0.0", True)
    assert hub.files("org/base", "v1.0.0") == hub.files("org/base")
    return "org/base"


@pytest.fixture(scope="package", autouse=True)
def no_token_is_where_it_should_not_be(
    hub: HubServer, client: Worker, published: str, home: Path
) -> Iterator[None]:
    """Check all requests, files and lines of output after the tests."""
    yield
    assert len(hub.log) > 20
    for request in hub.log:
        others = {k: v for k, v in request.headers.items() if k != "authorization"}
        sent = json.dumps([request.path, request.query, others]).encode() + request.body
        assert not any(token.encode() in sent for token in TOKENS), request.route
        if request.route in CDN_ROUTES:
            assert "authorization" not in request.headers
    assert not any(t.encode() in body for t in TOKENS for body in hub.objects.values())
    client.errors.flush()
    for root, _, names in os.walk(home):
        for name in names:
            body = (Path(root) / name).read_bytes()
            assert not any(token.encode() in body for token in TOKENS), Path(root) / name


@pytest.fixture
def repo(hub: HubServer, published: str) -> str:
    """A copy of it with an uncached name."""
    name = f"org/copy-{len(hub.repos)}"
    source = hub.repos[published]
    copy = type(source)(name, source.private, dict(source.commits), dict(source.refs))
    hub.repos[name] = copy
    return name
