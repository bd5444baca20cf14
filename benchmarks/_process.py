"""Runs a script in a process of its own, and says what it printed and how much memory it took.

Linux alone: memory is what the process and its children hold of their own, shared pages counted
once, mapped files left out; it is read from `/proc` at most ten times a second.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["ROOT", "Ran", "own_mib", "run_script"]

ROOT: Final = Path(__file__).parents[1]
_SAMPLE_S: Final = 0.1
_REST: Final = 100  # times what a look takes, until the next
_TAIL: Final = 3000  # characters of what went wrong


@dataclass(frozen=True, slots=True)
class Ran:
    """What a script printed as JSON on its last line, and its peak of memory in MiB."""

    printed: dict[str, Any]
    peak_mib: float


def run_script(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, work: Path
) -> Ran:
    """Run a command from the repository's root.

    Args:
        command: The program and its arguments.
        environment: Variables to set beside those that are.
        work: Folder for what it writes elsewhere than it is told.

    Raises:
        RuntimeError: It failed.
    """
    with tempfile.TemporaryDirectory(dir=work, prefix="home-") as home:
        variables = {**os.environ, "HOME": home, "TMPDIR": home, "HF_HUB_OFFLINE": "1"}
        with (Path(home) / "errors").open("w+") as errors:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**variables, **(environment or {})},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            watch = _Watch(process.pid)
            printed, _ = process.communicate()
            peak = watch.end()
            errors.seek(0)
            if process.returncode:
                raise RuntimeError(f"{' '.join(command)} failed:\n{errors.read()[-_TAIL:]}")
    return Ran(json.loads(printed.splitlines()[-1]), peak)


def own_mib() -> float:
    """What this process holds of its own, mapped files left out, in MiB."""
    return _fields(Path("/proc/self/status"), "RssAnon", "RssShmem")


class _Watch:
    """Follows the memory of a process and its children."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def end(self) -> float:
        """Stop, and give the peak in MiB."""
        self._ended.set()
        self._thread.join()
        return self._peak

    def _follow(self) -> None:
        pause = _SAMPLE_S
        while not self._ended.wait(pause):
            began = time.perf_counter()
            self._peak = max(self._peak, sum(map(_held_mib, _family(self._pid))))
            # Counting pages of large processes takes long, and holds them up.
            pause = max(_SAMPLE_S, _REST * (time.perf_counter() - began))


def _family(pid: int) -> list[int]:
    """A process and all that came of it."""
    found = [pid]
    for one in found:
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except OSError:  # it ended meanwhile
            continue
    return found


def _held_mib(pid: int) -> float:
    try:
        return _fields(Path(f"/proc/{pid}/smaps_rollup"), "Pss_Anon", "Pss_Shmem")
    except OSError:
        return 0.0


def _fields(path: Path, *names: str) -> float:
    """Sum of lines such as `RssAnon:    10888 kB`, in MiB."""
    lines = (line.split() for line in path.read_text().splitlines())
    return sum(int(line[1]) for line in lines if line[0].rstrip(":") in names) / 1024
