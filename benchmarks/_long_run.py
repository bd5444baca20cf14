"""A million rows through the mock engine: does memory stay flat?

Runs in a process of its own, `python -m benchmarks._long_run FOLDER ROWS [filtered]`.
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

from benchmarks._process import own_mib, run_script
from benchmarks._report import Spread, Target, table, target_table

__all__ = ["long_run"]

_SAMPLE_S: Final = 0.05
_HELD: Final = 128  # requests that the engine holds at once
_MOST_MIB: Final = 300


def long_run(work: Path, rows: int) -> str:
    """Run without filters and with the default ones; give the section's text."""
    targets, lines = [], []
    for name, options in (("no filters", []), ("default filters", ["filtered"])):
        with tempfile.TemporaryDirectory(dir=work, prefix="long-") as folder:
            command = [sys.executable, "-m", "benchmarks._long_run", folder, str(rows), *options]
            run = run_script(command, work=work).printed
        print(f"  {name}: {run}", file=sys.stderr)
        above = run["peak_mib"] - run["start_mib"]
        targets.append(
            Target(f"memory above the start, {name}", Spread.of([above]), _MOST_MIB, " MiB")
        )
        lines.append(
            [
                name,
                f"{run['kept']:,} of {run['asked']:,}",
                *(f"{run[key]:,.0f}" for key in ("start_mib", "sampled_mib", "peak_mib")),
                f"{run['asked'] / run['wall_s']:,.0f}",
            ]
        )
    head = ["filters", "rows kept of asked", "MiB at the start", "while sampling", "at most"]
    return f"{target_table(targets)}\n\n{table([*head, 'rows/s'], lines)}"


class _Numbered:
    """Queries without end, made as they are asked for."""

    def describe(self) -> dict[str, Any]:
        return {"source": "numbers"}

    def __iter__(self) -> Iterator[Any]:
        from delia_data.sampling import Query

        return (Query(f"Tell me about number {number}.", "explain") for number in count())


def _main(folder: str, rows: str, *options: str) -> None:
    from delia_data.engines import MockEngine
    from delia_data.sampling import Progress, sample

    peak, sampled, ended = 0.0, 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(_SAMPLE_S):
            peak = max(peak, own_mib())

    def seen(_: Progress) -> None:
        nonlocal sampled
        sampled = peak

    start, began = own_mib(), time.perf_counter()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    made = sample(
        MockEngine(shuffle=_HELD),
        _Numbered(),
        Path(folder) / "cache",
        target=int(rows),
        filters=None if "filtered" in options else (),
        on_progress=seen,
    )
    wall = time.perf_counter() - began
    ended.set()
    watcher.join()
    figures = {"start_mib": start, "sampled_mib": sampled, "peak_mib": peak, "wall_s": wall}
    print(json.dumps({**made.rows, **figures}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
