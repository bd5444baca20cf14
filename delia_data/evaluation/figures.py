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
from itertools import cycle
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from delia_data._optional import require
from delia_data.evaluation.bootstrap import Estimate
from delia_data.evaluation.gradients import GROUP_TITLES, WHENS, Buffering
from delia_data.evaluation.representation import Alignment, StateSpace
from delia_data.outputs import atomic_path

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


_SPAN: Final = 15
"""Logged steps averaged into a line, if there are many."""
_MANY: Final = 40
"""Points from which a line has no markers."""
_SOURCES: Final = {"task rows": "loss_task", "pairs": "loss_pairs", "all rows": "loss"}
_HELD_OUT: Final = {"held-out task rows": "eval_loss_task", "held-out pairs": "eval_loss_pairs"}
_SIDE_EFFECTS: Final = {"leak, share": "eval_leak", "keep, KL in nats": "eval_keep"}
_STATES: Final = "state_space/size"

Logged = Sequence[Mapping[str, float]]
"""Numbers of a training by name, one mapping for each logged step."""
Points = Sequence[tuple[float, float]]
"""Steps, each with a number."""


def loss_curve(losses: Logged) -> Drawing:
    """Draw the loss of a training by source, with running means (paper, Figure 3).

    Args:
        losses: Logged steps: `step`, `loss`, and `loss_task` or `loss_pairs` if the step had such
            rows.
    """
    lines = _lines(losses, _SOURCES)
    if {"task rows", "pairs"} <= lines.keys():
        lines.pop("all rows")  # It is between the two.
    elif "all rows" in lines:
        lines = {"all rows": lines["all rows"]}
    title, axis = "Loss over the training, by source", "loss, nats per token"
    return _over_steps("losses", title, axis, lines, means=True)


def held_out_curves(points: Logged, *, best_step: int | None = None) -> list[Drawing]:
    """Draw the loss on held-out rows over a training, and its leak and keep.

    Args:
        points: Watched numbers (`training.watching.read_watched`).
        best_step: Step whose checkpoint was kept, if it was selected.

    Returns:
        The figures of which there are numbers.
    """
    figures = (
        ("held-out", "Held-out loss over the training", "loss, nats per token", _HELD_OUT),
        ("side-effects", "Leak and keep over the training", "leak and KL", _SIDE_EFFECTS),
    )
    return [
        _over_steps(name, title, axis, lines, best_step=best_step)
        for name, title, axis, keys in figures
        if (lines := _lines(points, keys))
    ]


def watched_state_space(runs: Mapping[str, Logged]) -> Drawing:
    """Draw the state space over trainings (paper, Figure 4).

    Args:
        runs: By a name to show, the result of `training.watching.read_watched`.
    """
    lines = {run: _lines(points, {run: _STATES})[run] for run, points in runs.items()}
    title = "State space of the first token over training"
    axis = "tokens that have the mass"
    return _over_steps("state-space-watched", title, axis, lines, log=True)


def _lines(points: Logged, keys: Mapping[str, str]) -> dict[str, Points]:
    """Return the steps and numbers of each key that has finite ones, by label."""
    lines = {
        label: [(p["step"], p[key]) for p in points if math.isfinite(p.get(key, math.nan))]
        for label, key in keys.items()
    }
    return {label: line for label, line in lines.items() if line}


def _over_steps(
    name: str,
    title: str,
    axis: str,
    lines: Mapping[str, Points],
    *,
    best_step: int | None = None,
    means: bool = False,
    log: bool = False,
) -> Drawing:
    """Draw numbers over the steps of a training; with `means`, many points as running means."""

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        for (label, line), color in zip(lines.items(), cycle(palette.series), strict=False):
            steps, values = np.asarray(line).T
            marker = "o" if len(line) < _MANY else ""
            if means and len(line) >= _MANY:
                axes.plot(steps, values, ".", color=color, ms=3.5, alpha=0.5, mew=0)
                sums = np.cumsum([0.0, *values])
                ends = np.arange(1, len(values) + 1)
                begins = np.maximum(0, ends - _SPAN)
                values = (sums[ends] - sums[begins]) / (ends - begins)
            look = {"color": color, "marker": marker, "markersize": 3}
            axes.plot(steps, values, label=short(label), **look)
        if best_step is not None:
            axes.axvline(best_step, color=palette.muted, ls=DOTTED, label="checkpoint kept")
        _steps_axis(axes, axis)
        if log:
            axes.set_yscale("log")
            plain_log_ticks(axes.yaxis)
        else:
            axes.set_ylim(bottom=0)
        if lines:
            put_legend(figure)

    details = "; ".join(
        f"{label}: {line[0][1]:.3g} at step {line[0][0]:g}, {line[-1][1]:.3g} at step "
        f"{line[-1][0]:g}"
        for label, line in lines.items()
    )
    return Drawing(name, title, paint, details=details)


def watched_distances(label: str, points: Logged, names: Sequence[str]) -> Drawing:
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
            measured = [(row, one[name]) for row, (_, one) in enumerate(scores) if name in one]
            for number, (row, estimate) in enumerate(measured):
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


def text_map(places: Mapping[str, npt.NDArray[np.float64]], variance: Sequence[float]) -> Drawing:
    """Draw texts on a plane, colored by source.

    Args:
        places: Coordinates by source (`cache`, `task`), of shape (rows, 2).
        variance: Share of the variance that each axis has.
    """

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        looks = (("cache", "o", 9, palette.series[0]), ("task", "^", 16, palette.series[1]))
        for name, marker, size, color in looks:
            if name in places:
                x, y = places[name].T
                label = f"{len(places[name])} {_MAP_NAMES[name]}"
                look = {"s": size, "marker": marker, "color": color, "alpha": 0.6, "lw": 0}
                axes.scatter(x, y, label=label, **look)
        axes.set_xlabel(f"first component, {variance[0]:.0%} of the variance")
        axes.set_ylabel(f"second, {variance[1]:.0%}")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        for handle in put_legend(figure).legend_handles:
            handle.set_alpha(1)

    counts = " and ".join(f"{len(part)} {_MAP_NAMES[name]}" for name, part in places.items())
    title = f"Map of the queries of {counts}, two components with {sum(variance):.0%}"
    return Drawing("map", title, paint, height=3.3)


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
                    new.untrained.items(), (DASHED, DOTTED), strict=False
                )
            ),
            (old.token.relative.mean, color, DASHED, f"{token} before"),
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
        put_legend(figure, title=f"distance to “{short(keyword)}” of", alignment="left")

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
        name_rows(axes, list(spaces))
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
        for when, color, marker in zip(
            WHENS, (palette.muted, palette.series[0]), "os", strict=True
        ):
            norms = [getattr(pair, when) for pair in buffering.pairs]
            rank = buffering.norms[when].plain
            label = f"{when} training, ρ {'undefined' if rank is None else f'{rank.value:+.2f}'}"
            look = {"s": 11, "color": color, "marker": marker, "alpha": 0.65, "lw": 0}
            axes.scatter(similarity, norms, label=label, **look)
        axes.set_yscale("log")
        plain_log_ticks(axes.yaxis)
        axes.set_xlabel("similarity of pair and task")
        axes.set_ylabel("norm of its gradient")
        put_legend(figure)

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
        look = {"color": palette.muted, "ls": DASHED, "label": "unrelated directions"}
        axes.plot(*zip(*unrelated, strict=True), **look)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("rows")
        axes.set_ylabel("norm of mean / mean norm")
        put_legend(figure)

    return Drawing(f"canceling-{when}", f"How far gradients cancel, {when} training", paint)


def cosines_with_held_out(buffering: Buffering) -> Drawing:
    """Draw the cosines of mean gradients with that of the held-out task rows."""
    names = list(buffering.cosines["before"].groups)

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        looks = {"before": (-0.13, palette.muted), "after": (0.13, palette.series[0])}
        for when, (offset, color) in looks.items():
            cosines = buffering.cosines[when]
            estimates = [cosines.groups[name] for name in names]
            draw_intervals(axes, estimates, color, offset=offset, label=f"{when} training")
            (low, mean, high), row = cosines.subsets, len(names) + offset
            axes.hlines(row, low, high, color=color, lw=1.6, alpha=0.6)
            axes.scatter(mean, row, s=18, color=color, marker="D", alpha=0.6)
        name_rows(axes, [*(GROUP_TITLES[name] for name in names), "subsets of pairs"])
        axes.axvline(0, color=palette.muted, lw=0.8)
        axes.set_xlabel("cosine with the held-out task's gradient")
        put_legend(figure)

    description = "Cosines of mean gradients with that of held-out task rows"
    return Drawing("cosines", description, paint)
