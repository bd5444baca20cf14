"""Kill a sampling run at random moments, and count its rows and its requests."""

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

from benchmarks._cases import log
from benchmarks._chat_server import ChatServer
from benchmarks._orchestration import QUERY
from benchmarks._process import ROOT
from benchmarks._report import Spread, Target, table, target_table
from delia_data.sampling import read_cache

__all__ = ["kills"]

_CONCURRENCY: Final = 64
_KILLS: Final = 20
_DELAY_S: Final = 0.02  # per answer
_POLL_S: Final = 0.005


def kills(work: Path, rows: int) -> str:
    """Kill a run twenty times, let it finish, and return the text of the section."""
    generator = random.Random(0)
    moments = sorted(generator.randrange(rows) for _ in range(_KILLS))
    gaps = [1 + moment - before for before, moment in zip([0, *moments], moments, strict=False)]
    counts = []
    with (
        tempfile.TemporaryDirectory(dir=work, prefix="kills-") as folder,
        ChatServer(delay_s=_DELAY_S) as server,
    ):
        queries = Path(folder) / "queries.jsonl"
        queries.write_text("".join(f"{json.dumps(QUERY.format(i))}\n" for i in range(rows)))
        script = [sys.executable, "-m", "benchmarks.peers.delia"]
        command = [*script, server.url, str(queries), folder, str(_CONCURRENCY), "bare"]
        for gap in gaps:
            counts.append(_run_and_kill(command, server, gap))
            log(f"  killed after {counts[-1]:,} requests")
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        requests = server.count()
        records = Counter(record.query for record in read_cache(Path(folder) / "cache"))
    once = sum(records[QUERY.format(i)] == 1 for i in range(rows))
    most = rows + _KILLS * _CONCURRENCY
    targets = [
        Target("rows present exactly once", Spread.of([once]), rows, "", at_least=True),
        Target("rows in total", Spread.of([records.total()]), rows, ""),
        Target("requests counted by the server", Spread.of([requests]), most, ""),
    ]
    facts = [
        ["rows", f"{rows:,}"],
        ["concurrent requests", str(_CONCURRENCY)],
        ["latency of an answer", f"{1000 * _DELAY_S:g} ms"],
        ["kills", str(_KILLS)],
        ["requests counted at each kill", ", ".join(f"{count:,}" for count in counts)],
        ["repeated requests", f"{requests - rows:,}"],
    ]
    return f"{target_table(targets)}\n\n{table(['', ''], facts)}"


def _run_and_kill(command: list[str], server: ChatServer, gap: int) -> int:
    """Start a run, kill it after `gap` more requests, and return the server's count of requests.

    Raises:
        RuntimeError: The run ended before it was killed.
    """
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    before = server.count()
    while (count := server.count()) < before + gap:
        if process.poll() is not None:
            break
        time.sleep(_POLL_S)
    process.kill()
    if process.wait() != -9:
        raise RuntimeError(f"the run ended before it was killed, with code {process.returncode}")
    os.sync()
    return count
