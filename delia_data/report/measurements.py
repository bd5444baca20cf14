"""Sections on models: their training, and the token, state space and gradients before and after."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from markupsafe import Markup

from delia_data.evaluation.figures import (
    held_out_curves,
    loss_curve,
    short,
    watched_distances,
    watched_state_space,
)
from delia_data.evaluation.measurements import (
    Measurements,
    measurement_figures,
    measurement_tables,
    read_measurements,
)
from delia_data.evaluation.representation import middle_block
from delia_data.evaluation.tables import Table
from delia_data.report.page import Figures, Section, blocks, count, join, named_rows, show_table
from delia_data.report.runs import Run, Runs
from delia_data.training.adapter import LOSSES
from delia_data.training.watching import WATCHED, read_watched

_OVER: Final = " over the training"
_HELD_OUT: Final = "Measured on rows and pairs that are not trained on, before the first step too."
_PARTS: Final = {
    "representation": ("the token compared with controls", "delia measure"),
    "state-space": ("state space of the first token", "delia measure"),
    "buffering": ("gradients", "delia measure --cache"),
}
"""Parts of measurements, and the commands that make them."""


def trained(runs: Runs, figures: Figures) -> Section | None:
    """Show trainings: their loss by source, and what was watched."""
    adapters = runs.of("adapter")
    if not adapters:
        return None
    losses = {run.label: _losses(run.folder) for run in adapters}
    watched = {run.label: _watched(run.folder) for run in adapters}
    caption = "Dots are steps and lines running means over 15 of them; short runs have no dots."
    drawn = [
        figures(loss_curve(points), f"Loss by source, {label}", caption)
        for label, points in losses.items()
        if points
    ]
    for run in adapters:
        best = run.done.details.get("best_step")
        drawn += [
            figures(drawing, f"{drawing.description.removesuffix(_OVER)}, {run.label}", _HELD_OUT)
            for drawing in held_out_curves(watched[run.label], best_step=best)
        ]
    drawn += _watched_figures(watched, figures)
    head = ("Run", "Task rows", "Pairs", "Steps", "Last loss", "Left out")
    rows = [_training_row(run, losses[run.label]) for run in adapters]
    data = [
        {
            "run": run.label,
            "rows": run.done.rows,
            "losses": losses[run.label],
            "watched": watched[run.label],
        }
        for run in adapters
    ]
    body = blocks.figures(drawn) + show_table(Table("Trainings", head, rows))
    return Section(body, data, [_training_summary(run, losses[run.label]) for run in adapters])


def _losses(folder: Path) -> list[dict[str, float]]:
    file = folder / LOSSES
    return [dict(p) for p in json.loads(file.read_text("utf-8"))] if file.is_file() else []


def _watched(folder: Path) -> list[dict[str, float]]:
    return read_watched(folder) if (folder / WATCHED).is_file() else []


def _watched_figures(
    watched: Mapping[str, Sequence[Mapping[str, float]]], figures: Figures
) -> Iterator[Markup]:
    states = {
        label: points
        for label, points in watched.items()
        if any("state_space/size" in point for point in points)
    }
    if states:
        caption = "Tokens that have 95% of the probability where the answer begins."
        yield figures(watched_state_space(states), "State space over the training", caption)
    for label, points in watched.items():
        names = [name for name in (points[0] if points else ()) if name.startswith("l2/")]
        if middles := [name for name in names if name.endswith("/middle")]:
            yield figures(
                watched_distances(label, points, middles),
                f"Distance over the training, {label}",
                "In the middle block, L2 from the token to each keyword; dashed: untrained token, "
                "dotted: ordinary words.",
            )


def _training_row(run: Run, losses: Sequence[Mapping[str, float]]) -> list[str]:
    steps = run.done.details.get("steps")
    return [
        run.label,
        count(run.done.rows.get("task", 0)),
        count(run.done.rows.get("cache", 0)),
        "–" if steps is None else count(int(steps)),
        f"{losses[-1]['loss']:.3f}" if losses else "–",
        ", ".join(f"{why}: {n:,}" for why, n in run.done.dropped.items()) or "none",
    ]


def _training_summary(run: Run, losses: Sequence[Mapping[str, float]]) -> str:
    text = f"{run.label} was trained on {named_rows(run.done.rows)}"
    of_task = [point["loss_task"] for point in losses if "loss_task" in point]
    if len(of_task) > 1:
        third = max(1, len(of_task) // 3)
        first, last = (sum(part) / third for part in (of_task[:third], of_task[-third:]))
        text += (
            f"; the loss on task rows was {first:.3g} over the first third of its steps and "
            f"{last:.3g} over the last"
        )
    details = run.done.details
    if "planned_steps" in details:
        text += f"; it stopped after {details['steps']} of {details['planned_steps']} steps"
    if "best_step" in details:
        by = run.done.settings.get("best_by")
        text += f"; it kept the checkpoint of step {details['best_step']}, the best by {by}"
    return f"{text}."


def measured(runs: Runs, figures: Figures) -> Section | None:
    """Show measurements."""
    every = [(run.label, read_measurements(run.folder)) for run in runs.of("measurements")]
    if not every:
        return None
    body = [part for label, one in every for part in _measurements(label, one, figures)]
    data = [{"run": label, **one.as_dict()} for label, one in every]
    absent = {
        title: command
        for name, (title, command) in _PARTS.items()
        if not any(name in one.measured for _, one in every)
    }
    summary = [sentence for label, one in every for sentence in _measured_summary(label, one)]
    return Section(join(body), data, summary, absent=absent)


def _measurements(label: str, one: Measurements, figures: Figures) -> Iterator[Markup]:
    drawn, tables = measurement_figures(one), measurement_tables(one)
    for name in one.measured:
        heading, _ = _PARTS[name]
        yield blocks.heading(f"{heading.capitalize()}, {label}")
        yield blocks.figures([figures(f.drawing, f.title, f.caption) for f in drawn[name]])
        yield from (show_table(table, 4) for table in tables[name])


def _measured_summary(label: str, one: Measurements) -> Iterator[str]:
    if one.representation:
        before, after = one.representation["before"], one.representation["after"]
        middle = middle_block(len(after.median))
        moved = [
            f"“{short(new.keyword)}” {old.token.relative.mean[middle]:.2f} before and "
            f"{new.token.relative.mean[middle]:.2f} after"
            for old, new in zip(before.keywords, after.keywords, strict=True)
        ]
        yield (
            f"{label}: in the middle block, the L2 distance from {one.token} to its keywords, in "
            f"multiples of the distance between two ordinary words, is {'; '.join(moved)}."
        )
    if one.state_space:
        before_space = one.state_space["before"]["with"]
        yield (
            f"{label}: where the answer begins, with the token in the request, "
            f"{before_space.size:.1f} tokens had {before_space.mass:.0%} of the probability "
            f"before training and {one.state_space['after']['with'].size:.1f} after it."
        )
