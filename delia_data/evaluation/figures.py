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
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from delia_data._optional import require
from delia_data.evaluation.bootstrap import Estimate
from delia_data.outputs import atomic_path
from delia_data.sampling.embeddings import TextMap

if TYPE_CHECKING:
    pass

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
DASHED: Final = (0, (3, 2))
DOTTED: Final = (0, (1, 1.5))


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
        figure.savefig(part, format="png", dpi=200, facecolor=LIGHT.paper, metadata=metadata)


def plain_log_ticks(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers: the fewer, the more decades it spans."""
    ticker: Any = require("matplotlib.ticker", extra="train")

    class Thinned(ticker.LogLocator):  # type: ignore[misc]
        def tick_values(self, vmin: float, vmax: float) -> Any:
            decades = math.log10(vmax / vmin) if 0 < vmin < vmax else 1.0
            few = (1, 3) if decades > 1.1 else (1, 2, 3, 5, 7)
            self.set_params(subs=(1,) if decades > 2.2 else few)
            return super().tick_values(vmin, vmax)

    axis.set_major_locator(Thinned())
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


def put_legend(figure: Any, **options: Any) -> Any:
    """Put the legend above the axes."""
    return figure.legend(loc="outside upper left", ncols=2, **options)


def _steps_axis(axes: Any, label: str) -> None:
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(label)
    axes.xaxis.get_major_locator().set_params(integer=True)


def name_rows(axes: Any, names: Sequence[str]) -> None:
    """Turn the vertical axis into one row per name, from top to bottom."""
    axes.set_yticks(range(len(names)), [short(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")


def draw_intervals(
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
    rows = np.arange(len(estimates)) + offset
    low, high, value = scale * np.asarray([(e.low, e.high, e.value) for e in estimates]).T
    axes.hlines(rows, low, high, color=color, lw=1.6)
    axes.plot(value, rows, marker, color=color, ms=5, label=label)


_SOURCES: Final = {"loss_task": "task rows", "loss_pairs": "pairs", "loss": "all rows"}
_SPAN: Final = 15
"""Logged steps averaged into a line, if there are many."""


def loss_curve(losses: Sequence[Mapping[str, Any]]) -> Drawing:
    """Draw the loss of a training by source, with running means (paper, Figure 3).

    Args:
        losses: Logged steps: `step`, `loss`, and `loss_task` or `loss_pairs` if the step had such
            rows.
    """
    lines = {label: _line(losses, key) for key, label in _SOURCES.items()}
    if lines["task rows"] and lines["pairs"]:
        lines.pop("all rows")  # It is between the two.
    elif lines["all rows"]:
        lines = {"all rows": lines["all rows"]}
    lines = {label: points for label, points in lines.items() if points}

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        for (label, points), color in zip(lines.items(), palette.series, strict=False):
            steps, values = np.asarray(points).T
            look = {"color": color, "label": label}
            if len(points) < 3 * _SPAN:
                axes.plot(steps, values, "o-", markersize=3, **look)
                continue
            axes.plot(steps, values, ".", color=color, ms=3.5, alpha=0.5, mew=0)
            sums = np.cumsum([0.0, *values])
            ends = np.arange(1, len(values) + 1)
            begins = np.maximum(0, ends - _SPAN)
            axes.plot(steps, (sums[ends] - sums[begins]) / (ends - begins), **look)
        _steps_axis(axes, "loss, nats per token")
        if lines:
            axes.set_ylim(bottom=0)
            put_legend(figure)

    return Drawing("losses", "Loss over the training, by source", paint, details=_ends(lines))


_HELD_OUT: Final = {
    "eval_loss_task": "held-out task rows",
    "eval_loss_pairs": "held-out pairs",
}
_SIDE_EFFECTS: Final = {"eval_leak": "leak, share of answers", "eval_keep": "keep, KL in nats"}


def held_out_curves(
    points: Sequence[Mapping[str, float]], *, best_step: int | None = None
) -> list[Drawing]:
    """Draw the loss on held-out rows over a training, and its leak and keep.

    Args:
        points: Watched numbers (`training.watching.read_watched`).
        best_step: Step whose checkpoint was kept, if it was selected.

    Returns:
        The figures of which there are numbers.
    """
    kinds = {
        "held-out": ("Held-out loss over the training", "loss, nats per token", _HELD_OUT),
        "side-effects": ("Leak and keep over the training", "leak and KL", _SIDE_EFFECTS),
    }
    drawn = []
    for name, (title, axis, known) in kinds.items():
        lines = {label: line for key, label in known.items() if (line := _line(points, key))}
        if lines:
            drawn.append(_curves(name, title, axis, lines, best_step))
    return drawn


def _line(points: Sequence[Mapping[str, float]], key: str) -> list[tuple[float, float]]:
    return [(p["step"], p[key]) for p in points if math.isfinite(p.get(key, math.nan))]


def _curves(
    name: str,
    title: str,
    axis: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    best_step: int | None,
) -> Drawing:
    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        for (label, line), color in zip(lines.items(), palette.series, strict=False):
            steps, values = np.asarray(line).T
            axes.plot(steps, values, "o-", markersize=3, color=color, label=label)
        if best_step is not None:
            axes.axvline(best_step, color=palette.muted, ls=DOTTED, label="checkpoint kept")
        _steps_axis(axes, axis)
        axes.set_ylim(bottom=0)
        put_legend(figure)

    return Drawing(name, title, paint, details=_ends(lines))


def _ends(lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    return "; ".join(
        f"{label}: {points[0][1]:.3g} at step {points[0][0]:g}, {points[-1][1]:.3g} at step "
        f"{points[-1][0]:g}"
        for label, points in lines.items()
    )


def watched_state_space(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> Drawing:
    """Draw the state space over trainings (paper, Figure 4).

    Args:
        runs: By a name to show, the result of `training.watching.read_watched`.
    """
    key = "state_space/size"

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        for number, (run, watched) in enumerate(runs.items()):
            steps, sizes = zip(*((p["step"], p[key]) for p in watched if key in p), strict=True)
            color = palette.series[number % len(palette.series)]
            marker = "o" if len(steps) < 40 else ""
            axes.plot(steps, sizes, color=color, marker=marker, markersize=3, label=short(run))
        axes.set_yscale("log")
        plain_log_ticks(axes.yaxis)
        _steps_axis(axes, "tokens that have the mass")
        put_legend(figure)

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
        for name, color in zip(names, palette.series, strict=False):
            word = short(name.removeprefix("l2/").removesuffix("/middle"))
            for suffix, line in (("", "-"), ("/untrained", DASHED), ("/ordinary", DOTTED)):
                values = [point.get(f"{name}{suffix}") for point in points]
                if None not in values:
                    legend = None if suffix else f"“{word}”"
                    axes.plot(steps, values, color=color, ls=line, label=legend)
        _steps_axis(axes, "L2 distance")
        axes.set_ylim(bottom=0)
        put_legend(figure)

    description = f"L2 distances from the token to its keywords while {label} was trained"
    return Drawing("distance-watched", description, paint)


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
                draw_intervals(axes, [estimate], color, scale=100, offset=row + offset, **look)
        axes.set_xlim(-3, 103)
        axes.set_xticks(range(0, 101, 25), [f"{percent}%" for percent in range(0, 101, 25)])
        axes.set_xlabel("share of answers")
        name_rows(axes, [name for name, _ in scores])
        put_legend(figure)

    numbers = "; ".join(
        f"{run}: " + ", ".join(f"{name} {one[name].value:.0%}" for name in names if name in one)
        for run, one in scores
    )
    title = "Share of answers that follow the token, leak the format, and obey its prohibition"
    return Drawing("numbers", title, paint, max(1.5, 0.7 + 0.34 * len(scores)) + 0.4, numbers)


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
        for handle in put_legend(figure).legend_handles:
            handle.set_alpha(1)

    counts = " and ".join(f"{len(part)} {_MAP_NAMES[name]}" for name, part in places.items())
    title = f"Map of the queries of {counts}, two components with {sum(found.variance):.0%}"
    return Drawing("map", title, paint, height=3.3)
