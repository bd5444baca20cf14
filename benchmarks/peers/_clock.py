"""What every script here is given, and what it prints: standard library alone.

    python -m benchmarks.peers.NAME URL QUERIES FOLDER CONCURRENCY [OPTION ...]

`QUERIES` holds a JSON string on each line. Clocks start after imports, and stop when the answers
are on disk; the answers are counted afterwards, and must be as many as the queries.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Order", "measure"]


@dataclass(frozen=True)
class Order:
    """What is to be done."""

    url: str
    queries: list[str]
    folder: Path
    concurrency: int
    options: list[str]


def measure(run: Callable[[Order], None], count: Callable[[Order], int]) -> None:
    """Run on the command line's order, and print what it took as JSON."""
    url, queries, folder, concurrency, *options = sys.argv[1:]
    lines = [json.loads(line) for line in Path(queries).read_text().splitlines()]
    order = Order(url, lines, Path(folder), int(concurrency), options)
    cpu, began = _cpu_s(), time.perf_counter()
    run(order)
    wall, cpu = time.perf_counter() - began, _cpu_s() - cpu
    if (rows := count(order)) != len(lines):
        raise SystemExit(f"{rows} answers to {len(lines)} queries")
    print(json.dumps({"rows": rows, "wall_s": wall, "cpu_s": cpu}), flush=True)


def _cpu_s() -> float:
    """Processor seconds of this process and of its children that ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
