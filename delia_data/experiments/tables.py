"""The paper's four tables and its claims, with the numbers of a run next to the paper's own.

The paper's numbers (arXiv 2408.10841) are of Llama-2-7B-Chat and Gemma-7B-it on other rows: a
reference, not a target. No number of a run is computed from them. Its figures have no numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from delia_data.evaluation.bootstrap import Cell
from delia_data.evaluation.keep import SIMILAR
from delia_data.evaluation.representation import first_middle_last
from delia_data.experiments.cells import CellResult
from delia_data.experiments.grid import FORMATTED, TRANSLATIONS, task_of
from delia_data.experiments.methods import METHODS
from delia_data.experiments.results import (
    Measured,
    Results,
    TrainingCurve,
    reduction_curves,
    task_loss_curves,
)

Unit = Literal["share", "number", "points"]
Measure = Callable[[list[CellResult]], Measured | None]
Verdict = Literal["agrees", "disagrees", "unclear", "not run"]
_SMALLEST_CHANGE: Final = 0.01  # of the end of a curve; smaller differences do not count

PAPER_DISTANCES: Final[Mapping[str, Mapping[str, tuple[float, float, float]]]] = {
    "random_init": {"json": (382.5, 388.0, 203.5), "thought": (382.3, 388.1, 202.1)},
    "mean_embedding": {"json": (328.1, 333.8, 188.2), "thought": (327.9, 333.9, 186.9)},
    "common": {"json": (336.3, 341.9, 182.3), "thought": (337.5, 343.4, 183.0)},
    "dmt": {"json": (271.1, 277.6, 168.3), "thought": (265.3, 272.0, 168.1)},
    "fact_based": {"json": (94.5, 102.4, 100.5), "thought": (94.2, 101.9, 103.1)},
    "delia": {"json": (3.2, 15.6, 46.1), "thought": (6.2, 14.4, 47.7)},
}
"""Table 1: L2 from the token to each keyword in the first, middle and last block."""

PAPER_ACCURACY: Final[Mapping[str, Mapping[int | None, float]]] = {
    "original": {None: 0.348},
    "common": {30: 0.388, 65: 0.488, 85: 0.532, 100: 0.599},
    "controlled": {None: 0.443},
    "delia": {30: 0.386, 65: 0.846, 85: 0.869, 100: 0.960},
}
"""Table 2: share of answers in the requested JSON by task rows; None for no training."""

PAPER_BLEURT: Final[Mapping[str, Mapping[str, float]]] = {
    "original": {"en-is": 0.3556, "is-en": 0.3650},
    "common": {"en-is": 0.3628, "is-en": 0.3898},
    "dipmt": {"en-is": 0.4233, "is-en": 0.3420},
    "delia": {"en-is": 0.4744, "is-en": 0.4273},
}
"""Table 3: BLEURT of the translations by direction."""

PAPER_ABLATION: Final[Mapping[str, Mapping[str, float]]] = {
    "no_diverse": {"l2": 342.7, "accuracy": 0.599, "en-is": 0.3556, "is-en": 0.3650},
    "no_wordings": {"l2": 200.2, "accuracy": 0.074, "en-is": 0.3735, "is-en": 0.3965},
    "common": {"l2": 388.1, "accuracy": 0.348, "en-is": 0.3556, "is-en": 0.3650},
    "delia": {"l2": 15.0, "accuracy": 0.960, "en-is": 0.4273, "is-en": 0.4744},
}
"""Table 4: mean L2 in the middle block, share of the requested JSON, and BLEURT by ablation."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The number of the run and that of the paper, as far as they exist, and their unit."""

    ours: Measured | None = None
    paper: float | None = None
    unit: Unit = "number"

    def format(self, value: float) -> str:
        """Format a number in the entry's unit."""
        if self.unit == "share":
            return f"{100 * value:.1f}%"
        if self.unit == "points":
            return f"{100 * value:.1f}"
        return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"

    @property
    def cell(self) -> Cell:
        """The number with its interval, or the smallest and largest seed of one without."""
        if self.ours is None:
            return Cell("–")
        ends = (self.ours.low, self.ours.high)
        if None in ends and len(self.ours.by_seed) > 1:
            ends = (min(self.ours.by_seed), max(self.ours.by_seed))
        shown = ", ".join(self.format(end) for end in ends if end is not None)
        return Cell(self.format(self.ours.value), shown)

    @property
    def paper_text(self) -> str:
        """The paper's number as the paper prints it."""
        if self.paper is None:
            return "–"
        return f"{self.paper:g}" if self.unit == "number" else self.format(self.paper)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table: its heads, and its entries by column."""

    heads: tuple[str, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """One table, `table-1` to `table-4` or `numbers`.

    `missing` has the titles of methods that were not run.
    """

    name: str
    title: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def run(self) -> bool:
        """Whether the table has any number of the run."""
        return any(entry.ours is not None for line in self.lines for entry in line.entries)

    @property
    def filled(self) -> list[Line]:
        """Lines with a number of this run or of the paper; a repeated first head is blank."""
        lines: list[Line] = []
        previous = ""
        for line in self.lines:
            if any(one.ours is not None or one.paper is not None for one in line.entries):
                first, *others = line.heads
                blank = bool(others) and first == previous
                lines.append(Line(("" if blank else first, *others), line.entries))
                previous = first
        return lines


def make_tables(results: Results) -> tuple[Table, ...]:
    """Make the paper's tables and one of all cells; entries of cells not run are empty."""
    paper = (_distances(results), _accuracy(results), _translation(results), _ablation(results))
    return (*paper, _numbers(results))


def _distances(results: Results) -> Table:
    added = ("step_matched", "neftune", _without_pairs(results), "no_wordings")
    methods = [name for name in METHODS if name in (*PAPER_DISTANCES, *added)]
    lines = []
    for method in methods:
        cells = results.of(FORMATTED, method)
        blocks = len(cells[0].distances[0].l2) if cells and cells[0].distances else 1
        for word in results.keywords(FORMATTED) or ["json", "thought"]:
            paper = PAPER_DISTANCES.get(method, {}).get(word, (None,) * 3)
            entries = [
                Entry(results.distance(cells, word, block, measure=measure), theirs)
                for block, number in zip(first_middle_last(blocks), paper, strict=True)
                for measure, theirs in (("l2", number), ("relative", None))
            ]
            lines.append(Line((METHODS[method].title, word), tuple(entries)))
    return Table(
        "table-1",
        "Distance from the token to its keywords by block (lower is nearer)",
        ("method", "keyword"),
        tuple(
            f"{block} block, {measure}"
            for block in ("first", "middle", "last")
            for measure in ("L2", "L2 / ordinary words")
        ),
        tuple(lines),
        (
            "L2 depends on the size of a model's hidden states. The L2 of this run and the paper's "
            "are of different models: compare only the orders. The second number is L2 divided by "
            "the median distance between ordinary words in the same block.",
        ),
        _missing(results, FORMATTED, methods),
    )


def _numbers(results: Results) -> Table:
    """Return the numbers of each method at each number of rows and ratio, over seeds."""
    measures = _measures(results)
    groups: dict[tuple[str, str, int | None, float | None], list[CellResult]] = {}
    for cell in results.finished:
        one = cell.cell
        if task_of(one.experiment) == FORMATTED:
            groups.setdefault((one.experiment, one.method, one.rows, one.ratio), []).append(cell)
    lines = [
        Line(
            (experiment, METHODS[method].title, *("–" if n is None else f"{n:g}" for n in axes)),
            tuple(Entry(measure(cells), None, unit) for _, measure, unit in measures),
        )
        for (experiment, method, *axes), cells in groups.items()
    ]
    return Table(
        "numbers",
        "Every method of the run on formatted text",
        ("experiment", "method", "rows", "ratio"),
        tuple(name for name, _, _ in measures),
        tuple(lines),
        (f"{len(results.missing)} cells are not finished.",) if results.missing else (),
    )


def _measures(results: Results) -> tuple[tuple[str, Measure, Unit], ...]:
    return (
        ("follow", results.follow, "share"),
        ("JSON with the token", results.shares, "share"),
        ("leak", results.leak, "share"),
        ("selectivity", results.selectivity, "points"),
        ("obey", results.obey, "share"),
        ("kept answers", results.similar, "share"),
        ("KL on pairs", results.divergence, "number"),
        ("right", results.scores, "share"),
    )


def _accuracy(results: Results) -> Table:
    left_out = ("mean_embedding", "random_init", "pairs_only")
    methods = [m for m, one in METHODS.items() if one.kind == "any" and m not in left_out]
    experiment = results.grid.experiments.get(FORMATTED)
    counts = [30, 65, 85, 100]  # the paper's
    if experiment is not None:
        counts = sorted({rows for block in experiment.blocks for rows in block.rows})
    lines = []
    for method in methods:
        paper = PAPER_ACCURACY.get(method, {})
        fixed = "rows" not in METHODS[method].uses
        for name, measure, unit in _measures(results):
            entries = []
            for column, count in enumerate(counts):
                # A method that does not train on task rows has one number, in the first column.
                blank = fixed and column > 0
                cells = [] if blank else results.of(FORMATTED, method, rows=count)
                theirs = None
                if name == "JSON with the token" and not blank:
                    theirs = paper.get(None if fixed else count)
                entries.append(Entry(measure(cells), theirs, unit))
            lines.append(Line((METHODS[method].title, name), tuple(entries)))
    return Table(
        "table-2",
        "Formatted text on held-out rows in held-out wordings by task rows",
        ("method", "measure"),
        tuple(f"{count} rows" for count in counts),
        tuple(lines),
        (
            "Follow is strict, and JSON with the token is the paper's looser count. Leak is the "
            "share of answers with any mark of the format where nobody asks for it, which the "
            "untrained model's answer does not have, in the worst of the probes that were run. "
            "Selectivity is follow minus leak, in percentage points. Obey is the share of answers "
            "without the format when the prompt forbids it. Kept answers are those to unrelated "
            f"requests that have an embedding similarity of at least {SIMILAR:g} to the untrained "
            "model's. KL is KL(untrained, trained) in nats per token of pairs that are in no "
            "mixture. Methods that are not trained on task "
            "rows have one number, in the first column.",
        ),
        _missing(results, FORMATTED, methods),
    )


def _translation(results: Results) -> Table:
    methods = ("original", "in_context", "dipmt", "common", "step_matched", "delia")
    lines = []
    for method in methods:
        paper = PAPER_BLEURT.get(method, {})
        entries = (
            Entry(results.scores(results.of(way, method)), paper.get(way)) for way in TRANSLATIONS
        )
        lines.append(Line((METHODS[method].title,), tuple(entries)))
    return Table(
        "table-3",
        "Translation of held-out rows",
        ("method",),
        tuple(TRANSLATIONS.values()),
        tuple(lines),
        (
            "The numbers of this run are chrF, 0 to 1; the paper's are BLEURT, of another model "
            "and other rows: compare only the orders.",
            "The paper's Table 4 prints DELIA's two scores the other way round: 0.4273 for "
            "English-Icelandic and 0.4744 for Icelandic-English.",
        ),
        tuple(
            f"{title} ({way})" for way in TRANSLATIONS for title in _missing(results, way, methods)
        ),
    )


def _without_pairs(results: Results) -> str:
    """Return the ablation without pairs, with DELIA's number of steps if that was run."""
    return "no_pairs" if results.of(FORMATTED, "no_pairs") else "no_diverse"


def _ablation(results: Results) -> Table:
    columns: Mapping[str, str] = {
        _without_pairs(results): "without diverse data",
        "no_wordings": "without diversified wordings",
        "common": "without both",
        "delia": "with both",
    }

    def line(
        name: str,
        key: str,
        unit: Unit,
        measure: Measure,
        experiment: str = FORMATTED,
    ) -> Line:
        entries = (
            Entry(
                measure(results.of(experiment, m)),
                PAPER_ABLATION[m if m in PAPER_ABLATION else "no_diverse"].get(key),
                unit,
            )
            for m in columns
        )
        return Line((name,), tuple(entries))

    def mean_l2(cells: list[CellResult]) -> Measured | None:
        return results.mean_distance(cells[0].cell.method, measure="l2") if cells else None

    lines = [
        line("selectivity", "", "points", results.selectivity),
        line("JSON with the token", "accuracy", "share", results.shares),
        line("middle block, mean L2", "l2", "number", mean_l2),
        *(line(name, way, "number", results.scores, way) for way, name in TRANSLATIONS.items()),
    ]
    return Table(
        "table-4",
        "Ablation: the effect of each of DELIA's two parts",
        ("measure",),
        tuple(columns.values()),
        tuple(lines),
        (
            "The paper's column without either part has the numbers of its untrained model and its "
            "random init, and its column without diverse data those of common instruction tuning. "
            "This run trains what the columns say: without either part is common instruction "
            "tuning.",
            "Translations of this run are scored by chrF, the paper's by BLEURT.",
        ),
        _missing(results, FORMATTED, tuple(columns)),
    )


def _missing(results: Results, experiment: str, methods: Sequence[str]) -> tuple[str, ...]:
    run = {r.cell.method for r in results.finished if r.cell.experiment == experiment}
    return tuple(METHODS[method].title for method in methods if method not in run)


@dataclass(frozen=True, slots=True)
class Finding:
    """A claim, whether the run agrees with it (`"unclear"` if seeds overlap), and its numbers."""

    claim: str
    verdict: Verdict
    numbers: str


def check_claims(results: Results) -> list[Finding]:
    """Compare the numbers of a run with the claims."""

    def above(
        claim: str,
        measure: Measure,
        other: str,
        *,
        experiment: str = FORMATTED,
        share: bool = True,
    ) -> Finding:
        """Check that DELIA's number is above another method's."""
        title = METHODS[other].title
        ours, theirs = (measure(results.of(experiment, m)) for m in ("delia", other))
        claim = claim.format(title=title)
        if ours is None or theirs is None:
            missing = "DELIA" if ours is None else title
            return Finding(claim, "not run", f"{missing} has not been run.")
        numbers = f"DELIA {_in_words(ours, share)}; {title} {_in_words(theirs, share)}."
        if _is_above(ours, theirs):
            return Finding(claim, "agrees", numbers)
        if _is_above(theirs, ours):
            return Finding(claim, "disagrees", numbers)
        return Finding(claim, "unclear", f"{numbers} Seeds or intervals overlap.")

    depends = "With DELIA the format depends on the token more than with {title} (selectivity)."
    requested = "DELIA gives the requested format more often than {title} (Table 2)."
    ablation = "Each of DELIA's two parts helps: DELIA's selectivity is above that of {title} "
    translates = "DELIA translates better than common instruction tuning, {way} (Table 3)."
    return [
        *(above(depends, results.selectivity, m) for m in ("common", "step_matched")),
        *(
            above(requested, results.shares, m)
            for m in ("original", "common", "step_matched", "controlled")
        ),
        _nearest(results),
        *(
            above(f"{ablation}(Table 4).", results.selectivity, m)
            for m in (_without_pairs(results), "no_wordings")
        ),
        _trend(
            "More diverse data ends in a lower loss on the task (Figure 3).",
            task_loss_curves(results),
            "Loss on held-out rows at the end",
            rising=False,
        ),
        _trend(
            "More diverse data leaves fewer states, relative to diverse data alone (Figure 4).",
            reduction_curves(results),
            "Times fewer states at the end",
            rising=True,
        ),
        *(
            above(
                translates.format(way=name), results.scores, "common", experiment=way, share=False
            )
            for way, name in TRANSLATIONS.items()
            if way in results.grid.experiments
        ),
    ]


def _nearest(results: Results) -> Finding:
    claim = "DELIA brings the token nearer to its keywords than any other method (Table 1)."
    # Diverse data alone does not name the token.
    measured = {m: results.mean_distance(m, measure="relative") for m in METHODS}
    means = {m: one for m, one in measured.items() if one is not None and m != "pairs_only"}
    others = {method: one for method, one in means.items() if method != "delia"}
    if "delia" not in means or not others:
        return Finding(claim, "not run", "DELIA or all other methods have not been run.")
    best = min(others, key=lambda method: others[method].value)
    ours, theirs = means["delia"], others[best]
    words = " and ".join(f"“{word}”" for word in results.keywords(FORMATTED))
    numbers = (
        f"Middle block, L2 over that of ordinary words, mean of {words}: DELIA "
        f"{_in_words(ours, False)}; the nearest other is {METHODS[best].title} with "
        f"{_in_words(theirs, False)}."
    )
    if _is_above(theirs, ours):
        return Finding(claim, "agrees", numbers)
    if _is_above(ours, theirs):
        return Finding(claim, "disagrees", numbers)
    return Finding(claim, "unclear", f"{numbers} Seeds overlap.")


def _is_above(high: Measured, low: Measured) -> bool:
    """Whether every seed of one number and its interval, if any, are above those of another."""
    apart = high.low is None or low.high is None or high.low > low.high
    return apart and min(high.by_seed) > max(low.by_seed)


def _trend(claim: str, curves: Sequence[TrainingCurve], name: str, *, rising: bool) -> Finding:
    """Check that the ends of curves rise, or fall, from each ratio to the next."""
    if len(curves) < 2:
        return Finding(claim, "not run", "Fewer than two ratios have been run.")
    ends = ", ".join(f"{curve.mean[-1]:.3g} at ratio {curve.ratio:g}" for curve in curves)
    directions = {_direction(a, b) for a, b in pairwise(curves)}
    if directions == {1 if rising else -1}:
        return Finding(claim, "agrees", f"{name}: {ends}.")
    if directions == {-1 if rising else 1}:
        return Finding(claim, "disagrees", f"{name}: {ends}.")
    return Finding(
        claim, "unclear", f"{name}: {ends}. There is no trend beyond the range of the seeds."
    )


def _direction(a: TrainingCurve, b: TrainingCurve) -> int:
    """Return 1 if all seeds of the second curve end at least 1% above, -1 if below, else 0."""
    low, high = min(a.high[-1], b.high[-1]), max(a.low[-1], b.low[-1])
    if high < low * (1 + _SMALLEST_CHANGE):
        return 0
    return 1 if b.mean[-1] > a.mean[-1] else -1


def _in_words(measured: Measured, share: bool) -> str:
    """Format a number with its interval and its seeds."""

    def write(value: float) -> str:
        return f"{100 * value:.0f}%" if share else f"{value:.3f}"

    seeds = ", ".join(write(value) for value in measured.by_seed)
    text = write(measured.value)
    if measured.low is not None and measured.high is not None:
        text += f" [{write(measured.low)}, {write(measured.high)}]"
    return text + (f" (seeds {seeds})" if len(measured.by_seed) > 1 else " (one seed)")
