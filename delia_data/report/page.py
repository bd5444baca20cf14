"""The page that a report is: one HTML file in one style, which loads nothing and runs nothing.

    headline (metrics), summary (sentences)    the result in short
    contents                                   with more than two sections
    sections                                   tables, figures, answers
    foot                                       how to read it

Templates are Jinja2 with autoescape. `blocks` holds the macros of `templates/blocks.html`, which
turn values into markup. The page's policy forbids scripts and anything from elsewhere; colors are
variables of its style sheet, light or dark like the reader's system. Equal pages give equal bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from delia_data._version import __version__
from delia_data.evaluation.bootstrap import Cell
from delia_data.evaluation.figures import DARK, LIGHT, Drawing, printable, style_variables
from delia_data.evaluation.tables import Table

GENERATOR: Final = "delia_data"
"""Name of this package in the page's `generator` tag."""


def _shown(value: object) -> object:
    """Return markup as it is, a cell as markup, and everything else as printable text."""
    if isinstance(value, Cell) and value.interval:
        text, interval = (part.replace("-", "−") for part in value)
        return Markup('<b>{}</b><span class="ci">[{}]</span>').format(text, interval)
    if isinstance(value, Markup):
        return value
    return printable(value.text if isinstance(value, Cell) else str(value))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("delia_data.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
    )
    environment.filters["breakable"] = _breakable
    return environment


class _Blocks:
    """The macros of `templates/blocks.html` as functions that return markup."""

    def __getattr__(self, name: str) -> Callable[..., Markup]:
        module = _environment().get_template("blocks.html").module
        macro: Callable[..., Markup] = getattr(module, name)
        return macro


blocks: Final = _Blocks()


def show_table(table: Table, level: int = 3) -> Markup:
    """Return a table with its title as a heading of a level, and its note."""
    note: Markup = blocks.paragraph(table.note, "note") if table.note else Markup()
    return blocks.heading(table.title, level) + blocks.table(table) + note


def join(parts: Iterable[Markup]) -> Markup:
    """Join markup."""
    return Markup().join(parts)


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of the headline: its name, the number as it is shown, a few words below it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a report.

    Attributes:
        body: Its part of the page.
        data: The same for programs, as JSON holds it.
        summary: Sentences for the top of the page.
        metrics: Numbers for the top of the page.
        note: Introduction.
        absent: Parts without a run, with the commands that make one.
    """

    body: Markup
    data: Any
    summary: Sequence[str] = ()
    metrics: Sequence[Metric] = ()
    note: str = ""
    absent: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Figures:
    """The figures of a page, each with its own ids: name, title and text of each so far."""

    drawn: list[dict[str, str]] = field(default_factory=list)

    def __call__(self, drawing: Drawing, title: str, caption: str = "") -> Markup:
        """Draw a figure.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        name = f"f{len(self.drawn) + 1}"
        # Three digits of a point are more than a screen shows.
        svg = re.sub(r"(\d\.\d{3})\d+", r"\1", drawing.svg(name))
        self.drawn.append({"name": drawing.name, "title": title, "shows": drawing.description})
        return blocks.figure(Markup(svg), title, caption)


def render(
    title: str,
    sections: Mapping[str, Section],
    *,
    metrics: Sequence[Metric] = (),
    summary: Sequence[str] = (),
    note: str = "",
    foot: str = "",
) -> str:
    """Return a page as a file holds it.

    Args:
        title: Its title.
        sections: Its sections by title; those without a body are left out.
        metrics: The numbers that come first.
        summary: The sentences that come first.
        note: A note below the sentences.
        foot: How to read it.
    """
    template = _environment().get_template("page.html")
    return template.render(
        title=title,
        sections=[
            {"title": name, "anchor": _anchor(name), "note": one.note, "body": one.body}
            for name, one in sections.items()
            if one.body
        ],
        metrics=metrics,
        summary=summary,
        note=note,
        foot=foot,
        generator=f"{GENERATOR} {__version__}",
        light=Markup(style_variables(LIGHT)),
        dark=Markup(style_variables(DARK)),
    )


def _anchor(title: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())


def _breakable(text: str) -> Markup:
    """Let a long name break after its dots, slashes and underscores."""
    return Markup(re.sub(r"([._/])", r"\1<wbr>", str(Markup.escape(printable(text)))))


def count(number: int) -> str:
    """Format a count with commas."""
    return f"{number:,}"


def named(number: int, one: str) -> str:
    """Format a count with the name of what it counts."""
    return f"{number:,} {one}{'' if number == 1 else 's'}"


def named_rows(rows: Mapping[str, int]) -> str:
    """Format the counts of rows of a mixture or a training."""
    contrast = f", {named(rows['contrast'], 'contrast row')}," if rows.get("contrast") else ""
    task, pairs = named(rows.get("task", 0), "task row"), named(rows.get("cache", 0), "pair")
    return f"{task}{contrast} and {pairs}"


def flatten(values: Mapping[str, Any], inside: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested settings as dotted names and texts, in the order given."""
    for name, one in values.items():
        if isinstance(one, Mapping) and one:
            yield from flatten(one, f"{inside}{name}.")
        else:
            yield f"{inside}{name}", _as_text(one)


def _as_text(one: object) -> str:
    if one is None or (isinstance(one, (Mapping, list, tuple)) and not one):
        return "none"
    if isinstance(one, bool):
        return "yes" if one else "no"
    if isinstance(one, (list, tuple)):
        nested = any(isinstance(item, (Mapping, list, tuple)) for item in one)
        return ("; " if nested else ", ").join(_as_text(item) for item in one)
    if isinstance(one, Mapping):
        return ", ".join(f"{name} {_as_text(item)}" for name, item in one.items())
    return str(one) or "(empty)"
