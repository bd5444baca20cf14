"""Check the archives of `make release`, and test the wheel in a clean environment.

`python .ci/release.py dist` checks contents, sizes and versions, and creates the environment.
`--contents-only` skips the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHEEL_MB_AT_MOST = 16
PACKAGES = {"delia_data": "delia_data", "builders": "delia_data/builders"}
PACKAGES |= {"training": "delia_data/training"}
NOT_IN_A_PACKAGE = {"README.md"}  # not installed

# The first line of code in the README.
HEADLINE = 'mixture = load_dataset("delia_mix", ratio=260)'
HEADLINE_ROWS = 26_100


class ReleaseError(Exception):
    """A fault that prevents publication."""


def version() -> str:
    """Return the version in the sources."""
    found = re.search(r'__version__ = "(.+)"', (ROOT / "delia_data/_version.py").read_text())
    if found is None:
        raise ReleaseError("delia_data/_version.py names no version")
    return found[1]


def check_changelog(text: str, current: str) -> str:
    """Return the name of the top section: `Unreleased`, or the version of the sources."""
    found = re.search(r"^## \[?([^\]\s]+)\]?(.*)$", text, re.MULTILINE)
    if found is None or found[1] not in {"Unreleased", current}:
        top = found[0] if found else "nothing"
        raise ReleaseError(
            f"CHANGELOG.md begins with {top!r}: neither [Unreleased] nor [{current}]"
        )
    if found[1] != "Unreleased" and not re.fullmatch(r" - \d{4}-\d\d-\d\d", found[2]):
        raise ReleaseError(f"CHANGELOG.md: write the section as '## [{current}] - YYYY-MM-DD'")
    return found[1]


def tracked() -> list[str]:
    """Return the paths of all files in the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def check_sdist(names: set[str], files: list[str]) -> None:
    """Check that the sdist has all files of the repository."""
    missing = sorted(set(files) - names)
    if missing:
        raise ReleaseError(
            f"the sdist lacks {len(missing)} files, such as {missing[0]}: see MANIFEST.in"
        )


def check_wheel(names: set[str], files: list[str]) -> None:
    """Check that the wheel has all files of the packages, and no others."""
    expected = set()
    for file in files:
        top, _, rest = file.partition("/")
        if top in PACKAGES and Path(file).name not in NOT_IN_A_PACKAGE:
            expected.add(f"{PACKAGES[top]}/{rest}")
    missing = sorted(expected - names)
    if missing:
        raise ReleaseError(
            f"the wheel lacks {missing[0]}: see packages and package_data in setup.cfg"
        )
    own = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    more = sorted(own - expected)
    if more:
        raise ReleaseError(f"the wheel holds {more[0]}, which the repository does not")
    for ending in ("LICENSE", "METADATA", "entry_points.txt"):
        if not any(name.endswith(ending) for name in names - own):
            raise ReleaseError(f"the wheel has no {ending}")


def check_contents(dist: Path, files: list[str]) -> Path:
    """Check the contents of both archives.

    Args:
        dist: Folder with only these archives.
        files: Paths of the files in the repository.

    Returns:
        The wheel.
    """
    current = version()
    sdist, wheel = (dist / f"delia_data-{current}{end}" for end in (".tar.gz", "-py3-none-any.whl"))
    there = sorted(path.name for path in dist.iterdir())
    if there != sorted([sdist.name, wheel.name]):
        raise ReleaseError(
            f"{dist} holds {', '.join(there) or 'nothing'}: empty it and build again"
        )
    section = check_changelog((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), current)
    with tarfile.open(sdist) as archive:
        check_sdist({name.partition("/")[2] for name in archive.getnames()}, files)
    with zipfile.ZipFile(wheel) as archive:
        check_wheel({name for name in archive.namelist() if not name.endswith("/")}, files)
    size = wheel.stat().st_size / 1e6
    if size > WHEEL_MB_AT_MOST:
        raise ReleaseError(f"the wheel has {size:.1f} MB, more than {WHEEL_MB_AT_MOST}")
    print(f"contents: {len(files)} files in the sdist; wheel {size:.2f} MB; changelog: {section}")
    return wheel


def try_wheel(wheel: Path) -> None:
    """Install the wheel in a clean environment, and use it."""
    with tempfile.TemporaryDirectory(prefix="release-") as name:
        work = Path(name)
        subprocess.run([sys.executable, "-m", "venv", work / "venv"], check=True)
        python = str(work / "venv" / "bin" / "python")
        pip = [python, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, str(wheel)], check=True)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "HF_"))}
        clean |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(work / "home")}

        def use(*arguments: str) -> str:
            done = subprocess.run(
                arguments, cwd=work, env=clean, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise ReleaseError(
                    f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}"
                )
            return done.stdout

        found = use(python, "-c", "import delia_data; print(delia_data.__version__)").strip()
        if found != version():
            raise ReleaseError(f"the installed version is {found}, not {version()}")
        doctor = json.loads(use(str(work / "venv" / "bin" / "delia"), "doctor", "--json"))
        if not doctor["registered"] or None in doctor["packages"]["core"].values():
            raise ReleaseError(f"delia doctor reports problems: {doctor}")
        line = f"import delia_data; from datasets import load_dataset; {HEADLINE}"
        line += "; print(mixture['train'].num_rows)"
        count = use(python, "-c", line).split()[-1]
        if count != str(HEADLINE_ROWS):
            raise ReleaseError(f"{HEADLINE} gives {count} rows, not {HEADLINE_ROWS}")
        print(f"clean environment: delia_data {found}, delia doctor, {HEADLINE}: {count} rows")


def main() -> None:
    """Run all checks, and exit with the first fault."""
    parser = argparse.ArgumentParser(description="Check what make release built.")
    parser.add_argument("dist", type=Path)
    parser.add_argument("--contents-only", action="store_true")
    given = parser.parse_args()
    try:
        wheel = check_contents(given.dist, tracked())
        if not given.contents_only:
            try_wheel(wheel)
    except ReleaseError as fault:
        sys.exit(f"release: {fault}")


if __name__ == "__main__":
    main()
