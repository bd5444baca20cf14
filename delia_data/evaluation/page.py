"""The page that every report is: one HTML file in one style, which loads nothing and runs nothing.

    headline (numbers), lead (words)     what a reader wants first
    contents                             where there are many sections
    sections                             tables, figures, texts
    foot                                 how to read it

Its policy forbids scripts and anything from elsewhere; colours are variables of its style sheet,
light or dark as the reader's system is. Equal pages give equal bytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import Final

from delia_data._version import __version__
from delia_data.evaluation._html import Markup, element, escape
from delia_data.evaluation.figures import DARK, LIGHT, style_variables
from delia_data.outputs import write_text

GENERATOR: Final = "delia_data"
"""What a page of ours says that made it."""

_TEMPLATES: Final = "delia_data.evaluation"


@dataclass(frozen=True, slots=True)
class Tile:
    """A number of the headline.

    Attributes:
        name: What it is; text.
        value: Markup, as `element` and `escape` give it.
        note: A few words below it; text.
    """

    name: str
    value: Markup
    note: str = ""


@dataclass(frozen=True, slots=True)
class PageSection:
    """A section of a page.

    Attributes:
        title: Its heading; text.
        body: Markup.
        note: What a reader should know first; text.
    """

    title: str
    body: str
    note: str = ""

    @property
    def anchor(self) -> str:
        """Where the contents lead to."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


@dataclass(frozen=True, slots=True)
class Page:
    """A page.

    Attributes:
        over: The line above its title; text.
        title: Its title; text.
        tiles: The numbers that come first.
        lead: The words that come first; markup.
        sections: Its sections; those without a body are left out.
        foot: How to read it; text.
        contents: Whether it lists its sections.
    """

    over: str
    title: str
    tiles: Sequence[Tile]
    lead: str
    sections: Sequence[PageSection]
    foot: str
    contents: bool = False

    def html(self) -> str:
        """The page as a file holds it."""
        folder = resources.files(_TEMPLATES) / "templates"
        style = Template((folder / "page.css").read_text(encoding="utf-8"))
        shown = [section for section in self.sections if section.body]
        return Template((folder / "page.html").read_text(encoding="utf-8")).substitute(
            generator=f"{GENERATOR} {__version__}",
            style=style.substitute(light=style_variables(LIGHT), dark=style_variables(DARK)),
            title=escape(f"{self.over}: {self.title}"),
            over=escape(self.over),
            heading=escape(self.title),
            tiles=element("dl", "".join(map(_tile, self.tiles))) if self.tiles else "",
            lead=self.lead,
            contents=_contents(shown) if self.contents else "",
            sections="\n".join(map(_section, shown)),
            foot=escape(self.foot),
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it as a file, atomically.

        Args:
            path: Where to; its folder is made where it is missing.

        Raises:
            OutputError: The file cannot be written.
        """
        write_text(path, self.html())


def _tile(tile: Tile) -> str:
    note = element("small", escape(tile.note)) if tile.note else ""
    return element(
        "div", element("dt", escape(tile.name)) + element("dd", escape(tile.value) + note)
    )


def _contents(sections: Sequence[PageSection]) -> str:
    links = (element("a", escape(s.title), href=f"#{s.anchor}") for s in sections)
    return element("nav", "".join(links), **{"aria-label": "Contents"})


def _section(section: PageSection) -> str:
    heading = element("h2", escape(section.title))
    note = element("p", escape(section.note), kind="note") if section.note else ""
    return element("section", heading + note + section.body, id=section.anchor)
