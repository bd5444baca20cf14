"""Chapter: the same questions with the answers of all runs side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Final

from delia_data.evaluation._html import details, element, escape, text_block
from delia_data.ranking import rank
from delia_data.report.cell_answers import cell_examples
from delia_data.report.chapter import Figures, Found
from delia_data.report.evaluated import Evaluated, read_evaluated
from delia_data.report.example import Example, Given
from delia_data.report.numbers import named
from delia_data.report.runs import Runs

_SHOWN: Final = 3
_PICKED: Final = 12
_NOTE: Final = (
    "Held-out rows as they were asked, those first on which the runs differ; the rest of the "
    "order is by hash. Each answer is as it was given."
)


@dataclass(frozen=True, slots=True)
class _Group:
    """Examples of one task."""

    title: str
    rows: int
    picked: tuple[Example, ...]


def examples(runs: Runs, _: Figures) -> Found | None:
    """Show answers side by side."""
    groups = [group for group in _groups(runs) if group.picked]
    if not groups:
        return None
    body: list[str] = []
    for group in groups:
        if len(groups) > 1:
            body.append(element("h3", escape(group.title)))
        cards: list[str] = [_card(one) for one in group.picked]
        body += cards[:_SHOWN]
        if rest := cards[_SHOWN:]:
            body.append(details(f"{len(rest)} more of {named(group.rows, 'row')}", "".join(rest)))
    data: list[dict[str, Any]] = [asdict(group) for group in groups]
    return Found("".join(body), data, note=_NOTE)


def _groups(runs: Runs) -> Iterator[_Group]:
    every = sorted(read_evaluated(runs), key=lambda one: one.about)
    for _, evaluations in groupby(every, key=lambda one: one.about):
        same = list(evaluations)
        yield _group(f"Task {same[0].scores.task}", list(_of_evaluations(same)))
    for run in runs.of("reproduction"):
        for experiment, found in cell_examples(run.folder):
            yield _group(f"{run.label}, {experiment}", found)


def _group(title: str, found: Sequence[Example]) -> _Group:
    ordered = sorted(found, key=lambda one: (not one.differs, rank(0, one.id, "example")))
    return _Group(title, len(found), tuple(ordered[:_PICKED]))


def _of_evaluations(same: Sequence[Evaluated]) -> Iterator[Example]:
    """The rows of the first probe that all runs were asked."""
    probe = same[0].scores.probes[0].probe
    tables = [
        (one.label, {r.answered.id: r for r in one.rows if r.answered.probe == probe})
        for one in same
    ]
    for row_id, first in tables[0][1].items():
        if all(row_id in table for _, table in tables):
            rows = [(label, table[row_id]) for label, table in tables]
            given = [
                Given(
                    label,
                    row.answered.with_token,
                    row.answered.without_token,
                    row.outcome.with_token,
                    row.outcome.without_token,
                )
                for label, row in rows
            ]
            asked = first.answered
            token = same[0].scores.token
            yield Example(row_id, asked.question, asked.expected, token, tuple(given))


def _card(example: Example) -> str:
    question = element("h3", escape(example.question), dir="auto")
    expected = element("summary", "The row’s own answer") + text_block(example.expected)
    cells = []
    for given in example.given:
        sides = (
            (f"with {example.token}", given.with_token, given.with_in_format),
            ("without", given.without_token, given.without_in_format),
        )
        for which, answer, fits in sides:
            mark = element(
                "span",
                "in the format" if fits else "not in the format",
                kind="mark yes" if fits else "mark",
            )
            head = element("span", escape(f"{given.label}, {which}")) + mark
            cells.append(element("div", element("h4", head) + text_block(answer)))
    body = question + element("div", "".join(cells), kind="four") + element("details", expected)
    return element("article", body)
