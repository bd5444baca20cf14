"""The report of a quickstart: one HTML file that shows what a run did, and needs no network.

    QuickstartReport ──▶ summary (words) ─┐
                     ──▶ plots (SVG)     ─┼─▶ page ──▶ report.html
                     ──▶ tables, answers ─┘

Equal reports give equal bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NotRequired, TypedDict

from delia_data.errors import InputError
from delia_data.evaluation import figures as plots
from delia_data.evaluation._html import (
    Markup,
    details,
    element,
    escape,
    figure,
    flatten,
    table,
    text_block,
)
from delia_data.evaluation.answer_format import FormattedTextScore, parse_answer, selectivity
from delia_data.evaluation.page import Page, PageSection, Tile
from delia_data.evaluation.representation import BlockDistances
from delia_data.evaluation.summary import first_middle_last, number, points, summarise
from delia_data.tokens import DEFAULT_TOKEN

_SHARES: Final = ("before_with", "before_without", "after_with", "after_without")
_SHOWN_ANSWERS: Final = 4
_FOOT: Final = (
    "An answer is in the asked format when its earliest pair of curly braces, quotes mended where "
    "needed, is read by Python’s json and has exactly the asked keys. Intervals of shares are "
    "Wilson 95% intervals. Distances are means over the contexts, one number for each transformer "
    "block; L2 depends on the model and is not comparable between models. Method: DELIA, arXiv "
    "2408.10841."
)


class LossPoint(TypedDict):
    """The training loss at one optimiser step, by source too where the step had such rows."""

    step: int
    loss: float
    loss_task: NotRequired[float]
    loss_pairs: NotRequired[float]


class Accounting(TypedDict):
    """Rows of the mixture by source, and rows that were not kept by reason."""

    rows: Mapping[str, int]
    dropped: Mapping[str, int]


class AnswerRow(TypedDict):
    """One question, and the answers with and without the token, before and after training."""

    question: str
    before_with: str
    before_without: str
    after_with: str
    after_without: str


@dataclass(frozen=True, slots=True)
class QuickstartReport:
    """All that the report shows. Mappings are shown in their own order.

    Attributes:
        model: The model's name.
        settings: Every setting of the run; nested ones are shown under dotted names.
        accounting: Rows by source and dropped rows by reason.
        losses: The training loss as it was logged; may be empty.
        distances_before: The token's distance to each keyword before training; may be empty.
        distances_after: The same after training: the same keywords and blocks.
        answers: Some answers, side by side; may be empty.
        shares: Answers in the asked format and answers in all, by `before_with`,
            `before_without`, `after_with` and `after_without`.
        timings: Seconds by step.
        versions: Version by library.
        token: The special token.
        keys: The asked keys; where given, each answer shown is marked as in the format or not.

    Raises:
        InputError: The shares are not these four, a count is impossible, or the distances after
            are not those of the keywords and blocks before.
    """

    model: str
    settings: Mapping[str, Any]
    accounting: Accounting
    losses: Sequence[LossPoint]
    distances_before: Sequence[BlockDistances]
    distances_after: Sequence[BlockDistances]
    answers: Sequence[AnswerRow]
    shares: Mapping[str, tuple[int, int]]
    timings: Mapping[str, float]
    versions: Mapping[str, str]
    token: str = DEFAULT_TOKEN
    keys: Sequence[str] = ()

    def __post_init__(self) -> None:
        if set(self.shares) != set(_SHARES):
            raise InputError(f"shares are of {sorted(self.shares)}: give {', '.join(_SHARES)}")
        for parsed, rows in self.shares.values():
            FormattedTextScore(rows=rows, parsed=parsed, strict=0)
        before, after = (
            [(found.keyword, len(found.l2)) for found in group]
            for group in (self.distances_before, self.distances_after)
        )
        if before != after or len({blocks for _, blocks in before}) > 1:
            raise InputError(
                f"distances before are of {before} and after of {after}: "
                "measure the same keywords in the same blocks"
            )

    def selectivity(self, when: Literal["before", "after"]) -> float:
        """The share with the token minus the share without, -1 to 1."""
        (a, b), (c, d) = self.shares[f"{when}_with"], self.shares[f"{when}_without"]
        with_token = FormattedTextScore(rows=b, parsed=a, strict=0)
        return selectivity(with_token, FormattedTextScore(rows=d, parsed=c, strict=0))


def write_report(path: str | os.PathLike[str], report: QuickstartReport) -> None:
    """Write the report as one HTML file, atomically.

    Args:
        path: Where to; its folder is made where it is missing.
        report: What to show.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: The file cannot be written.
    """
    sections = (
        PageSection("Figures", element("div", _figures(report), kind="figures")),
        PageSection(
            f"Distance from {report.token} to the keywords",
            _distances(report),
            "Hidden states at the token against those at the keyword in the same place of the "
            "same contexts, before training → after.",
        ),
        PageSection("Answers", _answers(report)),
        PageSection("Rows", _rows(report.accounting)),
        PageSection("Settings", table((), list(flatten(report.settings)))),
        PageSection("Time and versions", _time(report)),
    )
    lead = "".join(element("p", escape(sentence)) for sentence in summarise(report))
    page = Page("DELIA quickstart", report.model, _headline(report), lead, sections, _FOOT)
    page.write(path)


def _headline(report: QuickstartReport) -> list[Tile]:
    share = {name: f"{100 * p / n:.0f}%" for name, (p, n) in report.shares.items()}
    gaps = points(report.selectivity("before")), points(report.selectivity("after"))
    return [
        *(
            Tile(
                f"In the format, {which} {report.token}",
                _change(share[f"before_{which}"], share[f"after_{which}"]),
            )
            for which in ("with", "without")
        ),
        Tile("Selectivity, points", _change(*gaps)),
    ]


def _change(before: str, after: str) -> Markup:
    old, arrow = element("span", escape(before), kind="old"), element("span", "→", kind="to")
    return Markup(old + arrow + element("b", escape(after)))


def _figures(report: QuickstartReport) -> str:
    before, after = report.distances_before, report.distances_after
    parts = [
        figure(
            plots.share_bars(report.shares, report.token).svg(),
            "Answers in the asked format",
            "Lines are Wilson 95% intervals; the counts stand above them.",
        )
    ]
    if report.losses:
        drawn = plots.loss_curve(report.losses).svg()
        note = "By source, where it was logged. Dots are steps, lines their running means."
        parts.append(figure(drawn, "Training loss", note))
    if before:
        note = "Dashed before training, full after. Lower is nearer to the keyword."
        l2 = plots.block_curves(before, after, "l2").svg()
        cosine = plots.block_curves(before, after, "cosine").svg()
        parts.append(figure(l2, f"L2 distance from {report.token}", note))
        parts.append(figure(cosine, f"Cosine distance from {report.token}", note))
    return "".join(parts)


def _distances(report: QuickstartReport) -> str:
    if not report.distances_before:
        return element("p", "The distances were not measured.")
    rows = []
    for before, after in zip(report.distances_before, report.distances_after, strict=True):
        for name, old, new in (
            ("L2", before.l2, after.l2),
            ("cosine", before.cosine, after.cosine),
        ):
            blocks = first_middle_last(len(old))
            values = [f"{number(old[i])} → {number(new[i])}" for i in blocks]
            rows.append([f"{before.keyword}, {name}", *values])
    head = ("Keyword", "First block", "Middle block", "Last block")
    return table(head, rows, kind="numbers")


def _answers(report: QuickstartReport) -> str:
    if not report.answers:
        return element("p", "No answers were kept.")
    cards = [_card(row, report) for row in report.answers]
    shown, rest = cards[:_SHOWN_ANSWERS], cards[_SHOWN_ANSWERS:]
    return "".join(shown) + (details(f"{len(rest)} more", "".join(rest)) if rest else "")


def _card(row: AnswerRow, report: QuickstartReport) -> str:
    answers: Mapping[str, object] = row
    cells = []
    for which in ("with", "without"):
        for when in ("before", "after"):
            answer = str(answers[f"{when}_{which}"])
            label = escape(f"{when.capitalize()}, {which} {report.token}")
            head = element("h4", label + _mark(answer, report.keys))
            cells.append(element("div", head + text_block(answer)))
    question = element("h3", escape(row["question"]), dir="auto")
    return element("article", question + element("div", "".join(cells), kind="four"))


def _mark(answer: str, keys: Sequence[str]) -> str:
    if not keys:
        return ""
    if parse_answer(answer, keys):
        return element("span", "in the format", kind="mark yes")
    return element("span", "not in the format", kind="mark")


def _counts(counts: Mapping[str, int], none: str) -> str:
    if not any(counts.values()):
        return element("p", escape(none))
    rows = [(name, f"{count:,}") for name, count in counts.items()]
    return table((), [*rows, ("total", f"{sum(counts.values()):,}")], kind="numbers total")


def _rows(accounting: Accounting) -> str:
    parts = (
        ("In the mixture, by source", _counts(accounting["rows"], "No row was used.")),
        ("Dropped, by reason", _counts(accounting["dropped"], "No row was dropped.")),
    )
    return _side_by_side(parts)


def _time(report: QuickstartReport) -> str:
    rows = [(name, f"{seconds:,.1f} s") for name, seconds in report.timings.items()]
    whole = [*rows, ("total", f"{sum(report.timings.values()):,.1f} s")]
    parts = (
        ("Time", table((), whole, kind="numbers total")),
        ("Versions", table((), list(report.versions.items()))),
    )
    return _side_by_side(parts)


def _side_by_side(parts: Sequence[tuple[str, str]]) -> str:
    columns = (element("div", element("h3", escape(name)) + body) for name, body in parts)
    return element("div", "".join(columns), kind="two")
