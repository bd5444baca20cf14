"""Figures and their colors: one style for PNG files and pages, light and dark.

The six series colors were searched for: under simulated protanopia, deuteranopia and tritanopia
(Machado, Oliveira and Fernandes 2009) and without, no two are nearer than 0.075 in OKLab, and each
has a contrast of at least 3 to its background. Lines also differ in their dashes.
"""

from __future__ import annotations

import html
import io
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from delia_data._optional import require
from delia_data.errors import InputError
from delia_data.evaluation.buffering import Buffering
from delia_data.evaluation.representation import (
    Alignment,
    Distances,
    KeywordAlignment,
    Measure,
)
from delia_data.evaluation.scores import ProbeScores
from delia_data.evaluation.state_space import StateSpace
from delia_data.outputs import atomic_path
from delia_data.sampling.embeddings import TextMap

T = TypeVar("T")

# Characters that HTML forbids or UTF-8 cannot encode, such as halves of surrogate pairs, and those
# that change the direction of all text after them.
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_ORDER: Final = (
    *("before", "after", "change", "with", "without", "mean", "normal"),
    *("task", "common", "pairs", "mixture", "common_mixture", "held_out"),
)
"""Order in which measured groups are shown; files have them in alphabetical order."""


def printable(text: str) -> str:
    """Replace characters that no page can show by U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)


def in_order(mapping: Mapping[Any, T]) -> list[tuple[Any, T]]:
    """Return the items of a mapping in the order in which they are shown."""
    return sorted(mapping.items(), key=lambda item: (*_ORDER, item[0]).index(item[0]))


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
    opening += f'<title id="{own}-told">{html.escape(printable(told))}</title>'
    opening += f"<desc>{html.escape(printable(details))}</desc>" if details else ""
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


_SOURCES: Final = {"loss_task": "task rows", "loss_pairs": "pairs", "loss": "all rows"}
_SPAN: Final = 15
"""Logged steps that are averaged into a line, where there are many."""


def loss_curve(losses: Sequence[Mapping[str, Any]]) -> Drawing:
    """Draw the loss over the optimiser steps by source, with running means (paper, Figure 3).

    Args:
        losses: What a training logged: `step`, `loss`, and `loss_task` or `loss_pairs` where the
            step had such rows.
    """
    lines = {
        label: [(p["step"], p[key]) for p in losses if math.isfinite(p.get(key, math.nan))]
        for key, label in _SOURCES.items()
    }
    split = [label for label in ("task rows", "pairs") if lines[label]]
    if len(split) > 1 or not lines["all rows"]:
        lines.pop("all rows")  # it lies between the two
    else:
        lines = {"all rows": lines["all rows"]}

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        for (label, points), colour in zip(lines.items(), palette.series, strict=False):
            if not points:
                continue
            steps, values = zip(*points, strict=True)
            span = _SPAN if len(points) >= 3 * _SPAN else 1
            if span > 1:
                axes.plot(steps, values, ".", color=colour, ms=3.5, alpha=0.5, mew=0)
            mark = "o" if len(points) < 3 * _SPAN else ""
            mean = _running_mean(values, span)
            axes.plot(steps, mean, color=colour, marker=mark, markersize=3, label=label)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("loss, nats a token")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if any(lines.values()):
            axes.set_ylim(bottom=0)
            figure.legend(loc="outside upper left", ncols=2)

    ends = "; ".join(
        f"{label}: {points[0][1]:.3g} at step {points[0][0]:g}, {points[-1][1]:.3g} at step "
        f"{points[-1][0]:g}"
        for label, points in lines.items()
        if points
    )
    return Drawing("losses", "Loss over the training, by source", paint, details=ends)


def _running_mean(values: Sequence[float], span: int) -> list[float]:
    """Mean of a value and those before it, as many as the span."""
    return [
        math.fsum(values[max(0, end - span) : end]) / min(span, end)
        for end in range(1, len(values) + 1)
    ]


_NAMES: Final[Mapping[Measure, str]] = {
    "l2": "L2 distance",
    "relative": "L2 over ordinary median",
    "cosine": "cosine distance",
}
_DASHED: Final = (0, (3, 2))
_DOTTED: Final = (0, (1, 1.5))


def alignment_by_block(
    after: Alignment,
    *,
    before: Alignment | None = None,
    measure: Measure = "relative",
    keyword: str | None = None,
) -> Drawing:
    """Draw the token's distance to one keyword in every block, with controls (paper, Figure 2).

    The band around the token's line is one standard deviation over the contexts; that of the
    ordinary words reaches from the least to the greatest.

    Args:
        after: The trained model's.
        before: That before training: a dashed line.
        measure: Which distance.
        keyword: Which keyword; the first when not given.

    Raises:
        InputError: The keyword was not measured.
    """
    found = _keyword(after, keyword)
    earlier = None if before is None else _keyword(before, found.keyword)
    name = _NAMES[measure]

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        mean, sd = _curve(found.token, measure)
        blocks = range(1, len(mean) + 1)
        marker = "o" if len(mean) == 1 else ""
        band = found.ordinary[measure]
        axes.fill_between(blocks, band.low, band.high, color=palette.muted, alpha=0.15, lw=0)
        axes.plot(
            blocks,
            band.mean,
            color=palette.muted,
            marker=marker,
            label=f"{len(after.controls)} ordinary words",
        )
        for (how, distances), line in zip(
            in_order(found.untrained), (_DASHED, _DOTTED), strict=False
        ):
            label = f"untrained token ({how})"
            values, _ = _curve(distances, measure)
            axes.plot(blocks, values, color=palette.series[1], ls=line, marker=marker, label=label)
        if earlier is not None:
            values, _ = _curve(earlier.token, measure)
            label = f"{short(after.token)} before"
            axes.plot(
                blocks, values, color=palette.series[0], ls=_DASHED, marker=marker, label=label
            )
        if sd is not None:
            low, high = zip(*((m - s, m + s) for m, s in zip(mean, sd, strict=True)), strict=True)
            axes.fill_between(blocks, low, high, color=palette.series[0], alpha=0.2, lw=0)
        axes.plot(
            blocks,
            mean,
            color=palette.series[0],
            marker=marker,
            label=f"{short(after.token)} after",
        )
        axes.set_xlabel("transformer block")
        axes.set_ylabel(name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0)
        title = f"distance to “{short(found.keyword)}” of"
        figure.legend(loc="outside upper left", ncols=2, title=title, alignment="left")

    told = f"{name} from {after.token} to {found.keyword} in every block, beside controls"
    return Drawing(f"alignment-{measure}-{found.keyword}", told, paint)


def state_space_sizes(spaces: Mapping[str, StateSpace]) -> Drawing:
    """Draw the state space of every row, one line of dots a group (paper, Figure 4).

    Args:
        spaces: By a name that is shown, such as `"before, with <sep>"`.

    Raises:
        InputError: There are none.
    """
    if not spaces:
        raise InputError("there is no state space to draw: measure one")

    def paint(_figure: Any, axes: Any, palette: Palette) -> None:
        for place, (name, space) in enumerate(spaces.items()):
            colour = palette.series[0] if "after" in name else palette.muted
            ranked = sorted(row.size for row in space.rows)
            # Dots of equal sizes stand beside each other instead of on top of each other.
            heights = [
                place + 0.5 * (i / max(1, len(ranked) - 1) - 0.5) for i in range(len(ranked))
            ]
            axes.scatter(ranked, heights, s=8, color=colour, alpha=0.6, lw=0)
            axes.vlines(space.size, place - 0.35, place + 0.35, color=palette.ink, lw=1.6)
        axes.set_xscale("log")
        plain_log_ticks(axes.xaxis)
        axes.set_xlim(left=0.8)
        axes.set_yticks(range(len(spaces)), [short(name) for name in spaces])
        axes.set_ylim(len(spaces) - 0.4, -0.6)
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        mass = next(iter(spaces.values())).mass
        axes.set_xlabel(f"tokens that hold {mass:.0%} of the probability")

    told = ", ".join(f"{name} {space.size:.1f}" for name, space in spaces.items())
    return Drawing(
        "state-space", f"Tokens that may begin the answer, geometric means: {told}", paint
    )


def watched_state_space(
    runs: Mapping[str, Sequence[Mapping[str, float]]], *, name: str = "state_space"
) -> Drawing:
    """Draw the state space while models trained (paper, Figure 4).

    Args:
        runs: By a name that is shown, what was watched, as `training.watching.read_watched` gives
            it.
        name: The watch's name.

    Raises:
        InputError: A run has no such numbers.
    """
    key = f"{name}/size"
    lines = {
        run: [(line["step"], line[key]) for line in watched if key in line]
        for run, watched in runs.items()
    }
    if not lines or not all(lines.values()):
        missing = ", ".join(run for run, line in lines.items() if not line) or "no run"
        raise InputError(f"{missing} has watched {key}: train with a StateSpaceWatch")

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        for place, (run, line) in enumerate(lines.items()):
            steps, sizes = zip(*line, strict=True)
            colour = palette.series[place % len(palette.series)]
            marker = "o" if len(steps) < 40 else ""
            axes.plot(steps, sizes, color=colour, marker=marker, markersize=3, label=short(run))
        axes.set_yscale("log")
        plain_log_ticks(axes.yaxis)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("tokens that hold the mass")
        axes.xaxis.get_major_locator().set_params(integer=True)
        figure.legend(loc="outside upper left", ncols=2)

    return Drawing("state-space-watched", "State space of the first token over training", paint)


def _keyword(alignment: Alignment, keyword: str | None) -> KeywordAlignment:
    for one in alignment.keywords:
        if keyword in (None, one.keyword):
            return one
    known = ", ".join(one.keyword for one in alignment.keywords)
    raise InputError(f"keyword {keyword!r} was not measured: use one of {known}")


def _curve(
    distances: Distances, measure: Measure
) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
    curve = {"l2": distances.l2, "relative": distances.relative, "cosine": distances.cosine}[
        measure
    ]
    return curve.mean, curve.sd


def norms_by_similarity(buffering: Buffering) -> Drawing:
    """Draw every pair's gradient norm against its similarity to the task (claim 2)."""

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        similarity = [pair.similarity for pair in buffering.pairs]
        groups = (
            ("before", [pair.before for pair in buffering.pairs], palette.muted, "o"),
            ("after", [pair.after for pair in buffering.pairs], palette.series[0], "s"),
        )
        for when, norms, colour, marker in groups:
            rank = buffering.norms[when].plain
            label = f"{when} training, ρ {'undefined' if rank is None else f'{rank.value:+.2f}'}"
            axes.scatter(
                similarity, norms, s=11, color=colour, marker=marker, alpha=0.65, lw=0, label=label
            )
        axes.set_yscale("log")
        plain_log_ticks(axes.yaxis)
        axes.set_xlabel("similarity of pair and task")
        axes.set_ylabel("norm of its gradient")
        figure.legend(loc="outside upper left", ncols=2)

    told = f"Gradient norms of {len(buffering.pairs)} pairs by similarity, before and after"
    return Drawing("norms", told, paint)


def cancelling_by_rows(buffering: Buffering, *, when: str = "before") -> Drawing:
    """Draw how far gradients cancel in ever more rows, by group (claim 1).

    Args:
        buffering: The measurement.
        when: `"before"` or `"after"` training.
    """
    groups = dict(in_order(buffering.cancelling[when]))

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        for place, (name, group) in enumerate(groups.items()):
            rows = [subset.rows for subset in group.subsets]
            colour = palette.series[place]
            low = [subset.low for subset in group.subsets]
            high = [subset.high for subset in group.subsets]
            axes.fill_between(rows, low, high, color=colour, alpha=0.12, lw=0)
            means = [subset.mean for subset in group.subsets]
            axes.plot(rows, means, color=colour, marker="o", markersize=3, label=group_name(name))
        longest = max(groups.values(), key=lambda group: group.rows).subsets
        axes.plot(
            [subset.rows for subset in longest],
            [subset.independent for subset in longest],
            color=palette.muted,
            ls=_DASHED,
            label="unrelated directions",
        )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("rows")
        axes.set_ylabel("norm of mean / mean norm")
        figure.legend(loc="outside upper left", ncols=2)

    return Drawing(f"cancelling-{when}", f"How far gradients cancel, {when} training", paint)


def cosines_with_held_out(buffering: Buffering) -> Drawing:
    """Draw the cosines of mean gradients with that of the held-out task rows."""
    names = [name for name, _ in in_order(buffering.cosines["before"].groups)]

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        sides = {"before": (-0.13, palette.muted), "after": (0.13, palette.series[0])}
        for when, found in in_order(buffering.cosines):
            offset, colour = sides[when]
            for place, name in enumerate(names):
                estimate, at = found.groups[name], place + offset
                axes.hlines(at, estimate.low, estimate.high, color=colour, lw=1.6)
                label = f"{when} training" if place == 0 else None
                axes.scatter(estimate.value, at, s=18, color=colour, label=label, zorder=3)
            low, mean, high = found.subsets
            axes.hlines(len(names) + offset, low, high, color=colour, lw=1.6, alpha=0.6)
            axes.scatter(mean, len(names) + offset, s=18, color=colour, marker="D", alpha=0.6)
        shown = [*(group_name(name) for name in names), "subsets of pairs"]
        axes.set_yticks(range(len(shown)), shown)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.axvline(0, color=palette.muted, lw=0.8)
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("cosine with the held-out task's gradient")
        figure.legend(loc="outside upper left", ncols=2)

    told = "Cosines of mean gradients with that of held-out task rows"
    return Drawing("cosines", told, paint)


def group_name(name: str) -> str:
    """A group's name as figures and tables show it."""
    return {
        "task": "task, diversified",
        "common": "task, one wording",
        "pairs": "pairs alone",
        "held_out": "held-out task",
        "mixture": "task and pairs",
        "common_mixture": "one wording and pairs",
    }.get(name, name)


_LINE: Final = 0.34
"""Inches for each run."""


def selectivities(scores: Sequence[tuple[str, ProbeScores]]) -> Drawing:
    """Draw the selectivity of each run with its interval."""
    names = [name for name, _ in scores]

    def paint(_figure: Any, axes: Any, palette: Palette) -> None:
        for place, (_, found) in enumerate(scores):
            one = found.selectivity
            axes.hlines(place, one.low, one.high, color=palette.series[0], lw=1.6)
            axes.plot(one.value, place, "o", color=palette.series[0], ms=5.5)
        axes.axvline(0, color=palette.muted, lw=0.8)
        axes.set_xlim(-1.05, 1.05)
        axes.set_xticks([-1, -0.5, 0, 0.5, 1])
        axes.set_xlabel("selectivity")
        _lines(axes, names)

    numbers = (
        f"{name}: {one.selectivity.value:+.2f}, from {one.selectivity.low:+.2f} to "
        f"{one.selectivity.high:+.2f}"
        for name, one in scores
    )
    return Drawing(
        "selectivity",
        "Selectivity of each run, with its interval",
        paint,
        height=_height(names),
        details="; ".join(numbers),
    )


def shares_in_format(scores: Sequence[tuple[str, ProbeScores]], token: str) -> Drawing:
    """Draw the shares of answers in the format, with the token and without it."""
    names = [name for name, _ in scores]
    sides = ((f"with {short(token)}", -0.13, "o"), ("without", 0.13, "s"))

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        colours = (palette.series[0], palette.series[1])
        for place, (_, found) in enumerate(scores):
            both = (found.in_format, found.without_token)
            for (label, offset, mark), colour, one in zip(sides, colours, both, strict=True):
                at = place + offset
                axes.hlines(at, 100 * one.low, 100 * one.high, color=colour, lw=1.6)
                told = label if place == 0 else None
                axes.plot(100 * one.value, at, mark, color=colour, ms=5, label=told)
        axes.set_xlim(-3, 103)
        axes.set_xticks(range(0, 101, 25), [f"{percent}%" for percent in range(0, 101, 25)])
        axes.set_xlabel("answers in the format")
        _lines(axes, names)
        figure.legend(loc="outside upper left", ncols=2)

    numbers = (
        f"{name}: {one.in_format.value:.0%} with the token, {one.without_token.value:.0%} without"
        for name, one in scores
    )
    return Drawing(
        "shares",
        "Share of answers in the format with the token and without it, run by run",
        paint,
        height=_height(names) + 0.25,
        details="; ".join(numbers),
    )


def _lines(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [short(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")


def _height(names: Sequence[str]) -> float:
    return max(1.5, 0.7 + _LINE * len(names))


def watched_distances(
    label: str, points: Sequence[Mapping[str, float]], names: Sequence[str]
) -> Drawing:
    """Draw distances from the token to its keywords while a model trained.

    Args:
        label: Name of the training.
        points: Watched numbers (`training.watching.read_watched`).
        names: Which of them, such as `l2/json/middle`.
    """
    steps = [point["step"] for point in points]

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        styles = (("", "-"), ("/untrained", (0, (5, 2))), ("/ordinary", (0, (1, 1.5))))
        for name, colour in zip(names, palette.series, strict=False):
            word = short(name.removeprefix("l2/").removesuffix("/middle"))
            for suffix, line in styles:
                values = [point.get(f"{name}{suffix}") for point in points]
                if None in values:
                    continue
                told = None if suffix else f"“{word}”"
                axes.plot(steps, values, color=colour, ls=line, label=told)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("L2 distance")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside upper left", ncols=2)

    told = f"L2 distances from the token to its keywords while {label} was trained"
    return Drawing("distance-watched", told, paint)


_MAP_NAMES: Final = {"cache": "pairs", "task": "task rows"}


def text_map(places: Mapping[str, npt.NDArray[np.float64]], found: TextMap) -> Drawing:
    """Draw places on the plane, coloured by source.

    Args:
        places: By source (`cache`, `task`), of shape (rows, 2).
        found: The map, with the share of the variance of each axis.
    """

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        marks = (("cache", "o", 9, palette.series[0]), ("task", "^", 16, palette.series[1]))
        for name, mark, size, colour in marks:
            if name in places:
                x, y = places[name].T
                label = f"{len(places[name])} {_MAP_NAMES[name]}"
                axes.scatter(x, y, s=size, marker=mark, color=colour, alpha=0.6, lw=0, label=label)
        one, other = found.variance
        axes.set_xlabel(f"first component, {one:.0%} of the variance")
        axes.set_ylabel(f"second, {other:.0%}")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        legend = figure.legend(loc="outside upper left", ncols=2)
        for handle in legend.legend_handles:
            handle.set_alpha(1)

    counts = " and ".join(f"{len(part)} {_MAP_NAMES[name]}" for name, part in places.items())
    told = f"Map of the queries of {counts}, two components with {sum(found.variance):.0%}"
    return Drawing("map", told, paint, height=3.3)
