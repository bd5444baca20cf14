"""Measurements of an adapter before and after training: their file, tables and figures."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np

from delia_data.errors import InputError
from delia_data.evaluation.bootstrap import Cell, Estimate, cell, decimal
from delia_data.evaluation.figures import (
    DASHED,
    DOTTED,
    Drawing,
    Palette,
    draw_intervals,
    name_rows,
    plain_log_ticks,
    put_legend,
    short,
)
from delia_data.evaluation.gradients import GROUP_TITLES, WHENS, Buffering, When
from delia_data.evaluation.representation import Alignment, Band, Curve, first_middle_last
from delia_data.evaluation.state_space import StateSpace
from delia_data.evaluation.tables import Table
from delia_data.outputs import from_json, read_manifest

MEASUREMENTS: Final = "measurements.json"

MeasureName = Literal["representation", "state-space", "buffering"]
MEASURES: Final[tuple[MeasureName, ...]] = get_args(MeasureName)
Which = Literal["with", "without"]

_ORDER: Final = (
    *("before", "after", "change", "with", "without", "mean", "normal"),
    *("task", "common", "pairs", "mixture", "common_mixture", "held_out"),
)
"""Order in which groups are shown; in files they are sorted by name."""


@dataclass(frozen=True, slots=True)
class Measurements:
    """All measurements of one adapter; those that were not taken are None.

    Attributes:
        model: Name of the base model.
        token: The special token.
        steps: Optimizer steps of the training.
        trained_rows: Rows of the training by source.
        representation: Distances from the token to its keywords, `before` and `after` training.
        state_space: State space at the first answer token, `before` and `after`, each `with` the
            token and, if the rows have a plain form, `without` it.
        buffering: Gradients of task rows and pairs.
    """

    model: str
    token: str
    steps: int
    trained_rows: Mapping[str, int]
    representation: Mapping[When, Alignment] | None = None
    state_space: Mapping[When, Mapping[Which, StateSpace]] | None = None
    buffering: Buffering | None = None

    @property
    def measured(self) -> tuple[MeasureName, ...]:
        """Names of the measurements taken."""
        return tuple(name for name in MEASURES if getattr(self, field_of(name)) is not None)

    def as_dict(self) -> dict[str, Any]:
        """Return the measurements as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = MEASUREMENTS) -> Measurements:
        """Build measurements from the result of `as_dict`, with groups in the order of tables.

        Raises:
            FormatError: A value is missing or has the wrong type.
        """
        return from_json(cls, _ordered(values), where)


def field_of(name: MeasureName) -> str:
    """Return the field of `Measurements` that has a measurement."""
    return name.replace("-", "_")


def _ordered(value: Any) -> Any:
    if isinstance(value, Mapping):
        names = sorted(value, key=lambda name: (*_ORDER, name).index(name))
        return {name: _ordered(value[name]) for name in names}
    return [_ordered(one) for one in value] if isinstance(value, list | tuple) else value


def read_measurements(folder: str | os.PathLike[str]) -> Measurements:
    """Read the measurements of a finished folder.

    Raises:
        UnfinishedError: The folder has no finish marker.
        InputError: The folder contains something else.
        FormatError: Another version wrote the folder.
    """
    root = Path(folder)
    manifest = read_manifest(root)
    if manifest.kind != "evaluation" or MEASUREMENTS not in manifest.files:
        raise InputError(f"{root} has no measurements: give a folder that delia measure wrote")
    values = json.loads((root / MEASUREMENTS).read_text(encoding="utf-8"))
    return Measurements.from_dict(values, where=str(root / MEASUREMENTS))


def measurement_tables(measurements: Measurements) -> dict[MeasureName, list[Table]]:
    """Return the tables of each measurement that was taken."""
    tables: dict[MeasureName, list[Table]] = {}
    if alignments := measurements.representation:
        tables["representation"] = [_representation_table(measurements.token, alignments)]
    if spaces := measurements.state_space:
        rows = [
            (
                f"{when}, {which} {measurements.token}",
                *(f"{s.size:.1f}", f"{s.entropy:.2f}", f"{s.rank:g}", f"{s.opening:.0%}"),
            )
            for when, by_which in spaces.items()
            for which, s in by_which.items()
        ]
        title = (
            f"First token of the answer: tokens that have {spaces['after']['with'].mass:.0%} of "
            "the probability, entropy, and rank and first character of the expected token"
        )
        head = ("", "Tokens", "Entropy, nats", "Rank", "First character")
        tables["state-space"] = [Table(title, head, rows)]
    if measurements.buffering:
        tables["buffering"] = list(_buffering_tables(measurements.buffering))
    return tables


def _representation_table(token: str, alignments: Mapping[When, Alignment]) -> Table:
    before, after = alignments["before"], alignments["after"]
    blocks = first_middle_last(len(after.median))
    middle = blocks[1]
    rows = []
    for old, new in zip(before.keywords, after.keywords, strict=True):
        curves: dict[str, tuple[Curve | Band, str]] = {
            "before": (old.token.relative, f"{old.nearer[middle]} of {after.words}"),
            "after": (new.token.relative, f"{new.nearer[middle]} of {after.words}"),
            "ordinary words": (new.ordinary["relative"], ""),
            **{f"new token, {how}": (d.relative, "") for how, d in new.untrained.items()},
        }
        rows += [
            (new.keyword, name, *(f"{curve.mean[block]:.2f}" for block in blocks), nearer)
            for name, (curve, nearer) in curves.items()
        ]
    return Table(
        f"L2 from {token} to a keyword, divided by the median between ordinary words",
        ("Keyword", "", *(f"Block {b + 1}" for b in blocks), f"Nearer words, block {middle + 1}"),
        rows,
        f"Nearest of {after.words} ordinary words in block {middle + 1} after training: "
        f"{', '.join(word.word for word in after.nearest[middle])}.",
        heads=2,
    )


def _buffering_tables(buffering: Buffering) -> Iterator[Table]:
    def write(estimate: Estimate | None) -> Cell:
        return cell(estimate, partial(decimal, signed=True))

    by_when = list(buffering.cosines.values())
    rows: list[Sequence[str | Cell]] = [
        (GROUP_TITLES[name], *(write(cosines.groups[name]) for cosines in by_when))
        for name in by_when[0].groups
    ]
    subsets = (Estimate(mean, low, high, 0) for low, mean, high in (c.subsets for c in by_when))
    halves = ("–" if c.halves is None else decimal(c.halves, signed=True) for c in by_when)
    rows += [
        ("random subsets of pairs, range", *map(write, subsets)),
        ("halves of the held-out rows", *halves),
    ]
    yield Table(
        f"Cosine of mean gradients with that of held-out task rows, {buffering.ratio:g} pairs per "
        "task row",
        ("", *(f"{when.capitalize()} training" for when in buffering.cosines)),
        rows,
    )
    yield Table(
        f"Rank correlation of the gradient norms of {len(buffering.pairs)} pairs with their "
        "similarity to the task",
        ("", "Plain", "Given answer length"),
        [(name, write(c.plain), write(c.given_length)) for name, c in buffering.norms.items()],
    )
    yield Table(
        "Canceling of gradients: norm of the mean divided by mean of the norms",
        ("", "Group", "Rows", "Ratio", "Ratio if unrelated", "Shared direction"),
        [
            (
                *(when, GROUP_TITLES[name], str(group.rows), f"{group.ratio:.2f}"),
                *(f"{group.subsets[-1].independent:.2f}", write(group.shared)),
            )
            for when, groups in buffering.cancelling.items()
            for name, group in groups.items()
        ],
        heads=2,
    )


class MeasurementFigure(NamedTuple):
    """A figure of measurements with its title and its caption."""

    drawing: Drawing
    title: str
    caption: str


def measurement_figures(measurements: Measurements) -> dict[str, list[MeasurementFigure]]:
    """Return the figures of each measurement that was taken."""
    figures: dict[str, list[MeasurementFigure]] = {}
    if alignments := measurements.representation:
        figures["representation"] = [
            MeasurementFigure(
                alignment_by_block(alignments["after"], alignments["before"], word.keyword),
                f"{measurements.token} and “{short(word.keyword)}”",
                "L2 divided by that between ordinary words; bands are one standard deviation over "
                "the contexts, and the range of ordinary words.",
            )
            for word in alignments["after"].keywords
        ]
    if measurements.state_space:
        spaces = {
            f"{when}, {which}": space
            for when, by_which in measurements.state_space.items()
            for which, space in by_which.items()
        }
        figures["state-space"] = [
            MeasurementFigure(
                state_space_sizes(spaces),
                "State space at the start of the answer",
                f"Tokens that have {spaces['after, with'].mass:.0%} of the probability, row by "
                "row; bars are means.",
            )
        ]
    if buffering := measurements.buffering:
        figures["buffering"] = [
            MeasurementFigure(
                cosines_with_held_out(buffering),
                "Gradient cosines",
                "Cosines of mean gradients with that of held-out task rows; lines are 95% "
                "intervals, diamonds random subsets of pairs.",
            ),
            MeasurementFigure(
                norms_by_similarity(buffering),
                "Gradient norms by similarity",
                "Each pair, before and after; ρ is Spearman’s rank correlation.",
            ),
            *(
                MeasurementFigure(
                    cancellation_by_rows(buffering, when),
                    f"How gradients cancel, {when} training",
                    "Norm of the mean divided by mean of the norms, for more and more rows; low "
                    "values mean canceling.",
                )
                for when in WHENS
            ),
        ]
    return figures


def alignment_by_block(after: Alignment, before: Alignment, keyword: str) -> Drawing:
    """Draw the token's distance to one keyword in every block, with controls (paper, Figure 2).

    Args:
        after: Alignment of the trained model.
        before: Alignment before training.
        keyword: The keyword, one of those measured.
    """
    new, old = (next(k for k in a.keywords if k.keyword == keyword) for a in (after, before))

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        curve, band, color = new.token.relative, new.ordinary["relative"], palette.series[0]
        blocks = range(1, len(curve.mean) + 1)
        words = f"{len(after.controls)} ordinary words"
        token = short(after.token)
        lines = [
            (band.mean, palette.muted, "-", words),
            *(
                (distances.relative.mean, palette.series[1], style, f"untrained token ({how})")
                for (how, distances), style in zip(
                    new.untrained.items(), (DASHED, DOTTED), strict=False
                )
            ),
            (old.token.relative.mean, color, DASHED, f"{token} before"),
            (curve.mean, color, "-", f"{token} after"),
        ]
        marker = "o" if len(blocks) == 1 else ""
        for values, line_color, style, label in lines:
            axes.plot(blocks, values, color=line_color, ls=style, marker=marker, label=label)
        axes.fill_between(blocks, band.low, band.high, color=palette.muted, alpha=0.15, lw=0)
        if curve.sd is not None:
            mean, sd = np.asarray(curve.mean), np.asarray(curve.sd)
            axes.fill_between(blocks, mean - sd, mean + sd, color=color, alpha=0.2, lw=0)
        axes.set_xlabel("transformer block")
        axes.set_ylabel("L2 / ordinary median")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0)
        put_legend(figure, title=f"distance to “{short(keyword)}” of", alignment="left")

    description = f"L2 from {after.token} to {keyword} in every block, with controls"
    return Drawing(f"alignment-{keyword}", description, paint)


def state_space_sizes(spaces: Mapping[str, StateSpace]) -> Drawing:
    """Draw the state space of every row, one line of dots per group (paper, Figure 4).

    Args:
        spaces: By a name to show, such as `"before, with <sep>"`; at least one.
    """

    def paint(_figure: Any, axes: Any, palette: Palette) -> None:
        for row, (name, space) in enumerate(spaces.items()):
            color = palette.series[0] if "after" in name else palette.muted
            sizes = sorted(each.size for each in space.rows)
            # Dots of equal sizes are spread out instead of drawn on top of each other.
            heights = [row + 0.5 * (i / max(1, len(sizes) - 1) - 0.5) for i in range(len(sizes))]
            axes.scatter(sizes, heights, s=8, color=color, alpha=0.6, lw=0)
            axes.vlines(space.size, row - 0.35, row + 0.35, color=palette.ink, lw=1.6)
        axes.set_xscale("log")
        plain_log_ticks(axes.xaxis)
        axes.set_xlim(left=0.8)
        name_rows(axes, list(spaces))
        mass = next(iter(spaces.values())).mass
        axes.set_xlabel(f"tokens that have {mass:.0%} of the probability")

    means = ", ".join(f"{name} {space.size:.1f}" for name, space in spaces.items())
    return Drawing(
        "state-space", f"Tokens that may begin the answer, geometric means: {means}", paint
    )


def norms_by_similarity(buffering: Buffering) -> Drawing:
    """Draw every pair's gradient norm against its similarity to the task (claim 2)."""

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        similarity = [pair.similarity for pair in buffering.pairs]
        for when, color, marker in zip(
            WHENS, (palette.muted, palette.series[0]), "os", strict=True
        ):
            norms = [getattr(pair, when) for pair in buffering.pairs]
            rank = buffering.norms[when].plain
            label = f"{when} training, ρ {'undefined' if rank is None else f'{rank.value:+.2f}'}"
            look = {"s": 11, "color": color, "marker": marker, "alpha": 0.65, "lw": 0}
            axes.scatter(similarity, norms, label=label, **look)
        axes.set_yscale("log")
        plain_log_ticks(axes.yaxis)
        axes.set_xlabel("similarity of pair and task")
        axes.set_ylabel("norm of its gradient")
        put_legend(figure)

    description = f"Gradient norms of {len(buffering.pairs)} pairs by similarity, before and after"
    return Drawing("norms", description, paint)


def cancellation_by_rows(buffering: Buffering, when: str) -> Drawing:
    """Draw how far gradients cancel in more and more rows, by group (claim 1).

    Args:
        buffering: The measurement.
        when: `"before"` or `"after"` training.
    """
    groups = buffering.cancelling[when]

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        for (name, group), color in zip(groups.items(), palette.series, strict=False):
            rows, mean, low, high = zip(
                *((s.rows, s.mean, s.low, s.high) for s in group.subsets), strict=True
            )
            axes.fill_between(rows, low, high, color=color, alpha=0.12, lw=0)
            axes.plot(rows, mean, color=color, marker="o", markersize=3, label=GROUP_TITLES[name])
        longest = max(groups.values(), key=lambda group: group.rows).subsets
        unrelated = [(subset.rows, subset.independent) for subset in longest]
        look = {"color": palette.muted, "ls": DASHED, "label": "unrelated directions"}
        axes.plot(*zip(*unrelated, strict=True), **look)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("rows")
        axes.set_ylabel("norm of mean / mean norm")
        put_legend(figure)

    return Drawing(f"canceling-{when}", f"How far gradients cancel, {when} training", paint)


def cosines_with_held_out(buffering: Buffering) -> Drawing:
    """Draw the cosines of mean gradients with that of the held-out task rows."""
    names = list(buffering.cosines["before"].groups)

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        looks = {"before": (-0.13, palette.muted), "after": (0.13, palette.series[0])}
        for when, (offset, color) in looks.items():
            cosines = buffering.cosines[when]
            estimates = [cosines.groups[name] for name in names]
            draw_intervals(axes, estimates, color, offset=offset, label=f"{when} training")
            (low, mean, high), row = cosines.subsets, len(names) + offset
            axes.hlines(row, low, high, color=color, lw=1.6, alpha=0.6)
            axes.scatter(mean, row, s=18, color=color, marker="D", alpha=0.6)
        name_rows(axes, [*(GROUP_TITLES[name] for name in names), "subsets of pairs"])
        axes.axvline(0, color=palette.muted, lw=0.8)
        axes.set_xlabel("cosine with the held-out task's gradient")
        put_legend(figure)

    description = "Cosines of mean gradients with that of held-out task rows"
    return Drawing("cosines", description, paint)
