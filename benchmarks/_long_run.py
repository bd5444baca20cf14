"""Measure the memory of a long sampling run with the mock engine.

The run has its own process: `python -m benchmarks._long_run FOLDER ROWS [filtered]`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Final

from benchmarks._cases import log
from benchmarks._process import own_mib, run_script
from benchmarks._report import Spread, Target, table, target_table

__all__ = ["long_run"]

_INTERVAL_S: Final = 0.05
_CONCURRENCY: Final = 128
_MOST_MIB: Final = 300


def long_run(work: Path, rows: int) -> str:
    """Run without filters and with the default filters, and return the text of the section."""
    targets, lines = [], []
    for name, options in (("no filters", []), ("default filters", ["filtered"])):
        with tempfile.TemporaryDirectory(dir=work, prefix="long-") as folder:
            command = [sys.executable, "-m", "benchmarks._long_run", folder, str(rows), *options]
            run = run_script(command, work=work).printed
        log(f"  {name}: {run}")
        growth = run["peak_mib"] - run["start_mib"]
        targets.append(Target(f"memory growth, {name}", Spread.of([growth]), _MOST_MIB, " MiB"))
        lines.append(
            [
                name,
                f"{run['kept']:,} of {run['asked']:,}",
                *(f"{run[key]:,.0f}" for key in ("start_mib", "sampled_mib", "peak_mib")),
                f"{run['asked'] / run['wall_s']:,.0f}",
            ]
        )
    head = ["filters", "rows kept", "MiB at the start", "peak MiB while sampling", "peak MiB"]
    return f"{target_table(targets)}\n\n{table([*head, 'rows/s'], lines)}"


class _NumberedQueries:
    """An unlimited source of queries."""

    def describe(self) -> dict[str, Any]:
        return {"source": "numbers"}

    def __iter__(self) -> Iterator[Any]:
        from delia_data.sampling import Query

        return (Query(f"Tell me about number {number}.", "explain") for number in count())


def _main(folder: str, rows: str, *options: str) -> None:
    from delia_data.engines import MockEngine
    from delia_data.sampling import Progress, sample

    peak, while_sampling, ended = 0.0, 0.0, threading.Event()

    def monitor() -> None:
        nonlocal peak
        while not ended.wait(_INTERVAL_S):
            peak = max(peak, own_mib())

    def on_progress(_: Progress) -> None:
        nonlocal while_sampling
        while_sampling = peak

    start, began = own_mib(), time.perf_counter()
    thread = threading.Thread(target=monitor, daemon=True)
    thread.start()
    manifest = sample(
        MockEngine(shuffle=_CONCURRENCY),
        _NumberedQueries(),
        Path(folder) / "cache",
        target=int(rows),
        filters=None if "filtered" in options else (),
        on_progress=on_progress,
    )
    wall = time.perf_counter() - began
    ended.set()
    thread.join()
    memory = {"start_mib": start, "sampled_mib": while_sampling, "peak_mib": peak}
    print(json.dumps({**manifest.rows, **memory, "wall_s": wall}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
