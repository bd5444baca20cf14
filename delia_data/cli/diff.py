"""`delia diff`: what differs between two versions or folders."""

from __future__ import annotations

from typing import Annotated

import typer

from delia_data.cli._console import console
from delia_data.cli._json import AsJson, show_json
from delia_data.hub import Difference, diff

_SHOWN = 5


def command(
    before: Annotated[str, typer.Argument(help="Such as org/name@v1.0.0, or a folder.")],
    after: Annotated[str, typer.Argument(help="The other one.")],
    as_json: AsJson = False,
) -> None:
    """Show which settings, rows and wordings differ."""
    found = diff(before, after)
    if as_json:
        show_json(found)
    else:
        lines = _lines(found)
        console.print("\n".join(lines) or "nothing differs", soft_wrap=True, markup=False)


def _lines(found: Difference) -> list[str]:
    lines = [f"{s.where}: {s.name} was {s.before!r} and is {s.after!r}" for s in found.settings]
    for change in found.rows:
        order = ", which stand in another order" if change.moved else ""
        lines.append(
            f"{change.where}: {change.added} rows more, {change.removed} fewer, "
            f"{change.same} the same{order}"
        )
    new, gone = len(found.wordings_added), len(found.wordings_removed)
    if new or gone:
        lines.append(f"wordings: {new} new, {gone} gone")
    if found.reworded:
        lines.append(f"task rows in other words: {len(found.reworded)}")
        for before, after in found.reworded[:_SHOWN]:
            lines += [f"  - {_short(before)}", f"  + {_short(after)}"]
    return lines


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= 100 else f"{words[:99]}…"
