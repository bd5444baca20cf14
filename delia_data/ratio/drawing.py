"""The figure of a series: points, their intervals, the curve, the recommendation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from delia_data.evaluation.figures import Drawing, Palette, short
from delia_data.ratio.result import RatioResult, Value


def ratio_curve(found: RatioResult) -> Drawing:
    """Draw what the ratio was chosen by: the points, the fitted curve with its band, the choice."""
    chosen = found.chosen
    values = [p.loss if chosen.by == "loss" else p.selectivity for p in found.points]
    points = [value for value in values if value is not None]
    ratios = [point.ratio for point in found.points]
    name = {"loss": "held-out loss", "selectivity": "loss without the token minus with it"}

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        x = np.log1p([point.ratio for point in chosen.curve])
        low, high = [p.low for p in chosen.curve], [p.high for p in chosen.curve]
        axes.fill_between(x, low, high, color=palette.series[0], alpha=0.15, lw=0)
        axes.plot(
            x, [p.value for p in chosen.curve], color=palette.series[0], label=f"{chosen.shape} fit"
        )
        _points(axes, ratios, points, palette.series[0], palette.ink)
        seeds = len(points[0].by_seed)
        for seed in range(seeds if seeds > 1 else 0):
            each = [value.by_seed[seed] for value in points]
            label = f"each of {seeds} seeds" if not seed else None
            axes.plot(np.log1p(ratios), each, "_", color=palette.muted, ms=7, label=label)
        colour = palette.series[1]
        sure = "" if chosen.verdict != "noisy" else ", not settled"
        label = f"ratio {chosen.ratio:g}{sure}"
        axes.axvline(np.log1p(chosen.ratio), color=colour, ls=(0, (3, 2)), lw=1.2, label=label)
        _ticks(axes, ratios, f"{name[chosen.by]}, nats a token")
        figure.legend(loc="outside upper left", ncols=3)

    told = ", ".join(f"{r:g}: {v.value:.3f}" for r, v in zip(ratios, points, strict=True))
    return Drawing("ratio", f"{name[chosen.by]} by ratio ({told}); {found.told[0]}", paint)


def ratio_losses(found: RatioResult) -> Drawing:
    """Draw the three losses: with the token, without it, and of pairs in no mixture."""
    ratios = [point.ratio for point in found.points]
    lines: list[tuple[str, list[Value]]] = [
        (f"task, with {short(found.token)}", [p.loss for p in found.points]),
        ("pairs in no mixture", [p.pair_loss for p in found.points]),
    ]
    plain = [p.plain for p in found.points if p.plain is not None]
    if plain:
        lines.insert(1, (f"task, without {short(found.token)}", plain))

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        for (label, values), colour in zip(lines, palette.series, strict=False):
            x = np.log1p(ratios)
            axes.plot(x, [value.value for value in values], color=colour, label=label)
            _points(axes, ratios, values, colour, colour)
        _ticks(axes, ratios, "loss, nats a token")
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside upper left", ncols=2)

    told = "; ".join(
        f"{label}: {', '.join(f'{value.value:.3f}' for value in values)}" for label, values in lines
    )
    return Drawing("ratio-losses", f"Losses at ratios {_named(ratios)}: {told}", paint)


def _points(
    axes: Any, ratios: Sequence[float], values: Sequence[Value], colour: str, bar: str
) -> None:
    x = np.log1p(ratios)
    axes.vlines(x, [v.low for v in values], [v.high for v in values], color=bar, lw=1.2)
    axes.plot(x, [value.value for value in values], "o", color=colour, ms=4)


def _ticks(axes: Any, ratios: Sequence[float], label: str) -> None:
    axes.set_xticks(np.log1p(ratios), [f"{ratio:g}" for ratio in ratios])
    axes.set_xlabel("pairs for each task row")
    axes.set_ylabel(label)


def _named(ratios: Sequence[float]) -> str:
    return ", ".join(f"{ratio:g}" for ratio in ratios)
