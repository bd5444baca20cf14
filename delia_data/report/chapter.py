"""What every chapter of a report is: a section of the page, the words on it, and its data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from delia_data.evaluation._html import Markup, figure
from delia_data.evaluation.figures import Drawing
from delia_data.evaluation.page import Tile
from delia_data.report.runs import Runs


@dataclass(frozen=True, slots=True)
class Found:
    """What a chapter has to say of some runs.

    Attributes:
        body: Its section; markup.
        data: The same for programs, as JSON takes it.
        told: Sentences for the beginning of the page; text.
        tiles: Numbers for the beginning of the page.
        note: What a reader should know first; text.
        absent: Parts of it for which there is no run, with the commands that make them.
    """

    body: str
    data: Any
    told: Sequence[str] = ()
    tiles: Sequence[Tile] = ()
    note: str = ""
    absent: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Figures:
    """The figures of a page, each with ids of its own.

    Attributes:
        drawn: What is drawn so far: names and what each shows.
    """

    drawn: list[dict[str, str]] = field(default_factory=list)

    def __call__(self, drawing: Drawing, title: str, caption: str = "") -> Markup:
        """Draw a figure.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        name = f"f{len(self.drawn) + 1}"
        # Three digits of a point are more than a screen shows.
        svg = re.sub(r"(\d\.\d{3})\d+", r"\1", drawing.svg(name))
        self.drawn.append({"name": drawing.name, "title": title, "shows": drawing.told})
        return figure(svg, title, caption)


class Chapter(Protocol):
    """Makes one chapter."""

    def __call__(self, runs: Runs, figures: Figures, /) -> Found | None:
        """Say what there is to say; None where no run has anything to it."""
        ...
