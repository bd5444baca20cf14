"""Downloads that are checked against the manifest, and go on where they ended."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_folders import WRITER
from hub_server import HubServer
from hub_worker import ClientError, Worker

from delia_data.outputs import read_manifest
from delia_data.training.data import open_source

pytestmark = pytest.mark.integration


def test_a_pull_gives_back_what_was_pushed(
    hub: HubServer, client: Worker, folders: dict[str, Path], repo: str, tmp_path: Path
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
    assert (
        len(list(open_source(root / "ratio-3").rows)) == 24
    )  # what delia lint and delia train read

    done = client("pull", None, name=repo, folder=root)  # the newer one, over it
    assert done["version"] == "1.1.0"
    assert read_manifest(root, verify=True).settings["version"] == "1.1.0"
    assert (root / "cache" / "pairs-00001.parquet").is_file()


def test_other_bytes_are_an_error_and_a_rerun_mends_it(
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
def test_a_broken_download_goes_on(
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
    with pytest.raises(ClientError, match="did not do its part"):
        client("pull", None, name=repo, folder=tmp_path / "pulled")
    with pytest.raises(ClientError, match="did not do its part"):
        client("load", None, **lean, home=tmp_path / "a")
    assert read_manifest(tmp_path / "pulled", verify=True)  # what was there is whole


def test_a_foreign_folder_is_left_alone(client: Worker, repo: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ClientError, match="holds something else"):
        client("pull", None, name=repo, folder=tmp_path)


def test_diff_tells_rows_wordings_and_settings(
    client: Worker, folders: dict[str, Path], repo: str
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
