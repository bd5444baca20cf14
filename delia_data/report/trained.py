"""Chapter: trainings, their loss by source and what was watched on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from delia_data.evaluation._html import element, escape, table
from delia_data.evaluation.figures import Drawing, Palette, loss_curve, short, watched_state_space
from delia_data.report.chapter import Figures, Found
from delia_data.report.numbers import count, named
from delia_data.report.runs import Run, Runs
from delia_data.training.adapter import LOSSES
from delia_data.training.watching import WATCHED, read_watched

_STATES: Final = "state_space/size"


def trained(runs: Runs, figures: Figures) -> Found | None:
    """Show trainings."""
    found = runs.of("adapter")
    if not found:
        return None
    losses = {run.label: _losses(run.folder) for run in found}
    watched = {run.label: _watched(run.folder) for run in found}
    drawn: list[str] = [
        figures(
            loss_curve(points),
            f"Loss by source, {label}",
            "Dots are steps and lines running means over 15 of them; short runs have no dots.",
        )
        for label, points in losses.items()
        if points
    ]
    drawn += _drawn_watched(watched, figures)
    body = element("div", "".join(drawn), kind="figures") + _table(found, losses)
    data = [
        {
            "run": run.label,
            "rows": run.manifest.rows if run.manifest else {},
            "losses": losses[run.label],
            "watched": watched[run.label],
        }
        for run in found
    ]
    return Found(body, data, [_told(run, losses[run.label]) for run in found])


def _losses(folder: Path) -> list[dict[str, float]]:
    file = folder / LOSSES
    if not file.is_file():
        return []
    return [dict(point) for point in json.loads(file.read_text(encoding="utf-8"))]


def _watched(folder: Path) -> list[dict[str, float]]:
    return read_watched(folder) if (folder / WATCHED).is_file() else []


def _drawn_watched(
    watched: Mapping[str, Sequence[Mapping[str, float]]], figures: Figures
) -> Iterator[str]:
    states = {
        label: points for label, points in watched.items() if any(_STATES in p for p in points)
    }
    if states:
        yield figures(
            watched_state_space(states),
            "State space over the training",
            "Tokens that hold 95% of the probability where the answer begins.",
        )
    for label, points in watched.items():
        names = [name for name in _distances(points) if name.endswith("/middle")]
        if names:
            yield figures(
                _distance_drawing(label, points, names),
                f"Distance over the training, {label}",
                "In the middle block, L2 from the token to each keyword; dashed what was not "
                "trained, dotted ordinary words.",
            )


def _distances(points: Sequence[Mapping[str, float]]) -> list[str]:
    return [name for name in (points[0] if points else {}) if name.startswith("l2/")]


def _distance_drawing(
    label: str, points: Sequence[Mapping[str, float]], names: Sequence[str]
) -> Drawing:
    steps = [point["step"] for point in points]

    def paint(figure: Any, axes: Any, palette: Palette) -> None:
        styles = (("", "-"), ("/untrained", (0, (5, 2))), ("/ordinary", (0, (1, 1.5))))
        for name, colour in zip(names, palette.series, strict=False):
            word = short(name.removeprefix("l2/").removesuffix("/middle"))
            for suffix, line in styles:
                values = [point.get(f"{name}{suffix}") for point in points]
                if None in values:
                    continue
                told = None if suffix else f"“{word}”"
                axes.plot(steps, values, color=colour, ls=line, label=told)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("L2 distance")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside upper left", ncols=2)

    told = f"L2 distances from the token to its keywords while {label} was trained"
    return Drawing("distance-watched", told, paint)


def _table(found: Sequence[Run], losses: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    rows = []
    for run in found:
        manifest = run.manifest
        assert manifest is not None
        steps = manifest.details.get("steps")
        last = losses[run.label][-1]["loss"] if losses[run.label] else None
        rows.append(
            [
                run.label,
                count(manifest.rows.get("task", 0)),
                count(manifest.rows.get("cache", 0)),
                "–" if steps is None else count(int(steps)),
                "–" if last is None else f"{last:.3f}",
                escape(", ".join(f"{why}: {n:,}" for why, n in manifest.dropped.items()) or "none"),
            ]
        )
    head = ("Run", "Task rows", "Pairs", "Steps", "Last loss", "Left out")
    return table(head, rows, kind="numbers wide", name="Trainings")


def _told(run: Run, losses: Sequence[Mapping[str, float]]) -> str:
    assert run.manifest is not None
    task, pairs = (run.manifest.rows.get(name, 0) for name in ("task", "cache"))
    text = f"{run.label} was trained on {named(task, 'task row')} and {named(pairs, 'pair')}"
    of_task = [point["loss_task"] for point in losses if "loss_task" in point]
    if len(of_task) > 1:
        third = max(1, len(of_task) // 3)
        first, last = (sum(part) / third for part in (of_task[:third], of_task[-third:]))
        text += (
            f"; the loss on task rows was {first:.3g} over the first third of its steps and "
            f"{last:.3g} over the last"
        )
    return f"{text}."
