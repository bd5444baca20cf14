"""Versions of a published repository: what a push adds, and what never changes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hub_folders import WRITER, WRITES, make_cache, routes_since, rows_of
from hub_server import HubServer
from hub_worker import ClientError, Worker

pytestmark = pytest.mark.integration


def test_push_load_grow_and_load_the_old_one_unchanged(
    hub: HubServer, client: Worker, folders: dict[str, Path], repo: str, tmp_path: Path
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
    assert done["why"] == "changed: cache"
    assert done["files"]["cache/pairs-00000.parquet"] == "same"
    assert done["files"]["cache/pairs-00001.parquet"] == "new"

    new = rows_of(tmp_path / "new", 3, folders["task"], folders["grown"])
    assert new != old[3]
    done = client("push", WRITER, folders=[*again, tmp_path / "new"], repo=repo)
    assert (done["version"], done["why"]) == ("1.2.0", "changed: ratio-3")
    given = {"v1.0.0": old[3], "v1.1.0": old[3], "v1.2.0": new, "main": new}
    for revision, rows in given.items():
        given = {"path": repo, "name": "ratio-3", "revision": revision}
        assert client("load", None, **given, home=tmp_path / revision) == rows


def test_datasets_loads_a_version_without_delia_data(
    client: Worker, folders: dict[str, Path], published: str, tmp_path: Path
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
    hub: HubServer, published: str
) -> None:
    manifest = json.loads(hub.files(published)["manifest.json"])
    assert manifest["settings"] == {"licence": "apache-2.0", "version": "1.0.0"}
    assert len(manifest["inputs"]["content"]) == 64
    shared = manifest["details"]["shared"]
    assert shared["pairs_in_mixtures"] == shared["of_these_in_cache"] == 24
    assert shared["plain_copies_bytes"] > 0 and shared["once_bytes"] > 0


def test_one_commit_and_the_same_again_changes_nothing(
    hub: HubServer, client: Worker, folders: dict[str, Path], repo: str
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
    hub: HubServer, client: Worker, folders: dict[str, Path], repo: str
) -> None:
    before = dict(hub.repos[repo].refs)
    given = {"folders": [folders["grown"]], "repo": repo}
    with pytest.raises(ClientError, match=r"has a version 1\.0\.0 with other content"):
        client("push", WRITER, **given, version="1.0.0")
    with pytest.raises(ClientError, match=r"version 0\.9\.0 is below 1\.0\.0"):
        client("push", WRITER, **given, version="0.9.0")
    same = [folders["task"], folders["cache"]]
    assert not client("push", WRITER, folders=same, repo=repo, version="1.0.0")["changed"]
    with pytest.raises(ClientError, match=r"that of version 1\.0\.0 already"):
        client("push", WRITER, folders=same, repo=repo, version="1.0.1")
    assert hub.repos[repo].refs == before
    assert client("push", WRITER, **given, version="v2.0.0")["tag"] == "v2.0.0"
    done = client("push", WRITER, **given, license="mit")
    assert (done["version"], done["why"]) == ("2.1.0", "license: mit")


def test_mixtures_that_stay_fit_the_task_and_the_cache(
    hub: HubServer, client: Worker, folders: dict[str, Path], repo: str
) -> None:
    given = {"folders": [folders["other"], folders["cache"]], "repo": repo}
    with pytest.raises(ClientError, match="ratio-1, ratio-3, mixed from another task"):
        client("push", WRITER, **given)
    done = client("push", WRITER, **given, ratios=[1, 3])
    assert done["why"] == "changed: ratio-1, ratio-3, task"
    done = client("push", WRITER, folders=[folders["task"]], repo=repo, replace_all=True)
    assert done["why"] == "changed: task; removed: cache, ratio-1, ratio-3"
    assert {path.split("/")[0] for path in hub.files(repo)} == {
        *(".gitattributes", "FINISHED", "README.md", "manifest.json", "task")
    }
    assert len(hub.files(repo, "v1.0.0")) > len(hub.files(repo))


def test_a_dry_run_shows_all_and_sends_nothing(
    hub: HubServer, client: Worker, folders: dict[str, Path], repo: str
) -> None:
    begin = len(hub.log)
    names = [str(folders[name]) for name in ("task", "grown")]
    arguments = ["push", repo, *names, "--ratio", "2", "--dry-run"]
    done = client("main", WRITER, arguments=arguments)
    assert done["code"] == 0, done["err"]
    assert "cache/pairs-00001.parquet" in done["out"]
    assert "new" in done["out"] and "kB" in done["out"]
    assert "tag v1.1.0" in done["out"]
    assert "license: apache-2.0" in done["out"]
    assert not WRITES & set(routes_since(hub, begin))


def test_a_foreign_repository_is_left_alone(
    hub: HubServer, client: Worker, folders: dict[str, Path], repo: str
) -> None:
    hub.write(repo, {"data.csv": b"1"})
    hub.repos[repo].resolve("main").tree.pop("manifest.json")
    with pytest.raises(ClientError, match="holds something else"):
        client("push", WRITER, folders=[folders["task"]], repo=repo, license="mit")


def test_a_deleted_file_is_restored_or_reported(
    hub: HubServer, client: Worker, folders: dict[str, Path], repo: str
) -> None:
    hub.write(repo, {})
    del hub.repos[repo].resolve("main").tree["ratio-1/train.parquet"]
    given = {"folders": [folders["task"], folders["cache"]], "repo": repo}
    with pytest.raises(ClientError, match=r"ratio-1/train\.parquet is missing on the Hub"):
        client("push", WRITER, **given, ratios=[2])
    done = client("push", WRITER, **given, ratios=[1, 3])
    assert (done["version"], done["why"]) == ("1.1.0", "missing files restored")
    assert "ratio-1/train.parquet" in hub.files(repo)


@pytest.mark.parametrize("wrong", [{"version": "1.2"}, {"ratios": [99]}])
def test_nothing_is_made_of_a_wrong_request(
    hub: HubServer, client: Worker, folders: dict[str, Path], wrong: dict[str, Any]
) -> None:
    given = [folders["task"], folders["cache"]]
    with pytest.raises(ClientError):
        client("push", WRITER, folders=given, repo="org/wrong", license="mit", **wrong)
    assert "org/wrong" not in hub.repos


def test_the_first_version_needs_a_license(client: Worker, folders: dict[str, Path]) -> None:
    with pytest.raises(ClientError, match="needs a license"):
        client("push", WRITER, folders=[folders["task"]], repo="org/unlicensed")


def test_sections_written_by_hand_survive(
    hub: HubServer, client: Worker, folders: dict[str, Path], repo: str
) -> None:
    card = hub.files(repo)["README.md"].decode()
    by_hand = card.replace("## Usage", "## Ethics\n\nAsk first.\n\n## Usage")
    hub.write(repo, {"README.md": by_hand.encode()})
    client("push", WRITER, folders=[folders["grown"]], repo=repo)
    after = hub.files(repo)["README.md"].decode()
    assert "## Ethics\n\nAsk first." in after
    assert 'revision="v1.1.0"' in after
    assert 'revision="v1.0.0"' not in after


def test_a_mixture_of_something_else_is_refused(
    client: Worker, folders: dict[str, Path], repo: str, tmp_path: Path
) -> None:
    other = make_cache(tmp_path / "cache", 40, extra=" So!")
    rows_of(tmp_path / "mixture", 2, folders["task"], other)
    given = [folders["task"], folders["cache"], tmp_path / "mixture"]
    for folders_given in (given, given[2:]):  # the second time it is compared with what is there
        with pytest.raises(ClientError, match="12 pairs that the cache does not have"):
            client("push", WRITER, folders=folders_given, repo=repo)


def test_published_parts_need_not_be_given(
    hub: HubServer, client: Worker, folders: dict[str, Path], repo: str, tmp_path: Path
) -> None:
    with pytest.raises(ClientError, match="the folder of the task is missing"):
        client("push", WRITER, folders=[folders["cache"]], repo=repo, ratios=[2])
    rows_of(tmp_path / "mixture", 4, folders["task"], folders["cache"])
    done = client("push", WRITER, folders=[tmp_path / "mixture"], repo=repo)
    assert done["why"] == "new: ratio-4"
    assert {p: s for p, s in done["files"].items() if s == "new"} == {
        f"ratio-4/{name}": "new"
        for name in ("FINISHED", "README.md", "manifest.json", "test.parquet", "train.parquet")
    }
