"""What it costs to ask a chat server for many answers and keep them: ours, peers, a bare loop."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

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
    """One way to ask.

    Attributes:
        name: What the tables call it.
        script: Its module in `benchmarks.peers`.
        options: What the script is told.
        environment: Where it runs; here where there is none.
        part: The part of the rows that it gets, as slow ones would take long.
        note: What to know of how it is set up.
    """

    name: str
    script: str
    options: tuple[str, ...] = ()
    environment: Environment | None = None
    part: int = 1
    note: str = ""


OURS: Final = Candidate(
    "delia_data", "ours", ("bare",), note="those filters alone that every cache goes through"
)
FILTERED: Final = Candidate("delia_data, default filters", "ours", note="near duplicates included")
BARE: Final = Candidate("bare aiohttp loop", "bare", note="no retries, no resume, no sync")
PEERS: Final = (
    Candidate(
        "datatrove 0.10.1",
        "datatrove",
        environment=DATATROVE,
        note="a new connection for each request; nothing can be resumed",
    ),
    Candidate(
        "datatrove 0.10.1, checkpoints",
        "datatrove",
        ("checkpoint",),
        DATATROVE,
        part=3,
        note="checkpoints of 6,000 rows (its default), requests cached",
    ),
    Candidate(
        "curator 0.1.31",
        "curator",
        environment=CURATOR,
        part=3,
        note="its cache on, as by default, in a new folder; limits out of reach; telemetry off",
    ),
    Candidate(
        "distilabel 1.5.3",
        "distilabel",
        environment=DISTILABEL,
        part=3,
        note="batches of 128; cache off",
    ),
)
CANDIDATES: Final = (OURS, FILTERED, BARE, *PEERS)


@dataclass(frozen=True, slots=True)
class Run:
    """What one run took."""

    rows: int
    wall_s: float
    cpu_s: float
    peak_mib: float

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.wall_s

    def text(self) -> str:
        """For the eye, while it goes on."""
        return f"{self.rate:,.0f} rows/s, {1000 * self.cpu_s / self.rows:.3f} CPU s a thousand"


# The second hardly depends on what else the machine does.
_RATES: Final[dict[str, Callable[[Run], float]]] = {
    "rows/s": lambda run: run.rate,
    "rows per CPU s": lambda run: run.rows / run.cpu_s,
}


def orchestration(work: Path, rows: int, rounds: int) -> str:
    """Let all of them take turns at one server, and give the section's text."""
    pythons = {
        candidate: candidate.environment.python(work) if candidate.environment else sys.executable
        for candidate in CANDIDATES
    }
    done: list[dict[Candidate, Run]] = []
    for number in range(rounds):
        begin = number % len(CANDIDATES)
        runs = {}
        for candidate in (*CANDIDATES[begin:], *CANDIDATES[:begin]):
            run = runs[candidate] = _run(candidate, pythons[candidate], rows, work)
            print(f"  round {number + 1}, {candidate.name}: {run.text()}", file=sys.stderr)
        done.append(runs)
    return "\n\n".join([target_table(_targets(done)), _table(done), _notes()])


def _run(candidate: Candidate, python: str, rows: int, work: Path) -> Run:
    """Run one in a new folder, against a server that has just started."""
    folder = Path(tempfile.mkdtemp(dir=work, prefix="run-"))
    try:
        queries = folder / "queries.jsonl"
        count = rows // candidate.part
        queries.write_text("".join(f"{json.dumps(QUERY.format(i))}\n" for i in range(count)))
        with ChatServer() as server:
            script = f"benchmarks.peers.{candidate.script}"
            order = [server.url, str(queries), str(folder), str(CONCURRENCY), *candidate.options]
            ran = run_script([python, "-m", script, *order], environment=_QUIET, work=work)
        return Run(**ran.printed, peak_mib=ran.peak_mib)
    finally:
        shutil.rmtree(folder)


def _targets(done: list[dict[Candidate, Run]]) -> list[Target]:
    """Of ours without the filters that no other has; by the clock, and by processor time."""
    found = []
    for what, rate in _RATES.items():
        peers = Spread.of(rate(runs[OURS]) / max(rate(runs[p]) for p in PEERS) for runs in done)
        bare = Spread.of(rate(runs[OURS]) / rate(runs[BARE]) for runs in done)
        found += [
            Target(f"{what}, {OURS.name} / the best peer", peers, 3, at_least=True),
            Target(f"{what}, {OURS.name} / {BARE.name}", bare, 0.6, at_least=True),
        ]
    return found


def _table(done: list[dict[Candidate, Run]]) -> str:
    head = ["candidate", "rows", "rows/s", "CPU s per 1,000 rows", "peak MiB"]
    head += [f"{what}, / {BARE.name}" for what in _RATES]
    lines = []
    for candidate in CANDIDATES:
        runs = [each[candidate] for each in done]
        ratios = [
            Spread.of(rate(each[candidate]) / rate(each[BARE]) for each in done).text("x")
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


def _notes() -> str:
    return table(["candidate", "how it is set up"], [[each.name, each.note] for each in CANDIDATES])
