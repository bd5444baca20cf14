"""SIGKILL at random moments: is every row there once, and how much was asked twice?"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

from benchmarks._chat_server import ChatServer
from benchmarks._orchestration import QUERY
from benchmarks._process import ROOT
from benchmarks._report import Spread, Target, table, target_table
from delia_data.sampling import read_cache

__all__ = ["kills"]

_CONCURRENCY: Final = 64
_KILLS: Final = 20
_DELAY_S: Final = 0.02  # of an answer
_POLL_S: Final = 0.005


def kills(work: Path, rows: int, seed: int = 0) -> str:
    """Kill a run twenty times, let it finish, and give the section's text."""
    draw = random.Random(seed)
    moments = sorted(draw.randrange(rows) for _ in range(_KILLS))
    gaps = [1 + moment - before for before, moment in zip([0, *moments], moments, strict=False)]
    killed = []
    with (
        tempfile.TemporaryDirectory(dir=work, prefix="kills-") as folder,
        ChatServer(delay_s=_DELAY_S) as server,
    ):
        queries = Path(folder) / "queries.jsonl"
        queries.write_text("".join(f"{json.dumps(QUERY.format(i))}\n" for i in range(rows)))
        script = [sys.executable, "-m", "benchmarks.peers.ours"]
        command = [*script, server.url, str(queries), folder, str(_CONCURRENCY), "bare"]
        for gap in gaps:
            killed.append(_killed(command, server, gap))
            print(f"  killed after {killed[-1]:,} requests", file=sys.stderr)
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        asked = server.count()
        found = Counter(record.query for record in read_cache(Path(folder) / "cache"))
    once = sum(found[QUERY.format(i)] == 1 for i in range(rows))
    most = rows + _KILLS * _CONCURRENCY
    targets = [
        Target("rows that are there exactly once", Spread.of([once]), rows, "", at_least=True),
        Target("rows altogether", Spread.of([found.total()]), rows, ""),
        Target("requests that the server counted", Spread.of([asked]), most, ""),
    ]
    facts = [
        ["rows", f"{rows:,}"],
        ["requests at once", str(_CONCURRENCY)],
        ["an answer takes", f"{1000 * _DELAY_S:g} ms"],
        ["kills", str(_KILLS)],
        ["requests counted at each kill", ", ".join(f"{count:,}" for count in killed)],
        ["requests asked again", f"{asked - rows:,}"],
    ]
    return f"{target_table(targets)}\n\n{table(['', ''], facts)}"


def _killed(command: list[str], server: ChatServer, gap: int) -> int:
    """Start a run, and kill it when it has sent so many requests; give how many came so far.

    Raises:
        RuntimeError: It ended by itself.
    """
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    before = server.count()
    while (count := server.count()) < before + gap:
        if process.poll() is not None:
            raise RuntimeError(f"the run ended by itself ({process.returncode})")
        time.sleep(_POLL_S)
    process.kill()
    process.wait()
    if process.returncode != -9:
        raise RuntimeError(f"the run ended before the kill ({process.returncode})")
    os.sync()
    return count
