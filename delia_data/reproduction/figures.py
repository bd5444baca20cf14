"""The paper's Figures 2 to 4, of our runs, as PNG files; a figure without runs is not drawn."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from delia_data.evaluation.figures import LIGHT, figure_in_style, save_png
from delia_data.reproduction.drawings import block_series, curve_drawings, paint_blocks
from delia_data.reproduction.results import Results

FIGURES: Final = {
    "figure-2": "L2 distance from the token to its keywords in every block, relative to ordinary "
    "words: by method at the most task rows, and of DELIA by task rows",
    "figure-3": "Loss on held-out task rows over DELIA's training, by pairs a row",
    "figure-4": "How many times fewer tokens hold 95% of the probability where the answer begins "
    "than after as much training on diverse data alone, by pairs a row",
}
_FORMATTED: Final = "formatted-text"


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
    drawn = ["figure-2"] if _draw_blocks(results, root / "figure-2.png") else []
    for name, drawing in curve_drawings(results):
        drawing.png(root / f"{name}.png")
        drawn.append(name)
    for name in FIGURES:
        if name not in drawn:
            (root / f"{name}.png").unlink(missing_ok=True)
    return drawn


def _draw_blocks(results: Results, file: Path) -> bool:
    """Figure 2 as one sheet: a row by method, another by task rows; a column a keyword."""
    words = results.keywords(_FORMATTED)
    panels = [series for series in block_series(results) if series]
    if not words or not panels:
        return False
    with figure_in_style(LIGHT, 4.2 * len(words) + 1.8, 3.4 * len(panels)) as figure:
        grid = figure.subplots(len(panels), len(words), squeeze=False, sharey=True)
        for line, (axes_row, series) in enumerate(zip(grid, panels, strict=True)):
            for axes, word in zip(axes_row, words, strict=True):
                paint_blocks(axes, LIGHT, series, word)
                axes.set_title(f"“{word}”", loc="left", fontsize=9)
            axes_row[0].set_ylabel("L2 / ordinary words")
            title = "DELIA, by task rows" if line else None
            axes_row[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title=title)
        grid[0, 0].set_ylim(bottom=0)  # of all of them, when everything is in its place
        save_png(figure, file)
    return True
