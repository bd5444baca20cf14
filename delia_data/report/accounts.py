"""Chapter: the data, row by row accounted for: mixtures, the caches and tasks that they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from delia_data.evaluation._html import element, escape, table
from delia_data.evaluation.page import Tile
from delia_data.report.chapter import Figures, Found
from delia_data.report.numbers import count, named
from delia_data.report.runs import Run, Runs

_DETAILS: Final = ("tokens", "prompt_tokens", "cost_usd", "wordings", "decontaminated")


def accounts(runs: Runs, _: Figures) -> Found | None:
    """Account for rows: by source, and those that were dropped by reason."""
    found = runs.of("mixture", "cache", "task")
    if not found:
        return None
    groups = (
        ("Mixture, rows by source", runs.of("mixture")),
        ("Cache, pairs", runs.of("cache")),
        ("Task, rows", runs.of("task")),
    )
    body = [part for title, group in groups for part in _group(title, group)]
    mixtures = runs.of("mixture")
    told = [_told(run) for run in mixtures]
    tiles = [_tile(run) for run in mixtures]
    data: list[dict[str, Any]] = [
        {
            "run": run.label,
            "kind": run.kind,
            "rows": dict(_manifest(run).rows),
            "dropped": dict(_manifest(run).dropped),
            "details": dict(_manifest(run).details),
        }
        for run in found
    ]
    note = "Every row that was given and is not in the result has a reason here."
    return Found("".join(body), data, told, tiles, note)


def _group(title: str, group: Sequence[Run]) -> list[str]:
    """Two tables: what there is, and what was dropped; a column for each run."""
    if not group:
        return []
    rows = [dict(_manifest(run).rows) for run in group]
    dropped = [{k: n for k, n in _manifest(run).dropped.items() if n} for run in group]
    parts = [
        element("h4", "Kept") + _counts(group, rows),
        element("h4", "Dropped, by reason")
        + (_counts(group, dropped) if any(dropped) else element("p", "No row was dropped.")),
    ]
    columns = "".join(element("div", part) for part in parts)
    more = _details(group)
    return [element("h3", escape(title)), element("div", columns, kind="two"), more]


def _counts(group: Sequence[Run], counts: Sequence[Mapping[str, int]]) -> str:
    names = list(dict.fromkeys(name for one in counts for name in one))
    rows = [
        [name.replace("_", " "), *(count(one[name]) if name in one else "–" for one in counts)]
        for name in names
    ]
    head = ("", *(run.label for run in group)) if len(group) > 1 else ()
    return table(head, rows, kind="numbers wide" if head else "numbers", name="Rows")


def _details(group: Sequence[Run]) -> str:
    """Tokens, cost and the like, where a manifest has them."""
    known = [
        {name: value for name, value in _manifest(run).details.items() if name in _DETAILS}
        for run in group
    ]
    lines = []
    for run, one in zip(group, known, strict=True):
        told = ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in one.items())
        if told:
            lines.append(element("li", escape(f"{run.label}: {told}")))
    return element("ul", "".join(lines), kind="note") if lines else ""


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_plain(one)}" for name, one in value.items())
    if isinstance(value, bool) or not isinstance(value, int):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return f"{value:,}"


def _told(run: Run) -> str:
    rows, settings = _manifest(run).rows, _manifest(run).settings
    task, pairs = rows.get("task", 0), rows.get("cache", 0)
    text = f"{run.label} mixes {named(task, 'task row')} with {named(pairs, 'pair')}"
    ratio = settings.get("ratio")
    text += f", a ratio of {ratio:g}" if isinstance(ratio, int | float) else ""
    lost = sum(_manifest(run).dropped.values())
    return f"{text}; {named(lost, 'row')} dropped." if lost else f"{text}; none dropped."


def _tile(run: Run) -> Tile:
    rows = _manifest(run).rows
    task, pairs = rows.get("task", 0), rows.get("cache", 0)
    total = element("b", escape(count(task + pairs)))
    return Tile(f"Rows of {run.label}", total, f"{count(task)} of the task, {named(pairs, 'pair')}")


def _manifest(run: Run) -> Any:
    assert run.manifest is not None
    return run.manifest
