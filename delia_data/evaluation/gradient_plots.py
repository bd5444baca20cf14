"""Figures of gradients: how they cancel, what goes with similarity, where means point."""

from __future__ import annotations

from typing import Any, Final

from delia_data.evaluation._plain import in_order
from delia_data.evaluation.buffering import Buffering
from delia_data.evaluation.drawing import Drawing, Palette, plain_log_ticks

_DASHED: Final = (0, (3, 2))


def norms_by_similarity(buffering: Buffering) -> Drawing:
    """Draw every pair's gradient norm against its similarity to the task (claim 2)."""

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        similarity = [pair.similarity for pair in buffering.pairs]
        groups = (
            ("before", [pair.before for pair in buffering.pairs], palette.muted, "o"),
            ("after", [pair.after for pair in buffering.pairs], palette.series[0], "s"),
        )
        for when, norms, colour, marker in groups:
            rank = buffering.norms[when].plain
            label = f"{when} training, ρ {'undefined' if rank is None else f'{rank.value:+.2f}'}"
            axes.scatter(
                similarity, norms, s=11, color=colour, marker=marker, alpha=0.65, lw=0, label=label
            )
        axes.set_yscale("log")
        plain_log_ticks(axes.yaxis)
        axes.set_xlabel("similarity of pair and task")
        axes.set_ylabel("norm of its gradient")
        figure.legend(loc="outside upper left", ncols=2)

    told = f"Gradient norms of {len(buffering.pairs)} pairs by similarity, before and after"
    return Drawing("norms", told, paint)


def cancelling_by_rows(buffering: Buffering, *, when: str = "before") -> Drawing:
    """Draw how far gradients cancel in ever more rows, by group (claim 1).

    Args:
        buffering: The measurement.
        when: `"before"` or `"after"` training.
    """
    groups = dict(in_order(buffering.cancelling[when]))

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        for place, (name, group) in enumerate(groups.items()):
            rows = [subset.rows for subset in group.subsets]
            colour = palette.series[place]
            low = [subset.low for subset in group.subsets]
            high = [subset.high for subset in group.subsets]
            axes.fill_between(rows, low, high, color=colour, alpha=0.12, lw=0)
            means = [subset.mean for subset in group.subsets]
            axes.plot(rows, means, color=colour, marker="o", markersize=3, label=group_name(name))
        longest = max(groups.values(), key=lambda group: group.rows).subsets
        axes.plot(
            [subset.rows for subset in longest],
            [subset.independent for subset in longest],
            color=palette.muted,
            ls=_DASHED,
            label="unrelated directions",
        )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("rows")
        axes.set_ylabel("norm of mean / mean norm")
        figure.legend(loc="outside upper left", ncols=2)

    return Drawing(f"cancelling-{when}", f"How far gradients cancel, {when} training", paint)


def cosines_with_held_out(buffering: Buffering) -> Drawing:
    """Draw the cosines of mean gradients with that of the held-out task rows."""
    names = [name for name, _ in in_order(buffering.cosines["before"].groups)]

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        sides = {"before": (-0.13, palette.muted), "after": (0.13, palette.series[0])}
        for when, found in in_order(buffering.cosines):
            offset, colour = sides[when]
            for place, name in enumerate(names):
                estimate, at = found.groups[name], place + offset
                axes.hlines(at, estimate.low, estimate.high, color=colour, lw=1.6)
                label = f"{when} training" if place == 0 else None
                axes.scatter(estimate.value, at, s=18, color=colour, label=label, zorder=3)
            low, mean, high = found.subsets
            axes.hlines(len(names) + offset, low, high, color=colour, lw=1.6, alpha=0.6)
            axes.scatter(mean, len(names) + offset, s=18, color=colour, marker="D", alpha=0.6)
        shown = [*(group_name(name) for name in names), "subsets of pairs"]
        axes.set_yticks(range(len(shown)), shown)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.axvline(0, color=palette.muted, lw=0.8)
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("cosine with the held-out task's gradient")
        figure.legend(loc="outside upper left", ncols=2)

    told = "Cosines of mean gradients with that of held-out task rows"
    return Drawing("cosines", told, paint)


def group_name(name: str) -> str:
    """A group's name as figures and tables show it."""
    return {
        "task": "task, diversified",
        "common": "task, one wording",
        "pairs": "pairs alone",
        "held_out": "held-out task",
        "mixture": "task and pairs",
        "common_mixture": "one wording and pairs",
    }.get(name, name)
