"""Run commands in this process or as a program, and read their output."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Result(NamedTuple):
    code: int
    out: str
    err: str


Delia = Callable[..., Result]


def spawn(folder: Path, *arguments: object) -> Result:
    """Run the command in a folder, as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "delia_data", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ,
        timeout=300,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def refused(result: Result, *parts: str) -> None:
    assert result.code == 2
    assert result.err.startswith("delia: ")
    assert result.err.count("\n") == 1
    assert result.err.endswith("\n")
    assert "Traceback" not in result.err
    for part in parts:
        assert part in result.err


def check_line(error: Exception) -> None:
    """Check that an error is one short, encodable line."""
    text = str(error)
    assert len(text.splitlines()) == 1, text
    assert len(text) < 4_000
    text.encode()


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
