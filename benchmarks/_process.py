"""Run scripts in their own processes, and measure their peak memory.

Linux only. Memory is read from `/proc`, at most ten times per second: private pages and shared
anonymous pages of the process and its children. Shared pages are counted once, mapped files are
not counted.
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

__all__ = ["ROOT", "ScriptResult", "own_mib", "run_script", "status_mib"]

ROOT: Final = Path(__file__).parents[1]
_INTERVAL_S: Final = 0.1
_PAUSE_FACTOR: Final = 100  # least pause, as a multiple of the time that a reading takes
_ERROR_CHARACTERS: Final = 3000


@dataclass(frozen=True, slots=True)
class ScriptResult:
    """Result of a script.

    Attributes:
        printed: JSON object on the last line of its standard output.
        peak_mib: Peak memory in MiB.
    """

    printed: dict[str, Any]
    peak_mib: float


def run_script(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, work: Path
) -> ScriptResult:
    """Run a command from the root of the repository.

    Args:
        command: Program and arguments.
        environment: Additional environment variables.
        work: Folder for the temporary home folder of the process.

    Raises:
        RuntimeError: The command failed.
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
            monitor = _MemoryMonitor(process.pid)
            printed, _ = process.communicate()
            peak = monitor.stop()
            errors.seek(0)
            if process.returncode:
                message = errors.read()[-_ERROR_CHARACTERS:]
                raise RuntimeError(f"{' '.join(command)} failed:\n{message}")
    return ScriptResult(json.loads(printed.splitlines()[-1]), peak)


def own_mib() -> float:
    """Return the resident memory of this process in MiB, without mapped files."""
    return status_mib("RssAnon", "RssShmem")


def status_mib(*names: str) -> float:
    """Return the sum of fields of `/proc/self/status` in MiB."""
    return _sum_mib(Path("/proc/self/status"), names)


class _MemoryMonitor:
    """Measures the memory of a process and its children in a thread."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._peak = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Stop the thread, and return the peak in MiB."""
        self._ended.set()
        self._thread.join()
        return self._peak

    def _run(self) -> None:
        pause = _INTERVAL_S
        while not self._ended.wait(pause):
            began = time.perf_counter()
            self._peak = max(self._peak, sum(map(_process_mib, _descendants(self._pid))))
            # The kernel blocks a large process while it counts its pages.
            pause = max(_INTERVAL_S, _PAUSE_FACTOR * (time.perf_counter() - began))


def _descendants(pid: int) -> list[int]:
    """Return the process and all its descendants."""
    pids = [pid]
    for each in pids:
        try:
            for task in Path(f"/proc/{each}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
        except OSError:  # the process has ended
            continue
    return pids


def _process_mib(pid: int) -> float:
    try:
        return _sum_mib(Path(f"/proc/{pid}/smaps_rollup"), ("Pss_Anon", "Pss_Shmem"))
    except OSError:
        return 0.0


def _sum_mib(path: Path, names: Sequence[str]) -> float:
    """Return the sum of lines such as `RssAnon:    10888 kB`, in MiB."""
    lines = (line.split() for line in path.read_text().splitlines())
    return sum(int(line[1]) for line in lines if line[0].rstrip(":") in names) / 1024
