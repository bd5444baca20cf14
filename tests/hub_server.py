"""A loopback Hub with the routes that `huggingface_hub` 2.4 and `datasets` 5.2 request.

    with HubServer() as hub:
        hub.add_user("writer-token", "alice", organisations=("org",))
        hub.fail("commit", status=503)
        run(client, env=hub.environment("writer-token"))
        assert hub.repos["org/name"].refs["refs/tags/v1.0.0"]

Repositories have commits, branches, tags and pull requests; large files go through LFS to another
origin (the "CDN"), where no token may ever arrive. Every request is in `hub.log`. Those of models
are in `hub.repos` under `models/org/name`.

What it leaves out: spaces, Xet, multipart uploads, git itself.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".parquet", ".arrow", ".png", ".jpg", ".bin", ".gz", ".zip")
LFS_BYTES = 10 << 20
MAIN = "refs/heads/main"


@dataclass(frozen=True)
class User:
    """Owner of a token."""

    name: str
    role: str
    organisations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Blob:
    """A file of a tree; `lfs` is the hash of a large one."""

    oid: str
    size: int
    lfs: str | None = None

    @property
    def etag(self) -> str:
        return self.lfs or self.oid


@dataclass(frozen=True)
class Commit:
    """A tree and its history."""

    sha: str
    tree: dict[str, Blob]
    parent: str | None
    title: str


@dataclass
class Repo:
    """A repository; names of model repositories begin with `models/`."""

    name: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    disabled: bool = False

    def add(self, tree: dict[str, Blob], parent: str | None, title: str) -> Commit:
        listed = sorted((path, blob.oid, blob.lfs) for path, blob in tree.items())
        content = json.dumps([self.name, parent, title, listed, len(self.commits)])
        commit = Commit(hashlib.sha1(content.encode()).hexdigest(), tree, parent, title)
        self.commits[commit.sha] = commit
        return commit

    def resolve(self, revision: str) -> Commit:
        for name in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if name in self.refs:
                return self.commits[self.refs[name]]
        if revision in self.commits:
            return self.commits[revision]
        raise RefusedError(404, f"Invalid rev id: {revision}", code="RevisionNotFound")

    def names(self, kind: str) -> list[dict[str, str]]:
        """Return the refs below a prefix such as `refs/heads/`, as the API lists them."""
        return [
            {"name": ref.removeprefix(kind), "ref": ref, "targetCommit": sha}
            for ref, sha in sorted(self.refs.items())
            if ref.startswith(kind)
        ]


@dataclass
class Fault:
    """A fault to cause, and the remaining number of times."""

    route: str
    kind: str  # "status", "drop-before", "drop-after", "truncate", "corrupt"
    status: int = 0
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    when: Callable[[Request], bool] = lambda request: True


@dataclass
class Request:
    """A request."""

    host: str
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    route: str = ""
    status: int = 0

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")


@dataclass
class Reply:
    """A reply."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = "application/json"

    @classmethod
    def of(cls, value: Any, **more: Any) -> Reply:
        return cls(json.dumps(value).encode(), **more)


class RefusedError(Exception):
    """An error reply."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    @property
    def reply(self) -> Reply:
        headers = {"X-Error-Message": str(self), "X-Error-Code": self.code}
        return Reply.of({"error": str(self)}, status=self.status, headers=headers)


NAME = r"(?P<name>(?:datasets|models)/[\w.-]+/[\w.-]+)"
PAGE = r"(?P<name>(?:datasets/)?[\w.-]+/[\w.-]+)"
BUCKET = r"(?P<bucket>[\w.-]+/[\w.-]+)"
ROUTES = [
    ("bucket", "GET", rf"/api/buckets/{BUCKET}"),
    ("bucket_tree", "GET", rf"/api/buckets/{BUCKET}/tree(?:/(?P<path>.*))?"),
    ("bucket_file", "GET", rf"/buckets/{BUCKET}/resolve/(?P<path>.+)"),
    ("create", "POST", r"/api/repos/create"),
    ("whoami", "GET", r"/api/whoami-v2"),
    ("validate", "POST", r"/api/validate-yaml"),
    ("refs", "GET", rf"/api/{NAME}/refs"),
    ("info", "GET", rf"/api/{NAME}(?:/revision/(?P<revision>[^/]+))?"),
    ("tree", "GET", rf"/api/{NAME}/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?"),
    ("paths", "POST", rf"/api/{NAME}/paths-info/(?P<revision>[^/]+)"),
    ("preupload", "POST", rf"/api/{NAME}/preupload/(?P<revision>[^/]+)"),
    ("commit", "POST", rf"/api/{NAME}/commit/(?P<revision>[^/]+)"),
    ("tag", "POST", rf"/api/{NAME}/tag/(?P<revision>[^/]+)"),
    ("batch", "POST", rf"/{PAGE}\.git/info/lfs/objects/batch"),
    ("verify", "POST", rf"/{PAGE}\.git/info/lfs/verify"),
    ("resolve", "GET", rf"/{PAGE}/resolve/(?P<revision>[^/]+)/(?P<path>.+)"),
    ("upload", "PUT", r"/lfs/(?P<oid>[0-9a-f]{64})"),
    ("download", "GET", r"/lfs/(?P<oid>[0-9a-f]{64})"),
]
PAGES = {"batch", "verify", "resolve"}
CDN_ROUTES = {"upload", "download"}
WRITES = {"preupload", "commit", "tag", "batch"}


class HubServer:
    """The Hub on `localhost` and its CDN on `127.0.0.1`, each on a port of its own."""

    def __init__(self, *, page: int = 50) -> None:
        self.repos: dict[str, Repo] = {}
        self.renamed: dict[str, str] = {}
        self.users: dict[str, User] = {}
        self.objects: dict[str, bytes] = {}
        self.buckets: dict[str, dict[str, bytes]] = {}  # files by path
        self.log: list[Request] = []
        self.faults: list[Fault] = []
        self.page = page  # entries of a tree that come at once
        self._lock = threading.RLock()
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(self)) for _ in range(2)]
        self.endpoint = f"http://localhost:{self._servers[0].server_port}"
        self.cdn = f"http://127.0.0.1:{self._servers[1].server_port}"

    def __enter__(self) -> HubServer:
        for server in self._servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    # What tests say.

    def add_user(
        self, token: str, name: str, role: str = "write", organisations: tuple[str, ...] = ()
    ) -> None:
        self.users[token] = User(name, role, organisations)

    def fail(self, route: str, kind: str = "status", **more: Any) -> None:
        """Cause faults in the next `times` requests of a route."""
        self.faults.append(Fault(route, kind, **more))

    def environment(self, token: str | None) -> dict[str, str]:
        """Return the variables of a client, whose libraries read them at import."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": token or "",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "localhost,127.0.0.1",
        }

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """Return the files of a revision."""
        tree = self.repos[name].resolve(revision).tree
        return {path: self.objects[blob.etag] for path, blob in tree.items()}

    def write(self, name: str, files: dict[str, bytes], title: str = "By hand") -> str:
        """Commit files to `main`, like a person in a browser."""
        with self._lock:
            repo = self.repos[name]
            head = repo.resolve("main")
            tree = head.tree | {path: self._keep(path, body) for path, body in files.items()}
            repo.refs[MAIN] = repo.add(tree, head.sha, title).sha
            return repo.refs[MAIN]

    # What clients ask.

    def answer(self, request: Request) -> Reply:
        for route, method, pattern in ROUTES:
            found = re.fullmatch(pattern, request.path)
            if found and method == request.method.replace("HEAD", "GET"):
                request.route = route
                break
        else:
            raise RefusedError(404, f"{request.method} {request.path} is not served")
        groups = {k: unquote(v) for k, v in found.groupdict().items() if v is not None}
        if route in CDN_ROUTES:
            return getattr(self, f"_{route}")(request, **groups)
        user = self._user(request)
        if path := groups.pop("name", None):
            name = _key(path, page=route in PAGES)
            if name in self.renamed:
                location = request.path.replace(name, self.renamed[name], 1)
                return Reply(status=307, headers={"Location": location})
            groups["repo"] = self._repo(name, user)
            if route in WRITES and not _is_proposal(route, request):
                self._check_writes(name, user)
        with self._lock:
            return getattr(self, f"_{route}")(request, user, **groups)

    def _user(self, request: Request) -> User | None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not given:
            return None
        if given not in self.users:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return self.users[given]

    def _repo(self, name: str, user: User | None) -> Repo:
        repo = self.repos.get(name)
        if repo is None or (repo.private and not _belongs(name, user)):
            raise RefusedError(404 if user else 401, "Repository not found", code="RepoNotFound")
        if repo.disabled:
            raise RefusedError(403, "Access to this resource is disabled.")
        return repo

    def _check_writes(self, name: str, user: User | None) -> None:
        if user is None:
            raise RefusedError(401, "Invalid username or password.")
        if user.role != "write" or not _belongs(name, user):
            raise RefusedError(403, f"you don't have the rights to write to {name} with this token")

    def _keep(self, path: str, body: bytes) -> Blob:
        oid = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
        lfs = hashlib.sha256(body).hexdigest() if _is_large(path, len(body)) else None
        blob = Blob(oid, len(body), lfs)
        self.objects[blob.etag] = body
        return blob

    def _create(self, request: Request, user: User | None) -> Reply:
        given = request.json
        if user is None:
            raise RefusedError(401, "Invalid username or password.")
        name = f"{given.get('organization') or user.name}/{given['name']}"
        name = f"models/{name}" if given.get("type", "model") == "model" else name
        self._check_writes(name, user)
        if name in self.repos:
            error = {"error": "You already created this dataset repo", "url": self.url(name)}
            return Reply.of(error, status=409)
        private = given.get("visibility") == "private" or bool(given.get("private"))
        repo = self.repos[name] = Repo(name, private)
        first = {".gitattributes": self._keep(".gitattributes", b"*.parquet filter=lfs\n")}
        repo.refs[MAIN] = repo.add(first, None, "initial commit").sha
        return Reply.of({"url": self.url(name), "id": name, "name": name})

    def url(self, name: str) -> str:
        page = name.removeprefix("models/") if name.startswith("models/") else f"datasets/{name}"
        return f"{self.endpoint}/{page}"

    def _whoami(self, request: Request, user: User | None) -> Reply:
        if user is None:
            raise RefusedError(401, "Invalid username or password.")
        orgs = [{"name": name} for name in user.organisations]
        access = {"accessToken": {"displayName": "test", "role": user.role}}
        return Reply.of({"type": "user", "name": user.name, "orgs": orgs, "auth": access})

    def _validate(self, request: Request, user: User | None) -> Reply:
        if not request.json["content"].startswith("---\n"):
            return Reply.of({"warnings": [{"message": "empty or missing yaml metadata"}]})
        return Reply.of({"errors": [], "warnings": []})

    def _info(
        self, request: Request, user: User | None, repo: Repo, revision: str = "main"
    ) -> Reply:
        commit = repo.resolve(revision)
        siblings = [{"rfilename": path} for path in sorted(commit.tree)]
        value = {
            "id": repo.name.removeprefix("models/"),
            "sha": commit.sha,
            "private": repo.private,
            "tags": [],
        }
        value |= {"gated": "manual" if repo.gated else False, "disabled": repo.disabled}
        return Reply.of({**value, "siblings": siblings, "downloads": 0, "likes": 0})

    def _refs(self, request: Request, user: User | None, repo: Repo) -> Reply:
        refs: dict[str, Any] = {"converts": [], "branches": repo.names("refs/heads/")}
        refs["tags"] = repo.names("refs/tags/")
        if "include_prs" in request.query:
            refs["pullRequests"] = repo.names("refs/pr/")
        return Reply.of(refs)

    def _tree(
        self, request: Request, user: User | None, repo: Repo, revision: str, path: str = ""
    ) -> Reply:
        prefix = f"{path.rstrip('/')}/" if path else ""
        tree = repo.resolve(revision).tree
        inside = {name: blob for name, blob in tree.items() if name.startswith(prefix)}
        if path and not inside:
            raise RefusedError(404, f"{path} does not exist", code="EntryNotFound")
        recursive = request.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = _entries(inside, prefix, recursive)
        begin = int(request.query.get("cursor", ["0"])[0])
        headers = {}
        if begin + self.page < len(entries):
            options = f"recursive={str(recursive).lower()}&cursor={begin + self.page}"
            url = f"{self.endpoint}{quote(request.path)}?{options}"
            headers["Link"] = f'<{url}>; rel="next"'
        return Reply.of(entries[begin : begin + self.page], headers=headers)

    def _paths(self, request: Request, user: User | None, repo: Repo, revision: str) -> Reply:
        asked = request.headers.get("content-type", "").startswith("application/json")
        paths = request.json["paths"] if asked else parse_qs(request.body.decode())["paths"]
        tree = repo.resolve(revision).tree
        found = [_file(path, tree[path]) for path in paths if path in tree]
        folders = [p for p in paths if any(name.startswith(f"{p}/") for name in tree)]
        return Reply.of([*found, *(_folder(path) for path in folders)])

    def _preupload(self, request: Request, user: User | None, repo: Repo, revision: str) -> Reply:
        if user is None:
            raise RefusedError(401, "Invalid username or password.")
        tree = repo.resolve(revision).tree
        answers = []
        for file in request.json["files"]:
            path = file["path"]
            mode = "lfs" if _is_large(path, file["size"]) else "regular"
            answer = {"path": path, "uploadMode": mode, "shouldIgnore": False}
            answers.append(answer | ({"oid": tree[path].etag} if path in tree else {}))
        return Reply.of({"files": answers})

    def _batch(self, request: Request, user: User | None, repo: Repo) -> Reply:
        if user is None:
            raise RefusedError(401, "Invalid username or password.")
        objects = []
        for wanted in request.json["objects"]:
            answer = dict(wanted)
            if wanted["oid"] not in self.objects:
                verify = f"{self.url(repo.name)}.git/info/lfs/verify"
                answer["actions"] = {
                    "upload": {"href": f"{self.cdn}/lfs/{wanted['oid']}"},
                    "verify": {"href": verify},
                }
            objects.append(answer)
        return Reply.of({"transfer": "basic", "objects": objects})

    def _verify(self, request: Request, user: User | None, repo: Repo) -> Reply:
        if user is None:
            raise RefusedError(401, "Invalid username or password.")
        if len(self.objects.get(request.json["oid"], b"")) != request.json["size"]:
            raise RefusedError(404, "the object is not there")
        return Reply.of({})

    def _upload(self, request: Request, oid: str) -> Reply:
        if hashlib.sha256(request.body).hexdigest() != oid:
            raise RefusedError(400, "BadDigest")
        self.objects[oid] = request.body
        return Reply(headers={"ETag": f'"{oid}"'})

    def _download(self, request: Request, oid: str) -> Reply:
        if oid not in self.objects:
            raise RefusedError(404, "NoSuchKey")
        return _ranged(request, self.objects[oid], {"ETag": f'"{oid}"'})

    def _commit(self, request: Request, user: User | None, repo: Repo, revision: str) -> Reply:
        if user is None:
            raise RefusedError(401, "Invalid username or password.")
        head = repo.resolve(revision)
        lines = [json.loads(line) for line in request.body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        proposal = "create_pr" in request.query
        parent = header.get("parentCommit")
        if parent and parent != head.sha and not proposal:
            raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
        base = repo.commits[parent] if parent else head
        tree = dict(base.tree)
        for line in lines:
            self._apply(tree, line["key"], line["value"])
        commit = repo.add(tree, base.sha, header["summary"])
        url = self.url(repo.name)
        answer = {
            "success": True,
            "commitOid": commit.sha,
            "commitUrl": f"{url}/commit/{commit.sha}",
        }
        if proposal:
            number = len(repo.names("refs/pr/")) + 1
            repo.refs[f"refs/pr/{number}"] = commit.sha
            answer["pullRequestUrl"] = f"{url}/discussions/{number}"
        else:
            repo.refs[f"refs/heads/{revision}"] = commit.sha
        return Reply.of(answer)

    def _apply(self, tree: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
        path = value.get("path", "")
        if key == "file":
            tree[path] = self._keep(path, base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if value["oid"] not in self.objects:
                raise RefusedError(400, f"LFS pointer to a missing file: {path}")
            tree[path] = self._keep(path, self.objects[value["oid"]])
        elif key == "deletedFile" and tree.pop(path, None) is None:
            raise RefusedError(404, "A file with this name doesn't exist", code="EntryNotFound")

    def _tag(self, request: Request, user: User | None, repo: Repo, revision: str) -> Reply:
        ref = f"refs/tags/{request.json['tag']}"
        if ref in repo.refs:
            raise RefusedError(409, f"Tag reference exists already: {ref}")
        repo.refs[ref] = repo.resolve(revision).sha
        return Reply.of({})

    def _resolve(
        self, request: Request, user: User | None, repo: Repo, revision: str, path: str
    ) -> Reply:
        if repo.gated and not _belongs(repo.name, user):
            message = f"Access to dataset {repo.name} is restricted. Visit its page to ask for it."
            raise RefusedError(403 if user else 401, message, code="GatedRepo")
        commit = repo.resolve(revision)
        headers = {"X-Repo-Commit": commit.sha}
        blob = commit.tree.get(path)
        if blob is None:
            missing = RefusedError(404, "Entry not found", code="EntryNotFound").reply
            missing.headers |= headers
            return missing
        if blob.lfs is None:
            return _ranged(request, self.objects[blob.oid], headers | {"ETag": f'"{blob.oid}"'})
        headers |= {"X-Linked-Etag": f'"{blob.lfs}"', "X-Linked-Size": str(blob.size)}
        return Reply(status=302, headers=headers | {"Location": f"{self.cdn}/lfs/{blob.lfs}"})

    def _bucket(self, request: Request, user: User | None, bucket: str) -> Reply:
        if bucket not in self.buckets:
            raise RefusedError(404, "Bucket not found", code="RepoNotFound")
        counts = {"size": 0, "totalFiles": len(self.buckets[bucket])}
        created = "2026-01-01T00:00:00.000Z"
        return Reply.of({"id": bucket, "private": False, "createdAt": created, **counts})

    def _bucket_tree(
        self, request: Request, user: User | None, bucket: str, path: str = ""
    ) -> Reply:
        prefix = f"{path.rstrip('/')}/" if path else ""
        files = self.buckets[bucket].items()
        inside = {n: Blob("", len(body), None) for n, body in files if n.startswith(prefix)}
        recursive = request.query.get("recursive", ["false"])[0].lower() == "true"
        return Reply.of([e | {"xetHash": ""} for e in _entries(inside, prefix, recursive)])

    def _bucket_file(self, request: Request, user: User | None, bucket: str, path: str) -> Reply:
        body = self.buckets[bucket].get(path)
        if body is None:
            raise RefusedError(404, "Entry not found", code="EntryNotFound")
        return _ranged(request, body, {"ETag": f'"{hashlib.sha1(body).hexdigest()}"'})

    @contextmanager
    def faulty(self, request: Request) -> Iterator[Fault | None]:
        """Return and count the fault of this request, if any."""
        with self._lock:
            meets = [f for f in self.faults if f.route == request.route and f.when(request)]
            fault = meets[0] if meets else None
            if fault is not None:
                fault.times -= 1
                if fault.times == 0:
                    self.faults.remove(fault)
        yield fault


def _belongs(name: str, user: User | None) -> bool:
    owner = name.removeprefix("models/").split("/")[0]
    return user is not None and owner in (user.name, *user.organisations)


def _key(path: str, *, page: bool) -> str:
    """Return the name of a repository in `hub.repos`, from that in a path of the API or a page."""
    if path.startswith("datasets/"):
        return path.removeprefix("datasets/")
    return f"models/{path}" if page else path


def _is_proposal(route: str, request: Request) -> bool:
    """Return whether a commit is for a pull request, which readers may open; it has no branch."""
    return "ref" not in request.json if route == "batch" else "create_pr" in request.query


def _is_large(path: str, size: int) -> bool:
    return size > 0 and (path.endswith(LFS_SUFFIXES) or size > LFS_BYTES)


def _file(path: str, blob: Blob) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": blob.size, "oid": blob.oid}
    large = {"oid": blob.lfs, "size": blob.size, "pointerSize": 130}
    return entry | ({"lfs": large} if blob.lfs else {})


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest()}


def _entries(inside: dict[str, Blob], prefix: str, recursive: bool) -> list[dict[str, Any]]:
    """Return the files and folders below a prefix, sorted by path."""
    entries: dict[str, dict[str, Any]] = {}
    for path, blob in inside.items():
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            folder = prefix + "/".join(parts[:depth])
            entries[folder] = _folder(folder)
        if recursive or len(parts) == 1:
            entries[path] = _file(path, blob)
    return [entries[path] for path in sorted(entries)]


def _ranged(request: Request, body: bytes, headers: dict[str, str]) -> Reply:
    headers |= {"Accept-Ranges": "bytes"}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if not asked or not any(asked.groups()):
        return Reply(body, 200, headers, "application/octet-stream")
    first, last = asked.groups()
    begin = int(first) if first else max(0, len(body) - int(last))
    end = min(int(last) + 1, len(body)) if first and last else len(body)
    if begin >= len(body):
        return Reply(b"", 416, headers | {"Content-Range": f"bytes */{len(body)}"})
    headers |= {"Content-Range": f"bytes {begin}-{end - 1}/{len(body)}"}
    return Reply(body[begin:end], 206, headers, "application/octet-stream")


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve()

        do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(
                headers.get("host", ""),
                self.command,
                unquote(parts.path) if "%2F" not in parts.path else parts.path,
                parse_qs(parts.query),
                headers,
                self._body(headers),
            )
            hub.log.append(request)
            for route, method, pattern in ROUTES:  # known before the answer, for faults
                if method == request.method.replace("HEAD", "GET"):
                    request.route = request.route or (
                        route if re.fullmatch(pattern, request.path) else ""
                    )
            with hub.faulty(request) as fault:
                if fault and fault.kind == "drop-before":
                    self._drop()
                elif fault and fault.kind == "status":
                    refusal = RefusedError(fault.status, f"fails with {fault.status}").reply
                    refusal.headers |= fault.headers
                    self._send(request, refusal)
                else:
                    self._answer(request, fault)

        def _answer(self, request: Request, fault: Fault | None) -> None:
            try:
                reply = hub.answer(request)
            except RefusedError as refusal:
                reply = refusal.reply
            if fault and fault.kind == "drop-after":
                request.status = reply.status
                self._drop()
            elif fault and fault.kind == "truncate":
                self._send(request, reply, upto=len(reply.body) // 2)
                self._drop()
            elif fault and fault.kind == "corrupt":
                half = len(reply.body) // 2
                reply.body = reply.body[:half] + b"X" * (len(reply.body) - half)
                self._send(request, reply)
            else:
                self._send(request, reply)

        def _body(self, headers: dict[str, str]) -> bytes:
            if headers.get("transfer-encoding") != "chunked":
                return self.rfile.read(int(headers.get("content-length", 0)))
            body = b""
            while size := int(self.rfile.readline().strip(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _send(self, request: Request, reply: Reply, upto: int | None = None) -> None:
            request.status = reply.status
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.kind)
            self.send_header("Content-Length", str(len(reply.body)))
            for name, value in reply.headers.items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            if request.method != "HEAD":
                self.wfile.write(reply.body[:upto])

        def _drop(self) -> None:
            self.close_connection = True
            self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
