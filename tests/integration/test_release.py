"""The release is complete: both archives, the changelog and the version agree."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from delia_data import __version__

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="what belongs to it, git knows"),
]


def load() -> Any:
    spec = spec_from_file_location("release", ROOT / ".ci" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


release = load()


@pytest.fixture(scope="module")
def files() -> list[str]:
    """Files of the repository."""
    names: list[str] = release.tracked()
    return names


@pytest.fixture(scope="module")
def source(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's current files."""
    copy = tmp_path_factory.mktemp("source")
    for name in files:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def dist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archives that `make release` builds from it."""
    out = tmp_path_factory.mktemp("dist")
    arguments = ["--quiet", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(
        [sys.executable, "-m", "build", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_the_archives_are_whole(
    dist: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = release.check_contents(dist, files)
    assert wheel.name == f"delia_data-{__version__}-py3-none-any.whl"
    assert capsys.readouterr().out.startswith("contents: ")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for data in ("py.typed", "tasks/data/hallucination_check/wordings.jsonl"):
        assert f"delia_data/{data}" in names
    assert "delia_data/builders/delia_mix.py" in names
    assert not [name for name in names if "test" in name.split("/")[0]]


def test_the_index_will_take_them(dist: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "twine",
            "--no-color",
            "check",
            "--strict",
            *map(str, dist.iterdir()),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_what_is_missing_is_found() -> None:
    files = ["delia_data/py.typed", "builders/__init__.py", "training/README.md", "README.md"]
    whole = {"delia_data/py.typed", "delia_data/builders/__init__.py"}
    whole |= {f"x.dist-info/{name}" for name in ("LICENSE", "METADATA", "entry_points.txt")}
    release.check_wheel(whole, files)
    with pytest.raises(release.ReleaseError, match=r"lacks delia_data/py\.typed"):
        release.check_wheel(whole - {"delia_data/py.typed"}, files)
    with pytest.raises(release.ReleaseError, match=r"holds tests/test_a\.py"):
        release.check_wheel(whole | {"tests/test_a.py"}, files)
    with pytest.raises(release.ReleaseError, match="no LICENSE"):
        release.check_wheel(whole - {"x.dist-info/LICENSE"}, files)
    with pytest.raises(release.ReleaseError, match=r"lacks 1 files, such as builders/__init__\.py"):
        release.check_sdist(set(files) - {"builders/__init__.py"}, files)


def test_more_than_the_two_archives_is_refused(dist: Path, tmp_path: Path) -> None:
    shutil.copytree(dist, tmp_path / "dist")
    (tmp_path / "dist" / "delia_data-0.0.1.tar.gz").touch()
    with pytest.raises(release.ReleaseError, match="empty it and build again"):
        release.check_contents(tmp_path / "dist", [])


def test_the_changelog_and_the_version_agree() -> None:
    assert release.version() == __version__
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert release.check_changelog(text, __version__) in {"Unreleased", __version__}
    assert release.check_changelog("# x\n\n## [1.2.0] - 2026-01-31\n", "1.2.0") == "1.2.0"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("# Changelog\n", "begins with 'nothing'"),
        ("## [1.1.0] - 2026-01-31\n", "neither .* nor"),
        ("## [1.2.0]\n", "YYYY-MM-DD"),
        ("## [1.2.0] - soon\n", "YYYY-MM-DD"),
    ],
)
def test_a_changelog_that_does_not_agree(text: str, fault: str) -> None:
    with pytest.raises(release.ReleaseError, match=fault):
        release.check_changelog(text, "1.2.0")
