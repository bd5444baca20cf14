"""Sections on inputs and models: trainings, measurements, rows, maps of queries, settings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from markupsafe import Markup
from pyarrow import dataset

from delia_data.evaluation.figures import (
    held_out_curves,
    loss_curve,
    short,
    text_map,
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
from delia_data.experiments import read_grid
from delia_data.hub.parts import pair_shards
from delia_data.ranking import rank
from delia_data.records import Record, read_record
from delia_data.report.page import (
    Figures,
    Metric,
    Section,
    blocks,
    count,
    flatten,
    join,
    named,
    named_rows,
    show_table,
)
from delia_data.report.runs import Kind, Run, Runs
from delia_data.sampling.embeddings import Embed, map_texts
from delia_data.tasks import read_task_rows
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
    data = [{"run": label, **asdict(one)} for label, one in every]
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


_DETAILS: Final[Sequence[str]] = (
    "tokens",
    "prompt_tokens",
    "cost_usd",
    "wordings",
    "decontaminated",
)
_MAP_ROWS: Final = 250
"""Rows of each source that are drawn at most, by hash."""
_MAP_READ: Final = 2_000
"""Rows of each source among which they are picked."""
_SOURCES: Final = ("cache", "task")
_KINDS: Final[Mapping[Kind, str]] = {
    "mixture": "Mixtures",
    "adapter": "Trainings",
    "evaluation": "Evaluations",
    "measurements": "Measurements",
    "ratio": "Series of ratios",
    "reproduction": "Reproductions",
    "cache": "Caches",
    "task": "Tasks",
}


def accounts(runs: Runs, _: Figures) -> Section | None:
    """Account for rows: by source, and dropped rows by reason."""
    groups = {
        "Mixture, rows by source": runs.of("mixture"),
        "Cache, pairs": runs.of("cache"),
        "Task, rows": runs.of("task"),
    }
    if not any(groups.values()):
        return None
    body = [part for title, group in groups.items() if group for part in _group(title, group)]
    data: list[dict[str, Any]] = [
        {
            "run": run.label,
            "kind": run.kind,
            "rows": dict(run.done.rows),
            "dropped": dict(run.done.dropped),
            "details": dict(run.done.details),
        }
        for run in runs.of("mixture", "cache", "task")
    ]
    mixtures = runs.of("mixture")
    metrics = [
        Metric(
            f"Rows of {run.label}",
            count(sum(n for source, n in run.done.rows.items() if source != "test")),
            named_rows(run.done.rows),
        )
        for run in mixtures
    ]
    note = "Every row that was given and is not in the result has a reason here."
    return Section(join(body), data, [_mixed(run) for run in mixtures], metrics, note)


def _group(title: str, group: Sequence[Run]) -> Iterator[Markup]:
    """Show rows kept and rows dropped, with a column for each run."""
    rows = [run.done.rows for run in group]
    dropped = [{why: n for why, n in run.done.dropped.items() if n} for run in group]
    none = blocks.paragraph("No row was dropped.")
    yield blocks.heading(title)
    yield blocks.columns(
        [
            show_table(_counts("Kept", group, rows), 4),
            show_table(_counts("Dropped, by reason", group, dropped), 4)
            if any(dropped)
            else blocks.heading("Dropped, by reason", 4) + none,
        ]
    )
    details = []
    for run in group:
        given = {name: run.done.details[name] for name in _DETAILS if name in run.done.details}
        if given:
            texts = [f"{re.sub('[_.]', ' ', name)} {text}" for name, text in flatten(given)]
            details.append(f"{run.label}: {', '.join(texts)}")
    if details:
        yield blocks.bullets(details, "note")


def _counts(title: str, group: Sequence[Run], counts: Sequence[Mapping[str, int]]) -> Table:
    names = dict.fromkeys(name for one in counts for name in one)
    rows = [
        [name.replace("_", " "), *(count(one[name]) if name in one else "–" for one in counts)]
        for name in names
    ]
    return Table(title, ("", *(run.label for run in group)) if len(group) > 1 else (), rows)


def _mixed(run: Run) -> str:
    ratio = run.done.settings.get("ratio")
    at_ratio = f", a ratio of {ratio:g}" if isinstance(ratio, int | float) else ""
    lost = sum(run.done.dropped.values())
    dropped = f"{named(lost, 'row')} dropped" if lost else "none dropped"
    return f"{run.label} mixes {named_rows(run.done.rows)}{at_ratio}; {dropped}."


def maps(runs: Runs, figures: Figures, *, embed: Embed | None = None) -> Section | None:
    """Draw a map of each mixture; without mixtures, one of caches and tasks together.

    Args:
        runs: The runs.
        figures: The figures of the page.
        embed: Turns texts into vectors; by default `map_texts` chooses.
    """
    drawn, data = [], []
    for label, texts in _map_sources(runs):
        every = [(name, text) for name in _SOURCES for text in texts.get(name, ())]
        if len(every) < 3:
            continue
        mapped = map_texts([text for _, text in every], embed)
        places = {
            name: mapped.places[[at for at, (one, _) in enumerate(every) if one == name]]
            for name in texts
        }
        caption = (
            f"Queries {mapped.by}, on their first two principal components, which hold "
            f"{sum(mapped.variance):.0%} of the variance: distant points differ, close points may "
            "differ too."
        )
        drawn.append(figures(text_map(places, mapped.variance), f"Queries of {label}", caption))
        data.append(
            {
                "run": label,
                "by": mapped.by,
                "variance": list(mapped.variance),
                "rows": {name: len(part) for name, part in places.items()},
            }
        )
    return Section(blocks.figures(drawn), data) if drawn else None


def _map_sources(runs: Runs) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Yield the name of each map, with its queries by source."""
    mixtures = runs.of("mixture")
    for run in mixtures:
        shards = sorted(run.folder.glob("train*.parquet"))
        by_source = {name: _picked(_some_rows(shards, name)) for name in _SOURCES}
        yield run.label, {name: texts for name, texts in by_source.items() if texts}
    caches, tasks = runs.of("cache"), runs.of("task")
    if not mixtures and caches and tasks:
        pairs = [r for run in caches for r in _some_rows(pair_shards(run.folder))]
        rows = [r.record for run in tasks for r in read_task_rows(run.folder).train]
        label = " and ".join(run.label for run in (*caches, *tasks))
        yield label, {"cache": _picked(pairs), "task": _picked(rows)}


def _some_rows(shards: Sequence[Path], source: str | None = None) -> list[Record]:
    """Read every nth row, or every nth of a source, with one batch in memory at a time."""
    if not shards:
        return []
    rows = dataset.dataset([str(shard) for shard in shards], format="parquet")
    chosen = None if source is None else dataset.field("source") == source
    columns = ["messages"] if source is None else None
    step, seen = max(1, rows.count_rows(filter=chosen) // _MAP_READ), 0
    some: list[Record] = []
    for batch in rows.to_batches(columns=columns, filter=chosen):
        taken = batch.take(pa.array(range(-seen % step, batch.num_rows, step), pa.int64()))
        some += [read_record(row) for row in taken.to_pylist()]
        seen += batch.num_rows
    return some


def _picked(records: Sequence[Record]) -> list[str]:
    ordered = sorted(records, key=lambda record: rank(0, record.id, "picture"))
    return [record.query for record in ordered[:_MAP_ROWS]]


def settings(runs: Runs, _: Figures) -> Section | None:
    """Show all settings and input hashes, in a table for each kind of run."""
    body: list[Markup] = []
    data: dict[str, Any] = {}
    for kind, title in _KINDS.items():
        group = runs.of(kind)
        if not group:
            continue
        every = [dict(_settings(run)) for run in group]
        names = list(dict.fromkeys(name for one in every for name in one))
        rows = []
        for name in names:
            values = [one.get(name, "–") for one in every]
            same = "same" if len(set(values)) == 1 else "differs"
            rows.append((name, same if len(group) > 1 else "", list(map(_short_hash, values))))
        head = ("", *(run.label for run in group)) if len(group) > 1 else ()
        table = blocks.settings_table(head, rows)
        body.append(blocks.details(f"{title}: {named(len(names), 'setting')}", table))
        data |= {run.label: _nested(run) for run in group}
    several = any(len(runs.of(kind)) > 1 for kind in _KINDS)
    note = "Settings in which runs of one kind differ are bold." if several else ""
    return Section(join(body), data, note=note) if body else None


def _nested(run: Run) -> dict[str, Any]:
    if run.manifest is None:
        file = run.folder / "inputs.json"
        inputs = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return {"settings": read_grid(run.folder / "grid.yaml").as_dict(), "inputs": inputs}
    manifest = run.manifest
    return {
        "settings": manifest.settings,
        "inputs": manifest.inputs,
        "code_version": manifest.code_version,
    }


def _settings(run: Run) -> Iterator[tuple[str, str]]:
    nested = _nested(run)
    yield from flatten(nested["settings"])
    yield from ((f"input.{name}", str(given)) for name, given in nested["inputs"].items())
    if "code_version" in nested:
        yield "version of delia_data", nested["code_version"]


def _short_hash(value: str) -> str:
    """Shorten a hash; the data have all of it."""
    return f"{value[:16]}…" if re.fullmatch(r"[0-9a-f]{64}", value) else value
