"""The paper's four tables, of our runs, with the paper's numbers beside them, marked as such."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from delia_data.evaluation.representation import first_middle_last
from delia_data.reproduction import paper
from delia_data.reproduction.grid import ExperimentName
from delia_data.reproduction.result import CellResult
from delia_data.reproduction.results import Results
from delia_data.reproduction.seeds import Measured, over_seeds
from delia_data.training.baselines import BASELINES

Unit = Literal["share", "number", "points"]
_FORMATTED: Final = "formatted-text"
_WAYS: Final[tuple[tuple[ExperimentName, str], ...]] = (
    ("en-is", "English-Icelandic"),
    ("is-en", "Icelandic-English"),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One place of a table.

    Attributes:
        ours: Our number; None where the cells were not run, or the method has none.
        paper: The paper's number; None where it has none.
        unit: How it is written.
    """

    ours: Measured | None = None
    paper: float | None = None
    unit: Unit = "number"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table: its heads, and its entries by column."""

    heads: tuple[str, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """One table.

    Attributes:
        name: `table-1` to `table-4`.
        title: What it shows.
        heads: Names of the head columns.
        columns: Names of the others.
        lines: Its lines.
        notes: What to know when reading it.
        missing: Methods of which nothing was run, by their titles.
    """

    name: str
    title: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = field(default=())

    @property
    def run(self) -> bool:
        """Whether there is any number of ours in it."""
        return any(entry.ours is not None for line in self.lines for entry in line.entries)


def make_tables(results: Results) -> tuple[Table, ...]:
    """Make all four tables; entries whose cells have not been run stay empty."""
    return _distances(results), _accuracy(results), _translation(results), _ablation(results)


def _distances(results: Results) -> Table:
    methods = (*paper.DISTANCES, "step_matched", "neftune", "no_diverse", "no_wordings")
    order = [name for name in BASELINES if name in methods]
    words = results.keywords(_FORMATTED) or ["json", "thought"]
    lines = []
    for method in order:
        found = results.of(_FORMATTED, method)
        blocks = len(found[0].distances[0].l2) if found and found[0].distances else 1
        for word in words:
            known: Sequence[float | None] = paper.DISTANCES.get(method, {}).get(word, (None,) * 3)
            entries = [
                Entry(results.distance(found, word, block, measure=measure), theirs)
                for block, theirs in zip(first_middle_last(blocks), known, strict=True)
                for measure, theirs in (("l2", theirs), ("relative", None))
            ]
            lines.append(Line((BASELINES[method].title, word), tuple(entries)))
    blocks_named = ("first block", "middle block", "last block")
    return Table(
        "table-1",
        "Distance from the token to its keywords, by block (lower is nearer)",
        ("method", "keyword"),
        tuple(f"{b}, {m}" for b in blocks_named for m in ("L2", "L2 / ordinary words")),
        tuple(lines),
        (
            "L2 depends on the size of a model's hidden states: our L2 and the paper's are of "
            "different models and cannot be compared, only their orders. The second number is L2 "
            "over the median distance between ordinary words in the same block.",
        ),
        tuple(_missing(results, _FORMATTED, order)),
    )


def _accuracy(results: Results) -> Table:
    methods = [m for m, b in BASELINES.items() if b.kind == "any" and m != "mean_embedding"]
    methods = [m for m in methods if m not in ("random_init", "pairs_only")]
    rows = _rows_of(results)
    lines = []
    for method in methods:
        known = paper.ACCURACY.get(method, {})
        fixed = "rows" not in BASELINES[method].uses
        measures: tuple[tuple[str, Callable[[list[CellResult]], Measured | None], Unit], ...] = (
            ("selectivity", results.selectivity, "points"),
            ("JSON with the token", results.shares, "share"),
            ("JSON without it", lambda found: results.shares(found, named=False), "share"),
            ("JSON where it is forbidden", results.negative, "share"),
        )
        for name, measure, unit in measures:
            entries = []
            for place, count in enumerate(rows):
                # A method that no training row changes has one number, shown once.
                blank = fixed and place
                found = [] if blank else results.of(_FORMATTED, method, rows=count)
                theirs = known.get(None if fixed else count)
                asked = unit == "share" and name == "JSON with the token" and not blank
                entries.append(Entry(measure(found), theirs if asked else None, unit))
            lines.append(Line((BASELINES[method].title, name), tuple(entries)))
    return Table(
        "table-2",
        "Formatted text on held-out rows in held-out wordings, by task rows",
        ("method", "measure"),
        tuple(f"{count} rows" for count in rows),
        tuple(lines),
        (
            "Selectivity is the share of answers in the format with the token minus the share "
            "without it, in percentage points; the paper has no such number. Methods that are not "
            "trained on task rows have one number, in the first column.",
        ),
        tuple(_missing(results, _FORMATTED, methods)),
    )


def _translation(results: Results) -> Table:
    methods = ("original", "in_context", "dipmt", "common", "step_matched", "delia")
    lines = []
    for method in methods:
        known = paper.BLEURT.get(method, {})
        entries = tuple(
            Entry(results.scores(results.of(way, method)), known.get(way)) for way, _ in _WAYS
        )
        lines.append(Line((BASELINES[method].title,), entries))
    missing = [f"{title} ({way})" for way, _ in _WAYS for title in _missing(results, way, methods)]
    return Table(
        "table-3",
        "Translation of held-out rows",
        ("method",),
        tuple(name for _, name in _WAYS),
        tuple(lines),
        (
            "Ours is chrF, 0 to 1; the paper's is BLEURT, of another model and other rows: only "
            "the orders can be compared.",
            paper.NOTES["table-3"],
        ),
        tuple(missing),
    )


def _ablation(results: Results) -> Table:
    columns: Mapping[str, str] = {
        "no_diverse": "without diverse data",
        "no_wordings": "without diversified wordings",
        "common": "without both",
        "delia": "with both",
    }
    found = {method: results.of(_FORMATTED, method) for method in columns}

    def line(name: str, key: str, unit: Unit, make: Mapping[str, Measured | None]) -> Line:
        entries = (Entry(make[m], paper.ABLATION[m].get(key), unit) for m in columns)
        return Line((name,), tuple(entries))

    lines = [
        line("selectivity", "", "points", {m: results.selectivity(f) for m, f in found.items()}),
        line(
            "JSON with the token",
            "accuracy",
            "share",
            {m: results.shares(f) for m, f in found.items()},
        ),
        line("middle block, mean L2", "l2", "number", {m: _mean_l2(results, m) for m in columns}),
    ]
    for way, name in _WAYS:
        made = {m: results.scores(results.of(way, m)) for m in columns}
        lines.append(line(name, way, "number", made))
    return Table(
        "table-4",
        "Ablation: what each of DELIA's two parts does",
        ("measure",),
        tuple(columns.values()),
        tuple(lines),
        (paper.NOTES["table-4"], "Ours of translation is chrF, the paper's is BLEURT."),
        tuple(_missing(results, _FORMATTED, tuple(columns))),
    )


def _mean_l2(results: Results, method: str) -> Measured | None:
    """Mean over the keywords of the L2 in the middle block."""
    words = results.keywords(_FORMATTED)
    found = [results.distance(results.of(_FORMATTED, method), word) for word in words]
    known = [one.by_seed for one in found if one is not None]
    if not known:
        return None
    return over_seeds([sum(values) / len(values) for values in zip(*known, strict=True)])


def _rows_of(results: Results) -> list[int]:
    """Task rows of the grid; the paper's where it has no such experiment."""
    experiment = results.grid.experiments.get(_FORMATTED)
    if experiment is None:
        return [30, 65, 85, 100]
    return sorted({rows for block in experiment.blocks for rows in block.rows})


def _missing(results: Results, experiment: str, methods: Sequence[str]) -> Iterator[str]:
    for method in methods:
        if not any(
            (r.cell.experiment, r.cell.method) == (experiment, method) for r in results.finished
        ):
            yield BASELINES[method].title
