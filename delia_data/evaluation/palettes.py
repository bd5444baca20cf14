"""The colours of pages and figures, light and dark, that people who see few colours tell apart.

The six series were searched for: under simulated protanopia, deuteranopia and tritanopia (Machado,
Oliveira and Fernandes 2009) as well as without, no two are nearer than 0.075 in OKLab, and each has
a contrast of at least 3 to its paper. Lines differ in their dashes too, where they are many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

@dataclass(frozen=True, slots=True)
class Palette:
    """Colours to draw with.

    Attributes:
        ink: Of text and what stands out.
        muted: Of axes, and of what is there to compare with.
        rule: Of the grid.
        series: Of what is compared, six.
        paper: Behind all; None for nothing.
        panel: Behind what stands apart.
        good: Of words that say that something is as it should be.
    """

    ink: str
    muted: str
    rule: str
    series: tuple[str, ...]
    paper: str | None = None
    panel: str | None = None
    good: str | None = None


STAND_INS: Final = Palette(
    "#010101", "#020202", "#030303", tuple(f"#0401{number:02x}" for number in range(1, 7))
)
"""Colours that a drawing's markup has replaced by the page's variables."""

LIGHT: Final = Palette(
    "#1c1f24",
    "#667080",
    "#e1e5ea",
    ("#225fae", "#ba4b19", "#159479", "#9f6ed6", "#6c203c", "#ae8e0b"),
    "#ffffff",
    "#f6f7f9",
    "#0f6e5a",
)
DARK: Final = Palette(
    "#e4e7eb",
    "#98a2b0",
    "#2d333b",
    ("#6f8fd4", "#f08a4b", "#90e0c0", "#d5a2fb", "#d96170", "#e7d44f"),
    "#14171b",
    "#1b1f25",
    "#90e0c0",
)


def style_variables(palette: Palette) -> str:
    """Give a palette as variables of a style sheet: `--ink`, ..., `--s1` to `--s6`."""
    named = {
        "paper": palette.paper,
        "ink": palette.ink,
        "muted": palette.muted,
        "rule": palette.rule,
        "panel": palette.panel,
        "good": palette.good,
        **{f"s{number}": colour for number, colour in enumerate(palette.series, start=1)},
    }
    return " ".join(f"--{name}: {colour};" for name, colour in named.items() if colour)
