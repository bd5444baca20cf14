"""How many pairs are enough: train a series of ratios and compare each with the best one.

folder/
series.json          settings of the series; a rerun with other settings is refused
cells/               a folder for each ratio and seed, and one of the untrained model
ratio.json           the result: numbers per ratio, the difference to the best, the choice
ratio.png            the differences
manifest.json, FINISHED

A rerun may add ratios and seeds; another tolerance trains nothing. Some pairs are held out:

cache ── by keyed hash ──┬──▶ held-out pairs    does the model keep its own answers?
                         └──▶ pool ──▶ mixtures of every ratio, the smaller in the larger
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from delia_data.bundled_cache import cache_path
from delia_data.errors import InputError, RatioError, SettingsError, TokenError
from delia_data.evaluation.bootstrap import Cell as NumberCell
from delia_data.evaluation.bootstrap import Resampling, cell
from delia_data.evaluation.probes import LEAK_PROBES, EvalTask, Probe, make_probes
from delia_data.evaluation.scores import NUMBERS, Number
from delia_data.evaluation.tables import Row, Table
from delia_data.experiments.cells import AnswerLoss, CellResult, read_result
from delia_data.experiments.figures import ratio_drawing
from delia_data.experiments.grid import Cell
from delia_data.experiments.inputs import ExperimentInputs
from delia_data.experiments.methods import Material
from delia_data.experiments.results import (
    Measured,
    leaks_by_probe,
    over_rows,
    over_tokens,
    worst_probe,
)
from delia_data.experiments.sweep import (
    CELLS,
    CellEstimate,
    OnProgress,
    cell_folder,
    estimate_cells,
    raise_failures,
    run_sweep,
    unfinished_cells,
)
from delia_data.mixing import TaskRow, TaskRows, read_task_rows
from delia_data.mixing.mixture import writers_of
from delia_data.outputs import (
    FINISHED,
    Manifest,
    canonical_json,
    check_folder_is_ours,
    check_same_settings,
    finish,
    folder_lock,
    from_json,
    read_manifest,
    setting,
    write_json,
)
from delia_data.ranking import rank
from delia_data.sampling import read_cache
from delia_data.tasks import QUERY_SLOT, Task, Wording
from delia_data.training import TrainSettings
from delia_data.training.data import ProvenanceWarning, mismatched_sources
from delia_data.training.loading import load_prepared_tokenizer

By = Literal["leak", "keep", "follow", "loss"]
BY: Final[tuple[By, ...]] = get_args(By)
_NUMBERS: Final[Mapping[By, Number]] = {
    **{n.name: n for n in NUMBERS if n.name in BY},  # leak and follow
    "keep": next(n for n in NUMBERS if n.name == "kl"),
    "loss": Number("loss", "loss", "nats", False, (), "loss of held-out answers"),
}
RATIOS: Final = (0.0, 0.1, 1.0, 4.0, 16.0)
"""The default series: the task alone, then a few pairs, then more."""
RESULT: Final = "ratio.json"

_SERIES: Final = "series.json"
_OWN: Final = frozenset({_SERIES, CELLS, RESULT, "ratio.png", "ratio-losses.png"})
_EXPERIMENT: Final = "task"
_NEXT: Final = 4  # A further ratio has about four times as many pairs.
_RESAMPLING: Final = Resampling()


@dataclass(frozen=True, slots=True)
class RatioSettings:
    """The series to train.

    Raises:
        SettingsError: Values are out of bounds; the message names all of them.
    """

    ratios: tuple[float, ...] = RATIOS
    """Pairs per task row, ascending."""
    seeds: int = setting(
        2,
        "Trainings per ratio, starting at --seed, each with its own selection of pairs, order and "
        "initialization; a rerun can add more.",
    )
    seed: int = 0
    """First seed. It also selects the rows and pairs to hold out."""
    task_rows: int | None = setting(None, "Maximum training rows of the task, by keyed hash.")
    rows: int | None = setting(None, "Maximum held-out rows to measure.")
    pairs: int = setting(64, "Pairs to hold out from every mixture and to measure.")
    max_tokens: int = setting(96, "Maximum tokens in an answer.")
    pattern: str | None = setting(
        None, "Regular expression that a whole answer matches, for free-text answers."
    )

    def __post_init__(self) -> None:
        given = ", ".join(f"{ratio:g}" for ratio in self.ratios)
        problems = []
        if not all(0 <= ratio < math.inf for ratio in self.ratios):
            problems.append(f"ratios {given} must be finite numbers of at least 0")
        if len(self.ratios) < 2:
            problems.append(f"{len(self.ratios)} ratio is not a series: give at least two")
        elif list(self.ratios) != sorted(set(self.ratios)):
            problems.append(f"ratios {given} must be ascending, each once")
        for name, least in (
            ("seeds", 1),
            ("task_rows", 1),
            ("rows", 2),
            ("pairs", 2),
            ("max_tokens", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                problems.append(f"{name} {value} must be at least {least}")
        if problems:
            raise SettingsError(f"settings of the series: {'; '.join(problems)}")
        # 4 and 4.0 are the same ratio, and are written the same.
        object.__setattr__(self, "ratios", tuple(map(float, self.ratios)))


@dataclass(frozen=True, slots=True)
class RatioPoint:
    """The measurements at one ratio; losses are in nats per token.

    Attributes:
        ratio: Pairs per task row.
        pairs: Pairs in the mixture.
        difference: How much worse the ratio is than the best one. The interval is paired: over
            the same rows, and over seeds if there are several.
        loss: Loss of held-out answers to prompts with the token.
        leak: Share of answers that show the format where nobody asks for it, in the worst probe.
        follow: Share of held-out answers in the format with the token.
        keep: KL(untrained, trained) of pairs that are in no mixture, in nats per token.
    """

    ratio: float
    pairs: int
    difference: Measured
    loss: Measured
    leak: Measured | None = None
    follow: Measured | None = None
    keep: Measured | None = None


@dataclass(frozen=True, slots=True)
class RatioResult:
    """The result of a series.

    Attributes:
        task: Name of the task.
        token: Its special token.
        settings: Settings of the series and of the training.
        task_rows: Training rows of the task; the series may use fewer.
        trained_task_rows: Training rows of the task in every mixture.
        held_out_rows: Held-out rows whose loss was measured.
        by: Measurement to compare ratios by.
        tolerance: How much worse than the best one a ratio may be: a share of answers for leak and
            follow, nats per token for keep and loss.
        points: The ratios, ascending.
        best: Ratio with the best measurement.
        enough: Smallest ratio whose interval against the best includes the tolerance.
        pairs_needed: Pairs that a cache needs for this ratio and all rows of the task.
        summary: The outcome in sentences, the chosen ratio first.
    """

    task: str
    token: str
    settings: dict[str, Any]
    task_rows: int
    trained_task_rows: int
    held_out_rows: int
    by: By
    tolerance: float
    points: tuple[RatioPoint, ...]
    best: float
    enough: float
    pairs_needed: int
    summary: tuple[str, ...] = ()


def read_ratio(folder: str | os.PathLike[str]) -> RatioResult:
    """Read the result of a series from its folder.

    Raises:
        UnfinishedError: The series is not finished.
        InputError: The folder holds something else.
        FormatError: Another version wrote it.
    """
    root = Path(folder)
    if RESULT not in read_manifest(root).files:
        raise InputError(f"{root} holds no {RESULT}: give a folder that delia ratio wrote")
    values = json.loads((root / RESULT).read_text(encoding="utf-8"))
    return from_json(RatioResult, values, str(root / RESULT))


@dataclass(frozen=True, slots=True)
class RatioSweep:
    """The cells of a series: DELIA at each ratio, from each seed (a `Sweep`).

    If cells answer probes (`asks`), the untrained model does too.
    """

    task: Path
    cache: str | os.PathLike[str]
    out: Path
    training: TrainSettings
    settings: RatioSettings
    rows: int
    asks: bool
    keep_adapters: bool

    @property
    def device(self) -> str:
        """Device to train and measure on."""
        return self.training.device

    def cells(self) -> list[Cell]:
        """Return the cells; the first seed of every ratio comes before any second one."""
        return [*([self.untrained] if self.asks else []), *self.trained()]

    @property
    def untrained(self) -> Cell:
        """The cell of the untrained model."""
        return Cell.of(_EXPERIMENT, "original", self.rows, 0, self.settings.seed)

    def trained(self) -> list[Cell]:
        """Return the cells that train, one for each seed and ratio."""
        first = self.settings.seed
        return [
            Cell.of(_EXPERIMENT, "delia", self.rows, ratio, seed)
            for seed in range(first, first + self.settings.seeds)
            for ratio in self.settings.ratios
        ]

    def inputs(self, _: str) -> ExperimentInputs:
        """Read the inputs of all cells."""
        return read_ratio_inputs(self.task, self.cache, self.training, self.settings)


def run_ratio(
    task: str | os.PathLike[str],
    cache: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    training: TrainSettings,
    *,
    settings: RatioSettings | None = None,
    tolerance: float = 0.02,
    by: By = "leak",
    workers: int = 1,
    keep_adapters: bool = False,
    on_progress: OnProgress = lambda done, total, note: None,
) -> RatioResult:
    """Train a series of ratios and return the smallest one that is about as good as the best.

    The paper states that "there must exist an optimal scale of diverse data" without a method to
    find it (arXiv 2408.10841). A killed run resumes when it is called again.

    Args:
        task: Task folder that `delia diversify` wrote, with held-out rows.
        cache: A cache folder, or a file of pairs.
        folder: Folder of cells and result.
        training: Settings of each training; the seed is replaced by those of the series.
        settings: The series.
        tolerance: How much worse than the best one a ratio may be: a share of answers for leak and
            follow, nats per token for keep and loss.
        by: Number to compare ratios by, as `delia evaluate` defines them: `"leak"`, `"follow"`, or
            `"keep"` (the divergence); or `"loss"`, that of held-out answers with the token.
        workers: Number of cells that run at once.
        keep_adapters: Keep the adapter of every cell.
        on_progress: Called when a cell ends; with one worker also after each training step.

    Returns:
        The result, as in `ratio.json`.

    Raises:
        InputError: There is no such task folder or cache, the task has no held-out rows, or the
            number cannot be measured: a held-out row has no plain form, or answers are free text
            and there is no pattern.
        RatioError: The cache is too small for the series.
        TokenError: The training has another token than the task.
        SettingsError: The folder was started with other settings, or an argument is out of bounds.
        ForeignFolderError: The folder holds something else.
        LockedError: Another process works there.
        UnfinishedError: The task or the cache is not finished.
        EngineError: Cells failed.
        MissingExtraError: TRL, PEFT or matplotlib is not installed.

    Warns:
        ProvenanceWarning: Another model wrote the pairs.
    """
    settings = settings or RatioSettings()
    if by not in BY or not 0 < tolerance < math.inf:
        raise SettingsError(
            f"by {by!r} must be one of {', '.join(BY)}, and tolerance {tolerance:g} must be more "
            "than 0, such as 0.02"
        )
    sweep, inputs = _open(task, cache, Path(folder), training, settings, keep_adapters)
    if by in ("leak", "follow") and not sweep.asks:
        _probes(Path(task), settings)  # raises an error with the reason
    tokenizer = load_prepared_tokenizer(training)
    for line in mismatched_sources(
        writers_of({"cache": cache_path(cache)}),
        training.model,
        tokenizer,
        pairs_loss=training.pairs_loss,
    ):
        warnings.warn(line, ProvenanceWarning, stacklevel=2)
    root = sweep.out
    with folder_lock(root):
        write_json(root / _SERIES, _signature(training, settings, inputs))
        if unfinished_cells(sweep):
            (root / FINISHED).unlink(missing_ok=True)
        raise_failures(
            run_sweep(sweep, workers=workers, on_progress=on_progress), len(sweep.cells())
        )
        result = _result(sweep, inputs, tolerance, by)
        (root / FINISHED).unlink(missing_ok=True)
        write_json(root / RESULT, asdict(result))
        ratio_drawing(result).png(root / "ratio.png")
        rows = {"task": sweep.rows, **{name: len(each) for name, each in inputs.losses.items()}}
        finish(
            root,
            Manifest(
                kind="evaluation", settings=result.settings, inputs=dict(inputs.hashes), rows=rows
            ),
        )
    return result


def estimate_ratio(
    task: str | os.PathLike[str],
    cache: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    training: TrainSettings,
    *,
    settings: RatioSettings | None = None,
) -> list[CellEstimate]:
    """Estimate the work of a series, cell by cell, without writing anything; see `run_ratio`."""
    sweep, _ = _open(task, cache, Path(folder), training, settings or RatioSettings())
    return estimate_cells(sweep, {_EXPERIMENT: training}, {_EXPERIMENT: None})


def _open(
    task: str | os.PathLike[str],
    cache: str | os.PathLike[str],
    root: Path,
    training: TrainSettings,
    settings: RatioSettings,
    keep_adapters: bool = False,
) -> tuple[RatioSweep, ExperimentInputs]:
    """Read and check the inputs, without writing anything."""
    check_folder_is_ours(root, _OWN, sign=_SERIES)
    inputs = read_ratio_inputs(task, cache, training, settings)
    if training.token != inputs.task.token:
        raise TokenError(
            f"{os.fspath(task)} is for the token {inputs.task.token}, and the training has "
            f"{training.token}: set token to {inputs.task.token} (--token '{inputs.task.token}')"
        )
    if (root / _SERIES).is_file():
        before = json.loads((root / _SERIES).read_text("utf-8"))
        now = _signature(training, settings, inputs)
        # Series of earlier versions have no answers, and no settings of them.
        before["series"] = {**now["series"], **before["series"]}
        check_same_settings(root, before, now)
    rows, asks = len(inputs.task.train), inputs.eval_task is not None
    sweep = RatioSweep(Path(task), cache, root, training, settings, rows, asks, keep_adapters)
    return sweep, inputs


def _signature(
    training: TrainSettings, settings: RatioSettings, inputs: ExperimentInputs
) -> dict[str, Any]:
    """Return the settings that a rerun must share; it may add ratios and seeds."""
    series = {k: v for k, v in asdict(settings).items() if k not in ("ratios", "seeds")}
    trained = {k: v for k, v in training.as_dict().items() if k != "seed"}
    return {"series": series, "training": trained, **inputs.hashes}


def read_ratio_inputs(
    task: str | os.PathLike[str],
    cache: str | os.PathLike[str],
    training: TrainSettings,
    settings: RatioSettings,
) -> ExperimentInputs:
    """Read a task folder and a cache, and hold out the rows and pairs to measure.

    A pair with the query of a held-out pair is in no mixture either.
    """
    root, cache = Path(task), cache_path(cache)
    if not root.is_dir():
        raise InputError(f"{root} is not a task folder: give a folder that delia diversify wrote")
    rows, seed = read_task_rows(root), settings.seed
    if not rows.train or len(rows.test) < 2:
        raise InputError(
            f"task {root} has {len(rows.train)} training rows and {len(rows.test)} held-out rows, "
            "and needs at least 1 and 2: diversify it with held-out rows (--test, --test-share)"
        )
    train = _first(_training_rows(rows), settings.task_rows, seed, "task")
    test = _first(rows.test, settings.rows, seed, "held out")
    pairs = read_cache(cache)
    usable = [p for p in pairs if not any(rows.token in turn.content for turn in p.messages)]
    order = sorted(usable, key=lambda pair: rank(seed, pair.id, "ratio kept out"))
    held_out_pairs = tuple(order[: settings.pairs])
    if len(held_out_pairs) < settings.pairs:
        raise RatioError(
            f"{cache} has {len(held_out_pairs)} usable pairs, fewer than the {settings.pairs} to "
            "hold out: sample more, or hold out fewer (--pairs)"
        )
    queries = {pair.query for pair in held_out_pairs}
    pool = tuple(pair for pair in pairs if pair.query not in queries)
    counts = [round(ratio * len(train)) for ratio in settings.ratios]
    if counts[-1] > len(pool):
        raise RatioError(
            f"ratio {settings.ratios[-1]:g} of {len(train)} task rows needs {counts[-1]} pairs, "
            f"and {len(pool)} are left without the {len(held_out_pairs)} held-out ones: sample "
            f"more, stop the series at {int(1e4 * len(pool) / len(train)) / 1e4:g} or below, or "
            "train on fewer task rows"
        )
    if len(set(counts)) < len(counts):
        raise RatioError(
            f"with {len(train)} task rows the ratios need {', '.join(map(str, counts))} pairs: "
            "give ratios that differ by at least one pair"
        )
    losses = {"held_out": tuple(row.record for row in test), "pairs": held_out_pairs}
    manifest = read_manifest(root)
    eval_task: EvalTask | None = None
    probes: tuple[Probe, ...] = ()
    with suppress(InputError):
        eval_task, probes = _probes(root, settings)
    # The rows are in their wordings already, so the wording of this task adds nothing.
    task_of_series = Task(
        name=str(manifest.settings.get("name", root.name)),
        instruction=str(manifest.details.get("instruction", "")),
        description=str(manifest.details.get("description", "")),
        common_wording=Wording(QUERY_SLOT),
        keys=(),
        keywords=(),
        train=tuple(row.record for row in train),
        token=rows.token,
    )
    return ExperimentInputs(
        Material(task_of_series, pairs=pool, rows=TaskRows(train, rows.test, rows.token)),
        training=training,
        hashes={
            "task": rows.sha256,
            "cache": hashlib.sha256(canonical_json(sorted(p.id for p in pairs))).hexdigest(),
        },
        losses=losses,
        eval_task=eval_task,
        probes=probes,
        max_tokens=settings.max_tokens,
    )


def _probes(root: Path, settings: RatioSettings) -> tuple[EvalTask, tuple[Probe, ...]]:
    """Return the requests that every cell answers."""
    task = EvalTask.read(root, rule=settings.pattern)
    names = ("held-out", *LEAK_PROBES)
    return task, make_probes(task, names, rows=settings.rows, seed=settings.seed)


def _training_rows(rows: TaskRows) -> list[TaskRow]:
    """Return the training rows that are not held out too."""
    held_out = {row.record.id for row in rows.test}
    return [row for row in rows.train if row.record.id not in held_out]


def _first(
    rows: Sequence[TaskRow], most: int | None, seed: int, purpose: str
) -> tuple[TaskRow, ...]:
    """Return the first rows by keyed hash, in their order; fewer are a subset of more."""
    order = sorted(
        range(len(rows)), key=lambda i: (rank(seed, rows[i].record.id, f"ratio {purpose}"), i)
    )
    return tuple(rows[i] for i in sorted(order[:most]))


# The result


Values = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Values of shape (ratios, seeds, rows), and the weight of each row, of shape (rows,)."""


def _result(sweep: RatioSweep, inputs: ExperimentInputs, tolerance: float, by: By) -> RatioResult:
    """Compare the finished cells of a series."""
    task_rows = len(_training_rows(read_task_rows(sweep.task)))
    ratios = sweep.settings.ratios
    cells = [read_result(cell_folder(sweep.out, cell)) for cell in sweep.trained()]
    by_ratio = [cells[number :: len(ratios)] for number in range(len(ratios))]

    def table(rows: Callable[[CellResult], Sequence[AnswerLoss]]) -> Values:
        nats = np.array([[[one.nats for one in rows(c)] for c in group] for group in by_ratio])
        return nats, np.array([one.tokens for one in rows(cells[0])], dtype=np.float64)

    tables: dict[By, list[Values]] = {"loss": [table(lambda one: one.losses["held_out"])]}
    numbers = {"loss": [over_tokens([c.losses["held_out"] for c in g]) for g in by_ratio]}
    if all(cell.divergences for cell in cells):
        tables["keep"] = [table(lambda one: one.divergences)]
        numbers["keep"] = [over_tokens([c.divergences for c in group]) for group in by_ratio]
    if sweep.asks and all(cell.answers for cell in cells):
        untrained = read_result(cell_folder(sweep.out, sweep.untrained))
        strict = [[cell.answers["held-out"].strict for cell in group] for group in by_ratio]
        tables["follow"] = [_shares(1 - np.array(strict))]
        numbers["follow"] = [over_rows(group) for group in strict]
        leaks = [leaks_by_probe(group, untrained) for group in by_ratio]
        tables["leak"] = [_shares(np.array(probe)) for probe in zip(*leaks, strict=True)]
        numbers["leak"] = [over_rows(worst_probe(probes)) for probes in leaks]
    if by not in tables:
        raise InputError(
            f"the cells in {sweep.out} have no {by}, so ratios cannot be compared by it: use "
            f"--by {' or '.join(tables)}, or a new folder"
        )
    differences = {name: compare_ratios(each) for name, each in tables.items()}
    points = tuple(
        RatioPoint(
            ratio,
            round(ratio * sweep.rows),
            differences[by][i],
            **{name: values[i] for name, values in numbers.items()},
        )
        for i, ratio in enumerate(ratios)
    )
    enough = {name: smallest_enough(ratios, each, tolerance) for name, each in differences.items()}
    result = RatioResult(
        task=inputs.task.name,
        token=inputs.task.token,
        settings={
            **asdict(sweep.settings),
            "ratios": list(ratios),
            "training": sweep.training.as_dict(),
        },
        task_rows=task_rows,
        trained_task_rows=sweep.rows,
        held_out_rows=len(inputs.losses["held_out"]),
        by=by,
        tolerance=tolerance,
        points=points,
        best=min(points, key=lambda point: point.difference.value).ratio,
        enough=enough[by],
        pairs_needed=round(enough[by] * task_rows),
    )
    others = {name: enough[name] for name in BY if name in enough and name != by}
    return replace(result, summary=tuple(summarize(result, others)))


def _shares(values: NDArray[np.float64]) -> Values:
    return values, np.ones(values.shape[2])


def compare_ratios(tables: Sequence[Values]) -> list[Measured]:
    """Return how much worse each ratio is than the best, with a paired interval.

    Rows are resampled, the same ones for both ratios. Two or three seeds cannot be resampled:
    half of the samples of two would have one seed twice. Their noise is what is left of the values
    after the mean of each ratio and of each seed is subtracted. It is pooled over all ratios, and
    noise of this size is added from the t distribution with as many degrees of freedom.

    Args:
        tables: Sums over each row (lower is better) and the rows' weights, such as nats and tokens
            of answers. The value of a ratio is the largest of several tables: of the worst probe.
    """
    generator = np.random.default_rng(_RESAMPLING.seed)
    size = _RESAMPLING.resamples
    drawn, whole = [], []
    for values, weight in tables:
        rows = len(weight)
        counts = generator.multinomial(rows, np.full(rows, 1 / rows), size=size)
        sums = np.tensordot(counts.astype(np.float64), values, axes=(1, 2))
        drawn.append(sums / (counts @ weight)[:, None, None])  # (samples, ratios, seeds)
        whole.append(values.sum(axis=2) / weight.sum())
    by_seed = np.max(whole, axis=0)
    best = int(np.argmin(by_seed.mean(axis=1)))
    samples = np.max(drawn, axis=0).mean(axis=2)
    samples -= samples[:, [best]]
    ratios, seeds = by_seed.shape
    if seeds > 1:
        rest = by_seed - by_seed.mean(1, keepdims=True) - by_seed.mean(0) + by_seed.mean()
        freedom = (ratios - 1) * (seeds - 1)
        deviation = math.sqrt(float((rest**2).sum()) / freedom)
        noise = generator.standard_t(freedom, size=samples.shape)
        samples += deviation * math.sqrt(2 / seeds) * noise
    samples[:, best] = 0.0
    tail = (1 - _RESAMPLING.confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail], axis=0).tolist()
    differences = by_seed - by_seed[best]
    return [
        Measured(float(row.mean()), tuple(row.tolist()), low[i], high[i])
        for i, row in enumerate(differences)
    ]


def smallest_enough(
    ratios: Sequence[float], differences: Sequence[Measured], tolerance: float
) -> float:
    """Return the smallest ratio whose interval against the best includes the tolerance."""
    compared = zip(ratios, differences, strict=True)
    return next(ratio for ratio, one in compared if (one.low or 0.0) <= tolerance)


def ratio_table(result: RatioResult) -> Table:
    """Return the table of a series: a row for each ratio, with intervals."""
    rows: list[Row] = [
        (
            f"{point.ratio:g}",
            f"{point.pairs:,}",
            _cell(result.by, point.difference),
            *(_cell(by, getattr(point, by)) for by in BY),
        )
        for point in result.points
    ]
    titles = (_NUMBERS[by].title.capitalize() for by in BY)
    head = ("Ratio", "Pairs", f"Worse than ratio {result.best:g}", *titles)
    return Table("The series", head, rows)


def _cell(by: By, measured: Measured | None) -> NumberCell:
    return cell(measured, _NUMBERS[by].text)


def summarize(result: RatioResult, others: Mapping[By, float]) -> Iterator[str]:
    """Yield the outcome in sentences; `others` has the ratios enough by other measurements."""
    point = next(point for point in result.points if point.ratio == result.enough)
    pairs = f"for {result.task_rows} task rows that is {result.pairs_needed:,} pairs"
    share = _NUMBERS[result.by].unit == "share"
    tolerance = (
        f"{100 * result.tolerance:g} points" if share else f"{result.tolerance:g} nats per token"
    )
    title = _NUMBERS[result.by].title
    if result.enough == result.best:
        worse = f", and every smaller ratio is more than {tolerance} worse"
        first = result.enough == result.points[0].ratio
        yield f"ratio {result.enough:g} has the best {title}{'' if first else worse}; {pairs}"
    else:
        verb = "is" if (point.difference.high or 0.0) <= result.tolerance else "may be"
        yield (
            f"ratio {result.enough:g} is the smallest whose {title} {verb} within {tolerance} of "
            f"the best ratio, {result.best:g}: it is "
            f"{_cell(result.by, point.difference)} worse; {pairs}"
        )
    numbers = {by: getattr(point, by) for by in BY if by != result.by}
    if shown := [
        f"{_NUMBERS[by].title} {_cell(by, number).text}" for by, number in numbers.items() if number
    ]:
        yield f"at this ratio: {', '.join(shown)}"
    last = result.points[-1].ratio
    if result.enough == last:
        ratio = _NEXT * max(last, 1)
        yield (
            f"ratio {last:g} is the largest of the series, so a larger one may be better: for "
            f"ratio {ratio:g} the cache needs {round(ratio * result.task_rows):,} pairs in "
            "addition to the held-out ones"
        )
    for name, enough in others.items():
        if enough != result.enough:
            yield f"by {name}, ratio {enough:g} would be enough"
    if result.by == "loss":
        yield (
            f"the loss is that of answers to prompts with {result.token}; whether answers to other "
            "prompts stay free of the format is measured by leak"
        )
    if result.settings["seeds"] == 1:
        yield (
            "the intervals do not include the differences between seeds: use --seeds 2 or more to "
            "measure them"
        )
    if result.trained_task_rows < result.task_rows:
        yield (
            f"the series used {result.trained_task_rows} of {result.task_rows} task rows: with all "
            "of them another ratio may be enough"
        )
