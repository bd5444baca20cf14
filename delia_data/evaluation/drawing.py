"""The colours of pages and figures, light and dark, that people who see few colours tell apart.

The six series were searched for: under simulated protanopia, deuteranopia and tritanopia (Machado,
Oliveira and Fernandes 2009) as well as without, no two are nearer than 0.075 in OKLab, and each has
a contrast of at least 3 to its paper. Lines differ in their dashes too, where they are many.
"""

from __future__ import annotations

import io
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from delia_data._optional import require
from delia_data.evaluation._html import escape, printable
from delia_data.outputs import atomic_path


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


_WIDTH_INCHES: Final = 4.3
_HEIGHT_INCHES: Final = 3.0
_PNG_DPI: Final = 200
_LOG_TICKS: Final = (
    (2.2, (1.0,)),
    (1.1, (1.0, 3.0)),
    (0.0, (1.0, 2.0, 3.0, 5.0, 7.0)),
)
"""Where a logarithmic axis is labelled within a decade, by the decades that it reaches over."""


_PAGE_COLOURS: Final = {
    STAND_INS.ink: "var(--ink)",
    STAND_INS.muted: "var(--muted)",
    STAND_INS.rule: "var(--rule)",
    **{colour: f"var(--s{number})" for number, colour in enumerate(STAND_INS.series, start=1)},
}


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn in either form.

    Attributes:
        name: Its name among the figures of a page.
        told: What a screen reader says.
        paint: Draws it: takes the figure, its axes and the colours.
        height: In inches; drawings are 4.3 wide.
        details: What a screen reader says when asked for more, such as the numbers.
    """

    name: str
    told: str
    paint: Callable[[Any, Any, Palette], None]
    height: float = _HEIGHT_INCHES
    details: str = ""

    def svg(self, name: str | None = None) -> str:
        """Draw it as markup for the inside of a page.

        Args:
            name: Its name among the figures of the page, where its own is taken.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        with axes_in_style(STAND_INS, self.height) as (figure, axes):
            self.paint(figure, axes, STAND_INS)
            return markup(figure, name or self.name, self.told, self.details)

    def png(self, path: str | os.PathLike[str]) -> None:
        """Draw it as a PNG file, on white.

        Raises:
            MissingExtraError: matplotlib is not installed.
            OutputError: The file cannot be written.
        """
        with axes_in_style(LIGHT, self.height) as (figure, axes):
            self.paint(figure, axes, LIGHT)
            save_png(figure, path)


@contextmanager
def figure_in_style(
    palette: Palette = STAND_INS, width: float = _WIDTH_INCHES, height: float = _HEIGHT_INCHES
) -> Iterator[Any]:
    """Give a figure of a size in inches, in one style whatever the user's own settings are."""
    matplotlib = require("matplotlib", extra="train")
    figure_class = require("matplotlib.figure", extra="train").Figure
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_style(palette))
        yield figure_class(figsize=(width, height), layout="constrained")


@contextmanager
def axes_in_style(
    palette: Palette = STAND_INS, height: float = _HEIGHT_INCHES
) -> Iterator[tuple[Any, Any]]:
    """Give a figure as wide as a phone, and its axes."""
    with figure_in_style(palette, height=height) as figure:
        yield figure, figure.add_subplot()


def save_png(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a figure as a PNG file, on white; equal figures give equal bytes.

    Raises:
        OutputError: The file cannot be written.
    """
    with atomic_path(path) as part:
        nothing = {"Software": None}
        figure.savefig(part, format="png", dpi=_PNG_DPI, facecolor=LIGHT.paper, metadata=nothing)


def plain_log_ticks(axis: Any) -> None:
    """Label a logarithmic axis in plain numbers, at 1, 2, 3, 5, 7, 10, ... or at fewer of them."""
    ticker: Any = require("matplotlib.ticker", extra="train")

    def tick_values(locator: Any, vmin: float, vmax: float) -> Any:
        """Labels that find room whatever the axis reaches over."""
        decades = math.log10(vmax / vmin) if 0 < vmin < vmax else 1.0
        subs = next((few for least, few in _LOG_TICKS if decades > least), (1.0,))
        locator.set_params(subs=subs)
        return ticker.LogLocator.tick_values(locator, vmin, vmax)

    thinned: Any = type("Thinned", (ticker.LogLocator,), {"tick_values": tick_values})
    axis.set_major_locator(thinned())
    axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axis.set_minor_locator(ticker.NullLocator())


def markup(figure: Any, name: str, told: str, details: str = "") -> str:
    """Write a figure as markup for the inside of a page.

    Args:
        figure: What was drawn, in stand-in colours.
        name: Put before every id, since all figures share the page's ids.
        told: What a screen reader says.
        details: What it says when asked for more.
    """
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    own = "".join(c if c.isalnum() and c.isascii() else "-" for c in name)
    drawn = file.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<style.*?</style>|<!--.*?-->|<metadata.*?</metadata>", "", drawn, flags=re.S)
    drawn = re.sub(r"font-family: [^;]*; ", "", drawn)
    drawn = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{own}-", drawn)
    for stand_in, variable in _PAGE_COLOURS.items():
        drawn = drawn.replace(stand_in, variable)
    view = re.search(r'viewBox="[^"]*"', drawn)
    opening = f'<svg role="img" aria-labelledby="{own}-told" {view.group() if view else ""}>'
    opening += f'<title id="{own}-told">{escape(told)}</title>'
    opening += f"<desc>{escape(details)}</desc>" if details else ""
    return opening + drawn[drawn.index(">") + 1 :].strip()


def short(word: str) -> str:
    """A word that fits into a legend."""
    return printable(word if len(word) <= 20 else f"{word[:19]}…")


def _style(palette: Palette) -> dict[str, Any]:
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "delia_data",
        "text.parse_math": False,
        "axes.unicode_minus": True,
        "font.size": 9.5,
        "font.family": "sans-serif",
        "text.color": palette.ink,
        "axes.edgecolor": palette.muted,
        "axes.labelcolor": palette.ink,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": palette.rule,
        "grid.linewidth": 0.8,
        "xtick.color": palette.muted,
        "ytick.color": palette.muted,
        "xtick.labelcolor": palette.ink,
        "ytick.labelcolor": palette.ink,
        "ytick.major.size": 0,
        "lines.linewidth": 1.6,
        "lines.solid_capstyle": "round",
        "legend.frameon": False,
        "legend.fontsize": 9,
        "legend.handlelength": 2.2,
    }
