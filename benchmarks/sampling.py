"""How fast sampling is beside peers and bare loops, what a kill costs, whether memory stays flat.

    python -m benchmarks.sampling                        # every case, into benchmarks/RESULTS.md
    python -m benchmarks.sampling --case orchestration --rounds 5
    python -m benchmarks.sampling --case memory --scale 0.01   # a trial: printed, not written

Ways that are compared take turns, and ratios are of two runs of the same round. Servers are mock
ones, on loopback.

    orchestration   24,000 answers of a chat server without latency, 128 at once; peers in
                    environments of their own, which are made first
    kills           8,000 rows, 64 at once, SIGKILL at 20 random moments
    memory          1,000,000 rows through the mock engine
    transformers    the embedded model: tokens/s beside `generate`
    vllm            the same beside `LLM.generate`, with the interpreter of --vllm
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks._engine_speed import engine_speed
from benchmarks._kills import kills
from benchmarks._long_run import long_run
from benchmarks._orchestration import CONCURRENCY, orchestration
from benchmarks._report import now, replace_section

__all__ = ["main"]

_RESULTS: Final = Path(__file__).with_name("RESULTS.md")
_PROMPTS: Final = 256
_MOST: Final = 128  # tokens of an answer


@dataclass(frozen=True, slots=True)
class Setting:
    """How a run was asked for.

    Attributes:
        work: Folder of environments and of all that is written.
        rounds: Times that ways take turns.
        scale: What numbers of rows are multiplied by; 1 but for trials.
        vllm: Interpreter of an environment that has vLLM.
    """

    work: Path
    rounds: int
    scale: float
    vllm: str

    def rows(self, count: int) -> int:
        """A number of rows at this scale."""
        return max(1, round(count * self.scale))


@dataclass(frozen=True, slots=True)
class Case:
    """One section of the results: its title, and what runs it and gives its text."""

    title: str
    run: Callable[[Setting], str]


def _speed(setting: Setting, name: str, python: str) -> str:
    prompts = setting.rows(_PROMPTS)
    text = engine_speed(setting.work, python, name, prompts, _MOST, setting.rounds)
    about = f"{prompts} bundled queries, up to {_MOST} tokens each; rounds: {setting.rounds}."
    return f"{about} {text}"


def _orchestration(setting: Setting) -> str:
    text = orchestration(setting.work, setting.rows(24_000), setting.rounds)
    about = f"Answers of 120 tokens, no latency, {CONCURRENCY} at once; rounds: {setting.rounds}."
    return f"{about}\n\n{text}"


_CASES: Final = {
    "orchestration": Case("Sampling: orchestration alone", _orchestration),
    "kills": Case(
        "Sampling: SIGKILL at 20 random moments",
        lambda setting: kills(setting.work, setting.rows(8_000)),
    ),
    "memory": Case(
        "Sampling: 1,000,000 rows, mock engine",
        lambda setting: long_run(setting.work, setting.rows(1_000_000)),
    ),
    "transformers": Case(
        "Sampling: the transformers engine",
        lambda setting: _speed(setting, "transformers", sys.executable),
    ),
    "vllm": Case(
        "Sampling: vLLM's CPU build", lambda setting: _speed(setting, "vllm", setting.vllm)
    ),
}


def _order(results: Path) -> list[str]:
    """Titles of sections: those of other benchmarks first."""
    text = results.read_text(encoding="utf-8") if results.exists() else ""
    ours = [case.title for case in _CASES.values()]
    return [*(title for title in re.findall(r"^## (.+)$", text, re.M) if title not in ours), *ours]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cases that the command line asks for, print their sections, and write them."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.sampling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--case", choices=["all", *_CASES], default="all")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every way (3)")
    parser.add_argument("--work", type=Path, help="folder that keeps the environments")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply row counts, for trials")
    parser.add_argument("--results", type=Path, help="file to write; for trials none by default")
    parser.add_argument("--vllm", default="", help="interpreter that has vLLM; none: no such case")
    given = parser.parse_args(arguments)
    if given.rounds < 1 or given.scale <= 0:
        parser.error("--rounds must be at least 1, --scale above 0")
    if given.case == "vllm" and not given.vllm:
        parser.error("--case vllm needs --vllm, the interpreter of an environment that has it")
    results = given.results or (_RESULTS if given.scale == 1 else None)
    with ExitStack() as stack:
        work = given.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        work.mkdir(parents=True, exist_ok=True)
        setting = Setting(work.resolve(), given.rounds, given.scale, given.vllm)
        for name, case in _CASES.items():
            if given.case not in ("all", name) or (name == "vllm" and not given.vllm):
                continue
            print(case.title, file=sys.stderr, flush=True)
            load = f"load average {os.getloadavg()[0]:.1f} before"
            body = case.run(setting)
            trial = "" if given.scale == 1 else f" A trial at scale {given.scale:g}: no result."
            body = f"{now()} UTC; {load}, {os.getloadavg()[0]:.1f} after.{trial}\n\n{body}"
            print(f"## {case.title}\n\n{body}\n", flush=True)
            if results is not None:
                replace_section(results, case.title, body, _order(results))


if __name__ == "__main__":
    main()
