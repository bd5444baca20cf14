"""Measure an adapter before and after training: the library call of `delia measure`.

out/
    measurements.json    all measurements (`Measurements`)
    figures/*.png        their figures
    manifest.json        settings, and hashes of the adapter, the task and the cache
    FINISHED

To add a measurement, write a function of `_Job`, name it in `MeasureName` and `_MEASURES`, add a
field to `Measurements`, and show it in `measurement_tables` and `figures.measurement_figures`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar, get_args

from pydantic_core import to_jsonable_python

from delia_data._optional import require
from delia_data.errors import InputError, TokenError
from delia_data.evaluation.bootstrap import Estimate, Resampling
from delia_data.evaluation.figures import measurement_figures
from delia_data.evaluation.gradients import (
    GROUP_TITLES,
    WHENS,
    Buffering,
    Projection,
    RowGradients,
    When,
    initial_weights,
    measure_buffering,
    read_gradients,
    row_gradients,
    task_similarity,
)
from delia_data.evaluation.representation import (
    Alignment,
    Band,
    Curve,
    first_middle_last,
    measure_alignment,
)
from delia_data.evaluation.state_space import StateSpace, measure_state_space
from delia_data.outputs import (
    FINISHED,
    MANIFEST,
    Manifest,
    check_folder_is_ours,
    check_same_settings,
    file_sha256,
    finish,
    folder_lock,
    from_json,
    is_finished,
    read_manifest,
    write_json,
)
from delia_data.ranking import rank
from delia_data.records import Record
from delia_data.sampling import read_cache
from delia_data.sampling.embeddings import Embed, Embedder
from delia_data.tasks import read_task_rows
from delia_data.tasks.reading import with_query

MEASUREMENTS: Final = "measurements.json"
FIGURES: Final = "figures"
_PLAN: Final = "measuring.json"
_PARTS: Final = ".parts"
_UNDIVERSIFIED: Final = "undiversified"

MeasureName = Literal["representation", "state-space", "buffering"]
MEASURES: Final[tuple[MeasureName, ...]] = get_args(MeasureName)
Which = Literal["with", "without"]

_ORDER: Final = (
    *("before", "after", "change", "with", "without", "mean", "normal"),
    *("task", "common", "pairs", "mixture", "common_mixture", "held_out"),
)
"""Order in which groups are shown; in files they are sorted by name."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MeasureSettings:
    """Settings of the measurements.

    Attributes:
        rows: Maximum number of held-out rows, and of task rows.
        pairs: Maximum number of pairs, for buffering.
        keywords: Words to compare the token with; default: those of the task.
        words: Ordinary words to sample from the vocabulary.
        mass: Probability mass of the state space.
        ratio: Pairs per task row in the mixture whose gradient is examined; default: that of the
            adapter's training, or all pairs of the cache if it was trained without pairs.
        dimensions: Dimensions of the projected gradients.
        dtype: Type to compute in, `"float32"` or `"bfloat16"`.
        seed: Seed of rows, words and projection.

    Raises:
        InputError: A value is out of bounds.
    """

    rows: int = 48
    pairs: int = 96
    keywords: tuple[str, ...] = ()
    words: int = 256
    mass: float = 0.95
    ratio: float | None = None
    dimensions: int = 4096
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        lowest = {"rows": 2, "pairs": 3, "words": 16, "dimensions": 2, "seed": 0}
        problems = [
            f"{name} {getattr(self, name)!r} must be at least {low}"
            for name, low in lowest.items()
            if getattr(self, name) < low
        ]
        if not 0 < self.mass <= 1:
            problems.append(f"mass {self.mass!r} must be above 0 and at most 1")
        if self.ratio is not None and not 0 <= self.ratio < float("inf"):
            problems.append(f"ratio {self.ratio!r} must be a number of at least 0")
        if self.dtype not in ("float32", "bfloat16"):
            problems.append(f"dtype {self.dtype!r} must be float32 or bfloat16")
        if problems:
            raise InputError(f"measuring: {'; '.join(problems)}")


@dataclass(frozen=True, slots=True)
class Measurements:
    """All measurements of one adapter; those that were not taken are None.

    Attributes:
        model: Name of the base model.
        token: The special token.
        steps: Optimizer steps of the training.
        trained_rows: Rows of the training by source.
        representation: Distances from the token to its keywords, `before` and `after` training.
        state_space: State space at the first answer token, `before` and `after`, each `with` the
            token and, if the rows have a plain form, `without` it.
        buffering: Gradients of task rows and pairs.
    """

    model: str
    token: str
    steps: int
    trained_rows: Mapping[str, int]
    representation: Mapping[When, Alignment] | None = None
    state_space: Mapping[When, Mapping[Which, StateSpace]] | None = None
    buffering: Buffering | None = None

    @property
    def measured(self) -> tuple[MeasureName, ...]:
        """Names of the measurements taken."""
        return tuple(name for name in MEASURES if getattr(self, _field(name)) is not None)

    def as_dict(self) -> dict[str, Any]:
        """Return the measurements as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = MEASUREMENTS) -> Measurements:
        """Build measurements from the result of `as_dict`, with groups in the order of tables.

        Raises:
            FormatError: A value is missing or has the wrong type.
        """
        return from_json(cls, _ordered(values), where)


def _field(name: MeasureName) -> str:
    return name.replace("-", "_")


def _ordered(value: Any) -> Any:
    if isinstance(value, Mapping):
        names = sorted(value, key=lambda name: (*_ORDER, name).index(name))
        return {name: _ordered(value[name]) for name in names}
    return [_ordered(one) for one in value] if isinstance(value, list | tuple) else value


def read_measurements(folder: str | os.PathLike[str]) -> Measurements:
    """Read the measurements of a finished folder.

    Raises:
        UnfinishedError: The folder has no finish marker.
        InputError: The folder contains something else.
        FormatError: Another version wrote the folder.
    """
    root = Path(folder)
    manifest = read_manifest(root)
    if manifest.kind != "evaluation" or MEASUREMENTS not in manifest.files:
        raise InputError(f"{root} has no measurements: give a folder that delia measure wrote")
    values = json.loads((root / MEASUREMENTS).read_text(encoding="utf-8"))
    return Measurements.from_dict(values, where=str(root / MEASUREMENTS))


def measure(
    adapter: str | os.PathLike[str],
    task: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    cache: str | os.PathLike[str] | None = None,
    what: Sequence[str] | None = None,
    settings: MeasureSettings | None = None,
    device: str = "cpu",
    embed: Embed | None = None,
    on_progress: Callable[[MeasureName, int, int], None] = lambda what, done, total: None,
) -> Measurements:
    """Measure an adapter before and after its training.

    A killed run continues when it is called again. A finished folder gets the measurements that
    it lacks.

    Args:
        adapter: Folder that `delia train` wrote, with LoRA and the token's row.
        task: Folder that `delia diversify` wrote.
        out: Folder for the measurements, the figures and the manifest.
        cache: Pairs for buffering: a cache folder or a file.
        what: Names in `MEASURES`; default: all, without buffering if there is no cache.
        settings: The settings.
        device: Device to compute on.
        embed: Turns texts into vectors of length 1, for buffering; default: all-MiniLM-L6-v2.
        on_progress: Called with the name of a measurement, the number of its parts done, and the
            number in all.

    Returns:
        All measurements of the folder.

    Raises:
        InputError: The adapter, the task or the cache cannot be measured.
        TokenError: The adapter was trained for another token than the task's.
        SettingsError: The folder was begun with other settings or inputs.
        ForeignFolderError: The folder contains something else.
        LockedError: Another process measures into the folder.
        UnfinishedError: The adapter, the task or the cache is not finished.
        MissingExtraError: A library or the embedding model is not installed.
    """
    what = tuple(what if what is not None else MEASURES if cache is not None else MEASURES[:2])
    unknown = [name for name in what if name not in MEASURES]
    if unknown or not what:
        raise InputError(
            f"no measurement is called {', '.join(unknown) or 'nothing'}: "
            f"give some of {','.join(MEASURES)}"
        )
    names = [name for name in MEASURES if name in what]
    settings, root = settings or MeasureSettings(), Path(out)
    rows = _read_rows(Path(task), settings)
    job = _Job(Path(adapter), rows, settings, root / _PARTS, device, cache, embed)
    job.check(names)
    if "buffering" in names and embed is None:
        job.embed = Embedder()
    require("matplotlib", extra="train")  # needed in the last step, after minutes of others
    plan = {
        **to_jsonable_python(settings),
        "adapter_sha256": file_sha256(job.adapter / MANIFEST),
        "task_sha256": rows.sha256,
    }
    if cache is not None and "buffering" in names:
        file = Path(cache) / MANIFEST if Path(cache).is_dir() else Path(cache)
        plan["cache_sha256"] = file_sha256(file)
    check_folder_is_ours(root, frozenset({_PLAN, MEASUREMENTS, FIGURES}), sign=_PLAN)
    with folder_lock(root):
        earlier = _earlier_plan(root, plan)
        done = _done(root) if earlier else {}
        if is_finished(root) and done.keys() >= set(names):
            return read_measurements(root)
        for name, values in done.items():
            write_json(job.parts / f"{name}.json", values)
        (root / FINISHED).unlink(missing_ok=True)
        plan = earlier | plan
        write_json(root / _PLAN, plan)
        for name in names:
            if name not in done:
                measured = _MEASURES[name](job, partial(on_progress, name))
                done[name] = to_jsonable_python(measured)
                write_json(job.parts / f"{name}.json", done[name])
        trained = read_manifest(job.adapter)
        measurements = Measurements.from_dict(
            {
                "model": trained.settings["model"],
                "token": rows.token,
                "steps": trained.details["steps"],
                "trained_rows": trained.rows,
                **{_field(name): values for name, values in done.items()},
            }
        )
        write_json(root / MEASUREMENTS, measurements.as_dict())
        shutil.rmtree(root / FIGURES, ignore_errors=True)
        for number, (_, figure, *_) in enumerate(measurement_figures(measurements)):
            file_name = "".join(c if c.isalnum() else "-" for c in figure.name)
            figure.png(root / FIGURES / f"{number}-{file_name}.png")
        finish(
            root,
            Manifest(
                kind="evaluation",
                settings={"measures": list(measurements.measured), **to_jsonable_python(settings)},
                inputs={name: str(plan[name]) for name in plan if name.endswith("_sha256")},
                rows={"held_out": len(rows.held_out), "task": len(rows.train)},
            ),
        )
        shutil.rmtree(job.parts, ignore_errors=True)
    return measurements


def _earlier_plan(root: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plan that the folder was begun with, or nothing for a new folder.

    Raises:
        SettingsError: The plans differ. A cache that no earlier measurement read is no difference.
    """
    if not (root / _PLAN).is_file():
        return {}
    earlier = dict(json.loads((root / _PLAN).read_text(encoding="utf-8")))
    shared = [name for name in plan if name in earlier or name != "cache_sha256"]
    check_same_settings(
        root, {name: earlier.get(name) for name in shared}, {name: plan[name] for name in shared}
    )
    return earlier


def _done(root: Path) -> dict[MeasureName, Any]:
    """Return the measurements that the folder has already, as JSON values."""
    values = read_measurements(root).as_dict() if is_finished(root) else {}
    done = {name: values.get(_field(name)) for name in MEASURES}
    for name in MEASURES:
        if (part := root / _PARTS / f"{name}.json").is_file():
            done[name] = json.loads(part.read_text(encoding="utf-8"))
    return {name: value for name, value in done.items() if value is not None}


class _Rows(NamedTuple):
    """Rows of a task to measure.

    `common` has the training rows in one wording and `plain` the held-out rows without the token;
    either is empty if the task does not have them. `trained` is the number of all training rows.
    """

    token: str
    keywords: tuple[str, ...]
    train: list[Record]
    common: list[Record]
    held_out: list[Record]
    plain: list[Record]
    trained: int
    sha256: str


def _read_rows(folder: Path, settings: MeasureSettings) -> _Rows:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a task folder: give a folder that delia diversify wrote")
    task = read_task_rows(folder)
    if not task.train or not task.test:
        raise InputError(
            f"task {folder} has {len(task.train)} training rows and {len(task.test)} held-out "
            "rows, and both are measured: diversify it with held-out rows (--test, --test-share)"
        )
    train = [row.record for row in task.train]
    common: list[Record] = []
    if is_finished(folder / _UNDIVERSIFIED):
        common = [row.record for row in read_task_rows(folder / _UNDIVERSIFIED).train]
        if [row.answer for row in common] != [row.answer for row in train]:
            common = []
    selected = _selection(train, settings.rows, settings.seed, "task")
    held_out = [
        task.test[index]
        for index in _selection(
            [row.record for row in task.test], settings.rows, settings.seed, "held out"
        )
    ]
    plain = [with_query(row.record, row.plain) for row in held_out if row.plain]
    return _Rows(
        token=task.token,
        keywords=tuple(map(str, read_manifest(folder).details.get("keywords") or ())),
        train=[train[index] for index in selected],
        common=[common[index] for index in selected] if common else [],
        held_out=[row.record for row in held_out],
        plain=plain if len(plain) == len(held_out) else [],
        trained=len(train),
        sha256=task.sha256,
    )


def _selection(rows: Sequence[Record], count: int, seed: int, purpose: str) -> list[int]:
    """Return the indices of the first rows by keyed hash of their ids."""
    key = f"measure {purpose}"
    return sorted(range(len(rows)), key=lambda i: (rank(seed, rows[i].id, key), i))[:count]


_Progress = Callable[[int, int], None]


@dataclass
class _Job:
    """An adapter and the rows to measure it on; the adapter is loaded when first needed."""

    adapter: Path
    rows: _Rows
    settings: MeasureSettings
    parts: Path
    device: str
    cache: str | os.PathLike[str] | None
    embed: Embed | None

    def check(self, names: Sequence[MeasureName]) -> None:
        """Report wrong inputs before anything is loaded or written."""
        from delia_data.training.adapter import adapter_settings

        trained = adapter_settings(self.adapter)
        if self.rows.token not in trained.tokens:
            raise TokenError(
                f"{self.adapter} was trained for the token {', '.join(trained.tokens)}, and the "
                f"task's token is {self.rows.token}: give the task that it was trained on"
            )
        if trained.adaptation == "full":
            raise InputError(
                f"{self.adapter} is a full model: its state before training and LoRA's gradients "
                "are known for adapters only; train with adaptation lora or qlora"
            )
        if "representation" in names and not self.keywords:
            raise InputError("the task has no keywords to compare the token with: give --keyword")
        if "buffering" in names and self.cache is None:
            raise InputError("buffering is measured on pairs: give a cache (--cache)")

    @property
    def keywords(self) -> tuple[str, ...]:
        return self.settings.keywords or self.rows.keywords

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from delia_data.training.adapter import open_adapter

        torch = require("torch", extra="local")
        model, tokenizer = open_adapter(self.adapter, device=self.device)
        return model.to(getattr(torch, self.settings.dtype)), tokenizer

    @contextmanager
    def model(self, when: When) -> Iterator[tuple[Any, Any]]:
        model, tokenizer = self._loaded
        with initial_weights(model) if when == "before" else nullcontext():
            yield model, tokenizer


def _measure_representation(job: _Job, progress: _Progress) -> dict[When, Alignment]:
    alignments: dict[When, Alignment] = {}
    for done, when in enumerate(WHENS):
        progress(done, len(WHENS))
        with job.model(when) as (model, tokenizer):
            alignments[when] = measure_alignment(
                model,
                tokenizer,
                job.rows.token,
                job.keywords,
                words=job.settings.words,
                seed=job.settings.seed,
            )
    progress(len(WHENS), len(WHENS))
    return alignments


def _measure_state_space(job: _Job, progress: _Progress) -> dict[When, dict[Which, StateSpace]]:
    groups: dict[Which, list[Record]] = {"with": job.rows.held_out, "without": job.rows.plain}
    groups = {which: rows for which, rows in groups.items() if rows}
    spaces: dict[When, dict[Which, StateSpace]] = {"before": {}, "after": {}}
    done, total = 0, len(WHENS) * len(groups)
    for when in WHENS:
        with job.model(when) as (model, tokenizer):
            for which, rows in groups.items():
                progress(done, total)
                mass = job.settings.mass
                spaces[when][which] = measure_state_space(model, tokenizer, rows, mass=mass)
                done += 1
    progress(done, total)
    return spaces


def _measure_buffering(job: _Job, progress: _Progress) -> Buffering:
    from delia_data.training.adapter import adapter_settings

    assert job.cache is not None
    assert job.embed is not None
    settings, task = job.settings, job.rows
    cached = [
        record
        for record in read_cache(job.cache)
        if not any(task.token in message.content for message in record.messages)
    ]
    if len(cached) < 3:
        raise InputError(
            f"{job.cache} has {len(cached)} pairs, and at least 3 are needed: sample more"
        )
    pairs = [cached[i] for i in _selection(cached, settings.pairs, settings.seed, "pairs")]
    ratio, trained = settings.ratio, read_manifest(job.adapter).rows
    if ratio is None:
        from_cache = trained.get("cache", 0)
        ratio = from_cache / trained["task"] if from_cache else len(cached) / task.trained
    similarity = task_similarity(pairs, task.train, job.embed)
    groups = {"pairs": pairs, "task": task.train, "held_out": task.held_out, "common": task.common}
    groups = {name: rows for name, rows in groups.items() if rows}
    gradients: dict[When, dict[str, RowGradients]] = {"before": {}, "after": {}}
    done, total = 0, len(WHENS) * sum(map(len, groups.values()))
    for when in WHENS:
        for name, rows in groups.items():
            file = job.parts / f"gradients-{when}-{name}.npz"
            if not file.is_file():
                with job.model(when) as (model, tokenizer):
                    row_gradients(
                        model,
                        tokenizer,
                        rows,
                        Projection(settings.dimensions, settings.seed),
                        max_length=adapter_settings(job.adapter).max_length,
                        on_row=_from(done, total, progress),
                    ).save(file)
            gradients[when][name] = read_gradients(file)
            done += len(rows)
            progress(done, total)
    how = Resampling(seed=settings.seed)
    return measure_buffering(gradients, similarity, ratio=ratio, how=how)


def _from(done: int, total: int, progress: _Progress) -> Callable[[int], None]:
    """Return a callback that reports rows after those already done."""
    return lambda row: progress(done + row, total)


_MEASURES: Final[Mapping[MeasureName, Callable[[_Job, _Progress], Any]]] = {
    "representation": _measure_representation,
    "state-space": _measure_state_space,
    "buffering": _measure_buffering,
}


class MeasurementTable(NamedTuple):
    """A table of measurements; the first `heads` columns name the row."""

    measure: MeasureName
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Estimate | None]]
    note: str = ""
    heads: int = 1


def measurement_tables(measurements: Measurements) -> Iterator[MeasurementTable]:
    """Yield the tables that `delia measure` prints and the report shows."""
    token = measurements.token
    if measurements.representation:
        yield _representation_table(token, *(measurements.representation[w] for w in WHENS))
    if spaces := measurements.state_space:
        yield MeasurementTable(
            "state-space",
            f"First token of the answer: tokens that have {spaces['after']['with'].mass:.0%} of "
            "the probability, entropy, and rank and first character of the expected token",
            ("", "Tokens", "Entropy, nats", "Rank", "First character"),
            [
                (
                    f"{when}, {which} {token}",
                    *(f"{s.size:.1f}", f"{s.entropy:.2f}", f"{s.rank:g}", f"{s.opening:.0%}"),
                )
                for when, by_which in spaces.items()
                for which, s in by_which.items()
            ],
        )
    if measurements.buffering:
        yield from _buffering_tables(measurements.buffering)


def _representation_table(token: str, before: Alignment, after: Alignment) -> MeasurementTable:
    blocks = first_middle_last(len(after.median))
    middle = blocks[1]
    rows = []
    for old, new in zip(before.keywords, after.keywords, strict=True):
        curves: dict[str, tuple[Curve | Band, str]] = {
            "before": (old.token.relative, f"{old.nearer[middle]} of {after.words}"),
            "after": (new.token.relative, f"{new.nearer[middle]} of {after.words}"),
            "ordinary words": (new.ordinary["relative"], ""),
            **{f"new token, {how}": (d.relative, "") for how, d in new.untrained.items()},
        }
        rows += [
            (new.keyword, name, *(f"{curve.mean[block]:.2f}" for block in blocks), nearer)
            for name, (curve, nearer) in curves.items()
        ]
    return MeasurementTable(
        "representation",
        f"L2 from {token} to a keyword, divided by the median between ordinary words",
        ("Keyword", "", *(f"Block {b + 1}" for b in blocks), f"Nearer words, block {middle + 1}"),
        rows,
        f"Nearest of {after.words} ordinary words in block {middle + 1} after training: "
        f"{', '.join(word.word for word in after.nearest[middle])}.",
        heads=2,
    )


def _buffering_tables(buffering: Buffering) -> Iterator[MeasurementTable]:
    by_when = list(buffering.cosines.values())
    rows: list[Sequence[str | Estimate | None]] = [
        (GROUP_TITLES[name], *(cosines.groups[name] for cosines in by_when))
        for name in by_when[0].groups
    ]
    subsets = [
        f"{mean:.2f} [{low:.2f}, {high:.2f}]"
        for low, mean, high in (cosines.subsets for cosines in by_when)
    ]
    halves = ["" if cosines.halves is None else f"{cosines.halves:.2f}" for cosines in by_when]
    rows += [("random subsets of pairs", *subsets), ("halves of the held-out rows", *halves)]
    yield MeasurementTable(
        "buffering",
        f"Cosine of mean gradients with that of held-out task rows, {buffering.ratio:g} pairs per "
        "task row",
        ("", *(f"{when.capitalize()} training" for when in buffering.cosines)),
        rows,
    )
    yield MeasurementTable(
        "buffering",
        f"Rank correlation of the gradient norms of {len(buffering.pairs)} pairs with their "
        "similarity to the task",
        ("", "Plain", "Given answer length"),
        [(name, c.plain, c.given_length) for name, c in buffering.norms.items()],
    )
    yield MeasurementTable(
        "buffering",
        "Canceling of gradients: norm of the mean divided by mean of the norms",
        ("", "Group", "Rows", "Ratio", "Ratio if unrelated", "Shared direction"),
        [
            (
                *(when, GROUP_TITLES[name], str(group.rows), f"{group.ratio:.2f}"),
                *(f"{group.subsets[-1].independent:.2f}", group.shared),
            )
            for when, groups in buffering.cancelling.items()
            for name, group in groups.items()
        ],
        heads=2,
    )
