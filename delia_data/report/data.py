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
    "probe": "Evaluations of a 0.1 quickstart",
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
    kept = [run.done.rows for run in group]
    dropped = [{why: n for why, n in run.done.dropped.items() if n} for run in group]
    none = blocks.paragraph("No row was dropped.")
    yield blocks.heading(title)
    yield blocks.columns(
        [
            show_table(_counts("Kept", group, kept), 4),
            show_table(_counts("Dropped, by reason", group, dropped), 4)
            if any(dropped)
            else blocks.heading("Dropped, by reason", 4) + none,
        ]
    )
    details = []
    for run in group:
        if known := {name: run.done.details[name] for name in _DETAILS if name in run.done.details}:
            texts = [f"{re.sub('[_.]', ' ', name)} {text}" for name, text in flatten(known)]
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
