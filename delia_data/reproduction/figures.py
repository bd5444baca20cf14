"""The paper's Figures 2 to 4, of our runs, as PNG files; a figure without runs is not drawn."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from delia_data._optional import require
from delia_data.files import atomic_path
from delia_data.reproduction.curves import Curve, reduction_curves, task_loss_curves
from delia_data.reproduction.result import CellResult
from delia_data.reproduction.results import Results
from delia_data.training.baselines import BASELINES

__all__ = ["FIGURES", "draw_figures"]

FIGURES: Final = {
    "figure-2": "L2 distance from the token to its keywords in every block, relative to ordinary "
    "words: by method at the most task rows, and of DELIA by task rows",
    "figure-3": "Loss on held-out task rows over DELIA's training, by pairs a row",
    "figure-4": "How many times fewer tokens hold 95% of the probability where the answer begins "
    "than after as much training on diverse data alone, by pairs a row",
}
_FORMATTED: Final = "formatted-text"
_DELIA: Final = "#c8102e"
_METHODS: Final = (
    *("random_init", "mean_embedding", "common", "step_matched", "neftune", "fact_based", "dmt"),
    *("no_diverse", "no_wordings", "delia"),
)
_STYLE: Final[dict[str, Any]] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "delia_data",
}


def draw_figures(results: Results, folder: str | os.PathLike[str]) -> list[str]:
    """Draw what there are runs for.

    Args:
        results: The finished cells.
        folder: Where the PNG files go.

    Returns:
        The names of the figures that were drawn, of `FIGURES`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    root = Path(folder)
    drawn = {
        "figure-2": _draw_blocks(results, root / "figure-2.png"),
        "figure-3": _draw_curves(
            task_loss_curves(results), root / "figure-3.png", "loss on held-out task rows", None
        ),
        "figure-4": _draw_curves(
            reduction_curves(results), root / "figure-4.png", "times fewer states", 1.0
        ),
    }
    for name, was in drawn.items():
        if not was:
            (root / f"{name}.png").unlink(missing_ok=True)
    return [name for name, was in drawn.items() if was]


def _draw_blocks(results: Results, file: Path) -> bool:
    """Figure 2: a row of panels by method, another by task rows; a column a keyword."""
    words = results.keywords(_FORMATTED)
    by_method = [(BASELINES[m].title, results.of(_FORMATTED, m)) for m in _METHODS]
    by_method = [(name, found) for name, found in by_method if found]
    if not words or not by_method:
        return False
    counts = sorted({r.cell.rows or 0 for r in results.finished if r.cell.method == "delia"})
    by_rows = [(f"{n} rows", results.of(_FORMATTED, "delia", rows=n)) for n in counts]
    panels = [by_method, by_rows] if len(by_rows) > 1 else [by_method]
    with _figure(4.2 * len(words), 3.4 * len(panels)) as figure:
        grid = figure.subplots(len(panels), len(words), squeeze=False, sharey=True)
        for line, (axes_row, series) in enumerate(zip(grid, panels, strict=True)):
            for axes, word in zip(axes_row, words, strict=True):
                for number, (name, found) in enumerate(series):
                    _block_curve(axes, found, word, name, number, len(series))
                axes.set_title(f"“{word}”", loc="left", fontsize=9)
                axes.set_xlabel("transformer block")
                axes.xaxis.get_major_locator().set_params(integer=True)
                axes.set_ylim(bottom=0)
            axes_row[0].set_ylabel("L2 / ordinary words")
            title = "DELIA, by task rows" if line else None
            axes_row[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title=title)
        _save(figure, file)
    return True


def _block_curve(
    axes: Any, found: Sequence[CellResult], word: str, name: str, number: int, of: int
) -> None:
    rows = [d.relative for r in found for d in r.distances if d.keyword == word]
    if not rows:
        return
    table = np.asarray(rows)
    blocks = np.arange(1, table.shape[1] + 1)
    colour, line = _look(number, of)
    width = 1.3
    if name == BASELINES["delia"].title:
        colour, line, width = _DELIA, "-", 2.4
    axes.plot(blocks, table.mean(0), color=colour, linestyle=line, label=name, linewidth=width)
    axes.fill_between(blocks, table.min(0), table.max(0), color=colour, alpha=0.15, linewidth=0)


def _draw_curves(curves: Sequence[Curve], file: Path, name: str, level: float | None) -> bool:
    if not curves:
        return False
    with _figure(5.6, 3.6) as figure:
        axes = figure.subplots()
        for number, curve in enumerate(curves):
            colour, line = _look(number, len(curves))
            share = 100 * np.asarray(curve.share)
            label = f"ratio {curve.ratio:g}"
            axes.plot(share, curve.mean, color=colour, linestyle=line, label=label)
            axes.fill_between(share, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
        if level is not None:
            axes.axhline(level, color="#555555", linewidth=0.8, linestyle=(0, (4, 3)))
            axes.set_yscale("log")
        axes.set_xlabel("share of the training, %")
        axes.set_ylabel(name)
        axes.legend()
        _save(figure, file)
    return True


def _look(number: int, of: int) -> tuple[Any, Any]:
    """A colour and a line for one of several curves, told apart without colour too."""
    matplotlib = require("matplotlib", extra="eval")
    colours = matplotlib.colormaps["viridis"]
    lines = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
    return colours(0.9 * number / max(1, of - 1)), lines[number % len(lines)]


@contextmanager
def _figure(width: float, height: float) -> Iterator[Any]:
    """A figure of a size in inches, whatever the user's own settings are."""
    matplotlib = require("matplotlib", extra="eval")
    figure_class = require("matplotlib.figure", extra="eval").Figure
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield figure_class(figsize=(width, height), layout="constrained", dpi=150)


def _save(figure: Any, file: Path) -> None:
    with atomic_path(file) as part:
        figure.savefig(part, format="png", metadata={"Software": None})
