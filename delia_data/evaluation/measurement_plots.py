"""Figures of what `delia measure` finds: the token by block, and the state space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from delia_data.errors import InputError
from delia_data.evaluation._plain import in_order
from delia_data.evaluation.alignment import Alignment, Distances, KeywordAlignment, Measure
from delia_data.evaluation.drawing import Drawing, Palette, plain_log_ticks, short
from delia_data.evaluation.state_space import StateSpace

_NAMES: Final[Mapping[Measure, str]] = {
    "l2": "L2 distance",
    "relative": "L2 over ordinary median",
    "cosine": "cosine distance",
}
_DASHED: Final = (0, (3, 2))
_DOTTED: Final = (0, (1, 1.5))


def alignment_by_block(
    after: Alignment,
    *,
    before: Alignment | None = None,
    measure: Measure = "relative",
    keyword: str | None = None,
) -> Drawing:
    """Draw the token's distance to one keyword in every block, with controls (paper, Figure 2).

    The band around the token's line is one standard deviation over the contexts; that of the
    ordinary words reaches from the least to the greatest.

    Args:
        after: The trained model's.
        before: That before training: a dashed line.
        measure: Which distance.
        keyword: Which keyword; the first when not given.

    Raises:
        InputError: The keyword was not measured.
    """
    found = _keyword(after, keyword)
    earlier = None if before is None else _keyword(before, found.keyword)
    name = _NAMES[measure]

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        mean, sd = _curve(found.token, measure)
        blocks = range(1, len(mean) + 1)
        marker = "o" if len(mean) == 1 else ""
        band = found.ordinary[measure]
        axes.fill_between(blocks, band.low, band.high, color=palette.muted, alpha=0.15, lw=0)
        axes.plot(
            blocks,
            band.mean,
            color=palette.muted,
            marker=marker,
            label=f"{len(after.controls)} ordinary words",
        )
        for (how, distances), line in zip(
            in_order(found.untrained), (_DASHED, _DOTTED), strict=False
        ):
            label = f"untrained token ({how})"
            values, _ = _curve(distances, measure)
            axes.plot(blocks, values, color=palette.series[1], ls=line, marker=marker, label=label)
        if earlier is not None:
            values, _ = _curve(earlier.token, measure)
            label = f"{short(after.token)} before"
            axes.plot(
                blocks, values, color=palette.series[0], ls=_DASHED, marker=marker, label=label
            )
        if sd is not None:
            low, high = zip(*((m - s, m + s) for m, s in zip(mean, sd, strict=True)), strict=True)
            axes.fill_between(blocks, low, high, color=palette.series[0], alpha=0.2, lw=0)
        axes.plot(
            blocks,
            mean,
            color=palette.series[0],
            marker=marker,
            label=f"{short(after.token)} after",
        )
        axes.set_xlabel("transformer block")
        axes.set_ylabel(name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0)
        title = f"distance to “{short(found.keyword)}” of"
        figure.legend(loc="outside upper left", ncols=2, title=title, alignment="left")

    told = f"{name} from {after.token} to {found.keyword} in every block, beside controls"
    return Drawing(f"alignment-{measure}-{found.keyword}", told, paint)


def state_space_sizes(spaces: Mapping[str, StateSpace]) -> Drawing:
    """Draw the state space of every row, one line of dots a group (paper, Figure 4).

    Args:
        spaces: By a name that is shown, such as `"before, with <sep>"`.

    Raises:
        InputError: There are none.
    """
    if not spaces:
        raise InputError("there is no state space to draw: measure one")

    def paint(_figure: Any, axes: Any, palette: Palette) -> None:
        for place, (name, space) in enumerate(spaces.items()):
            colour = palette.series[0] if "after" in name else palette.muted
            ranked = sorted(row.size for row in space.rows)
            # Dots of equal sizes stand beside each other instead of on top of each other.
            heights = [
                place + 0.5 * (i / max(1, len(ranked) - 1) - 0.5) for i in range(len(ranked))
            ]
            axes.scatter(ranked, heights, s=8, color=colour, alpha=0.6, lw=0)
            axes.vlines(space.size, place - 0.35, place + 0.35, color=palette.ink, lw=1.6)
        axes.set_xscale("log")
        plain_log_ticks(axes.xaxis)
        axes.set_xlim(left=0.8)
        axes.set_yticks(range(len(spaces)), [short(name) for name in spaces])
        axes.set_ylim(len(spaces) - 0.4, -0.6)
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        mass = next(iter(spaces.values())).mass
        axes.set_xlabel(f"tokens that hold {mass:.0%} of the probability")

    told = ", ".join(f"{name} {space.size:.1f}" for name, space in spaces.items())
    return Drawing(
        "state-space", f"Tokens that may begin the answer, geometric means: {told}", paint
    )


def watched_state_space(
    runs: Mapping[str, Sequence[Mapping[str, float]]], *, name: str = "state_space"
) -> Drawing:
    """Draw the state space while models trained (paper, Figure 4).

    Args:
        runs: By a name that is shown, what was watched, as `training.watching.read_watched` gives
            it.
        name: The watch's name.

    Raises:
        InputError: A run has no such numbers.
    """
    key = f"{name}/size"
    lines = {
        run: [(line["step"], line[key]) for line in watched if key in line]
        for run, watched in runs.items()
    }
    if not lines or not all(lines.values()):
        missing = ", ".join(run for run, line in lines.items() if not line) or "no run"
        raise InputError(f"{missing} has watched {key}: train with a StateSpaceWatch")

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        for place, (run, line) in enumerate(lines.items()):
            steps, sizes = zip(*line, strict=True)
            colour = palette.series[place % len(palette.series)]
            marker = "o" if len(steps) < 40 else ""
            axes.plot(steps, sizes, color=colour, marker=marker, markersize=3, label=short(run))
        axes.set_yscale("log")
        plain_log_ticks(axes.yaxis)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("tokens that hold the mass")
        axes.xaxis.get_major_locator().set_params(integer=True)
        figure.legend(loc="outside upper left", ncols=2)

    return Drawing("state-space-watched", "State space of the first token over training", paint)


def _keyword(alignment: Alignment, keyword: str | None) -> KeywordAlignment:
    for one in alignment.keywords:
        if keyword in (None, one.keyword):
            return one
    known = ", ".join(one.keyword for one in alignment.keywords)
    raise InputError(f"keyword {keyword!r} was not measured: use one of {known}")


def _curve(
    distances: Distances, measure: Measure
) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
    curve = {"l2": distances.l2, "relative": distances.relative, "cosine": distances.cosine}[
        measure
    ]
    return curve.mean, curve.sd
