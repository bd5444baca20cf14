"""Figures of a quickstart: its loss, the token by block, the answers in the format."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from delia_data.evaluation.drawing import Drawing, Palette, short
from delia_data.evaluation.formatted_text import interval
from delia_data.evaluation.representation import BlockDistances

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


def block_curves(
    before: Sequence[BlockDistances],
    after: Sequence[BlockDistances],
    measure: Literal["l2", "cosine"],
) -> Drawing:
    """Draw a distance from the token to each keyword, block by block (paper, Figure 2).

    Args:
        before: The distances before training: dashed lines.
        after: Those after training: full lines in the same colours.
        measure: Which of the two distances.
    """
    name = {"l2": "L2 distance", "cosine": "cosine distance"}[measure]
    words = list(dict.fromkeys(found.keyword for found in (*before, *after)))

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        for when, group, line in (("before", before, (0, (3, 2))), ("after", after, "-")):
            for found in group:
                values = found.l2 if measure == "l2" else found.cosine
                axes.plot(
                    range(1, len(values) + 1),
                    values,
                    color=palette.series[words.index(found.keyword) % len(palette.series)],
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
    return Drawing(measure, told, paint)


def share_bars(shares: Mapping[str, tuple[int, int]], token: str) -> Drawing:
    """Draw the share of answers in the asked format, with its Wilson 95% interval.

    Args:
        shares: Answers in the format and answers in all, for `before_with`, `before_without`,
            `after_with` and `after_without`.
        token: The special token.
    """
    width = 0.34

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        sides = ((-1, "before", palette.muted), (1, "after", palette.series[0]))
        for side, when, colour in sides:
            for place, which in enumerate(("with", "without")):
                parsed, rows = shares[f"{when}_{which}"]
                share = 100 * parsed / rows
                low, high = (100 * bound for bound in interval(parsed, rows))
                x = place + side * (width / 2 + 0.02)
                label = f"{when} training" if place == 0 else None
                axes.bar(x, share, width, color=colour, alpha=0.75, label=label)
                axes.vlines(x, low, high, color=palette.ink, linewidth=1.2)
                text = f"{parsed}/{rows}"
                axes.text(x, high + 2, text, ha="center", va="bottom", fontsize=8.5)
        axes.set_xticks([0, 1], [f"with {short(token)}", f"without {short(token)}"])
        axes.tick_params(axis="x", length=0, pad=6)
        axes.set_xlim(-0.6, 1.6)
        axes.set_ylim(0, 112)
        axes.set_yticks(range(0, 101, 25), [f"{percent}%" for percent in range(0, 101, 25)])
        axes.set_ylabel("answers in the format")
        figure.legend(loc="outside upper left", ncols=2)

    told = ", ".join(f"{name.replace('_', ' ')} {p} of {n}" for name, (p, n) in shares.items())
    return Drawing("shares", f"Answers in the format: {told}", paint)


def _running_mean(values: Sequence[float], span: int) -> list[float]:
    """Mean of a value and those before it, as many as the span."""
    return [
        math.fsum(values[max(0, end - span) : end]) / min(span, end)
        for end in range(1, len(values) + 1)
    ]
