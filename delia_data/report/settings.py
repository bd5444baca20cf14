"""Chapter: every setting of every run, side by side, and the hashes of what went in (`input`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from delia_data.evaluation._html import Markup, details, element, escape, flatten
from delia_data.report.chapter import Figures, Found
from delia_data.report.numbers import named
from delia_data.report.runs import Kind, Run, Runs
from delia_data.reproduction.grid import read_grid

_KINDS: Final[Mapping[Kind, str]] = {
    "mixture": "Mixtures",
    "adapter": "Trainings",
    "evaluation": "Evaluations",
    "probe": "Probings of a quickstart",
    "measurements": "Measurements",
    "ratio": "Series of ratios",
    "reproduction": "Reproductions",
    "cache": "Caches",
    "task": "Tasks",
}
_NOTE: Final = (
    "Where runs of a kind stand side by side, the settings in which they differ are bold."
)


def settings(runs: Runs, _: Figures) -> Found | None:
    """Show all settings, a table for each kind of run."""
    body: list[str] = []
    data: dict[str, Any] = {}
    for kind, title in _KINDS.items():
        group = runs.of(kind)
        if not group:
            continue
        every = [dict(_settings(run)) for run in group]
        names = {name for one in every for name in one}
        body.append(details(f"{title}: {named(len(names), 'setting')}", _table(group, every)))
        data |= {run.label: _nested(run) for run in group}
    note = _NOTE if any(len(runs.of(kind)) > 1 for kind in _KINDS) else ""
    return Found("".join(body), data, note=note) if body else None


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


def _table(group: Sequence[Run], every: Sequence[Mapping[str, str]]) -> str:
    names = list(dict.fromkeys(name for one in every for name in one))
    lines = []
    for name in names:
        values = [one.get(name, "–") for one in every]
        kind = "" if len(group) == 1 else "same" if len(set(values)) == 1 else "differs"
        cells = "".join(element("td", escape(_short_hash(value))) for value in values)
        lines.append(element("tr", _head(name, "row") + cells, kind=kind))
    top = ""
    if len(group) > 1:
        heads = "".join(_head(label, "col") for label in ("", *(run.label for run in group)))
        top = element("thead", element("tr", heads))
    kind = "wide settings" if len(group) > 1 else "settings"
    inner = element("table", top + element("tbody", "".join(lines)), kind=kind)
    box = {"tabindex": "0", "role": "region", "aria-label": "Settings"}
    return element("div", inner, kind="scroll", **box)


def _head(text: str, scope: str) -> str:
    """A name that breaks at its dots and underscores."""
    parts = re.sub(r"([._/])", r"\1<wbr>", escape(text))
    return element("th", Markup(parts), scope=scope)


def _short_hash(value: str) -> str:
    """A hash as far as it tells two apart; the data have all of it."""
    return f"{value[:16]}…" if re.fullmatch(r"[0-9a-f]{64}", value) else value
