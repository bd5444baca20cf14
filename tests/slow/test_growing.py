"""A copy of the bundled cache grows with answers of the same model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from delia_data.outputs import read_manifest
from delia_data.sampling import read_cache

pytestmark = pytest.mark.slow

MORE = 5


def test_the_bundled_cache_grows(tmp_path: Path) -> None:
    bundled = read_cache("bundled")
    target = len(bundled) + MORE
    given = ["sample", "larger", "--from", "bundled", "--target", str(target)]
    done = subprocess.run(
        [sys.executable, "-m", "delia_data", *given], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    grown = read_cache(tmp_path / "larger")
    assert grown[: len(bundled)] == bundled
    assert len({pair.query for pair in grown}) == len(grown) >= target
    manifest = read_manifest(tmp_path / "larger", verify=True)
    assert manifest.settings["asking"]["system"] == "Answer in one short sentence."
    assert manifest.settings["sampling"]["max_tokens"] == 256
