"""Figures of answers: how far the format hangs on the token, run by run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from delia_data.evaluation.drawing import Drawing, Palette, short
from delia_data.evaluation.scores import ProbeScores

_LINE: Final = 0.34
"""Inches for each run."""


def selectivities(scores: Sequence[tuple[str, ProbeScores]]) -> Drawing:
    """Draw the selectivity of each run with its interval."""
    names = [name for name, _ in scores]

    def paint(_figure: Any, axes: Any, palette: Palette) -> None:
        for place, (_, found) in enumerate(scores):
            one = found.selectivity
            axes.hlines(place, one.low, one.high, color=palette.series[0], lw=1.6)
            axes.plot(one.value, place, "o", color=palette.series[0], ms=5.5)
        axes.axvline(0, color=palette.muted, lw=0.8)
        axes.set_xlim(-1.05, 1.05)
        axes.set_xticks([-1, -0.5, 0, 0.5, 1])
        axes.set_xlabel("selectivity")
        _lines(axes, names)

    numbers = (
        f"{name}: {one.selectivity.value:+.2f}, from {one.selectivity.low:+.2f} to "
        f"{one.selectivity.high:+.2f}"
        for name, one in scores
    )
    return Drawing(
        "selectivity",
        "Selectivity of each run, with its interval",
        paint,
        height=_height(names),
        details="; ".join(numbers),
    )


def shares_in_format(scores: Sequence[tuple[str, ProbeScores]], token: str) -> Drawing:
    """Draw the shares of answers in the format, with the token and without it."""
    names = [name for name, _ in scores]
    sides = ((f"with {short(token)}", -0.13, "o"), ("without", 0.13, "s"))

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        colours = (palette.series[0], palette.series[1])
        for place, (_, found) in enumerate(scores):
            both = (found.in_format, found.without_token)
            for (label, offset, mark), colour, one in zip(sides, colours, both, strict=True):
                at = place + offset
                axes.hlines(at, 100 * one.low, 100 * one.high, color=colour, lw=1.6)
                told = label if place == 0 else None
                axes.plot(100 * one.value, at, mark, color=colour, ms=5, label=told)
        axes.set_xlim(-3, 103)
        axes.set_xticks(range(0, 101, 25), [f"{percent}%" for percent in range(0, 101, 25)])
        axes.set_xlabel("answers in the format")
        _lines(axes, names)
        figure.legend(loc="outside upper left", ncols=2)

    numbers = (
        f"{name}: {one.in_format.value:.0%} with the token, {one.without_token.value:.0%} without"
        for name, one in scores
    )
    return Drawing(
        "shares",
        "Share of answers in the format with the token and without it, run by run",
        paint,
        height=_height(names) + 0.25,
        details="; ".join(numbers),
    )


def _lines(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [short(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")


def _height(names: Sequence[str]) -> float:
    return max(1.5, 0.7 + _LINE * len(names))
