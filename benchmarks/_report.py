"""Markdown of benchmarks: tables, targets, and the sections of `RESULTS.md`."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Final

__all__ = [
    "RESULTS",
    "Spread",
    "Target",
    "header",
    "now",
    "replace_section",
    "table",
    "target_table",
]

RESULTS: Final = Path(__file__).with_name("RESULTS.md")
_LIBRARIES: Final = ("delia_data", "datasets", "duckdb", "pyarrow", "trl", "transformers")


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, minimum and maximum of a measurement over the rounds."""

    median: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summarize the values of the rounds."""
        rounds = list(values)
        return cls(median(rounds), min(rounds), max(rounds))

    def text(self, unit: str = "") -> str:
        """Format as `5.31x (5.02–5.40)`, or as `5.31x` if all rounds agree."""
        middle = _number(self.median) + unit
        if self.minimum == self.maximum:
            return middle
        return f"{middle} ({_number(self.minimum)}–{_number(self.maximum)})"


@dataclass(frozen=True, slots=True)
class Target:
    """A target and its measurement.

    Attributes:
        metric: Name of the metric, for example `build, datasets / delia_mix`.
        measured: Measurement; its median is compared with the bound.
        bound: Bound of the target.
        unit: Unit of both, for example `x`.
        at_least: Whether `bound` is a minimum; otherwise it is a maximum.
    """

    metric: str
    measured: Spread
    bound: float
    unit: str = "x"
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the median is within the bound."""
        middle = self.measured.median
        return middle >= self.bound if self.at_least else middle <= self.bound

    def cells(self) -> list[str]:
        """Return the cells of its table row."""
        bound = f"at {'least' if self.at_least else 'most'} {self.bound:g}{self.unit}"
        result = "met" if self.met else "NOT MET"
        return [self.metric, self.measured.text(self.unit), bound, result]


def target_table(targets: Sequence[Target]) -> str:
    """Return a Markdown table of targets and whether they are met."""
    return table(["metric", "measured", "target", "result"], [each.cells() for each in targets])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def header() -> str:
    """Return the title, the machine and the versions of the libraries."""
    rows = [
        ["last run (UTC)", now()],
        ["processor", f"{_processor()}, {len(os.sched_getaffinity(0))} cores"],
        ["memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"],
        ["Python", platform.python_version()],
        ["libraries", ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)],
    ]
    return f"# Results\n\n`make bench` writes this file.\n\n{table(['', ''], rows)}"


def now() -> str:
    """Return the date and time in UTC, to the minute."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M")


def replace_section(path: Path, title: str, body: str) -> None:
    """Write the section `## title` and a new header; other sections stay as they are.

    A new section follows the last one whose title has the same words before its colon.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    _, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    sections = {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in parts}
    sections[title] = body.strip()
    groups = [each.partition(":")[0] for each in sections]
    titles = sorted(sections, key=lambda each: groups.index(each.partition(":")[0]))
    blocks = [header(), *(f"## {each}\n\n{sections[each]}" for each in titles)]
    path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def _number(value: float) -> str:
    """Format a number with three significant digits."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3}f}"


def _processor() -> str:
    names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return names[0].strip() if names else platform.machine()
