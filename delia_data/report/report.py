"""The report on any runs: one page with sentences, tables, figures and answers.

    folders ──▶ runs ──▶ sections ──▶ page ──▶ report.html      for people
                                 └──▶ data                      for programs

A section without a run is left out, and the page names those in one line, with the commands that
make what they need. Equal folders give equal bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from delia_data._version import __version__
from delia_data.errors import ForeignFolderError
from delia_data.outputs import LOCK, MANIFEST, write_text
from delia_data.report.page import GENERATOR, Figures, Section, render
from delia_data.report.runs import Runs, labels_of, read_runs
from delia_data.report.sections import (
    accounts,
    answers,
    examples,
    maps,
    measured,
    ratios,
    reproduced,
    settings,
    trained,
)
from delia_data.sampling.embeddings import Embed

_METRICS: Final = 5
_FOOT: Final = (
    "The task defines the answer format. If it is JSON, an answer follows if it is one object with "
    "exactly the expected keys, repaired no more than the task’s own answers need. L2 distances "
    "depend on the model and cannot be compared between models. Method: DELIA, arXiv 2408.10841."
)


class _Part(NamedTuple):
    """A section's place in the report: its name in the data, its title, and what makes its runs."""

    name: str
    title: str
    command: str
    make: Callable[[Runs, Figures], Section | None]


@dataclass(frozen=True, slots=True)
class Report:
    """A report.

    Attributes:
        title: Its title.
        runs: The runs.
        sections: Title and content of each section by name, in the order of the page.
        figures: Names, titles and texts of the figures.
        absent: Sections and parts without runs, with the commands that make what they need.
        lead: Sentences before the summary of the sections.
    """

    title: str
    runs: Runs
    sections: Mapping[str, tuple[str, Section]]
    figures: Sequence[Mapping[str, str]]
    absent: Mapping[str, str]
    lead: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return all that the page shows, as JSON holds it."""
        return {
            "title": self.title,
            "runs": [
                {"folder": str(run.folder), "run": run.label, "kind": run.kind}
                for run in self.runs.every
            ],
            "summary": self.summary,
            "chapters": {name: section.data for name, (_, section) in self.sections.items()},
            "figures": [dict(figure) for figure in self.figures],
            "absent": dict(self.absent),
            "code_version": __version__,
        }

    @property
    def summary(self) -> list[str]:
        """The results in sentences."""
        return [*self.lead, *(text for _, one in self.sections.values() for text in one.summary)]

    def html(self) -> str:
        """Return the page."""
        needed = "; ".join(f"{title} ({command})" for title, command in self.absent.items())
        metrics = [metric for _, one in self.sections.values() for metric in one.metrics]
        return render(
            self.title,
            dict(self.sections.values()),
            metrics=metrics[:_METRICS],
            summary=self.summary,
            note=f"Not on this page because no run has it: {needed}." if needed else "",
            foot=_FOOT,
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the page as one HTML file, atomically.

        Raises:
            ForeignFolderError: A file that is not a page of this package is there, or the folder
                belongs to a run.
            OutputError: The file cannot be written.
        """
        check_place(path)
        write_text(path, self.html())


def make_report(
    folders: Sequence[str | os.PathLike[str]],
    *,
    title: str | None = None,
    lead: Sequence[str] = (),
    embed: Embed | None = None,
    on_section: Callable[[str, int, int], None] = lambda name, done, of: None,
) -> Report:
    """Make a report on runs.

    Args:
        folders: Output folders of any commands, in the order in which they are shown.
        title: Its title; default: the names of the runs.
        lead: Sentences before the summary of the sections.
        embed: Turns queries into vectors for the map; default: all-MiniLM-L6-v2 if it is
            installed, otherwise word counts.
        on_section: Called with a section's title, the number done, and the number in all.

    Raises:
        InputError: A folder does not exist, or holds something else.
        UnfinishedError: A folder is not finished.
        FormatError: A folder was written by another version.
        MissingExtraError: matplotlib is not installed.
    """
    runs, figures, parts = read_runs(folders), Figures(), _parts(embed)
    sections: dict[str, tuple[str, Section]] = {}
    absent: dict[str, str] = {}
    for done, part in enumerate(parts):
        on_section(part.title, done, len(parts))
        made = part.make(runs, figures)
        if made is None:
            absent[part.title.lower()] = part.command
        else:
            sections[part.name] = (part.title, made)
            absent.update(made.absent)
    on_section("", len(parts), len(parts))
    named = title if title is not None else _title(folders)
    return Report(named, runs, sections, figures.drawn, absent, tuple(lead))


def check_place(path: str | os.PathLike[str]) -> None:
    """Check that a page may be written there.

    Raises:
        ForeignFolderError: A file that is not a page of this package is there, or the folder
            belongs to a run, whose command would refuse it with other files in it.
    """
    place = Path(path)
    if place.is_dir():
        raise ForeignFolderError(f"{place} is a folder: give the name of a file (--out)")
    if any((place.parent / name).exists() for name in (MANIFEST, LOCK, "grid.yaml")):
        raise ForeignFolderError(
            f"{place.parent} is the folder of a run, which cannot hold other files: give a file in "
            "another folder (--out)"
        )
    if place.exists() and f'content="{GENERATOR} ' not in _head(place):
        raise ForeignFolderError(
            f"{place} exists and is not a report of this package: give another file (--out)"
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
        _Part("map", "Map of the queries", "delia mix", partial(maps, embed=embed)),
        _Part("data", "Accounting of the rows", "delia mix", accounts),
        _Part("settings", "Settings", "any command", settings),
        _Part("measurements", "Appendix: hidden states and gradients", "delia measure", measured),
    )


def _title(folders: Sequence[str | os.PathLike[str]]) -> str:
    names = labels_of(list(dict.fromkeys(Path(folder) for folder in folders)))
    return ", ".join(names) if len(names) < 5 else f"{names[0]} and {len(names) - 1} more"
