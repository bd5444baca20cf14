"""Measure the speed of sampling, requests repeated after kills, and memory.

    python -m benchmarks.sampling                        # all cases, into benchmarks/RESULTS.md
    python -m benchmarks.sampling --case orchestration --rounds 5
    python -m benchmarks.sampling --case memory --scale 0.01   # a trial: printed, not written

Candidates take turns, and a ratio compares two runs of the same round. Servers are mock servers on
loopback.

    orchestration   24,000 answers of a chat server without latency, 128 concurrent requests; peers
                    have their own environments, which are created first
    kills           8,000 rows, 64 concurrent requests, SIGKILL at 20 random moments
    memory          1,000,000 rows with the mock engine
    transformers    tokens/s of the embedded model, compared with `generate`
    system-prompt   the same with a system prompt of about 270 tokens
    vllm            the same compared with `LLM.generate`, in the interpreter of --vllm
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks._cases import Case, Setting, case_parser, run_cases
from benchmarks._engine_speed import engine_speed
from benchmarks._kills import kills
from benchmarks._long_run import long_run
from benchmarks._orchestration import CONCURRENCY, orchestration

__all__ = ["main"]

_PROMPTS: Final = 256
_MAX_TOKENS: Final = 128
_SYSTEM: Final = Path(__file__).parent / "distillation" / "sort.txt"


def _speed(setting: Setting, name: str, python: str, system: Path | None = None) -> str:
    prompts = setting.rows(_PROMPTS)
    text = engine_speed(setting.work, python, name, prompts, _MAX_TOKENS, setting.rounds, system)
    about = f"{prompts} bundled queries, up to {_MAX_TOKENS} new tokens; rounds: {setting.rounds}."
    return f"{about} {text}"


def _orchestration(setting: Setting) -> str:
    text = orchestration(setting.work, setting.rows(24_000), setting.rounds)
    about = (
        f"Answers of 120 tokens without latency, {CONCURRENCY} concurrent requests; rounds: "
        f"{setting.rounds}."
    )
    return f"{about}\n\n{text}"


_CASES: Final = {
    "orchestration": Case("Sampling: overhead of the client", _orchestration),
    "kills": Case(
        "Sampling: SIGKILL at 20 random moments",
        lambda setting: kills(setting.work, setting.rows(8_000)),
    ),
    "memory": Case(
        "Sampling: 1,000,000 rows with the mock engine",
        lambda setting: long_run(setting.work, setting.rows(1_000_000)),
    ),
    "transformers": Case(
        "Sampling: transformers engine",
        lambda setting: _speed(setting, "transformers", sys.executable),
    ),
    "system-prompt": Case(
        "Sampling: transformers engine, with a system prompt",
        lambda setting: _speed(setting, "transformers", sys.executable, _SYSTEM),
    ),
    "vllm": Case(
        "Sampling: vLLM engine on a CPU", lambda setting: _speed(setting, "vllm", setting.vllm)
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the selected cases, print their sections, and write them into the results."""
    parser = case_parser("sampling", __doc__, _CASES)
    parser.add_argument("--vllm", default="", help="interpreter with vLLM; without it no such case")
    given = parser.parse_args(arguments)
    if given.case == "vllm" and not given.vllm:
        parser.error("--case vllm needs --vllm, the interpreter of an environment with vLLM")
    cases = {name: case for name, case in _CASES.items() if name != "vllm" or given.vllm}
    run_cases(parser, given, cases)


if __name__ == "__main__":
    main()
