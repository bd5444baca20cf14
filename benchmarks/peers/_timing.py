"""Arguments and output of the scripts in this folder; needs only the standard library.

    python -m benchmarks.peers.NAME URL QUERIES FOLDER CONCURRENCY [OPTION ...]

`QUERIES` has a JSON string on each line. The time is measured from after the imports until the
answers are on disk. A script fails if the number of its answers differs from the number of queries.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Job", "measure"]


@dataclass(frozen=True)
class Job:
    """Arguments of a script."""

    url: str
    queries: list[str]
    folder: Path
    concurrency: int
    options: list[str]


def measure(run: Callable[[Job], None], count: Callable[[Job], int]) -> None:
    """Run the job of the command line, and print its rows and its seconds as JSON."""
    url, queries, folder, concurrency, *options = sys.argv[1:]
    lines = [json.loads(line) for line in Path(queries).read_text().splitlines()]
    job = Job(url, lines, Path(folder), int(concurrency), options)
    cpu, began = _cpu_s(), time.perf_counter()
    run(job)
    wall, cpu = time.perf_counter() - began, _cpu_s() - cpu
    if (rows := count(job)) != len(lines):
        raise SystemExit(f"{rows} answers to {len(lines)} queries")
    print(json.dumps({"rows": rows, "wall_s": wall, "cpu_s": cpu}), flush=True)


def _cpu_s() -> float:
    """Return the CPU seconds of this process and of its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
