"""Publishing and loading against a loopback Hub: versions, faults, logins, parallel pushes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import CDN_ROUTES, HubServer
from hub_worker import ClientError, Worker

from delia_data.cli.lint import mixture_rows
from delia_data.hub.pictures import can_draw
from delia_data.manifest import Manifest, finish, read_manifest
from delia_data.mixing import mix, read_task_rows, save_mixture
from delia_data.records import Record, write_record

pytestmark = pytest.mark.integration

WRITER, READER, STRANGER = "hf_writerwriterwriter", "hf_readerreaderreader", "hf_strangerstranger"
UNKNOWN = "hf_unknownunknownunknown"
TOKENS = (WRITER, READER, STRANGER, UNKNOWN)
WRITES = {"create", "preupload", "batch", "upload", "commit", "tag"}


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("client")


@pytest.fixture(scope="module")
def client(hub: HubServer, home: Path) -> Iterator[Worker]:
    with Worker(hub, home) as worker:
        yield worker


def make_task(folder: Path, *, wording: str = "As <sep>, is {} even?", rows: int = 6) -> Path:
    folder.mkdir(exist_ok=True)
    for name, numbers in (("train", range(rows)), ("test", range(100, 102))):
        lines = [
            {
                **write_record(Record.pair(wording.format(n), f"{{'even': '{n % 2 == 0}'}}")),
                "wording_id": wording[:2],
            }
            for n in numbers
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
    settings = {"name": "parity", "token": "<sep>", "seed": 0}
    counts = {"train": rows, "test": 2}
    manifest = Manifest(kind="task", settings=settings, inputs={"task": f"{rows}"}, rows=counts)
    finish(folder, manifest)
    return folder


def make_cache(folder: Path, *shards: int, extra: str = "", last: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    done = 0
    for number, size in enumerate(shards):
        extra += last if number == len(shards) - 1 else ""
        records = [
            Record.pair(f"Question {n}?", f"Answer {n}.{extra}") for n in range(done, done + size)
        ]
        rows = [{**write_record(r), "source_id": r.id, "tokens": 3} for r in records]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"pairs-{number:05}.parquet")
        done += size
    settings = {"model": {"name": "tiny", "weights_sha256": "ab"}, "sampling": {"top_p": 0.9}}
    manifest = Manifest(
        kind="cache", settings=settings, rows={"kept": done}, dropped={"empty": 2}, details={}
    )
    finish(folder, manifest)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A task, the same in other words, another task; a cache, and the same cache grown."""
    root = tmp_path_factory.mktemp("folders")
    return {
        "task": make_task(root / "task"),
        "reworded": make_task(root / "reworded", wording="With <sep>: {}, even?"),
        "other": make_task(root / "other", rows=5),
        "cache": make_cache(root / "cache", 40),
        "grown": make_cache(root / "grown", 40, 20),
    }


@pytest.fixture(scope="module")
def published(hub: HubServer, client: Worker, folders: dict[str, Path]) -> str:
    """A repository with a version of two ratios; tests that change it copy it first."""
    given = [folders["task"], folders["cache"]]
    options = {"ratios": [1, 3], "licence": "apache-2.0"}
    done = client("push", WRITER, folders=given, repo="org/base", **options)
    assert (done["version"], done["tag"], done["changed"]) == ("1.0.0", "v1.0.0", True)
    assert hub.files("org/base", "v1.0.0") == hub.files("org/base")
    return "org/base"


@pytest.fixture
def repo(hub: HubServer, published: str) -> str:
    """A copy of it, whose name nothing has cached."""
    name = f"org/copy-{len(hub.repos)}"
    source = hub.repos[published]
    copy = type(source)(name, source.private, dict(source.commits), dict(source.refs))
    hub.repos[name] = copy
    return name


def rows_of(folder: Path, ratio: float, task: Path, cache: Path) -> dict[str, list[Any]]:
    """Rows of the mixture as this process makes it, without any Hub."""
    rows = read_task_rows(task)
    shards = str(cache / "pairs*.parquet")
    save_mixture(mix(rows.train, shards, ratio=ratio, test=rows.test), folder)
    return {n: pq.read_table(folder / f"{n}.parquet").to_pylist() for n in ("train", "test")}


def routes_since(hub: HubServer, begin: int) -> list[str]:
    return [request.route for request in hub.log[begin:]]


class TestVersions:
    def test_push_load_grow_and_load_the_old_one_unchanged(
        self, hub: HubServer, client: Worker, folders: dict[str, Path], repo: str, tmp_path: Path
    ) -> None:
        old = {
            ratio: rows_of(tmp_path / f"{ratio}", ratio, folders["task"], folders["cache"])
            for ratio in (1, 3)
        }
        assert len(old[3]["train"]) == 24
        for ratio, rows in old.items():
            given = {"path": repo, "name": f"ratio-{ratio}", "revision": "v1.0.0"}
            assert client("load", None, **given, home=tmp_path / "a") == rows
            assert client("load", None, **given, streaming=True) == rows
        files = f"hf://datasets/{repo}@v1.0.0/ratio-3/train*.parquet"  # the card's line for TRL
        given = {"path": "parquet", "data_files": files, "home": tmp_path / "a"}
        assert client("load", None, **given)["train"] == old[3]["train"]

        again = [folders["task"], folders["grown"]]
        done = client("push", WRITER, folders=again, repo=repo)
        assert (done["version"], done["tag"]) == ("1.1.0", "v1.1.0")
        assert "grown from 40 to 60 pairs" in done["why"]
        assert done["files"]["cache/pairs-00000.parquet"] == "same"
        assert done["files"]["cache/pairs-00001.parquet"] == "new"

        new = rows_of(tmp_path / "new", 3, folders["task"], folders["grown"])
        assert new != old[3]
        for revision, rows in (("v1.0.0", old[3]), ("v1.1.0", new), ("main", new)):
            given = {"path": repo, "name": "ratio-3", "revision": revision}
            assert client("load", None, **given, home=tmp_path / revision) == rows

    def test_no_code_of_ours_is_needed(
        self, client: Worker, folders: dict[str, Path], published: str, tmp_path: Path
    ) -> None:
        code = (
            "import json, sys\n"
            "from datasets import load_dataset\n"
            "given = {'revision': 'v1.0.0', 'streaming': True}\n"
            "splits = load_dataset(sys.argv[1], 'ratio-3', **given)\n"
            "assert 'delia_data' not in sys.modules\n"
            "print(json.dumps({name: list(rows) for name, rows in splits.items()}))\n"
        )
        command = [sys.executable, "-c", code, published]
        environment = {**client.environment, "HF_HOME": str(tmp_path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        rows = rows_of(tmp_path / "m", 3, folders["task"], folders["cache"])
        assert json.loads(done.stdout) == rows

    def test_the_manifest_has_version_content_and_what_is_shared(
        self, hub: HubServer, published: str
    ) -> None:
        manifest = json.loads(hub.files(published)["manifest.json"])
        assert manifest["settings"] == {"licence": "apache-2.0", "version": "1.0.0"}
        assert len(manifest["inputs"]["content"]) == 64
        shared = manifest["details"]["shared"]
        assert shared["pairs_in_mixtures"] == shared["of_these_in_cache"] == 24
        assert shared["plain_copies_bytes"] > 0 and shared["once_bytes"] > 0

    def test_one_commit_and_the_same_again_changes_nothing(
        self, hub: HubServer, client: Worker, folders: dict[str, Path], repo: str
    ) -> None:
        before = dict(hub.repos[repo].refs)
        begin = len(hub.log)
        given = [folders["cache"], folders["task"]]
        for ratios in ([1, 3], [3], []):
            done = client("push", WRITER, folders=given, repo=repo, ratios=ratios)
            assert (done["changed"], done["version"]) == (False, "1.0.0")
        assert hub.repos[repo].refs == before
        assert not WRITES & set(routes_since(hub, begin))

        begin = len(hub.log)
        client("push", WRITER, folders=given, repo=repo, ratios=[2])
        assert routes_since(hub, begin).count("commit") == 1
        assert routes_since(hub, begin).count("tag") == 1

    def test_a_version_never_changes(
        self, hub: HubServer, client: Worker, folders: dict[str, Path], repo: str
    ) -> None:
        before = dict(hub.repos[repo].refs)
        given = {"folders": [folders["other"], folders["cache"]], "repo": repo}
        with pytest.raises(ClientError, match=r"1\.0\.0 with other content \(the task changed"):
            client("push", WRITER, **given, version="1.0.0")
        with pytest.raises(ClientError, match=r"too small a step from 1\.0\.0 .*2\.0\.0"):
            client("push", WRITER, **given, version="1.4.0")
        with pytest.raises(ClientError, match="give --bump major"):
            client("push", WRITER, **given, bump="minor")
        same = [folders["task"], folders["cache"]]
        assert not client("push", WRITER, folders=same, repo=repo, version="1.0.0")["changed"]
        with pytest.raises(ClientError, match=r"that of version 1\.0\.0 already"):
            client("push", WRITER, folders=same, repo=repo, version="1.0.1")
        assert hub.repos[repo].refs == before

    def test_the_step_follows_from_what_changed(
        self, client: Worker, folders: dict[str, Path], repo: str
    ) -> None:
        done = client("push", WRITER, folders=[folders["reworded"]], repo=repo)
        assert (done["version"], done["why"]) == ("1.0.1", "patch: the wordings changed")
        done = client("push", WRITER, folders=[folders["reworded"]], repo=repo, licence="mit")
        assert done["version"] == "1.0.2"
        assert "licence was apache-2.0 and is mit" in done["why"]
        done = client("push", WRITER, folders=[folders["other"]], repo=repo)
        assert (done["version"], done["why"]) == ("2.0.0", "major: the task changed")
        assert done["files"]["ratio-1/train.parquet"] == "changed"

    def test_a_dry_run_shows_all_and_sends_nothing(
        self, hub: HubServer, client: Worker, folders: dict[str, Path], repo: str
    ) -> None:
        begin = len(hub.log)
        names = [str(folders[name]) for name in ("task", "grown")]
        arguments = ["push", repo, *names, "--ratio", "2", "--dry-run", "--no-pictures"]
        done = client("main", WRITER, arguments=arguments)
        assert done["code"] == 0, done["err"]
        assert "cache/pairs-00001.parquet" in done["out"]
        assert "new" in done["out"] and "kB" in done["out"]
        assert "tag v1.1.0" in done["out"]
        assert "license: apache-2.0" in done["out"]
        assert not WRITES & set(routes_since(hub, begin))

    def test_a_repository_of_somebody_else_is_left_alone(
        self, hub: HubServer, client: Worker, folders: dict[str, Path], repo: str
    ) -> None:
        hub.write(repo, {"data.csv": b"1"})
        hub.repos[repo].resolve("main").tree.pop("manifest.json")
        with pytest.raises(ClientError, match="holds something else"):
            client("push", WRITER, folders=[folders["task"]], repo=repo, licence="mit")

    def test_a_file_that_somebody_removed_is_missed(
        self, hub: HubServer, client: Worker, folders: dict[str, Path], repo: str
    ) -> None:
        hub.write(repo, {})
        del hub.repos[repo].resolve("main").tree["ratio-1/train.parquet"]
        given = {"folders": [folders["task"], folders["cache"]], "repo": repo}
        with pytest.raises(ClientError, match=r"ratio-1/train\.parquet is not there any more"):
            client("push", WRITER, **given, ratios=[2])
        done = client("push", WRITER, **given, ratios=[1, 3])
        assert (done["version"], done["why"]) == ("1.0.1", "patch: 1 files were missing")
        assert "ratio-1/train.parquet" in hub.files(repo)

    @pytest.mark.parametrize("wrong", [{"version": "1.2"}, {"bump": "huge"}, {"ratios": [99]}])
    def test_nothing_is_made_of_a_wrong_request(
        self, hub: HubServer, client: Worker, folders: dict[str, Path], wrong: dict[str, Any]
    ) -> None:
        given = [folders["task"], folders["cache"]]
        with pytest.raises(ClientError):
            client("push", WRITER, folders=given, repo="org/wrong", licence="mit", **wrong)
        assert "org/wrong" not in hub.repos

    def test_a_licence_is_asked_for(self, client: Worker, folders: dict[str, Path]) -> None:
        with pytest.raises(ClientError, match="none is guessed"):
            client("push", WRITER, folders=[folders["task"]], repo="org/unlicensed")

    def test_what_a_person_wrote_survives(
        self, hub: HubServer, client: Worker, folders: dict[str, Path], repo: str
    ) -> None:
        card = hub.files(repo)["README.md"].decode()
        by_hand = card.replace("## Loading", "## Ethics\n\nAsk first.\n\n## Loading")
        hub.write(repo, {"README.md": by_hand.encode()})
        client("push", WRITER, folders=[folders["grown"]], repo=repo)
        after = hub.files(repo)["README.md"].decode()
        assert "## Ethics\n\nAsk first." in after
        assert 'revision="v1.1.0"' in after
        assert 'revision="v1.0.0"' not in after

    @pytest.mark.skipif(not can_draw(), reason="matplotlib is not installed")
    def test_pictures_stay_while_they_fit(
        self, hub: HubServer, client: Worker, folders: dict[str, Path], repo: str
    ) -> None:
        given = {"repo": repo, "pictures": True}
        done = client("push", WRITER, folders=[folders["grown"]], **given)
        names = ["pictures/dropped.png", "pictures/lengths.png", "pictures/map.png"]
        assert [path for path in done["files"] if path.startswith("pictures/")] == names
        first = hub.files(repo)
        assert all(f"]({name})" in first["README.md"].decode() for name in names)
        both = [folders["task"], folders["grown"]]
        done = client("push", WRITER, folders=both, ratios=[2], **given)
        assert all(done["files"][name] == "same" for name in names)
        done = client("push", WRITER, folders=[folders["other"]], **given)
        assert done["files"]["pictures/map.png"] == "changed"
        assert hub.files(repo)["pictures/map.png"] != first["pictures/map.png"]

    def test_a_mixture_of_something_else_is_refused(
        self, client: Worker, folders: dict[str, Path], repo: str, tmp_path: Path
    ) -> None:
        other = make_cache(tmp_path / "cache", 40, extra=" So!")
        rows_of(tmp_path / "mixture", 2, folders["task"], other)
        given = [folders["task"], folders["cache"], tmp_path / "mixture"]
        for folders_given in (
            given,
            given[2:],
        ):  # the second time it is compared with what is there
            with pytest.raises(ClientError, match="12 pairs that the cache does not have"):
                client("push", WRITER, folders=folders_given, repo=repo)

    def test_what_is_there_already_need_not_be_given(
        self, hub: HubServer, client: Worker, folders: dict[str, Path], repo: str, tmp_path: Path
    ) -> None:
        done = client("push", WRITER, folders=[folders["cache"]], repo=repo, ratios=[2])
        assert done["why"] == "minor: ratio-2 is new"
        rows_of(tmp_path / "mixture", 4, folders["task"], folders["cache"])
        done = client("push", WRITER, folders=[tmp_path / "mixture"], repo=repo)
        assert done["why"] == "minor: ratio-4 is new"
        assert {p: s for p, s in done["files"].items() if s == "new"} == {
            f"ratio-4/{name}": "new"
            for name in ("FINISHED", "README.md", "manifest.json", "test.parquet", "train.parquet")
        }


@pytest.fixture(scope="module")
def lean(client: Worker, folders: dict[str, Path]) -> str:
    given = [folders["task"], folders["cache"]]
    options = {"ratios": [3, 5], "licence": "mit", "lean": True}
    done = client("push", WRITER, folders=given, repo="org/lean", **options)
    assert {p for p in done["files"] if "ratio" in p} == {
        "lean/ratio-3.parquet",
        "lean/ratio-5.parquet",
    }
    return "org/lean"


class TestLean:
    def test_our_builder_resolves_it(
        self, client: Worker, folders: dict[str, Path], lean: str, tmp_path: Path
    ) -> None:
        rows = rows_of(tmp_path / "m", 5, folders["task"], folders["cache"])
        given = {"path": "delia_mix", "repo": lean, "ratio": 5, "revision": "v1.0.0"}
        assert client("load", None, **given, home=tmp_path / "a") == rows
        assert client("load", None, **given, streaming=True) == rows
        by_name = {"path": "delia_mix", "name": "ratio-5", "repo": lean}
        assert client("load", None, **by_name, home=tmp_path / "b") == rows

    def test_our_builder_takes_the_plain_form_too(
        self, client: Worker, folders: dict[str, Path], published: str, tmp_path: Path
    ) -> None:
        rows = rows_of(tmp_path / "m", 3, folders["task"], folders["cache"])
        given = {"path": "delia_mix", "repo": published, "ratio": 3, "revision": "v1.0.0"}
        assert client("load", None, **given, home=tmp_path / "a") == rows

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"ratio": 9}, r"has no ratio-9: it has ratio-3, ratio-5"),
            ({"ratio": 3, "revision": "v7.0.0"}, "no revision 'v7.0.0'"),
            ({"ratio": 3, "seed": 1}, "seed"),
            ({"ratio": 3, "task": "x.jsonl"}, "task"),
        ],
    )
    def test_what_is_not_published_is_an_error(
        self, client: Worker, lean: str, given: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ClientError, match=message):
            client("load", None, path="delia_mix", repo=lean, **given)

    def test_a_pull_writes_it_out(
        self, client: Worker, folders: dict[str, Path], lean: str, tmp_path: Path
    ) -> None:
        rows = rows_of(tmp_path / "m", 3, folders["task"], folders["cache"])
        client("pull", None, name=lean, folder=tmp_path / "pulled")
        train = tmp_path / "pulled" / "ratio-3" / "train.parquet"
        assert train.read_bytes() == (tmp_path / "m" / "train.parquet").read_bytes()
        assert pq.read_table(train).to_pylist() == rows["train"]
        again = client("push", WRITER, folders=[tmp_path / "pulled"], repo=lean)
        assert not again["changed"]

    def test_the_index_follows_the_cache(
        self, client: Worker, folders: dict[str, Path], lean: str, tmp_path: Path
    ) -> None:
        done = client("push", WRITER, folders=[folders["grown"]], repo=lean)
        assert done["files"]["lean/ratio-5.parquet"] == "changed"
        rows = rows_of(tmp_path / "m", 5, folders["task"], folders["grown"])
        given = {"path": "delia_mix", "repo": lean, "ratio": 5, "revision": done["tag"]}
        assert client("load", None, **given, home=tmp_path / "a") == rows


class TestPull:
    def test_a_pull_gives_back_what_was_pushed(
        self, hub: HubServer, client: Worker, folders: dict[str, Path], repo: str, tmp_path: Path
    ) -> None:
        client("push", WRITER, folders=[folders["grown"]], repo=repo)
        root = tmp_path / "pulled"
        done = client("main", None, arguments=["pull", f"{repo}@v1.0.0", str(root)])
        assert done["code"] == 0, done["err"]
        assert "every hash checked" in done["out"]
        files = hub.files(repo, "v1.0.0")
        del files[".gitattributes"]
        there = {p.relative_to(root).as_posix(): p for p in root.rglob("[!.]*") if p.is_file()}
        assert {name: path.read_bytes() for name, path in there.items()} == files
        assert read_manifest(root, verify=True).kind == "publication"
        for part in ("task", "cache", "ratio-3"):
            read_manifest(root / part, verify=True)
        mixing = ["mix", root / "task", root / "cache", tmp_path / "mixed", "--ratio", "3"]
        done = client("main", None, arguments=[str(part) for part in mixing])
        assert done["code"] == 0, done["err"]
        published = (root / "ratio-3" / "train.parquet").read_bytes()
        assert (tmp_path / "mixed" / "train.parquet").read_bytes() == published
        assert len(mixture_rows(root / "ratio-3")) == 24  # what delia lint and delia train read

        done = client("pull", None, name=repo, folder=root)  # the newer one, over it
        assert done["version"] == "1.1.0"
        assert read_manifest(root, verify=True).settings["version"] == "1.1.0"
        assert (root / "cache" / "pairs-00001.parquet").is_file()

    def test_other_bytes_are_an_error_and_a_rerun_mends_it(
        self, hub: HubServer, client: Worker, repo: str, tmp_path: Path
    ) -> None:
        hub.fail("download", "corrupt", times=-1)
        with pytest.raises(ClientError, match="other bytes than its manifest says") as error:
            client("pull", None, name=repo, folder=tmp_path / "pulled")
        assert error.value.kind == "HubError"
        assert not (tmp_path / "pulled" / "FINISHED").exists()
        hub.faults.clear()
        client("pull", None, name=repo, folder=tmp_path / "pulled")
        assert read_manifest(tmp_path / "pulled", verify=True)

    @pytest.mark.parametrize("fault", ["truncate", "drop-before"])
    def test_a_broken_download_goes_on(
        self, hub: HubServer, client: Worker, repo: str, tmp_path: Path, fault: str
    ) -> None:
        hub.fail("download", fault)
        client("pull", None, name=repo, folder=tmp_path / "pulled")
        assert read_manifest(tmp_path / "pulled", verify=True)

    def test_no_older_version_is_given_in_silence(
        self, hub: HubServer, client: Worker, folders: dict[str, Path], repo: str, tmp_path: Path
    ) -> None:
        lean = {"path": "delia_mix", "repo": repo, "ratio": 3}
        client("load", None, **lean, home=tmp_path / "a")
        client("pull", None, name=repo, folder=tmp_path / "pulled")
        client("push", WRITER, folders=[folders["grown"]], repo=repo)
        hub.fail("info", status=503, times=-1, headers={"Retry-After": "0"})
        with pytest.raises(ClientError, match="did not do its part"):
            client("pull", None, name=repo, folder=tmp_path / "pulled")
        with pytest.raises(ClientError, match="did not do its part"):
            client("load", None, **lean, home=tmp_path / "a")
        assert read_manifest(tmp_path / "pulled", verify=True)  # what was there is whole

    def test_a_foreign_folder_is_left_alone(
        self, client: Worker, repo: str, tmp_path: Path
    ) -> None:
        (tmp_path / "thesis.tex").write_text("mine")
        with pytest.raises(ClientError, match="holds something else"):
            client("pull", None, name=repo, folder=tmp_path)

    def test_diff_tells_rows_wordings_and_settings(
        self, client: Worker, folders: dict[str, Path], repo: str
    ) -> None:
        given = [folders["reworded"], folders["grown"]]
        client("push", WRITER, folders=given, repo=repo, licence="mit")
        found = client("diff", None, before=f"{repo}@v1.0.0", after=f"{repo}@v1.1.0")
        rows = {change["where"]: change for change in found["rows"]}
        assert (rows["cache"]["added"], rows["cache"]["removed"]) == (20, 0)
        assert rows["task"]["added"] == rows["task"]["removed"] == 8
        assert found["wordings_added"] == ["Wi"] and found["wordings_removed"] == ["As"]
        assert found["reworded"][0] == ["As <sep>, is 0 even?", "With <sep>: 0, even?"]
        changed = {change["name"]: change["after"] for change in found["settings"]}
        assert changed == {"licence": "mit", "version": "1.1.0"}
        told = client("main", None, arguments=["diff", f"{repo}@v1.0.0", f"{repo}@v1.1.0"])
        assert "cache: 20 rows more, 0 fewer, 40 the same" in told["out"]
        same = client("diff", None, before=f"{repo}@v1.1.0", after=repo)
        assert not same["rows"] and not same["settings"]


class TestLogins:
    @pytest.mark.parametrize(
        ("token", "message"),
        [
            (None, "needs a login"),
            (UNKNOWN, "does not know the token"),
            (READER, "may not write"),
            (STRANGER, "may not write"),
        ],
    )
    def test_who_may_not_write_changes_nothing(
        self,
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
                client("push", token, **given, licence="mit")
            assert error.value.kind == "HubError"
        assert hub.repos[repo].refs == before
        assert "org/not-there-yet" not in hub.repos

    def test_a_private_repository_is_seen_by_its_own(
        self, hub: HubServer, client: Worker, folders: dict[str, Path], tmp_path: Path
    ) -> None:
        options = {"ratios": [1], "licence": "mit", "private": True}
        given = [folders["task"], folders["cache"]]
        client("push", WRITER, folders=given, repo="org/secret", **options)
        assert hub.repos["org/secret"].private
        client("load", READER, path="org/secret", name="ratio-1", revision="v1.0.0")
        for token in (None, STRANGER):
            with pytest.raises(ClientError, match="may not see it"):
                client("pull", token, name="org/secret", folder=tmp_path / "pulled")

    def test_private_rows_never_go_to_a_public_repository(
        self, hub: HubServer, client: Worker, folders: dict[str, Path], repo: str
    ) -> None:
        begin = len(hub.log)
        with pytest.raises(ClientError, match="is public, and --private was given"):
            client("push", WRITER, folders=[folders["grown"]], repo=repo, private=True)
        assert not WRITES & set(routes_since(hub, begin))

    def test_a_proposal_is_a_pull_request_and_only_one(
        self, hub: HubServer, client: Worker, folders: dict[str, Path], repo: str
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


class TestSecrets:
    def test_what_looks_like_a_secret_does_not_leave(
        self, hub: HubServer, client: Worker, folders: dict[str, Path], tmp_path: Path
    ) -> None:
        begin = len(hub.log)
        cache = make_cache(tmp_path / "cache", 3, extra=" Ask someone@somewhere.org.")
        given = {"folders": [folders["task"], cache], "repo": "org/leaky", "licence": "mit"}
        with pytest.raises(ClientError, match=r"--allow") as error:
            client("push", WRITER, **given)
        assert error.value.kind == "SecretError"
        assert "3 email" in error.value.notes
        assert "cache/pairs-00000.parquet row 0: email" in error.value.notes
        assert "someone@somewhere.org" not in error.value.notes
        assert not WRITES & set(routes_since(hub, begin))
        done = client("push", WRITER, **given, allow=["*@somewhere.org"])
        assert done["changed"]
        manifest = json.loads(hub.files("org/leaky")["manifest.json"])
        assert manifest["details"]["allowed"] == {"email": 3}

    def test_the_command_line_reports_it(
        self, client: Worker, folders: dict[str, Path], tmp_path: Path
    ) -> None:
        cache = make_cache(tmp_path / "cache", 3, extra=" Ask someone@somewhere.org.")
        arguments = ["push", "org/told", str(folders["task"]), str(cache), "--licence", "mit"]
        done = client("main", WRITER, arguments=arguments)
        assert done["code"] == 2
        assert "cache/pairs-00000.parquet row 0: email" in done["out"]
        assert len(done["err"].splitlines()) == 1
        allowed = [*arguments, "--allow", "email", "--no-pictures"]
        done = client("main", WRITER, arguments=allowed)
        assert (done["code"], done["err"]) == (0, "")
        assert "let through, as --allow says: 3 email" in done["out"]

    def test_the_login_itself_never_leaves(
        self, hub: HubServer, client: Worker, folders: dict[str, Path], tmp_path: Path
    ) -> None:
        begin = len(hub.log)
        cache = make_cache(tmp_path / "cache", 3, extra=f" My key is {WRITER}.")
        given = {"folders": [folders["task"], cache], "repo": "org/worse", "licence": "mit"}
        with pytest.raises(ClientError, match="login-token") as error:
            client("push", WRITER, **given, allow=["login-token", "*"])
        assert WRITER not in error.value.message + error.value.notes
        assert not WRITES & set(routes_since(hub, begin))


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


class TestFaults:
    @pytest.mark.parametrize(("route", "kind", "more"), FAULTS)
    def test_one_fault_ends_in_success(
        self,
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
        self, hub: HubServer, client: Worker, folders: dict[str, Path], repo: str, tmp_path: Path
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
        self, hub: HubServer, client: Worker, folders: dict[str, Path], repo: str
    ) -> None:
        given = [folders["task"], folders["cache"]]
        client("push", WRITER, folders=given, repo=repo, ratios=[2])
        head = hub.repos[repo].refs["refs/heads/main"]
        del hub.repos[repo].refs["refs/tags/v1.1.0"]
        done = client("push", WRITER, folders=given, repo=repo, ratios=[4])
        assert done["tag"] == "v1.2.0"
        assert hub.repos[repo].refs["refs/tags/v1.1.0"] == head

    def test_a_new_repository_through_a_fault(
        self, hub: HubServer, client: Worker, folders: dict[str, Path]
    ) -> None:
        hub.fail("create", "drop-after")
        given = [folders["task"], folders["cache"]]
        done = client("push", WRITER, folders=given, repo="org/through", licence="mit")
        assert (done["tag"], done["changed"]) == ("v1.0.0", True)


def test_four_processes_at_once_leave_all_their_mixtures(
    hub: HubServer, client: Worker, folders: dict[str, Path], home: Path
) -> None:
    delia = Path(sys.executable).parent / "delia"
    environment = client.environment | hub.environment(WRITER) | {"OMP_NUM_THREADS": "1"}
    given = [str(folders["task"]), str(folders["cache"])]
    options = ["--licence", "mit", "--no-pictures"]
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


def test_no_token_is_where_it_should_not_be(
    hub: HubServer, client: Worker, published: str, home: Path, folders: dict[str, Path]
) -> None:
    """Runs last in this file: over every request, every file and every line of all tests."""
    assert len(hub.log) > 20
    for request in hub.log:
        others = {k: v for k, v in request.headers.items() if k != "authorization"}
        told = json.dumps([request.path, request.query, others]).encode() + request.body
        assert not any(token.encode() in told for token in TOKENS), request.route
        if request.route in CDN_ROUTES:
            assert "authorization" not in request.headers
    assert not any(t.encode() in body for t in TOKENS for body in hub.objects.values())
    client.errors.flush()
    for root, _, names in os.walk(home):
        for name in names:
            body = (Path(root) / name).read_bytes()
            assert not any(token.encode() in body for token in TOKENS), Path(root) / name
