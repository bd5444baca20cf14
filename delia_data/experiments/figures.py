"""Figures of experiments: the paper's Figures 2 to 4, and those of a series of ratios."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from delia_data.evaluation.figures import (
    LIGHT,
    Drawing,
    Palette,
    figure_in_style,
    plain_log_ticks,
    save_png,
    short,
)
from delia_data.experiments.cells import CellResult
from delia_data.experiments.grid import FORMATTED
from delia_data.experiments.methods import METHODS
from delia_data.experiments.results import (
    Results,
    TrainingCurve,
    reduction_curves,
    task_loss_curves,
)

if TYPE_CHECKING:
    from delia_data.experiments.ratio import RatioResult

FIGURES: Final = {
    "figure-2": "L2 distance from the token to its keywords in every block, relative to ordinary "
    "words: by method at the most task rows, and of DELIA by task rows",
    "figure-3": "Loss on held-out task rows over DELIA's training, by pairs per row",
    "figure-4": "How many times fewer tokens hold 95% of the probability where the answer begins "
    "than after as much training on diverse data alone, by pairs per row",
}
"""Captions of the paper's figures by name."""

BlockSeries = Sequence[tuple[str, Sequence[CellResult]]]
"""Results by a name to show, such as a method's title."""

_METHODS: Final = (
    *("delia", "random_init", "mean_embedding", "common", "step_matched", "neftune"),
    *("fact_based", "dmt", "no_diverse", "no_pairs", "no_wordings"),
)
_LINES: Final = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
_LEGEND_LINE: Final = 0.17  # inches


def draw_figures(results: Results, folder: str | os.PathLike[str]) -> list[str]:
    """Draw the figures that have finished cells as PNG files; return their names in `FIGURES`."""
    root = Path(folder)
    drawn = ["figure-2"] if _draw_blocks(results, root / "figure-2.png") else []
    for name, drawing in curve_drawings(results):
        drawing.png(root / f"{name}.png")
        drawn.append(name)
    for name in FIGURES.keys() - set(drawn):
        (root / f"{name}.png").unlink(missing_ok=True)
    return drawn


def block_drawings(results: Results) -> Iterator[tuple[str, str, Drawing]]:
    """Yield the drawings of Figure 2: by method, then by task rows, each for every keyword."""
    series = zip(("by method", "of DELIA, by task rows"), _block_series(results), strict=True)
    for axis, lines in series:
        for word in results.keywords(FORMATTED) if lines else ():
            yield axis, word, _block_drawing(lines, word, axis)


def curve_drawings(results: Results) -> Iterator[tuple[str, Drawing]]:
    """Yield the names and drawings of Figures 3 and 4 if they have finished cells."""
    if curves := task_loss_curves(results):
        title = "Loss on held-out task rows over DELIA's training, by pairs per row"
        yield "figure-3", _curve_drawing(curves, "figure-3", title, "loss on held-out task rows")
    if curves := reduction_curves(results):
        title = "Times fewer states than diverse data alone leaves, over the training"
        unit = "times fewer states"
        yield "figure-4", _curve_drawing(curves, "figure-4", title, unit, level=1.0)


def _block_series(results: Results) -> tuple[BlockSeries, BlockSeries]:
    """Return the series of Figure 2: methods at the most task rows, and DELIA by task rows."""
    by_method = [(METHODS[m].title, results.of(FORMATTED, m)) for m in _METHODS]
    counts = sorted({r.cell.rows or 0 for r in results.finished if r.cell.method == "delia"})
    by_rows = [(f"{n} rows", results.of(FORMATTED, "delia", rows=n)) for n in counts]
    methods, rows = (
        [(name, cells) for name, cells in series if any(cell.distances for cell in cells)]
        for series in (by_method, by_rows)
    )
    return methods, rows if len(rows) > 1 else []


def _draw_blocks(results: Results, file: Path) -> bool:
    """Draw Figure 2 as one sheet: one row by method, one by task rows; a column per keyword."""
    words = results.keywords(FORMATTED)
    panels = [series for series in _block_series(results) if series]
    if not words or not panels:
        return False
    with figure_in_style(LIGHT, 4.2 * len(words) + 1.8, 3.4 * len(panels)) as figure:
        grid = figure.subplots(len(panels), len(words), squeeze=False, sharey=True)
        for number, (axes_row, series) in enumerate(zip(grid, panels, strict=True)):
            for axes, word in zip(axes_row, words, strict=True):
                _paint_blocks(axes, LIGHT, series, word)
                axes.set_title(f"“{word}”", loc="left", fontsize=9)
            axes_row[0].set_ylabel("L2 / ordinary words")
            title = "DELIA, by task rows" if number else None
            axes_row[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title=title)
        grid[0, 0].set_ylim(bottom=0)  # Shared by all panels; set when all lines are drawn.
        save_png(figure, file)
    return True


def _block_drawing(series: BlockSeries, word: str, axis: str) -> Drawing:
    columns = 1 if any(len(name) > 22 for name, _ in series) else 2

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        _paint_blocks(axes, palette, series, word)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("L2 / ordinary words")
        figure.legend(loc="outside upper left", ncols=columns)

    title = f"L2 from the token to {word} over that between ordinary words, {axis}, in every block"
    return Drawing(
        f"figure-2 {word} {axis}",
        title,
        paint,
        height=2.4 + _LEGEND_LINE * -(-len(series) // columns),
        details=f"Lines: {', '.join(name for name, _ in series)}",
    )


def _paint_blocks(axes: Any, palette: Palette, series: BlockSeries, word: str) -> None:
    """Draw lines over the blocks: means over seeds, bands from the smallest to the largest."""
    for number, (name, cells) in enumerate(series):
        table = [d.relative for cell in cells for d in cell.distances if d.keyword == word]
        if not table:
            continue
        color, line = _look(palette, number)
        ours = name == METHODS["delia"].title
        blocks = np.arange(1, len(table[0]) + 1)
        look = {"color": color, "ls": line, "lw": 2.4 if ours else 1.3, "zorder": 3 if ours else 2}
        axes.plot(blocks, np.mean(table, axis=0), label=name, **look)
        low, high = np.min(table, axis=0), np.max(table, axis=0)
        axes.fill_between(blocks, low, high, color=color, alpha=0.15, lw=0)
    axes.set_xlabel("transformer block")
    axes.xaxis.get_major_locator().set_params(integer=True)


def _curve_drawing(
    curves: Sequence[TrainingCurve],
    name: str,
    title: str,
    unit: str,
    *,
    level: float | None = None,
) -> Drawing:
    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        for number, curve in enumerate(curves):
            color, line = _look(palette, number)
            share = 100 * np.asarray(curve.share)
            label = short(f"ratio {curve.ratio:g}")
            axes.plot(share, curve.mean, color=color, ls=line, label=label)
            axes.fill_between(share, curve.low, curve.high, color=color, alpha=0.15, lw=0)
        if level is not None:
            axes.axhline(level, color=palette.muted, lw=0.8, ls=(0, (4, 3)))
            axes.set_yscale("log")
            plain_log_ticks(axes.yaxis)
        axes.set_xlabel("share of the training, %")
        axes.set_ylabel(unit)
        figure.legend(loc="outside upper left", ncols=3)

    ends = "; ".join(f"ratio {curve.ratio:g}: {curve.mean[-1]:.3g}" for curve in curves)
    return Drawing(name, title, paint, details=f"At the end: {ends}")


def _look(palette: Palette, number: int) -> tuple[str, Any]:
    """Return a color and a line style, so that lines differ without color too."""
    return palette.series[number % len(palette.series)], _LINES[number % len(_LINES)]


def ratio_drawing(result: RatioResult) -> Drawing:
    """Draw how much worse each ratio is than the best one, with the tolerance."""
    x = np.log1p([point.ratio for point in result.points])
    values = [(p.difference.value, p.difference.low, p.difference.high) for p in result.points]

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        value, low, high = (np.asarray(each) for each in zip(*values, strict=True))
        axes.axhline(0, color=palette.muted, lw=0.8)
        label = f"tolerance {result.tolerance:g}"
        axes.axhline(result.tolerance, color=palette.muted, ls=(0, (4, 3)), lw=1.0, label=label)
        axes.vlines(x, low, high, color=palette.ink, lw=1.2)
        axes.plot(x, value, "o", color=palette.series[0], ms=4, label=f"{result.by} per ratio")
        label = f"ratio {result.enough:g}"
        line = {"color": palette.series[1], "ls": (0, (3, 2)), "lw": 1.2}
        axes.axvline(np.log1p(result.enough), label=label, **line)
        unit = "share of answers" if result.by in ("leak", "follow") else "nats per token"
        axes.set_xticks(x, [f"{point.ratio:g}" for point in result.points])
        axes.set_xlabel("pairs per task row")
        axes.set_ylabel(f"worse than the best ratio, {unit}")
        figure.legend(loc="outside upper left", ncols=3)

    numbers = ", ".join(
        f"{point.ratio:g}: {value[0]:.3f}"
        for point, value in zip(result.points, values, strict=True)
    )
    title = f"{result.by} of each ratio, compared with the best ratio"
    return Drawing("ratio", f"{title} ({numbers}); {result.summary[0]}", paint)
