"""The paper's Figures 2 to 4, of our runs, as drawings for a page or a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from delia_data.evaluation.figures import Drawing, Palette, plain_log_ticks, short
from delia_data.reproduction.curves import Curve, reduction_curves, task_loss_curves
from delia_data.reproduction.result import CellResult
from delia_data.reproduction.results import Results
from delia_data.training.baselines import BASELINES

BlockSeries = Sequence[tuple[str, Sequence[CellResult]]]
"""Results by a name that is shown, such as a method's."""

_FORMATTED: Final = "formatted-text"
_METHODS: Final = (
    *("delia", "random_init", "mean_embedding", "common", "step_matched", "neftune"),
    *("fact_based", "dmt", "no_diverse", "no_wordings"),
)
_LINES: Final = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
_LEGEND_LINE: Final = 0.17
"""Inches of a line of a legend."""


def block_series(results: Results) -> tuple[BlockSeries, BlockSeries]:
    """What Figure 2 shows: the methods at the most task rows, and DELIA by task rows."""
    by_method = [(BASELINES[m].title, results.of(_FORMATTED, m)) for m in _METHODS]
    counts = sorted({r.cell.rows or 0 for r in results.finished if r.cell.method == "delia"})
    by_rows = [(f"{n} rows", results.of(_FORMATTED, "delia", rows=n)) for n in counts]
    shown = [(name, found) for name, found in by_method if any(r.distances for r in found)]
    rows = [(name, found) for name, found in by_rows if any(r.distances for r in found)]
    return shown, rows if len(rows) > 1 else []


def block_drawings(results: Results) -> Iterator[tuple[str, Drawing]]:
    """Draw Figure 2, a drawing for each keyword, by method and then by task rows.

    Yields:
        What is compared, and its drawing.
    """
    series = zip(("by method", "of DELIA, by task rows"), block_series(results), strict=True)
    for what, lines in series:
        for word in results.keywords(_FORMATTED) if lines else ():
            yield what, _blocks(lines, word, what)


def curve_drawings(results: Results) -> Iterator[tuple[str, Drawing]]:
    """Draw Figures 3 and 4, those of which anything was run.

    Yields:
        The figure's name, and its drawing.
    """
    if curves := task_loss_curves(results):
        told = "Loss on held-out task rows over DELIA's training, by pairs a row"
        yield "figure-3", _curves(curves, "figure-3", told, "loss on held-out task rows")
    if curves := reduction_curves(results):
        told = "Times fewer states than diverse data alone leave, over the training"
        drawing = _curves(curves, "figure-4", told, "times fewer states", level=1.0)
        yield "figure-4", drawing


def paint_blocks(axes: Any, palette: Palette, series: BlockSeries, word: str) -> None:
    """Draw curves over the blocks into axes: means over seeds, bands from least to greatest."""
    for number, (name, found) in enumerate(series):
        rows = [d.relative for r in found for d in r.distances if d.keyword == word]
        if not rows:
            continue
        table = np.asarray(rows)
        blocks = np.arange(1, table.shape[1] + 1)
        ours = name == BASELINES["delia"].title
        colour, line = _look(palette, number)
        width = 2.4 if ours else 1.3
        above = 3 if ours else 2
        axes.plot(blocks, table.mean(0), color=colour, ls=line, lw=width, label=name, zorder=above)
        axes.fill_between(blocks, table.min(0), table.max(0), color=colour, alpha=0.15, lw=0)
    axes.set_xlabel("transformer block")
    axes.xaxis.get_major_locator().set_params(integer=True)


def _blocks(series: BlockSeries, word: str, what: str) -> Drawing:
    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        paint_blocks(axes, palette, series, word)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("L2 / ordinary words")
        figure.legend(loc="outside upper left", ncols=1 if _long(series) else 2)

    lines = len(series) if _long(series) else -(-len(series) // 2)
    told = f"L2 from the token to {word} over that between ordinary words, {what}, in every block"
    names = ", ".join(name for name, _ in series)
    return Drawing(
        f"figure-2 {word} {what}",
        told,
        paint,
        height=2.4 + _LEGEND_LINE * lines,
        details=f"Lines: {names}",
    )


def _long(series: BlockSeries) -> bool:
    return any(len(name) > 22 for name, _ in series)


def _curves(
    curves: Sequence[Curve], name: str, told: str, unit: str, *, level: float | None = None
) -> Drawing:
    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        for number, curve in enumerate(curves):
            colour, line = _look(palette, number)
            share = 100 * np.asarray(curve.share)
            label = short(f"ratio {curve.ratio:g}")
            axes.plot(share, curve.mean, color=colour, ls=line, label=label)
            axes.fill_between(share, curve.low, curve.high, color=colour, alpha=0.15, lw=0)
        if level is not None:
            axes.axhline(level, color=palette.muted, lw=0.8, ls=(0, (4, 3)))
            axes.set_yscale("log")
            plain_log_ticks(axes.yaxis)
        axes.set_xlabel("share of the training, %")
        axes.set_ylabel(unit)
        figure.legend(loc="outside upper left", ncols=3)

    ends = "; ".join(f"ratio {curve.ratio:g}: {curve.mean[-1]:.3g}" for curve in curves)
    return Drawing(name, told, paint, details=f"At the end: {ends}")


def _look(palette: Palette, number: int) -> tuple[str, Any]:
    """A colour and a line for one of several curves, told apart without colour too."""
    return palette.series[number % len(palette.series)], _LINES[number % len(_LINES)]
