"""The report's figures, as SVG that lies inside the page and takes its colours from it.

matplotlib draws with stand-in colours, and each is replaced by a variable of the page's style
sheet (`var(--s1)`), so that one drawing is right on a light and on a dark page. Text stays text.
Equal numbers give equal markup: no dates, fixed ids, and the user's own matplotlib settings are
left out. Figures are drawn about as wide as a phone, so that their letters stay readable there.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal

from delia_data._optional import require
from delia_data.evaluation._html import escape, printable
from delia_data.evaluation.formatted_text import interval
from delia_data.evaluation.representation import BlockDistances

__all__ = ["block_curves", "loss_curve", "share_bars"]

_WIDTH_INCHES: Final = 4.3
_HEIGHT_INCHES: Final = 3.0
_INK, _MUTED, _RULE = "#010101", "#020202", "#030303"
_SERIES: Final = tuple(f"#0401{number:02x}" for number in range(1, 7))
_PAGE_COLOURS: Final = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _RULE: "var(--rule)",
    **{colour: f"var(--s{number})" for number, colour in enumerate(_SERIES, start=1)},
}
_STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "delia_data",
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "font.size": 9,
    "font.family": "sans-serif",
    "text.color": _INK,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.8,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 2.2,
}


def loss_curve(steps: Sequence[int], losses: Sequence[float]) -> str:
    """Draw the training loss over the optimiser steps (compare the paper's Figure 3).

    Args:
        steps: The optimiser steps at which a loss was logged.
        losses: The loss at each of them; where one is not finite the line has a gap.

    Returns:
        SVG markup.
    """
    with _drawing() as (figure, axes):
        finite = [value if math.isfinite(value) else math.nan for value in losses]
        marker = "o" if len(steps) < 40 else ""
        axes.plot(steps, finite, color=_SERIES[0], marker=marker, markersize=3)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("loss")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if any(value == value for value in finite):
            axes.set_ylim(bottom=0)
        return _svg(figure, "loss", f"Training loss at {len(steps)} logged steps")


def block_curves(
    before: Sequence[BlockDistances],
    after: Sequence[BlockDistances],
    measure: Literal["l2", "cosine"],
) -> str:
    """Draw a distance from the token to each keyword, block by block (paper, Figure 2).

    Args:
        before: The distances before training: dashed lines.
        after: Those after training: full lines in the same colours.
        measure: Which of the two distances.

    Returns:
        SVG markup.
    """
    name = {"l2": "L2 distance", "cosine": "cosine distance"}[measure]
    words = list(dict.fromkeys(found.keyword for found in (*before, *after)))
    colours = {word: _SERIES[index % len(_SERIES)] for index, word in enumerate(words)}
    with _drawing() as (figure, axes):
        for when, group, line in (("before", before, (0, (3, 2))), ("after", after, "-")):
            for found in group:
                values = found.l2 if measure == "l2" else found.cosine
                axes.plot(
                    range(1, len(values) + 1),
                    values,
                    color=colours[found.keyword],
                    linestyle=line,
                    marker="o" if len(values) == 1 else "",
                    label=f"“{_short(found.keyword)}” {when}",
                )
        axes.set_xlabel("transformer block")
        axes.set_ylabel(name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside upper left", ncols=2)
        told = f"{name} from the token to {', '.join(words)} in every block, before and after"
        return _svg(figure, measure, told)


def share_bars(shares: Mapping[str, tuple[int, int]], token: str) -> str:
    """Draw the share of answers in the asked format, with its Wilson 95% interval.

    Args:
        shares: Answers in the format and answers in all, for `before_with`, `before_without`,
            `after_with` and `after_without`.
        token: The special token.

    Returns:
        SVG markup.
    """
    width = 0.34
    with _drawing() as (figure, axes):
        for side, when, colour in ((-1, "before", _MUTED), (1, "after", _SERIES[0])):
            for place, which in enumerate(("with", "without")):
                parsed, rows = shares[f"{when}_{which}"]
                share = 100 * parsed / rows
                low, high = (100 * bound for bound in interval(parsed, rows))
                x = place + side * (width / 2 + 0.02)
                label = f"{when} training" if place == 0 else None
                axes.bar(x, share, width, color=colour, alpha=0.75, label=label)
                axes.vlines(x, low, high, color=_INK, linewidth=1.2)
                text = f"{parsed}/{rows}"
                axes.text(x, high + 2, text, ha="center", va="bottom", fontsize=8.5)
        axes.set_xticks([0, 1], [f"with {_short(token)}", f"without {_short(token)}"])
        axes.tick_params(axis="x", length=0, pad=6)
        axes.set_xlim(-0.6, 1.6)
        axes.set_ylim(0, 112)
        axes.set_yticks(range(0, 101, 25), [f"{percent}%" for percent in range(0, 101, 25)])
        axes.set_ylabel("answers in the format")
        figure.legend(loc="outside upper left", ncols=2)
        told = [f"{name.replace('_', ' ')} {p} of {n}" for name, (p, n) in shares.items()]
        return _svg(figure, "shares", f"Answers in the format: {', '.join(told)}")


@contextmanager
def _drawing() -> Iterator[tuple[Any, Any]]:
    """Give a figure and its axes, in the report's style whatever the user's own settings are."""
    matplotlib = require("matplotlib", extra="train")
    figure_class = require("matplotlib.figure", extra="train").Figure
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = figure_class(figsize=(_WIDTH_INCHES, _HEIGHT_INCHES), layout="constrained")
        yield figure, figure.add_subplot()


def _svg(figure: Any, name: str, told: str) -> str:
    """Write a figure as markup for the inside of a page.

    Args:
        figure: What was drawn.
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


def _short(word: str) -> str:
    """A word that fits into a legend."""
    return printable(word if len(word) <= 20 else f"{word[:19]}…")
