"""Sections on data: rows accounted for, maps of the queries, and every setting."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from markupsafe import Markup

from delia_data.evaluation.figures import text_map
from delia_data.experiments import read_grid
from delia_data.hub.parts import pair_shards
from delia_data.outputs import Manifest
from delia_data.ranking import rank
from delia_data.records import Record, read_record
from delia_data.report.page import Figures, Metric, Section, blocks, count, flatten, join, named
from delia_data.report.runs import Kind, Run, Runs
from delia_data.sampling.embeddings import Embed, map_texts
from delia_data.tasks import read_task_rows

_DETAILS: Final = ("tokens", "prompt_tokens", "cost_usd", "wordings", "decontaminated")
_MAP_ROWS: Final = 250
"""Rows of each source that are drawn at most, by hash."""
_MAP_READ: Final = 2_000
"""Rows of each source among which they are picked."""
_SOURCES: Final = ("cache", "task")
_KINDS: Final[Mapping[Kind, str]] = {
    "mixture": "Mixtures",
    "adapter": "Trainings",
    "evaluation": "Evaluations",
    "probe": "Evaluations of a 0.1 quickstart",
    "measurements": "Measurements",
    "ratio": "Series of ratios",
    "reproduction": "Reproductions",
    "cache": "Caches",
    "task": "Tasks",
}


def accounts(runs: Runs, _: Figures) -> Section | None:
    """Account for rows: by source, and dropped rows by reason."""
    every = runs.of("mixture", "cache", "task")
    if not every:
        return None
    mixtures = runs.of("mixture")
    groups = (
        ("Mixture, rows by source", mixtures),
        ("Cache, pairs", runs.of("cache")),
        ("Task, rows", runs.of("task")),
    )
    body = [part for title, group in groups if group for part in _group(title, group)]
    data: list[dict[str, Any]] = [
        {
            "run": run.label,
            "kind": run.kind,
            "rows": dict(_manifest(run).rows),
            "dropped": dict(_manifest(run).dropped),
            "details": dict(_manifest(run).details),
        }
        for run in every
    ]
    note = "Every row that was given and is not in the result has a reason here."
    return Section(
        join(body), data, [_mixed(run) for run in mixtures], [_metric(r) for r in mixtures], note
    )


def _group(title: str, group: Sequence[Run]) -> Iterator[Markup]:
    """Show rows kept and rows dropped, with a column for each run."""
    kept = [dict(_manifest(run).rows) for run in group]
    dropped = [{k: n for k, n in _manifest(run).dropped.items() if n} for run in group]
    none = blocks.paragraph("No row was dropped.")
    yield blocks.heading(title)
    yield blocks.columns(
        [
            blocks.heading("Kept", 4) + _counts(group, kept),
            blocks.heading("Dropped, by reason", 4)
            + (_counts(group, dropped) if any(dropped) else none),
        ]
    )
    details = [
        f"{run.label}: "
        + ", ".join(f"{name.replace('_', ' ')} {_plain(one)}" for name, one in known.items())
        for run in group
        if (known := {k: v for k, v in _manifest(run).details.items() if k in _DETAILS})
    ]
    if details:
        yield blocks.bullets(details, "note")


def _counts(group: Sequence[Run], counts: Sequence[Mapping[str, int]]) -> Markup:
    names = list(dict.fromkeys(name for one in counts for name in one))
    rows = [
        [name.replace("_", " "), *(count(one[name]) if name in one else "–" for one in counts)]
        for name in names
    ]
    head = ("", *(run.label for run in group)) if len(group) > 1 else ()
    return blocks.table(head, rows, "numbers wide" if head else "numbers", "Rows")


def _plain(one: Any) -> str:
    if isinstance(one, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_plain(each)}" for name, each in one.items())
    if isinstance(one, bool) or not isinstance(one, int):
        return f"{one:g}" if isinstance(one, float) else str(one)
    return f"{one:,}"


def _mixed(run: Run) -> str:
    rows, settings = _manifest(run).rows, _manifest(run).settings
    task, pairs = rows.get("task", 0), rows.get("cache", 0)
    contrast = f"{named(n, 'contrast row')} and " if (n := rows.get("contrast")) else ""
    text = f"{run.label} mixes {named(task, 'task row')} with {contrast}{named(pairs, 'pair')}"
    ratio = settings.get("ratio")
    text += f", a ratio of {ratio:g}" if isinstance(ratio, int | float) else ""
    lost = sum(_manifest(run).dropped.values())
    return f"{text}; {named(lost, 'row')} dropped." if lost else f"{text}; none dropped."


def _metric(run: Run) -> Metric:
    rows = _manifest(run).rows
    task, pairs = rows.get("task", 0), rows.get("cache", 0)
    contrast = rows.get("contrast", 0)
    more = f"{named(contrast, 'contrast row')}, " if contrast else ""
    note = f"{count(task)} of the task, {more}{named(pairs, 'pair')}"
    return Metric(f"Rows of {run.label}", count(task + contrast + pairs), note)


def _manifest(run: Run) -> Manifest:
    assert run.manifest is not None
    return run.manifest


class Maps:
    """Makes the section of maps; the embedding model is loaded for the first map."""

    def __init__(self, embed: Embed | None = None) -> None:
        """Use a function that turns texts into vectors; by default `map_texts` chooses."""
        self._embed = embed

    def __call__(self, runs: Runs, figures: Figures) -> Section | None:
        """Draw a map of each mixture; without mixtures, one of caches and tasks together."""
        drawn, data = [], []
        for label, texts in _map_sources(runs):
            every = [(name, text) for name in _SOURCES for text in texts.get(name, ())]
            if len(every) < 3:
                continue
            found = map_texts([text for _, text in every], self._embed)
            places = {
                name: found.places[[at for at, (one, _) in enumerate(every) if one == name]]
                for name in texts
            }
            share = sum(found.variance)
            caption = (
                f"Queries {found.by}, on their first two principal components, which hold "
                f"{share:.0%} of the variance: distant points differ, close points may differ too."
            )
            drawn.append(figures(text_map(places, found), f"Queries of {label}", caption))
            data.append(
                {
                    "run": label,
                    "by": found.by,
                    "variance": list(found.variance),
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
        pairs = [r for run in caches for r in _some_pairs(pair_shards(run.folder))]
        rows = [r.record for run in tasks for r in read_task_rows(run.folder).train]
        label = " and ".join(run.label for run in (*caches, *tasks))
        yield label, {"cache": _picked(pairs), "task": _picked(rows)}


def _some_pairs(shards: Sequence[Path]) -> list[Record]:
    """Read every nth pair of a cache's shards, with one shard in memory at a time."""
    step = max(1, sum(pq.read_metadata(shard).num_rows for shard in shards) // _MAP_READ)
    some: list[Record] = []
    begin = 0
    for shard in shards:
        messages = pq.read_table(shard, columns=["messages"])["messages"]
        places = pa.array(range(-begin % step, len(messages), step), pa.int64())
        taken = messages.take(places).to_pylist()
        some += [read_record({"messages": turns}, "messages") for turns in taken]
        begin += len(messages)
    return some


def _some_rows(shards: Sequence[Path], source: str) -> list[Record]:
    """Read every nth row of a source, with one row group in memory at a time."""
    columns = [pq.read_table(shard, columns=["source"])["source"] for shard in shards]
    total = sum(column.to_pylist().count(source) for column in columns)
    step, seen = max(1, total // _MAP_READ), 0
    some: list[Record] = []
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches():
                own = batch.filter(pa.compute.equal(batch.column("source"), source))
                taken = own.take(pa.array(range(-seen % step, own.num_rows, step), pa.int64()))
                some += [read_record(row) for row in taken.to_pylist()]
                seen += own.num_rows
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
        known = run.folder / "inputs.json"
        inputs = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else {}
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
