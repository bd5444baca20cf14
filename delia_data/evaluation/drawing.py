"""How figures are drawn: one style, as SVG for a page or as PNG for a folder.

For a page, matplotlib draws with stand-in colours, and each is replaced by a variable of the page's
style sheet (`var(--s1)`), so that one drawing is right on a light and on a dark page. Text stays
text. Equal numbers give equal markup: no dates, fixed ids, and the user's own matplotlib settings
are left out. Figures are drawn about as wide as a phone, so that their letters stay readable there.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from delia_data._optional import require
from delia_data.evaluation._html import escape, printable
from delia_data.files import atomic_path

__all__ = [
    "LIGHT",
    "STAND_INS",
    "Drawing",
    "Palette",
    "axes_in_style",
    "markup",
    "plain_log_ticks",
    "short",
]

_WIDTH_INCHES: Final = 4.3
_HEIGHT_INCHES: Final = 3.0
_PNG_DPI: Final = 200


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours to draw with.

    Attributes:
        ink: Of text and what stands out.
        muted: Of axes, and of what is there to compare with.
        rule: Of the grid.
        series: Of what is compared, six.
        paper: Behind all; None for nothing.
    """

    ink: str
    muted: str
    rule: str
    series: tuple[str, ...]
    paper: str | None = None


STAND_INS: Final = Palette(
    "#010101", "#020202", "#030303", tuple(f"#0401{number:02x}" for number in range(1, 7))
)
"""Colours that `markup` replaces by the page's."""

LIGHT: Final = Palette(
    "#1c1f24",
    "#667080",
    "#e1e5ea",
    ("#1f5fae", "#b5530b", "#2b7a4b", "#85429a", "#a92f44", "#636b14"),
    "#ffffff",
)
"""The light page's own colours."""

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
    """

    name: str
    told: str
    paint: Callable[[Any, Any, Palette], None]

    def svg(self) -> str:
        """Draw it as markup for the inside of a page.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        with axes_in_style(STAND_INS) as (figure, axes):
            self.paint(figure, axes, STAND_INS)
            return markup(figure, self.name, self.told)

    def png(self, path: str | os.PathLike[str]) -> None:
        """Draw it as a PNG file, on white.

        Raises:
            MissingExtraError: matplotlib is not installed.
            OutputError: The file cannot be written.
        """
        with axes_in_style(LIGHT) as (figure, axes):
            self.paint(figure, axes, LIGHT)
            with atomic_path(path) as part:
                nothing = {"Software": None}
                figure.savefig(
                    part, format="png", dpi=_PNG_DPI, facecolor=LIGHT.paper, metadata=nothing
                )


@contextmanager
def axes_in_style(palette: Palette = STAND_INS) -> Iterator[tuple[Any, Any]]:
    """Give a figure and its axes, in the report's style whatever the user's own settings are."""
    matplotlib = require("matplotlib", extra="train")
    figure_class = require("matplotlib.figure", extra="train").Figure
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_style(palette))
        figure = figure_class(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES), layout="constrained")
        yield figure, figure.add_subplot()


def plain_log_ticks(axis: Any) -> None:
    """Label a logarithmic axis at 1, 2, 3, 5, 7, 10, ... in plain numbers."""
    ticker = require("matplotlib.ticker", extra="train")
    axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0)))
    axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axis.set_minor_locator(ticker.NullLocator())


def markup(figure: Any, name: str, told: str) -> str:
    """Write a figure as markup for the inside of a page.

    Args:
        figure: What was drawn, in stand-in colours.
        name: Put before every id, since all figures share the page's ids.
        told: What a screen reader says.
    """
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    drawn = file.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<style.*?</style>|<!--.*?-->", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"font-family: [^;]*; ", "", drawn)
    drawn = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", drawn)
    for stand_in, variable in _PAGE_COLOURS.items():
        drawn = drawn.replace(stand_in, variable)
    view = re.search(r'viewBox="[^"]*"', drawn)
    opening = f'<svg role="img" aria-label="{escape(told)}" {view.group() if view else ""}>'
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
        "font.size": 9,
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
        "legend.fontsize": 8.5,
        "legend.handlelength": 2.2,
    }
