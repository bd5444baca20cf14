"""Downloads are checked against the manifest, and resume."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hub_folders import WRITER
from hub_server import HubServer
from hub_worker import ClientError, Worker
from wordings import contrast_task

from delia_data.mixing import mix, read_task_rows, save_mixture
from delia_data.outputs import read_manifest
from delia_data.training.data import open_training_rows

pytestmark = pytest.mark.integration


def test_a_pull_returns_the_pushed_files(
    hub: HubServer, client: Worker, folders: dict[str, Path], repo: str, tmp_path: Path
) -> None:
    client("push", WRITER, folders=[folders["grown"]], repo=repo)
    root = tmp_path / "pulled"
    done = client("main", None, arguments=["pull", f"{repo}@v1.0.0", str(root)])
    assert done["code"] == 0, done["err"]
    assert "all hashes verified" in done["out"]
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
    assert len(list(open_training_rows(root / "ratio-3").records([]))) == 24  # as lint, train do

    done = client("pull", None, name=repo, folder=root)  # the newer one, over it
    assert done["version"] == "1.1.0"
    assert read_manifest(root, verify=True).settings["version"] == "1.1.0"
    assert (root / "cache" / "pairs-00001.parquet").is_file()


def test_corrupt_download_is_an_error_and_a_rerun_repairs_it(
    hub: HubServer, client: Worker, repo: str, tmp_path: Path
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
def test_a_broken_download_is_retried(
    hub: HubServer, client: Worker, repo: str, tmp_path: Path, fault: str
) -> None:
    hub.fail("download", fault)
    client("pull", None, name=repo, folder=tmp_path / "pulled")
    assert read_manifest(tmp_path / "pulled", verify=True)


def test_no_older_version_is_given_in_silence(
    hub: HubServer, client: Worker, folders: dict[str, Path], repo: str, tmp_path: Path
) -> None:
    lean = {"path": "delia_mix", "repo": repo, "ratio": 3}
    client("load", None, **lean, home=tmp_path / "a")
    client("pull", None, name=repo, folder=tmp_path / "pulled")
    client("push", WRITER, folders=[folders["grown"]], repo=repo)
    hub.fail("info", status=503, times=-1, headers={"Retry-After": "0"})
    with pytest.raises(ClientError, match="failed"):
        client("pull", None, name=repo, folder=tmp_path / "pulled")
    with pytest.raises(ClientError, match="failed"):
        client("load", None, **lean, home=tmp_path / "a")
    assert read_manifest(tmp_path / "pulled", verify=True)  # what was there is whole


def test_a_foreign_folder_is_left_alone(client: Worker, repo: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ClientError, match="holds something else"):
        client("pull", None, name=repo, folder=tmp_path)


def test_diff_lists_rows_wordings_and_settings(
    client: Worker, folders: dict[str, Path], repo: str
) -> None:
    given = [folders["reworded"], folders["grown"]]
    client("push", WRITER, folders=given, repo=repo, license="mit", ratios=[1, 3])
    found = client("diff", None, before=f"{repo}@v1.0.0", after=f"{repo}@v1.1.0")
    rows = {change["where"]: change for change in found["rows"]}
    assert (rows["cache"]["added"], rows["cache"]["removed"]) == (20, 0)
    assert rows["task"]["added"] == rows["task"]["removed"] == 8
    assert found["wordings_added"] == ["Wi"] and found["wordings_removed"] == ["As"]
    assert found["reworded"][0] == ["As <sep>, is 0 even?", "With <sep>: 0, even?"]
    changed = {change["name"]: change["after"] for change in found["settings"]}
    assert changed == {"licence": "mit", "version": "1.1.0"}
    versions = (f"{repo}@v1.0.0", f"{repo}@v1.1.0")
    for arguments in (["pull", versions[0], "--diff", versions[1]], ["diff", *versions]):
        shown = client("main", None, arguments=arguments)
        assert "cache: 20 rows added, 0 removed, 40 the same" in shown["out"]
    same = client("diff", None, before=f"{repo}@v1.1.0", after=repo)
    assert not same["rows"] and not same["settings"]


def test_a_repository_of_version_0_1_0_is_pulled_and_its_lean_form_refused(
    hub: HubServer, client: Worker, repo: str, tmp_path: Path
) -> None:
    manifest = json.loads(hub.files(repo)["manifest.json"])
    picture = b"\x89PNG"
    manifest["files"]["pictures/map.png"] = hashlib.sha256(picture).hexdigest()
    manifest["details"]["shared"]["lean_indexes_bytes"] = 0
    publish_manifest(hub, repo, manifest, {"pictures/map.png": picture})
    client("pull", None, name=repo, folder=tmp_path / "plain")
    assert (tmp_path / "plain" / "pictures" / "map.png").read_bytes() == picture
    rows = client("load", None, path="delia_mix", repo=repo, ratio=3, home=tmp_path / "a")
    assert len(rows["train"]) == 24

    for path in [path for path in manifest["files"] if path.startswith("ratio-3/")]:
        del manifest["files"][path]
    manifest["files"]["lean/ratio-3.parquet"] = hashlib.sha256(b"index").hexdigest()
    manifest["details"]["mixtures"]["ratio-3"]["form"] = "lean"
    publish_manifest(hub, repo, manifest, {"lean/ratio-3.parquet": b"index"})
    for given in ({"path": "delia_mix", "repo": repo, "ratio": 3},):
        with pytest.raises(ClientError, match=r"ratio-3 in the lean form of delia_data 0\.1.*pull"):
            client("load", None, **given, home=tmp_path / "b")
    with pytest.raises(ClientError, match=r"ratio-3 in the lean form of delia_data 0\.1"):
        client("pull", None, name=repo, folder=tmp_path / "lean")
    other = client("load", None, path="delia_mix", repo=repo, ratio=1, home=tmp_path / "c")
    assert len(other["train"]) == 12


@pytest.mark.parametrize("path", ["../outside.txt", "/tmp/outside.txt", "task/../../x", "task/.x"])
def test_a_manifest_cannot_name_files_outside_the_folder(
    hub: HubServer, client: Worker, repo: str, tmp_path: Path, path: str
) -> None:
    manifest = json.loads(hub.files(repo)["manifest.json"])
    manifest["files"][path] = hashlib.sha256(b"x").hexdigest()
    publish_manifest(hub, repo, manifest, {path: b"x"})
    with pytest.raises(ClientError, match="does not have files such as"):
        client("pull", None, name=repo, folder=tmp_path / "in" / "pulled")
    assert not (tmp_path / "in").exists()


def publish_manifest(
    hub: HubServer, repo: str, manifest: dict[str, Any], files: dict[str, bytes]
) -> None:
    """Replace the manifest of a repository, with a marker that fits it."""
    body = json.dumps(manifest).encode()
    marker = hashlib.sha256(body).hexdigest().encode()
    hub.write(repo, {**files, "manifest.json": body, "FINISHED": marker})


def rows(text: str) -> bytes:
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]
    return json.dumps({"messages": turns}).encode() + b"\n"


def mixed_with(client: Worker, url: str, folder: Path) -> tuple[list[str], str]:
    """Return the questions of the pairs that a command reads from a URL, and its messages."""
    task, out = folder / "task.jsonl", folder / "out"
    task.write_bytes(rows("Is it? <sep>"))
    options = ["--ratio", "9", "--on-short", "all"]
    done = client("main", None, arguments=["mix", str(task), url, str(out), *options])
    assert done["code"] == 0, done["err"]
    mixed = pq.read_table(out / "train.parquet").to_pylist()
    found = [row["messages"][0]["content"] for row in mixed if row["source"] == "cache"]
    return sorted(found), done["err"]


@pytest.mark.parametrize(
    ("place", "read", "skipped"),
    [
        ("/data/train-0.jsonl", ["new"], []),
        ("/data/*", ["csv", "gz", "new"], ["test-0.jsonl (split test)"]),
        ("", ["csv", "gz", "new"], ["data/test-0.jsonl (split test)", "card.md (unknown kind)"]),
        ("@v9/data/*.jsonl", ["old"], ["test-0.jsonl (split test)"]),
        ("@v9/data/train-0.jsonl", ["old"], []),
    ],
)
def test_rows_behind_a_url_of_the_hub(
    hub: HubServer, client: Worker, repo: str, tmp_path: Path, place: str, read: Any, skipped: Any
) -> None:
    refs = hub.repos[repo].refs
    refs["refs/heads/main"] = hub.repos[repo].add({}, None, "empty").sha
    files = {f"data/{name}-0.jsonl": rows(name) for name in ("train", "test")}
    refs["refs/tags/v9"] = hub.write(repo, {**files, "data/train-0.jsonl": rows("old")})
    more = {"data/a.jsonl.gz": gzip.compress(rows("gz")), "data/b.csv": b"prompt,completion\ncsv,a"}
    hub.write(repo, {**more, "data/train-0.jsonl": rows("new"), "card.md": b"#"})
    found, notes = mixed_with(client, f"hf://datasets/{repo}{place}", tmp_path)
    assert found == read
    assert all(name in notes for name in skipped)


def test_rows_behind_a_url_of_a_bucket(hub: HubServer, client: Worker, tmp_path: Path) -> None:
    names = ("data/train.jsonl", "data/test.jsonl", "other.jsonl")
    hub.buckets["org/files"] = {name: rows(name) for name in names}
    for place, read in (
        ("/other.jsonl", ["other.jsonl"]),
        ("/data", ["data/train.jsonl"]),
        ("/data/t*.jsonl", ["data/train.jsonl"]),
        ("", ["data/train.jsonl", "other.jsonl"]),
    ):
        (tmp_path / str(len(place))).mkdir()
        url = f"hf://buckets/org/files{place}"
        assert mixed_with(client, url, tmp_path / str(len(place)))[0] == read


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("{repo}/none.jsonl", "does not exist"),
        ("{repo}@v7/a.jsonl", "revision not found"),
        ("org/no-such/a.jsonl", "repository not found"),
        ("{repo}/cache/manifest.json", "restricted"),
    ],
)
def test_a_url_of_the_hub_that_cannot_be_read(
    hub: HubServer, client: Worker, repo: str, tmp_path: Path, url: str, reason: str
) -> None:
    hub.repos[repo].gated = reason == "restricted"
    url = f"hf://datasets/{url.format(repo=repo)}"
    done = client("main", None, arguments=["lint", url])
    assert done["code"] == 2
    assert done["err"].startswith(f"delia: {url} ")
    assert reason in done["err"]
    assert done["err"].count("\n") == 1


def test_contrast_rows_and_epochs_go_there_and_back(
    hub: HubServer, client: Worker, folders: dict[str, Path], tmp_path: Path
) -> None:
    contrast_task(tmp_path / "task", contrast=0.5)
    task = read_task_rows(tmp_path / "task")
    mixture = mix(task, folders["cache"], ratio=1, epochs=2)
    save_mixture(mixture, tmp_path / "mixture")
    assert mixture.test is not None
    rows = {"train": mixture.train.to_pylist(), "test": mixture.test.to_pylist()}
    parts = [tmp_path / "task", folders["cache"], tmp_path / "mixture"]
    client("push", WRITER, folders=parts, repo="org/contrast", license="mit")
    given = {"path": "org/contrast", "name": "ratio-1"}
    assert client("load", None, **given, home=tmp_path / "a") == rows
    assert client("load", None, **given, streaming=True) == rows
    by_builder = {"path": "delia_mix", "ratio": 1, "repo": "org/contrast"}
    assert client("load", None, **by_builder, home=tmp_path / "b") == rows
    client("pull", None, name="org/contrast", folder=tmp_path / "pulled")
    pulled = read_task_rows(tmp_path / "pulled" / "task")
    assert (pulled.contrast, pulled.contrast_by) == (task.contrast, {"name": "mock"})
    again = mix(pulled, tmp_path / "pulled" / "cache", ratio=1, epochs=2)
    assert again.train.equals(mixture.train)
    assert again.manifest == mixture.manifest
