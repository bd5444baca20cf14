"""The lean form of a published mixture: an index that is resolved to the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hub_folders import WRITER, rows_of
from hub_worker import ClientError, Worker

pytestmark = pytest.mark.integration


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


def test_our_builder_resolves_it(
    client: Worker, folders: dict[str, Path], lean: str, tmp_path: Path
) -> None:
    rows = rows_of(tmp_path / "m", 5, folders["task"], folders["cache"])
    given = {"path": "delia_mix", "repo": lean, "ratio": 5, "revision": "v1.0.0"}
    assert client("load", None, **given, home=tmp_path / "a") == rows
    assert client("load", None, **given, streaming=True) == rows
    by_name = {"path": "delia_mix", "name": "ratio-5", "repo": lean}
    assert client("load", None, **by_name, home=tmp_path / "b") == rows


def test_our_builder_takes_the_plain_form_too(
    client: Worker, folders: dict[str, Path], published: str, tmp_path: Path
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
    client: Worker, lean: str, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ClientError, match=message):
        client("load", None, path="delia_mix", repo=lean, **given)


def test_a_pull_writes_it_out(
    client: Worker, folders: dict[str, Path], lean: str, tmp_path: Path
) -> None:
    rows = rows_of(tmp_path / "m", 3, folders["task"], folders["cache"])
    client("pull", None, name=lean, folder=tmp_path / "pulled")
    train = tmp_path / "pulled" / "ratio-3" / "train.parquet"
    assert train.read_bytes() == (tmp_path / "m" / "train.parquet").read_bytes()
    assert pq.read_table(train).to_pylist() == rows["train"]
    again = client("push", WRITER, folders=[tmp_path / "pulled"], repo=lean)
    assert not again["changed"]


def test_the_index_follows_the_cache(
    client: Worker, folders: dict[str, Path], lean: str, tmp_path: Path
) -> None:
    done = client("push", WRITER, folders=[folders["grown"]], repo=lean)
    assert done["files"]["lean/ratio-5.parquet"] == "changed"
    rows = rows_of(tmp_path / "m", 5, folders["task"], folders["grown"])
    given = {"path": "delia_mix", "repo": lean, "ratio": 5, "revision": done["tag"]}
    assert client("load", None, **given, home=tmp_path / "a") == rows
