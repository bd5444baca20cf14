"""Markdown of the measurements: tables, the targets, and `RESULTS.md` section by section."""

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

__all__ = ["Spread", "Target", "header", "now", "replace_section", "table", "target_table"]

_LIBRARIES: Final = ("delia_data", "datasets", "duckdb", "pyarrow", "trl", "transformers")
_TITLE: Final = "# Results"


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of one figure over the rounds."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Sum up the values of the rounds."""
        known = list(values)
        return cls(median(known), min(known), max(known))

    def text(self, unit: str = "") -> str:
        """Such as `5.31x (5.02–5.40)`, and `5.31x` after a single round."""
        alone = _number(self.median) + unit
        if self.least == self.greatest:
            return alone
        return f"{alone} ({_number(self.least)}–{_number(self.greatest)})"


@dataclass(frozen=True, slots=True)
class Target:
    """One target, and the figure that was measured.

    Attributes:
        what: What is compared with what.
        figure: The measured figure; its median is judged.
        bound: The figure that is wanted.
        unit: Unit of both, such as `x`.
        at_least: Whether `bound` is the least that is wanted, or the most.
    """

    what: str
    figure: Spread
    bound: float
    unit: str = "x"
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the median keeps to the bound."""
        got = self.figure.median
        return got >= self.bound if self.at_least else got <= self.bound

    def cells(self) -> list[str]:
        """The row of this target in a table."""
        wanted = f"at {'least' if self.at_least else 'most'} {self.bound:g}{self.unit}"
        return [self.what, self.figure.text(self.unit), wanted, "met" if self.met else "NOT MET"]


def target_table(targets: Sequence[Target]) -> str:
    """The targets, one a line, each met or not."""
    return table(["target", "figure", "wanted", "outcome"], [target.cells() for target in targets])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def header() -> str:
    """What was measured on what: processor, memory, versions."""
    rows = [
        ["last run (UTC)", now()],
        ["processor", f"{_processor()}, {len(os.sched_getaffinity(0))} cores"],
        ["memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"],
        ["Python", platform.python_version()],
        ["libraries", ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)],
    ]
    return f"{_TITLE}\n\n`make bench` writes this file.\n\n{table(['', ''], rows)}"


def now() -> str:
    """Date and time to the minute, in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M")


def replace_section(path: Path, title: str, body: str, order: Sequence[str] = ()) -> None:
    """Write the section `## title` into the file, with a new header; other sections stay.

    Sections stand in the given order of titles, any others after them.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    _, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    sections = {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in parts}
    sections[title] = body.strip()
    titles = [known for known in order if known in sections]
    titles += [other for other in sections if other not in order]
    blocks = [header(), *(f"## {each}\n\n{sections[each]}" for each in titles)]
    path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def _number(value: float) -> str:
    """Three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3}f}"


def _processor() -> str:
    names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return names[0].strip() if names else platform.machine()
