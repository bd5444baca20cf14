"""Fuzz target: answers of the Hub. A pull gives verified files, or an error of one line."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_folders import WRITER, make_cache, make_task
from hub_server import HubServer, Reply, Request
from huggingface_hub import HfApi, constants
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from delia_data.errors import DeliaError
from delia_data.hub import Retry, pull, push
from delia_data.outputs import read_manifest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the client itself

REPO = "org/name"
ROUTES = ("info", "refs", "resolve", "download", "create", "preupload", "batch", "commit", "tag")

words = st.sampled_from(
    [
        *(
            "",
            "..",
            "/",
            "../x",
            "/tmp/x",
            "cache/../../x",
            "ratio-1",
            "ratio-inf",
            "lean",
            "plain",
        ),
        *("\ud800", "\x00", "a\nb", "\u202e", "GatedRepo", "RepoNotFound", "EntryNotFound", REPO),
        *("1.0.0", "v1.0.0", "0" * 40, "manifest.json", "publication", "cache"),
    ]
)
texts = st.one_of(words, st.text(max_size=12))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
changes = st.lists(st.tuples(st.integers(0, 2**16), values), min_size=1, max_size=4)
bodies = st.one_of(
    st.tuples(st.just("change"), changes),  # values within a JSON answer
    st.tuples(st.just("cut"), st.integers(0, 2**12)),
    st.tuples(st.just("json"), values),
    st.tuples(st.just("bytes"), st.binary(max_size=40)),
    st.tuples(st.just("same"), st.none()),
)
header_values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
headers = st.dictionaries(
    st.sampled_from(
        [
            *("X-Error-Code", "X-Error-Message", "X-Repo-Commit", "ETag", "Location", "ratelimit"),
            *("Retry-After", "X-Linked-Etag", "X-Linked-Size", "Content-Type", "Content-Range"),
        ]
    ),
    st.one_of(header_values, st.sampled_from(["GatedRepo", "0", "-1", "../x", "bytes 9-1/0"])),
    max_size=2,
)
statuses = st.sampled_from(
    [None, None, None, 200, 204, 302, 400, 401, 403, 404, 409, 416, 429, 500]
)
UNREADABLE_REF = {"name": [], "ref": "", "targetCommit": 1}
answers = st.tuples(st.sampled_from(ROUTES), bodies, statuses, headers, st.booleans())


def changed(value: Any, changes: list[tuple[int, Any]]) -> Any:
    """Replace values within a JSON value, or remove them."""
    for number, new in changes:
        places: list[tuple[Any, Any]] = []
        stack = [value]
        while stack:
            inner = stack.pop()
            items = inner.items() if isinstance(inner, dict) else enumerate(inner)
            for key, each in items:
                places.append((inner, key))
                if isinstance(each, dict | list):
                    stack.append(each)
        if places:
            where, key = places[number % len(places)]
            if new is None:
                del where[key]
            else:
                where[key] = new
    return value


def altered(reply: Reply, body: tuple[str, Any]) -> bytes:
    kind, given = body
    if kind == "cut":
        return reply.body[:given]
    if kind == "json":
        return json.dumps(given).encode()
    if kind == "bytes":
        return bytes(given)
    try:
        value = json.loads(reply.body)
    except ValueError:
        return reply.body
    if kind == "change" and isinstance(value, dict | list):
        return json.dumps(changed(value, given)).encode()
    return reply.body


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    root = tmp_path_factory.mktemp("hub")
    patch = pytest.MonkeyPatch()
    patch.setattr(constants, "HF_HUB_OFFLINE", False)  # a loopback server, no network
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    patch.setattr(time, "sleep", lambda _: None)  # the client waits between its own retries
    with HubServer() as server:
        server.add_user(WRITER, "alice", organisations=("org",))
        patch.setattr(constants, "HF_HUB_CACHE", str(root / "cache"))
        api = HfApi(endpoint=server.endpoint, token=WRITER)
        folders = [make_task(root / "task"), make_cache(root / "cache-folder", 10)]
        push(folders, REPO, ratios=[1], license="mit", api=api)
        yield server
    patch.undo()


def consistent(hub: HubServer, changes: list[tuple[int, Any]]) -> None:
    """Change the manifest of the repository, with a marker that fits it."""
    manifest = changed(json.loads(hub.files(REPO)["manifest.json"]), changes)
    body = json.dumps(manifest).encode()
    hub.write(REPO, {"manifest.json": body, "FINISHED": hashlib.sha256(body).hexdigest().encode()})


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=30)
@given(answers, st.one_of(st.none(), changes), st.sampled_from(["pull", "push"]))
@example(("info", ("json", {"sha": None}), None, {}, True), None, "pull")
@example(("info", ("json", []), None, {}, True), None, "push")
@example(("refs", ("json", {}), None, {}, True), None, "push")
@example(("resolve", ("same", None), 403, {"X-Error-Code": "GatedRepo"}, True), None, "pull")
@example(("info", ("change", [(107, [])]), None, {}, False), None, "push")
@example(
    ("refs", ("json", {"branches": [], "converts": [], "tags": [UNREADABLE_REF]}), 200, {}, True),
    None,
    "push",
)
@example(("commit", ("json", {}), None, {}, True), None, "push")
@example(("info", ("cut", 0), None, {}, False), [(230, False)], "push")
def test_no_traceback_and_nothing_outside_the_folder(
    hub: HubServer,
    answer: tuple[str, tuple[str, Any], int | None, dict[str, str], bool],
    manifest: list[tuple[int, Any]] | None,
    how: str,
) -> None:
    route, body, status, extra, always = answer
    real = type(hub).answer
    left = [10**6 if always else 1]

    def answered(request: Request) -> Reply:
        reply = real(hub, request)
        if request.route == route and left[0]:
            left[0] -= 1
            new = status or reply.status
            return Reply(altered(reply, body), new, reply.headers | extra, reply.kind)
        return reply

    state = dict(hub.repos[REPO].refs)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root = Path(folder)
        patch.setattr(constants, "HF_HUB_CACHE", str(root / "hf"))
        if manifest is not None:
            consistent(hub, manifest)
        hub.answer = answered  # type: ignore[method-assign]  # for this example
        api = HfApi(endpoint=hub.endpoint, token=WRITER)
        retry = Retry(tries=2, base_s=0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if how == "pull":
                    pull(REPO, root / "out", api=api, retry=retry)
                    read_manifest(root / "out", verify=True)
                else:
                    cache = make_cache(root / "grown", 10, 5)
                    push([cache], REPO, api=api, retry=retry)
        except DeliaError as error:
            line = str(error)
            assert line and "\n" not in line and len(line) < 2_000
            assert WRITER not in line
        finally:
            del hub.answer
            hub.repos[REPO].refs.clear()
            hub.repos[REPO].refs.update(state)
        assert {path.name for path in root.iterdir()} <= {"hf", "out", "grown"}
