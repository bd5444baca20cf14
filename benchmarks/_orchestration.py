"""Measure the overhead of clients that request many answers from a chat server and store them."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks._cases import log, take_turns
from benchmarks._chat_server import ChatServer
from benchmarks._environments import CURATOR, DATATROVE, DISTILABEL, Environment
from benchmarks._process import run_script
from benchmarks._report import Spread, Target, table, target_table

__all__ = ["CONCURRENCY", "QUERY", "orchestration"]

CONCURRENCY: Final = 128
QUERY: Final = "Describe item {} in a few words."

_QUIET: Final = {
    "OPENAI_API_KEY": "none",
    "NO_PROXY": "127.0.0.1",
    "TELEMETRY_ENABLED": "false",
    "CURATOR_DISABLE_RICH_DISPLAY": "1",
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A client to measure.

    Attributes:
        name: Name in the tables.
        script: Module in `benchmarks.peers`.
        options: Options of the script.
        environment: Its virtual environment; None for the current one.
        divisor: Divisor of the number of rows, to shorten the runs of slow clients.
        note: Setup.
    """

    name: str
    script: str
    options: tuple[str, ...] = ()
    environment: Environment | None = None
    divisor: int = 1
    note: str = ""


OURS: Final = Candidate(
    "delia_data", "delia", ("bare",), note="only the filters that every cache has"
)
FILTERED: Final = Candidate(
    "delia_data, default filters", "delia", note="with the filter of near duplicates"
)
BARE: Final = Candidate("bare aiohttp loop", "bare", note="no retries, no resume, no fsync")
PEERS: Final = (
    Candidate(
        "datatrove 0.10.1",
        "datatrove",
        environment=DATATROVE,
        note="new connection for each request; no resume",
    ),
    Candidate(
        "datatrove 0.10.1, checkpoints",
        "datatrove",
        ("checkpoint",),
        DATATROVE,
        divisor=3,
        note="checkpoints of 6,000 rows (default); caches requests",
    ),
    Candidate(
        "curator 0.1.31",
        "curator",
        environment=CURATOR,
        divisor=3,
        note="cache on (default), in a new folder; no rate limits; telemetry off",
    ),
    Candidate(
        "distilabel 1.5.3",
        "distilabel",
        environment=DISTILABEL,
        divisor=3,
        note="batches of 128; cache off",
    ),
)
CANDIDATES: Final = (OURS, FILTERED, BARE, *PEERS)


@dataclass(frozen=True, slots=True)
class Run:
    """Measurements of a run."""

    rows: int
    wall_s: float
    cpu_s: float
    peak_mib: float

    @property
    def rate(self) -> float:
        """Rows per second."""
        return self.rows / self.wall_s

    def text(self) -> str:
        """Format for the progress output."""
        return f"{self.rate:,.0f} rows/s, {1000 * self.cpu_s / self.rows:.3f} CPU s per 1,000 rows"


# CPU time depends little on other processes of the machine.
_RATES: Final[dict[str, Callable[[Run], float]]] = {
    "rows/s": lambda run: run.rate,
    "rows per CPU s": lambda run: run.rows / run.cpu_s,
}


def orchestration(work: Path, rows: int, rounds: int) -> str:
    """Measure all clients in turns, and return the text of the section."""
    pythons = {
        candidate: candidate.environment.python(work) if candidate.environment else sys.executable
        for candidate in CANDIDATES
    }
    finished: list[dict[Candidate, Run]] = []
    for number, candidates in enumerate(take_turns(CANDIDATES, rounds), start=1):
        runs = {}
        for candidate in candidates:
            run = runs[candidate] = _run(candidate, pythons[candidate], rows, work)
            log(f"  round {number}, {candidate.name}: {run.text()}")
        finished.append(runs)
    setup = table(["candidate", "setup"], [[each.name, each.note] for each in CANDIDATES])
    return "\n\n".join([target_table(_targets(finished)), _table(finished), setup])


def _run(candidate: Candidate, python: str, rows: int, work: Path) -> Run:
    """Run a client in a new folder with a new server."""
    folder = Path(tempfile.mkdtemp(dir=work, prefix="run-"))
    try:
        queries = folder / "queries.jsonl"
        count = rows // candidate.divisor
        queries.write_text("".join(f"{json.dumps(QUERY.format(i))}\n" for i in range(count)))
        with ChatServer() as server:
            script = f"benchmarks.peers.{candidate.script}"
            arguments = [server.url, str(queries), str(folder), str(CONCURRENCY)]
            command = [python, "-m", script, *arguments, *candidate.options]
            result = run_script(command, environment=_QUIET, work=work)
        return Run(**result.printed, peak_mib=result.peak_mib)
    finally:
        shutil.rmtree(folder)


def _targets(finished: list[dict[Candidate, Run]]) -> list[Target]:
    """Return the targets of delia_data without the filters that only it has."""
    targets = []
    for name, rate in _RATES.items():
        peers = Spread.of(rate(runs[OURS]) / max(rate(runs[p]) for p in PEERS) for runs in finished)
        bare = Spread.of(rate(runs[OURS]) / rate(runs[BARE]) for runs in finished)
        targets += [
            Target(f"{name}, {OURS.name} / best peer", peers, 3, at_least=True),
            Target(f"{name}, {OURS.name} / {BARE.name}", bare, 0.6, at_least=True),
        ]
    return targets


def _table(finished: list[dict[Candidate, Run]]) -> str:
    head = ["candidate", "rows", "rows/s", "CPU s per 1,000 rows", "peak MiB"]
    head += [f"{name} / {BARE.name}" for name in _RATES]
    lines = []
    for candidate in CANDIDATES:
        runs = [each[candidate] for each in finished]
        ratios = [
            Spread.of(rate(each[candidate]) / rate(each[BARE]) for each in finished).text("x")
            for rate in _RATES.values()
        ]
        lines.append(
            [
                candidate.name,
                f"{runs[0].rows:,}",
                Spread.of(run.rate for run in runs).text(),
                Spread.of(1000 * run.cpu_s / run.rows for run in runs).text(),
                f"{max(run.peak_mib for run in runs):,.0f}",
                *ratios,
            ]
        )
    return table(head, lines)
