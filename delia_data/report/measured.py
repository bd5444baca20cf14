"""Chapter: where the token stands, the state space, and what gradients do, before and after."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from delia_data.evaluation._html import element, escape, table
from delia_data.evaluation._plain import in_order
from delia_data.evaluation.buffering import Buffering
from delia_data.evaluation.figures import (
    alignment_by_block,
    block_curves,
    cancelling_by_rows,
    cosines_with_held_out,
    group_name,
    norms_by_similarity,
    short,
    state_space_sizes,
)
from delia_data.evaluation.measuring import Measurements, read_measurements
from delia_data.evaluation.representation import BlockDistances
from delia_data.evaluation.summary import first_middle_last, middle_block
from delia_data.report.chapter import Figures, Found
from delia_data.report.numbers import Interval, count, signed, value
from delia_data.report.runs import Run, Runs

_PARTS: Final = {
    "representation": ("the token beside controls", "delia measure"),
    "state-space": ("state space", "delia measure"),
    "buffering": ("gradients", "delia measure --cache"),
}
"""Parts of measurements, and what makes them."""


def measured(runs: Runs, figures: Figures) -> Found | None:
    """Show measurements, and the distances of a quickstart."""
    found = [(run.label, read_measurements(run.folder)) for run in runs.of("measurements")]
    pairs = list(_before_and_after(runs))
    if not found and not pairs:
        return None
    body: list[str] = []
    told: list[str] = []
    data = []
    for label, before, after in pairs:
        body.append(element("h3", escape(f"The token by block, {label}")))
        body.append(_distances(before, after, figures))
        data.append({"run": label, "distances": [_plain(before), _plain(after)]})
    for label, one in found:
        body += _measurements(label, one, figures)
        told += _told(label, one)
        data.append({"run": label, **one.as_dict()})
    absent = {
        title: command
        for name, (title, command) in _PARTS.items()
        if not any(name in one.measured for _, one in found)
    }
    return Found("".join(body), data, told, absent=absent)


def _measurements(label: str, one: Measurements, figures: Figures) -> Iterator[str]:
    if one.representation:
        yield element("h3", escape(f"The token by block, {label}"))
        before, after = one.representation["before"], one.representation["after"]
        drawn = [
            figures(
                alignment_by_block(after, before=before, keyword=word.keyword),
                f"{one.token} and “{short(word.keyword)}”",
                "L2 over that between ordinary words; bands are one standard deviation over the "
                "contexts, and the range of ordinary words.",
            )
            for word in after.keywords
        ]
        yield element("div", "".join(drawn), kind="figures")
        yield _representation(one)
    if one.state_space:
        yield element("h3", escape(f"State space of the first token, {label}"))
        spaces = {
            f"{when}, {which}": space
            for when, by in in_order(one.state_space)
            for which, space in in_order(by)
        }
        mass = next(iter(spaces.values())).mass
        caption = f"Tokens that hold {mass:.0%} of the probability, row by row; bars are means."
        drawing = figures(state_space_sizes(spaces), "How open the answer’s beginning is", caption)
        yield element("div", drawing, kind="figures")
        rows = [
            [
                name,
                f"{space.size:.1f}",
                f"{space.entropy:.2f}",
                f"{space.rank:g}",
                f"{space.opening:.0%}",
            ]
            for name, space in spaces.items()
        ]
        head = ("", "Tokens", "Entropy, nats", "Rank of the expected one", "Opens as expected")
        yield table(head, rows, kind="numbers wide", name="State space")
    if one.buffering:
        yield element("h3", escape(f"Gradients, {label}"))
        yield from _gradients(one.buffering, figures)


def _representation(one: Measurements) -> str:
    assert one.representation is not None
    before, after = one.representation["before"], one.representation["after"]
    blocks = first_middle_last(len(after.median))
    middle = blocks[1]
    rows: list[list[object]] = []
    for old, new in zip(before.keywords, after.keywords, strict=True):
        nearer = [f"{word.nearer[middle]} of {after.words}" for word in (old, new)]
        curves = [
            ("before", old.token.relative.mean, nearer[0]),
            ("after", new.token.relative.mean, nearer[1]),
            ("ordinary words", new.ordinary["relative"].mean, ""),
            *(
                (f"new token, {how}", untrained.relative.mean, "")
                for how, untrained in in_order(new.untrained)
            ),
        ]
        for place, (name, curve, closer) in enumerate(curves):
            numbers = [f"{curve[block]:.2f}" for block in blocks]
            rows.append([new.keyword if not place else "", name, *numbers, closer])
    head = ("Keyword", "", *(f"Block {b + 1}" for b in blocks), f"Nearer words, block {middle + 1}")
    near = ", ".join(one.word for one in after.nearest[middle])
    return table(head, rows, kind="numbers wide", heads=2, name="Distances") + element(
        "p",
        escape(
            f"Nearest of {after.words} ordinary words in block {middle + 1} after training: {near}."
        ),
        kind="note",
    )


def _gradients(found: Buffering, figures: Figures) -> Iterator[str]:
    drawn = [
        figures(
            cosines_with_held_out(found),
            "Gradient cosines",
            "Of mean gradients with that of held-out task rows; lines are 95% intervals, diamonds "
            "random subsets of pairs.",
        ),
        figures(
            norms_by_similarity(found),
            "Gradient norms by similarity",
            "Each pair, before and after; ρ is Spearman’s rank correlation.",
        ),
        *(
            figures(
                cancelling_by_rows(found, when=when),
                f"How gradients cancel, {when} training",
                "Norm of the mean over mean of the norms, in ever more rows; low is cancelling.",
            )
            for when, _ in in_order(found.cancelling)
        ),
    ]
    yield element("div", "".join(drawn), kind="figures")
    whens, by_when = zip(*in_order(found.cosines), strict=True)
    rows = [
        [group_name(name), *(signed(by.groups[name]) for by in by_when)]
        for name, _ in in_order(by_when[0].groups)
    ]
    head = ("Cosine with held-out task rows", *(when.capitalize() for when in whens))
    yield table(head, rows, kind="numbers wide", name="Gradient cosines")
    cancelling: list[list[object]] = [
        [when, group_name(name), count(group.rows), f"{group.ratio:.2f}", _shared(group.shared)]
        for when, groups in in_order(found.cancelling)
        for name, group in in_order(groups)
    ]
    head = ("Cancelling", "", "Rows", "Ratio", "Shared direction")
    yield table(head, cancelling, kind="numbers wide", heads=2, name="Cancelling")


def _shared(found: Interval | None) -> object:
    return value(found) if found is not None else "undefined"


def _told(label: str, one: Measurements) -> Iterator[str]:
    if one.representation:
        before, after = one.representation["before"], one.representation["after"]
        middle = middle_block(len(after.median))
        moved = [
            f"“{short(new.keyword)}” {old.token.relative.mean[middle]:.2f} before and "
            f"{new.token.relative.mean[middle]:.2f} after"
            for old, new in zip(before.keywords, after.keywords, strict=True)
        ]
        yield (
            f"{label}: in the middle block, {one.token} stands from its keywords at so many times "
            f"the distance of two ordinary words: {'; '.join(moved)}."
        )
    if one.state_space:
        by = one.state_space
        yield (
            f"{label}: where the answer begins, {by['before']['with'].size:.1f} tokens held "
            f"{by['before']['with'].mass:.0%} of the probability before training, and "
            f"{by['after']['with'].size:.1f} after it, with the token named."
        )


def _before_and_after(
    runs: Runs,
) -> Iterator[tuple[str, Sequence[BlockDistances], Sequence[BlockDistances]]]:
    """The distances of quickstarts that have both."""
    probes = {run.folder.resolve(): run for run in runs.of("probe")}
    for folder, run in probes.items():
        after = probes.get(folder.with_name("after"))
        if folder.name == "before" and after is not None:
            yield _parent(run), _read(folder), _read(after.folder)


def _parent(run: Run) -> str:
    """The quickstart's own name."""
    return "/".join(run.label.split("/")[:-1]) or run.folder.resolve().parent.name


def _read(folder: Path) -> list[BlockDistances]:
    known = json.loads((folder / "distances.json").read_text(encoding="utf-8"))
    return [BlockDistances(d["keyword"], tuple(d["l2"]), tuple(d["cosine"])) for d in known]


def _distances(
    before: Sequence[BlockDistances], after: Sequence[BlockDistances], figures: Figures
) -> str:
    note = "Dashed before training, full after. Lower is nearer to the keyword."
    drawn = (
        figures(block_curves(before, after, "l2"), "L2 distance", note),
        figures(block_curves(before, after, "cosine"), "Cosine distance", note),
    )
    return element("div", "".join(drawn), kind="figures")


def _plain(found: Sequence[BlockDistances]) -> list[dict[str, Any]]:
    return [{"keyword": d.keyword, "l2": d.l2, "cosine": d.cosine} for d in found]
