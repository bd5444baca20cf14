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
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from delia_data._optional import require
from delia_data.errors import InputError
from delia_data.evaluation.bootstrap import Estimate
from delia_data.evaluation.gradients import GROUP_TITLES, WHENS, Buffering
from delia_data.evaluation.representation import Alignment
from delia_data.evaluation.state_space import StateSpace
from delia_data.outputs import atomic_path
from delia_data.sampling.embeddings import TextMap

if TYPE_CHECKING:
    from delia_data.evaluation.measuring import Measurements

# Characters that HTML forbids or UTF-8 cannot encode, such as halves of surrogate pairs, and those
# that change the direction of all text after them.
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def printable(text: str) -> str:
    """Replace characters that no page can show by U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)


def short(word: str) -> str:
    """Return a word that fits into a legend."""
    return printable(word if len(word) <= 20 else f"{word[:19]}…")


@dataclass(frozen=True, slots=True)
class Palette:
    """Colors to draw with.

    Attributes:
        ink: Text and emphasis.
        muted: Axes and controls.
        rule: Grid.
        series: Six colors of compared series.
        paper: Background; None for a transparent one.
        panel: Background of separate parts.
        good: Words that say that a value is as it should be.
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
"""Colors that are replaced by the page's variables in a figure's markup."""

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


def _variables(palette: Palette) -> dict[str, str]:
    """Return the colors by the names of the page's variables."""
    named = {name: getattr(palette, name) for name in ("paper", "ink", "muted", "rule")}
    named |= {"panel": palette.panel, "good": palette.good}
    named |= {f"s{number}": color for number, color in enumerate(palette.series, start=1)}
    return {name: color for name, color in named.items() if color}


def style_variables(palette: Palette) -> str:
    """Return a palette as variables of a style sheet: `--ink`, ..., `--s1` to `--s6`."""
    return " ".join(f"--{name}: {color};" for name, color in _variables(palette).items())


_WIDTH_INCHES: Final = 4.3
_HEIGHT_INCHES: Final = 3.0
_PNG_DPI: Final = 200
_LOG_TICKS: Final = (
    (2.2, (1.0,)),
    (1.1, (1.0, 3.0)),
    (0.0, (1.0, 2.0, 3.0, 5.0, 7.0)),
)
"""Labels within a decade of a logarithmic axis, by the smallest number of decades it spans."""
_DASHED: Final = (0, (3, 2))
_DOTTED: Final = (0, (1, 1.5))


@dataclass(frozen=True)
class Drawing:
    """A figure that can be written as SVG or PNG.

    Attributes:
        name: Its name among the figures of a page.
        description: Text for screen readers.
        paint: Draws it: takes the figure, its axes and the colors.
        height: Height in inches; the width is 4.3.
        details: More text for screen readers, such as the numbers.
    """

    name: str
    description: str
    paint: Callable[[Any, Any, Palette], None]
    height: float = _HEIGHT_INCHES
    details: str = ""

    def svg(self, name: str | None = None) -> str:
        """Return the figure as markup for a page.

        Args:
            name: Prefix of all ids, unique in the page; default: its own name.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        file = io.StringIO()
        with figure_in_style(STAND_INS, height=self.height) as figure:
            self.paint(figure, figure.add_subplot(), STAND_INS)
            metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            figure.savefig(file, format="svg", transparent=True, metadata=metadata)
        prefix = "".join(c if c.isalnum() and c.isascii() else "-" for c in name or self.name)
        drawn = file.getvalue()
        drawn = drawn[drawn.index("<svg") :]
        drawn = re.sub(
            r"<style.*?</style>|<!--.*?-->|<metadata.*?</metadata>", "", drawn, flags=re.S
        )
        drawn = re.sub(r"font-family: [^;]*; ", "", drawn)
        drawn = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", drawn)
        for variable, stand_in in _variables(STAND_INS).items():
            drawn = drawn.replace(stand_in, f"var(--{variable})")
        view = re.search(r'viewBox="[^"]*"', drawn)
        box = view.group() if view else ""
        opening = f'<svg role="img" aria-labelledby="{prefix}-title" {box}>'
        opening += f'<title id="{prefix}-title">{html.escape(printable(self.description))}</title>'
        if self.details:
            opening += f"<desc>{html.escape(printable(self.details))}</desc>"
        return opening + drawn[drawn.index(">") + 1 :].strip()

    def png(self, path: str | os.PathLike[str]) -> None:
        """Write the figure as a PNG file on white.

        Raises:
            MissingExtraError: matplotlib is not installed.
            OutputError: The file cannot be written.
        """
        with figure_in_style(LIGHT, height=self.height) as figure:
            self.paint(figure, figure.add_subplot(), LIGHT)
            save_png(figure, path)


@contextmanager
def figure_in_style(
    palette: Palette, width: float = _WIDTH_INCHES, height: float = _HEIGHT_INCHES
) -> Iterator[Any]:
    """Yield a figure of a size in inches, in one style regardless of the user's settings."""
    matplotlib = require("matplotlib", extra="train")
    figure_class = require("matplotlib.figure", extra="train").Figure
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_style(palette))
        yield figure_class(figsize=(width, height), layout="constrained")


def save_png(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a figure as a PNG file on white; equal figures give equal bytes.

    Raises:
        OutputError: The file cannot be written.
    """
    with atomic_path(path) as part:
        metadata = {"Software": None}
        figure.savefig(part, format="png", dpi=_PNG_DPI, facecolor=LIGHT.paper, metadata=metadata)


def plain_log_ticks(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers, at 1, 2, 3, 5, 7, 10, ... or fewer."""
    ticker: Any = require("matplotlib.ticker", extra="train")

    def tick_values(locator: Any, vmin: float, vmax: float) -> Any:
        """Return ticks whose labels fit, regardless of the range."""
        decades = math.log10(vmax / vmin) if 0 < vmin < vmax else 1.0
        subs = next((few for least, few in _LOG_TICKS if decades > least), (1.0,))
        locator.set_params(subs=subs)
        return ticker.LogLocator.tick_values(locator, vmin, vmax)

    thinned: Any = type("Thinned", (ticker.LogLocator,), {"tick_values": tick_values})
    axis.set_major_locator(thinned())
    axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axis.set_minor_locator(ticker.NullLocator())


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


def _legend(figure: Any, **options: Any) -> None:
    figure.legend(loc="outside upper left", ncols=2, **options)


def _steps_axis(axes: Any, label: str) -> None:
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(label)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    """Turn the vertical axis into one row per name, from top to bottom."""
    axes.set_yticks(range(len(names)), [short(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")


def _intervals(
    axes: Any,
    estimates: Sequence[Estimate],
    color: str,
    *,
    offset: float = 0,
    scale: float = 1,
    marker: str = "o",
    label: str | None = None,
) -> None:
    """Draw an estimate with its interval in each row."""
    rows = [row + offset for row in range(len(estimates))]
    lows, highs, values = ([scale * getattr(e, end) for e in estimates] for end in _ENDS)
    axes.hlines(rows, lows, highs, color=color, lw=1.6)
    axes.plot(values, rows, marker, color=color, ms=5, label=label)


_ENDS: Final = ("low", "high", "value")
_SOURCES: Final = {"loss_task": "task rows", "loss_pairs": "pairs", "loss": "all rows"}
_SPAN: Final = 15
"""Logged steps averaged into a line, if there are many."""


def loss_curve(losses: Sequence[Mapping[str, Any]]) -> Drawing:
    """Draw the loss of a training by source, with running means (paper, Figure 3).

    Args:
        losses: Logged steps: `step`, `loss`, and `loss_task` or `loss_pairs` if the step had such
            rows.
    """
    lines = {
        label: [(p["step"], p[key]) for p in losses if math.isfinite(p.get(key, math.nan))]
        for key, label in _SOURCES.items()
    }
    if (lines["task rows"] and lines["pairs"]) or not lines["all rows"]:
        lines.pop("all rows")  # It is between the two.
    else:
        lines = {"all rows": lines["all rows"]}
    lines = {label: points for label, points in lines.items() if points}

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        for (label, points), color in zip(lines.items(), palette.series, strict=False):
            steps, values = zip(*points, strict=True)
            many = len(points) >= 3 * _SPAN
            if many:
                axes.plot(steps, values, ".", color=color, ms=3.5, alpha=0.5, mew=0)
            mean = _running_mean(values, _SPAN if many else 1)
            marker = "" if many else "o"
            axes.plot(steps, mean, color=color, marker=marker, markersize=3, label=label)
        _steps_axis(axes, "loss, nats per token")
        if lines:
            axes.set_ylim(bottom=0)
            _legend(figure)

    ends = "; ".join(
        f"{label}: {points[0][1]:.3g} at step {points[0][0]:g}, {points[-1][1]:.3g} at step "
        f"{points[-1][0]:g}"
        for label, points in lines.items()
    )
    return Drawing("losses", "Loss over the training, by source", paint, details=ends)


def _running_mean(values: Sequence[float], span: int) -> list[float]:
    """Return the means of each value and those before it, `span` values at most."""
    return [
        math.fsum(values[max(0, end - span) : end]) / min(span, end)
        for end in range(1, len(values) + 1)
    ]


def watched_state_space(
    runs: Mapping[str, Sequence[Mapping[str, float]]], *, name: str = "state_space"
) -> Drawing:
    """Draw the state space over trainings (paper, Figure 4).

    Args:
        runs: By a name to show, the result of `training.watching.read_watched`.
        name: Name of the watch.

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
        for number, (run, line) in enumerate(lines.items()):
            steps, sizes = zip(*line, strict=True)
            color = palette.series[number % len(palette.series)]
            marker = "o" if len(steps) < 40 else ""
            axes.plot(steps, sizes, color=color, marker=marker, markersize=3, label=short(run))
        axes.set_yscale("log")
        plain_log_ticks(axes.yaxis)
        _steps_axis(axes, "tokens that have the mass")
        _legend(figure)

    return Drawing("state-space-watched", "State space of the first token over training", paint)


def watched_distances(
    label: str, points: Sequence[Mapping[str, float]], names: Sequence[str]
) -> Drawing:
    """Draw distances from the token to its keywords over a training.

    Args:
        label: Name of the training.
        points: Watched numbers (`training.watching.read_watched`).
        names: Names of the numbers to draw, such as `l2/json/middle`.
    """
    steps = [point["step"] for point in points]

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        styles = (("", "-"), ("/untrained", (0, (5, 2))), ("/ordinary", _DOTTED))
        for name, color in zip(names, palette.series, strict=False):
            word = short(name.removeprefix("l2/").removesuffix("/middle"))
            for suffix, line in styles:
                values = [point.get(f"{name}{suffix}") for point in points]
                if None not in values:
                    legend = None if suffix else f"“{word}”"
                    axes.plot(steps, values, color=color, ls=line, label=legend)
        _steps_axis(axes, "L2 distance")
        axes.set_ylim(bottom=0)
        _legend(figure)

    description = f"L2 distances from the token to its keywords while {label} was trained"
    return Drawing("distance-watched", description, paint)


class MeasurementFigure(NamedTuple):
    """A figure of measurements with the name of the measurement, a title and a caption."""

    measure: str
    drawing: Drawing
    title: str
    caption: str


def measurement_figures(measurements: Measurements) -> Iterator[MeasurementFigure]:
    """Yield a figure of everything that was measured."""
    if representation := measurements.representation:
        for word in representation["after"].keywords:
            drawing = alignment_by_block(
                representation["after"], representation["before"], word.keyword
            )
            yield MeasurementFigure(
                "representation",
                drawing,
                f"{measurements.token} and “{short(word.keyword)}”",
                "L2 divided by that between ordinary words; bands are one standard deviation over "
                "the contexts, and the range of ordinary words.",
            )
    if measurements.state_space:
        spaces = {
            f"{when}, {which}": space
            for when, by_which in measurements.state_space.items()
            for which, space in by_which.items()
        }
        yield MeasurementFigure(
            "state-space",
            state_space_sizes(spaces),
            "State space at the start of the answer",
            f"Tokens that have {spaces['after, with'].mass:.0%} of the probability, row by row; "
            "bars are means.",
        )
    if buffering := measurements.buffering:
        yield MeasurementFigure(
            "buffering",
            cosines_with_held_out(buffering),
            "Gradient cosines",
            "Cosines of mean gradients with that of held-out task rows; lines are 95% intervals, "
            "diamonds random subsets of pairs.",
        )
        yield MeasurementFigure(
            "buffering",
            norms_by_similarity(buffering),
            "Gradient norms by similarity",
            "Each pair, before and after; ρ is Spearman’s rank correlation.",
        )
        for when in WHENS:
            yield MeasurementFigure(
                "buffering",
                cancellation_by_rows(buffering, when),
                f"How gradients cancel, {when} training",
                "Norm of the mean divided by mean of the norms, for more and more rows; low values "
                "mean canceling.",
            )


def alignment_by_block(after: Alignment, before: Alignment, keyword: str) -> Drawing:
    """Draw the token's distance to one keyword in every block, with controls (paper, Figure 2).

    Args:
        after: Alignment of the trained model.
        before: Alignment before training.
        keyword: The keyword, one of those measured.
    """
    new, old = (next(k for k in a.keywords if k.keyword == keyword) for a in (after, before))

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        curve, band, color = new.token.relative, new.ordinary["relative"], palette.series[0]
        blocks = range(1, len(curve.mean) + 1)
        words = f"{len(after.controls)} ordinary words"
        token = short(after.token)
        lines = [
            (band.mean, palette.muted, "-", words),
            *(
                (distances.relative.mean, palette.series[1], style, f"untrained token ({how})")
                for (how, distances), style in zip(
                    new.untrained.items(), (_DASHED, _DOTTED), strict=False
                )
            ),
            (old.token.relative.mean, color, _DASHED, f"{token} before"),
            (curve.mean, color, "-", f"{token} after"),
        ]
        marker = "o" if len(blocks) == 1 else ""
        for values, line_color, style, label in lines:
            axes.plot(blocks, values, color=line_color, ls=style, marker=marker, label=label)
        axes.fill_between(blocks, band.low, band.high, color=palette.muted, alpha=0.15, lw=0)
        if curve.sd is not None:
            mean, sd = np.asarray(curve.mean), np.asarray(curve.sd)
            axes.fill_between(blocks, mean - sd, mean + sd, color=color, alpha=0.2, lw=0)
        axes.set_xlabel("transformer block")
        axes.set_ylabel("L2 / ordinary median")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0)
        _legend(figure, title=f"distance to “{short(keyword)}” of", alignment="left")

    description = f"L2 from {after.token} to {keyword} in every block, with controls"
    return Drawing(f"alignment-{keyword}", description, paint)


def state_space_sizes(spaces: Mapping[str, StateSpace]) -> Drawing:
    """Draw the state space of every row, one line of dots per group (paper, Figure 4).

    Args:
        spaces: By a name to show, such as `"before, with <sep>"`; at least one.
    """

    def paint(_figure: Any, axes: Any, palette: Palette) -> None:
        for row, (name, space) in enumerate(spaces.items()):
            color = palette.series[0] if "after" in name else palette.muted
            sizes = sorted(each.size for each in space.rows)
            # Dots of equal sizes are spread out instead of drawn on top of each other.
            heights = [row + 0.5 * (i / max(1, len(sizes) - 1) - 0.5) for i in range(len(sizes))]
            axes.scatter(sizes, heights, s=8, color=color, alpha=0.6, lw=0)
            axes.vlines(space.size, row - 0.35, row + 0.35, color=palette.ink, lw=1.6)
        axes.set_xscale("log")
        plain_log_ticks(axes.xaxis)
        axes.set_xlim(left=0.8)
        _name_rows(axes, list(spaces))
        mass = next(iter(spaces.values())).mass
        axes.set_xlabel(f"tokens that have {mass:.0%} of the probability")

    means = ", ".join(f"{name} {space.size:.1f}" for name, space in spaces.items())
    return Drawing(
        "state-space", f"Tokens that may begin the answer, geometric means: {means}", paint
    )


def norms_by_similarity(buffering: Buffering) -> Drawing:
    """Draw every pair's gradient norm against its similarity to the task (claim 2)."""

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        similarity = [pair.similarity for pair in buffering.pairs]
        looks = {"before": (palette.muted, "o"), "after": (palette.series[0], "s")}
        for when, (color, marker) in looks.items():
            norms = [getattr(pair, when) for pair in buffering.pairs]
            rank = buffering.norms[when].plain
            label = f"{when} training, ρ {'undefined' if rank is None else f'{rank.value:+.2f}'}"
            look = {"s": 11, "color": color, "marker": marker, "alpha": 0.65, "lw": 0}
            axes.scatter(similarity, norms, label=label, **look)
        axes.set_yscale("log")
        plain_log_ticks(axes.yaxis)
        axes.set_xlabel("similarity of pair and task")
        axes.set_ylabel("norm of its gradient")
        _legend(figure)

    description = f"Gradient norms of {len(buffering.pairs)} pairs by similarity, before and after"
    return Drawing("norms", description, paint)


def cancellation_by_rows(buffering: Buffering, when: str) -> Drawing:
    """Draw how far gradients cancel in more and more rows, by group (claim 1).

    Args:
        buffering: The measurement.
        when: `"before"` or `"after"` training.
    """
    groups = buffering.cancelling[when]

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        for (name, group), color in zip(groups.items(), palette.series, strict=False):
            rows, mean, low, high = zip(
                *((s.rows, s.mean, s.low, s.high) for s in group.subsets), strict=True
            )
            axes.fill_between(rows, low, high, color=color, alpha=0.12, lw=0)
            axes.plot(rows, mean, color=color, marker="o", markersize=3, label=GROUP_TITLES[name])
        longest = max(groups.values(), key=lambda group: group.rows).subsets
        unrelated = [(subset.rows, subset.independent) for subset in longest]
        look = {"color": palette.muted, "ls": _DASHED, "label": "unrelated directions"}
        axes.plot(*zip(*unrelated, strict=True), **look)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("rows")
        axes.set_ylabel("norm of mean / mean norm")
        _legend(figure)

    return Drawing(f"canceling-{when}", f"How far gradients cancel, {when} training", paint)


def cosines_with_held_out(buffering: Buffering) -> Drawing:
    """Draw the cosines of mean gradients with that of the held-out task rows."""
    names = list(buffering.cosines["before"].groups)

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        looks = {"before": (-0.13, palette.muted), "after": (0.13, palette.series[0])}
        for when, (offset, color) in looks.items():
            cosines = buffering.cosines[when]
            estimates = [cosines.groups[name] for name in names]
            _intervals(axes, estimates, color, offset=offset, label=f"{when} training")
            (low, mean, high), row = cosines.subsets, len(names) + offset
            axes.hlines(row, low, high, color=color, lw=1.6, alpha=0.6)
            axes.scatter(mean, row, s=18, color=color, marker="D", alpha=0.6)
        _name_rows(axes, [*(GROUP_TITLES[name] for name in names), "subsets of pairs"])
        axes.axvline(0, color=palette.muted, lw=0.8)
        axes.set_xlabel("cosine with the held-out task's gradient")
        _legend(figure)

    description = "Cosines of mean gradients with that of held-out task rows"
    return Drawing("cosines", description, paint)


def follow_leak_obey(scores: Sequence[tuple[str, Mapping[str, Estimate]]]) -> Drawing:
    """Draw follow, leak and obey of each run or bound, as far as they are known.

    Args:
        scores: Name of each run, and its numbers by name.
    """
    names = ("follow", "leak", "obey")

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        looks = zip(names, (-0.2, 0.0, 0.2), ("o", "s", "^"), palette.series, strict=False)
        for name, offset, marker, color in looks:
            known = [(row, one[name]) for row, (_, one) in enumerate(scores) if name in one]
            for number, (row, estimate) in enumerate(known):
                look: dict[str, Any] = {"marker": marker, "label": None if number else name}
                _intervals(axes, [estimate], color, scale=100, offset=row + offset, **look)
        axes.set_xlim(-3, 103)
        axes.set_xticks(range(0, 101, 25), [f"{percent}%" for percent in range(0, 101, 25)])
        axes.set_xlabel("share of answers")
        _name_rows(axes, [name for name, _ in scores])
        _legend(figure)

    numbers = "; ".join(
        f"{run}: " + ", ".join(f"{name} {one[name].value:.0%}" for name in names if name in one)
        for run, one in scores
    )
    title = "Share of answers that follow the token, leak the format, and obey its prohibition"
    return Drawing("numbers", title, paint, _height_of_rows(len(scores)) + 0.4, numbers)


def _height_of_rows(rows: int) -> float:
    return max(1.5, 0.7 + 0.34 * rows)


_MAP_NAMES: Final = {"cache": "pairs", "task": "task rows"}


def text_map(places: Mapping[str, npt.NDArray[np.float64]], found: TextMap) -> Drawing:
    """Draw texts on a plane, colored by source.

    Args:
        places: Coordinates by source (`cache`, `task`), of shape (rows, 2).
        found: The map, with the share of the variance of each axis.
    """

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        looks = (("cache", "o", 9, palette.series[0]), ("task", "^", 16, palette.series[1]))
        for name, marker, size, color in looks:
            if name in places:
                x, y = places[name].T
                label = f"{len(places[name])} {_MAP_NAMES[name]}"
                look = {"s": size, "marker": marker, "color": color, "alpha": 0.6, "lw": 0}
                axes.scatter(x, y, label=label, **look)
        axes.set_xlabel(f"first component, {found.variance[0]:.0%} of the variance")
        axes.set_ylabel(f"second, {found.variance[1]:.0%}")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        legend = figure.legend(loc="outside upper left", ncols=2)
        for handle in legend.legend_handles:
            handle.set_alpha(1)

    counts = " and ".join(f"{len(part)} {_MAP_NAMES[name]}" for name, part in places.items())
    title = f"Map of the queries of {counts}, two components with {sum(found.variance):.0%}"
    return Drawing("map", title, paint, height=3.3)
