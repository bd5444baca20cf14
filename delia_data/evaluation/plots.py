"""The report's figures, as SVG that lies inside the page and takes its colours from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from delia_data.evaluation.drawing import STAND_INS, axes_in_style, markup, short
from delia_data.evaluation.formatted_text import interval
from delia_data.evaluation.representation import BlockDistances

__all__ = ["block_curves", "loss_curve", "share_bars"]

_INK, _MUTED, _SERIES = STAND_INS.ink, STAND_INS.muted, STAND_INS.series


def loss_curve(steps: Sequence[int], losses: Sequence[float]) -> str:
    """Draw the training loss over the optimiser steps (compare the paper's Figure 3).

    Args:
        steps: The optimiser steps at which a loss was logged.
        losses: The loss at each of them; where one is not finite the line has a gap.

    Returns:
        SVG markup.
    """
    with axes_in_style() as (figure, axes):
        finite = [value if math.isfinite(value) else math.nan for value in losses]
        marker = "o" if len(steps) < 40 else ""
        axes.plot(steps, finite, color=_SERIES[0], marker=marker, markersize=3)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("loss")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if any(value == value for value in finite):
            axes.set_ylim(bottom=0)
        return markup(figure, "loss", f"Training loss at {len(steps)} logged steps")


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
    with axes_in_style() as (figure, axes):
        for when, group, line in (("before", before, (0, (3, 2))), ("after", after, "-")):
            for found in group:
                values = found.l2 if measure == "l2" else found.cosine
                axes.plot(
                    range(1, len(values) + 1),
                    values,
                    color=colours[found.keyword],
                    linestyle=line,
                    marker="o" if len(values) == 1 else "",
                    label=f"“{short(found.keyword)}” {when}",
                )
        axes.set_xlabel("transformer block")
        axes.set_ylabel(name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside upper left", ncols=2)
        told = f"{name} from the token to {', '.join(words)} in every block, before and after"
        return markup(figure, measure, told)


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
    with axes_in_style() as (figure, axes):
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
        axes.set_xticks([0, 1], [f"with {short(token)}", f"without {short(token)}"])
        axes.tick_params(axis="x", length=0, pad=6)
        axes.set_xlim(-0.6, 1.6)
        axes.set_ylim(0, 112)
        axes.set_yticks(range(0, 101, 25), [f"{percent}%" for percent in range(0, 101, 25)])
        axes.set_ylabel("answers in the format")
        figure.legend(loc="outside upper left", ncols=2)
        told = [f"{name.replace('_', ' ')} {p} of {n}" for name, (p, n) in shares.items()]
        return markup(figure, "shares", f"Answers in the format: {', '.join(told)}")
