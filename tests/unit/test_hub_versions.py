"""Versions follow from what changed, and an asked-for step is never too small."""

from __future__ import annotations

from typing import Any

import pytest

from delia_data.errors import InputError, VersionError
from delia_data.hub.versions import FIRST, Version, changes, latest, next_version
from delia_data.outputs import Manifest

CACHE = {"settings": {"model": {"weights": "a"}}, "rows": {"kept": 100}}
TASK = {"settings": {"token": "<sep>"}, "inputs": {"task": "plain"}}
MIXTURE = {"settings": {"ratio": 4.0, "seed": 0}, "form": "plain"}
FILES = {"cache/pairs-00000.parquet": "a", "task/train.jsonl": "t", "ratio-4/train.parquet": "m"}


def manifest(**over: Any) -> Manifest:
    given: dict[str, Any] = {
        "licence": "mit",
        "cache": CACHE,
        "task": TASK,
        "mixtures": {"ratio-4": MIXTURE},
        "files": FILES,
    }
    given |= over
    details = {k: given[k] for k in ("cache", "task") if given[k]} | {"mixtures": given["mixtures"]}
    return Manifest(
        kind="publication",
        settings={"licence": given["licence"], "version": "1.2.3"},
        inputs={"content": str(given)},
        details=details,
        files=given["files"],
    )


@pytest.mark.parametrize(
    ("over", "bump", "what"),
    [
        ({"licence": "apache-2.0"}, "patch", "licence"),
        ({"files": {**FILES, "task/train.jsonl": "u"}}, "patch", "wordings"),
        ({"files": {**FILES, "ratio-4/train.parquet": "n"}}, "patch", "bytes"),
        (
            {
                "files": {**FILES, "cache/pairs-00001.parquet": "b"},
                "cache": {**CACHE, "rows": {"kept": 150}},
            },
            "minor",
            "grown from 100 to 150",
        ),
        ({"mixtures": {"ratio-4": MIXTURE, "ratio-8": MIXTURE}}, "minor", "ratio-8 is new"),
        (
            {
                "files": {**FILES, "task/train.jsonl": "u"},
                "task": {**TASK, "inputs": {"task": "other"}},
            },
            "major",
            "the task changed",
        ),
        (
            {
                "files": {**FILES, "task/train.jsonl": "u"},
                "task": {**TASK, "settings": {"token": "<fmt>"}},
            },
            "major",
            "the task changed",
        ),
        ({"files": {**FILES, "cache/pairs-00000.parquet": "z"}}, "major", "pairs of the cache"),
        ({"cache": {**CACHE, "settings": {"model": {"weights": "b"}}}}, "major", "another model"),
        ({"mixtures": {}}, "major", "ratio-4 is gone"),
        (
            {"mixtures": {"ratio-4": {**MIXTURE, "settings": {"ratio": 4.0, "seed": 1}}}},
            "major",
            "another setting",
        ),
        ({"mixtures": {"ratio-4": {**MIXTURE, "form": "lean"}}}, "major", "another form"),
        ({"task": None}, "major", "the task is gone"),
    ],
)
def test_what_changed_decides(over: dict[str, Any], bump: str, what: str) -> None:
    found = changes(manifest(), manifest(**over))
    assert found[0].bump == bump
    assert what in found[0].what
    version, why = next_version(Version(1, 2, 3), found, version=None, bump="auto")
    assert str(version) == {"patch": "1.2.4", "minor": "1.3.0", "major": "2.0.0"}[bump]
    assert what in why


def test_the_same_is_no_change() -> None:
    assert changes(manifest(), manifest()) == []


def test_the_greatest_change_comes_first() -> None:
    over = {"licence": "apache-2.0", "mixtures": {"ratio-8": MIXTURE}}
    assert [c.bump for c in changes(manifest(), manifest(**over))] == ["major", "minor", "patch"]


def test_a_larger_step_than_needed_is_taken() -> None:
    found = changes(manifest(), manifest(licence="x"))
    assert str(next_version(Version(1, 2, 3), found, version=None, bump="major")[0]) == "2.0.0"
    assert str(next_version(Version(1, 2, 3), found, version="4.0.0", bump="auto")[0]) == "4.0.0"


@pytest.mark.parametrize("asked", [{"bump": "patch"}, {"version": "1.3.0"}, {"version": "1.0.0"}])
def test_a_smaller_step_is_refused(asked: dict[str, str]) -> None:
    found = changes(manifest(), manifest(mixtures={}))
    options = {"version": None, "bump": "auto", **asked}
    with pytest.raises(VersionError, match=r"too small .*ratio-4 is gone"):
        next_version(Version(1, 2, 3), found, **options)  # type: ignore[arg-type]


def test_the_first_version() -> None:
    assert next_version(None, [], version=None, bump="auto")[0] == FIRST
    assert str(next_version(None, [], version="0.3.0", bump="auto")[0]) == "0.3.0"
    with pytest.raises(InputError, match="bump 'huge'"):
        next_version(None, [], version=None, bump="huge")


@pytest.mark.parametrize("text", ["1.2", "01.2.3", "1.2.3-rc1", "latest", "", "v"])
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(VersionError, match="no version"):
        Version.parse(text)


def test_the_latest_counts_numbers_and_leaves_other_tags_out() -> None:
    assert str(latest(["v1.9.0", "v1.10.0", "best", "vintage", "2.0.0"], None)) == "1.10.0"
    assert latest(["paper"], None) is None
    assert str(latest(["v1.0.0"], manifest())) == "1.2.3"
