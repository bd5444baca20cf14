"""The report on any runs: one page of what they hold, in words, tables, figures and answers.

    folders ──▶ runs ──▶ chapters ──▶ page ──▶ report.html      for people
                                 └──▶ data                      for programs

A chapter says nothing where no run has anything to it, and the page names those in one line, with
the commands that make what they need. Equal folders give equal bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from delia_data._version import __version__
from delia_data.errors import ForeignFolderError
from delia_data.evaluation._html import element, escape
from delia_data.evaluation.page import GENERATOR, Page, PageSection, Tile
from delia_data.outputs import LOCK, MANIFEST
from delia_data.report.accounts import accounts
from delia_data.report.answers import answers
from delia_data.report.chapter import Chapter, Figures, Found
from delia_data.report.examples import examples
from delia_data.report.maps import Maps
from delia_data.report.measured import measured
from delia_data.report.ratios import ratios
from delia_data.report.reproduced import reproduced
from delia_data.report.runs import Runs, labels_of, read_runs
from delia_data.report.settings import settings
from delia_data.report.trained import trained
from delia_data.sampling.embeddings import Embed

_TILES: Final = 5
_FOOT: Final = (
    "An answer is in the format as its task says: where that is JSON, when its earliest pair of "
    "curly braces, quotes mended where needed, is read by Python’s json and has exactly the asked "
    "keys. L2 distances depend on the model and are not comparable between models. Method: DELIA, "
    "arXiv 2408.10841."
)


@dataclass(frozen=True, slots=True)
class _Part:
    """A chapter's place in the report: its name in the data, its title, and what makes its runs."""

    name: str
    title: str
    command: str
    make: Chapter


@dataclass(frozen=True, slots=True)
class Report:
    """A report.

    Attributes:
        title: Its title.
        runs: What it is on.
        found: What each chapter found, by name, in the order of the page.
        figures: Names, titles and texts of what is drawn.
        absent: Chapters and parts without runs, with the commands that make what they need.
    """

    title: str
    runs: Runs
    found: Mapping[str, tuple[str, Found]]
    figures: Sequence[Mapping[str, str]]
    absent: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """All that the page shows, as JSON takes it."""
        return {
            "title": self.title,
            "runs": [
                {"folder": str(run.folder), "run": run.label, "kind": run.kind}
                for run in self.runs.every
            ],
            "summary": self.told,
            "chapters": {name: found.data for name, (_, found) in self.found.items()},
            "figures": [dict(figure) for figure in self.figures],
            "absent": dict(self.absent),
            "code_version": __version__,
        }

    @property
    def told(self) -> list[str]:
        """What the runs say, in sentences."""
        return [sentence for _, found in self.found.values() for sentence in found.told]

    def page(self) -> Page:
        """The page."""
        lead = "".join(element("p", escape(sentence)) for sentence in self.told)
        if self.absent:
            needed = "; ".join(f"{title} ({command})" for title, command in self.absent.items())
            lead += element(
                "p", escape(f"Not on this page, for want of a run: {needed}."), kind="note"
            )
        tiles: list[Tile] = [tile for _, found in self.found.values() for tile in found.tiles]
        return Page(
            over="DELIA report",
            title=self.title,
            tiles=tiles[:_TILES],
            lead=lead,
            sections=[PageSection(t, f.body, f.note) for t, f in self.found.values()],
            foot=_FOOT,
            contents=len(self.found) > 2,
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the page as one HTML file, atomically.

        Raises:
            ForeignFolderError: There is a file that is no page of ours, or the folder is a run's.
            OutputError: The file cannot be written.
        """
        check_place(path)
        self.page().write(path)


def make_report(
    folders: Sequence[str | os.PathLike[str]],
    *,
    title: str | None = None,
    embed: Embed | None = None,
    on_chapter: Callable[[str, int, int], None] = lambda name, done, of: None,
) -> Report:
    """Make a report on runs.

    Args:
        folders: What commands left behind, of any kind, in the order in which they are shown.
        title: Its title; the runs' names when not given.
        embed: Gives queries as vectors for the map; all-MiniLM-L6-v2 where that is installed, else
            their words, when not given.
        on_chapter: Called with a chapter's name, and how many are done of how many.

    Raises:
        InputError: A folder is not there, or holds something else.
        UnfinishedError: A folder is not finished.
        FormatError: What it holds was written by another version.
        MissingExtraError: matplotlib is not installed.
    """
    runs, figures, parts = read_runs(folders), Figures(), _parts(embed)
    found: dict[str, tuple[str, Found]] = {}
    absent: dict[str, str] = {}
    for done, part in enumerate(parts):
        on_chapter(part.title, done, len(parts))
        made = part.make(runs, figures)
        if made is None:
            absent[part.title.lower()] = part.command
        else:
            found[part.name] = (part.title, made)
            absent.update(made.absent)
    on_chapter("", len(parts), len(parts))
    named = title if title is not None else _title(folders)
    return Report(named, runs, found, figures.drawn, absent)


def check_place(path: str | os.PathLike[str]) -> None:
    """See that a page may be written there.

    Raises:
        ForeignFolderError: There is a file that is no page of ours, or the folder is a run's, which
            would be refused as somebody else's when its command is run again.
    """
    place = Path(path)
    if place.is_dir():
        raise ForeignFolderError(f"{place} is a folder: give the name of a file (--out)")
    if any((place.parent / name).exists() for name in (MANIFEST, LOCK, "grid.yaml")):
        raise ForeignFolderError(
            f"{place.parent} is a run's own folder, which takes no other files: give a file "
            "elsewhere (--out)"
        )
    if place.exists() and f'content="{GENERATOR} ' not in _head(place):
        raise ForeignFolderError(
            f"{place} is there, and no report of this package: give another file (--out)"
        )


def _head(place: Path) -> str:
    with place.open("rb") as file:
        return file.read(1000).decode("utf-8", "replace")


def _parts(embed: Embed | None) -> tuple[_Part, ...]:
    return (
        _Part("answers", "Answers", "delia evaluate", answers),
        _Part("reproduction", "Reproduction", "delia reproduce", reproduced),
        _Part("ratio", "How much is enough", "delia ratio", ratios),
        _Part("examples", "Side by side", "delia evaluate", examples),
        _Part("training", "Training", "delia train", trained),
        _Part("measurements", "Token, state space and gradients", "delia measure", measured),
        _Part("map", "Map of the queries", "delia mix", Maps(embed)),
        _Part("data", "Accounting of the rows", "delia mix", accounts),
        _Part("settings", "Settings", "any command", settings),
    )


def _title(folders: Sequence[str | os.PathLike[str]]) -> str:
    names = labels_of(list(dict.fromkeys(Path(folder) for folder in folders)))
    return ", ".join(names) if len(names) < 5 else f"{names[0]} and {len(names) - 1} more"
