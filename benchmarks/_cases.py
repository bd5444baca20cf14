"""Command line of benchmarks that consist of cases; each case writes a section of `RESULTS.md`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks._report import RESULTS, now, replace_section

__all__ = ["Case", "Setting", "case_parser", "log", "run_cases", "take_turns"]

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Setting:
    """Settings of a run.

    Attributes:
        work: Folder for inputs, environments and outputs.
        rounds: Number of rounds.
        scale: Factor of all row counts; 1 except for trials.
        vllm: Python interpreter with vLLM; empty if there is none.
    """

    work: Path
    rounds: int
    scale: float
    vllm: str = ""

    def rows(self, count: int) -> int:
        """Return a row count at this scale."""
        return max(1, round(count * self.scale))


@dataclass(frozen=True, slots=True)
class Case:
    """A section of the results.

    Attributes:
        title: Title of the section.
        run: Measures, and returns the text of the section.
    """

    title: str
    run: Callable[[Setting], str]


def case_parser(
    name: str, description: str | None, cases: Mapping[str, Case]
) -> argparse.ArgumentParser:
    """Return a parser with the options that all cases share."""
    parser = argparse.ArgumentParser(
        f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--case", choices=["all", *cases], default="all")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each candidate (3)")
    parser.add_argument("--work", type=Path, help="folder that keeps inputs and environments")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of row counts, for trials")
    parser.add_argument("--results", type=Path, help="file to write; by default none for trials")
    return parser


def run_cases(
    parser: argparse.ArgumentParser, given: argparse.Namespace, cases: Mapping[str, Case]
) -> None:
    """Run the selected cases, print their sections, and write them into the results."""
    if given.rounds < 1 or given.scale <= 0:
        parser.error("--rounds must be at least 1, --scale above 0")
    results = given.results or (RESULTS if given.scale == 1 else None)
    with ExitStack() as stack:
        work = given.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        work.mkdir(parents=True, exist_ok=True)
        setting = Setting(work.resolve(), given.rounds, given.scale, getattr(given, "vllm", ""))
        for case in cases.values() if given.case == "all" else [cases[given.case]]:
            log(case.title)
            load = f"load average {os.getloadavg()[0]:.1f} before"
            text = case.run(setting)
            trial = "" if given.scale == 1 else f" Trial at scale {given.scale:g}, not a result."
            body = f"{now()} UTC; {load}, {os.getloadavg()[0]:.1f} after.{trial}\n\n{text}"
            print(f"## {case.title}\n\n{body}\n", flush=True)
            if results is not None:
                replace_section(results, case.title, body)


def take_turns(items: Sequence[_Item], rounds: int) -> Iterator[list[_Item]]:
    """Yield the items once per round; each round begins with a different item."""
    for number in range(rounds):
        begin = number % len(items)
        yield [*items[begin:], *items[:begin]]


def log(text: str) -> None:
    """Print a line to standard error."""
    print(text, file=sys.stderr, flush=True)
