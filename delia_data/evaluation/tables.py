"""Tables of evaluations and comparisons: one list of rows for consoles, model cards and pages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from delia_data.evaluation.bootstrap import Cell, Estimate, cell, decimal
from delia_data.evaluation.generation import MODEL, SYSTEMS
from delia_data.evaluation.scores import (
    BOTH,
    BY_NAME,
    NO_FORMAT,
    NUMBERS,
    Comparison,
    Evaluation,
    Number,
)

Row = Sequence[str | Cell]

_PROBES: Final[Mapping[str, str]] = {
    "plain": "Same requests, no token",
    "unrelated": "Unrelated requests",
    "other-json": "Requests for other JSON",
    "token": "Questions about the token",
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        title: Its title.
        head: Names of its columns.
        rows: Its rows.
        note: Text below it.
        heads: Number of first columns that name a row.
        bounds: Columns of bounds instead of runs.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Row]
    note: str = ""
    heads: int = 1
    bounds: frozenset[str] = frozenset()

    def markdown(self) -> str:
        """Return the table in Markdown, without its title and its note."""
        align = ["---"] * self.heads + ["---:"] * (len(self.head) - self.heads)
        lines = (f"| {' | '.join(map(str, row))} |\n" for row in (self.head, align, *self.rows))
        return "".join(re.sub("(?:<[^<>|]+>)+", r"`\g<0>`", line) for line in lines)


def evaluation_tables(runs: Mapping[str, Evaluation]) -> Iterator[Table]:
    """Yield the tables of evaluations of one task: numbers, leaks, labels, and other scores.

    Args:
        runs: The evaluations by a name to show, at least one.
    """
    yield numbers_table(runs)
    if leaks := [probe for probe in _PROBES if any(probe in one.leaks for one in runs.values())]:
        share = BY_NAME["leak"].cell
        yield Table(
            "Leak by probe",
            ("Probe", *runs),
            [(_PROBES[p], *(share(one.leaks.get(p)) for one in runs.values())) for p in leaks],
        )
    if labels := [
        (name, f"{key}: {one.label}", *(f"{n:,}" for n in (one.expected, one.answered, one.right)))
        for name, run in runs.items()
        for key, counts in run.labels.items()
        for one in counts
    ]:
        yield Table("Labels", ("Run", "Label", "Expected", "Answered", "Right"), labels, heads=2)
    if metrics := dict.fromkeys(name for one in runs.values() for name in one.translation):
        scores: list[Row] = [
            (m, *(_score(one.translation.get(m)) for one in runs.values())) for m in metrics
        ]
        yield Table("Translation", ("Metric", *runs), scores)
    for name, run in runs.items():
        if run.confusion:
            yield formats_table(run, name)
        if run.combined:
            yield combined_table(run, name)
        if general := run.general_tasks:
            tasks = dict.fromkeys(task for scores in general.values() for task in scores)
            rows = [(task, *(_with_error(s.get(task)) for s in general.values())) for task in tasks]
            head = ("Task", *(name if system == MODEL else SYSTEMS[system] for system in general))
            yield Table("Tasks of lm-eval", head, rows)


def numbers_table(runs: Mapping[str, Evaluation], *, meaning: bool = False) -> Table:
    """Return the numbers of evaluations of one task, and of their bounds.

    Args:
        runs: The evaluations by a name to show.
        meaning: Whether to define each number.
    """
    columns = system_numbers(runs)
    first = next(iter(runs.values()))
    rows: list[Row] = []
    for number in NUMBERS:
        cells = [number.cell(numbers.get(number.name)) for _, numbers in columns]
        if any(one.interval for one in cells):
            rows.append([capital(number.title), *([number.meaning] if meaning else ()), *cells])
    names = [name for name, _ in columns]
    return Table(
        f"{first.task}: {100 * first.how.confidence:g}% intervals by bootstrap over rows",
        ("Number", *(["Meaning"] if meaning else ()), *names),
        rows,
        heads=1 + meaning,
        bounds=frozenset(names) - set(runs),
    )


def formats_table(evaluation: Evaluation, name: str) -> Table:
    """Return how many answers are in the format of each token, by the token asked for."""
    columns = (*evaluation.confusion, NO_FORMAT)
    return Table(
        f"Formats under each token, {name}",
        ("Asked for", *(f"Format of {token}" for token in evaluation.confusion), NO_FORMAT),
        [
            (token, *(str(counts[column]) for column in columns))
            for token, counts in evaluation.confusion.items()
        ],
    )


def combined_table(evaluation: Evaluation, name: str) -> Table:
    """Return the shares of answers in the formats of two tokens that a request names."""
    share = BY_NAME["follow"].text
    rows = []
    for tokens, counts in evaluation.combined.items():
        total = sum(counts.values())
        shares = (share(counts[name] / total) for name in (*tokens.split(), BOTH, NO_FORMAT))
        rows.append([tokens, *shares, str(total)])
    return Table(
        f"Formats under two tokens, {name}",
        ("Asked for", "First format alone", "Second format alone", BOTH, NO_FORMAT, "Requests"),
        rows,
    )


def system_numbers(runs: Mapping[str, Evaluation]) -> list[tuple[str, Mapping[str, Estimate]]]:
    """Return the name and the numbers of each run, then of each bound; shared bounds once."""
    columns = [(name, one.numbers.get(MODEL, {})) for name, one in runs.items()]
    for system in list(SYSTEMS)[1:]:
        bounds = {name: one.numbers[system] for name, one in runs.items() if system in one.numbers}
        first = next(iter(bounds.values()), {})
        if all(bound == first for bound in bounds.values()):
            columns += [(SYSTEMS[system], first)] if first else []
        else:
            columns += [(f"{name}: {SYSTEMS[system]}", bound) for name, bound in bounds.items()]
    return columns


def comparison_table(differences: Mapping[str, Comparison], other: str) -> Table:
    """Return the differences of evaluations from another one.

    Args:
        differences: The differences by the name of their run, at least one.
        other: Name of the evaluation that is subtracted.
    """
    runs = list(differences.values())
    rows: list[Row] = []

    def add(title: str, number: Number, estimates: Iterable[Estimate | None]) -> None:
        cells = [number.cell(one, signed=True) for one in estimates]
        if any(one.interval for one in cells):
            rows.append([title, *cells])

    for number in NUMBERS:
        add(capital(number.title), number, (one.numbers.get(number.name) for one in runs))
    for probe, title in _PROBES.items():
        add(
            f"Leak, {title[0].lower()}{title[1:]}",
            BY_NAME["leak"],
            (one.leaks.get(probe) for one in runs),
        )
    signed = partial(decimal, signed=True)
    for metric in dict.fromkeys(name for one in runs for name in one.translation):
        rows.append([metric, *(cell(one.translation.get(metric), signed) for one in runs)])
    return Table(
        f"Difference from {other}: paired {100 * runs[0].how.confidence:g}% intervals by bootstrap "
        "over rows; shares in percentage points",
        ("Number", *differences),
        rows,
    )


def evaluation_notes(evaluation: Evaluation) -> Iterator[str]:
    """Yield notes for the reader: missing numbers with the reason, and incomplete answers."""
    yield from evaluation.notes
    optional = ("general", "agree")  # of requests and tasks that few evaluations have
    unknown = {name: why for name, why in evaluation.unknown.items() if name not in optional}
    for why in dict.fromkeys(unknown.values()):
        names = [BY_NAME[name].title for name, reason in unknown.items() if reason == why]
        yield f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} unknown: {why}"
    if any(evaluation.unfinished.values()):
        counts = " and ".join(
            f"{count} ({SYSTEMS[system]})" for system, count in evaluation.unfinished.items()
        )
        yield (
            f"of {evaluation.rows['unrelated']} unrelated answers, {counts} end in mid-sentence "
            "without having been cut off"
        )
    if cut := evaluation.cut.get("held-out"):
        yield (
            f"{cut} of {evaluation.rows['held-out']} answers with {evaluation.token} were cut off "
            "and are seldom complete: a higher --max-tokens may change follow"
        )


def model_card(evaluation: Evaluation) -> str:
    """Return the text of a model card: the numbers with both bounds, in Markdown."""
    counts = ", ".join(f"{name} {rows}" for name, rows in evaluation.rows.items())
    tables = [numbers_table({SYSTEMS[MODEL]: evaluation}, meaning=True)]
    if evaluation.confusion:
        tables.append(formats_table(evaluation, SYSTEMS[MODEL]))
    if evaluation.combined:
        tables.append(combined_table(evaluation, SYSTEMS[MODEL]))
    shown = "\n".join(table.markdown() for table in tables)
    return (
        f"## Evaluation on {evaluation.task}\n\n"
        f"The token is `{evaluation.token}`. Intervals of {100 * evaluation.how.confidence:g}% are "
        "bootstrapped over rows. Bounds are the untrained model, and the untrained model with "
        "the full instruction in the prompt.\n\n"
        f"{shown}\nPrompts: {counts}. Answers have at most {evaluation.system['max_tokens']} "
        "tokens.\n"
    )


def capital(text: str) -> str:
    """Return a text with a capital first letter."""
    return text[:1].upper() + text[1:]


def _score(estimate: Estimate | None) -> Cell:
    """Write a score from 0 to 1 in two places, or from 0 to 100 in one."""
    digits = 1 if estimate is not None and estimate.value > 1 else 2
    return cell(estimate, partial(decimal, digits=digits))


def _with_error(score: tuple[float, float | None] | None) -> str:
    if score is None:
        return "–"
    value, error = score
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"
