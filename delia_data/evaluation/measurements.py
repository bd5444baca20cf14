"""Measure an adapter before and after training: its file, tables and figures (`delia measure`).

out/
    measurements.json    all measurements (`Measurements`)
    figures/*.png        their figures
    manifest.json        settings, and hashes of the adapter, the task and the cache
    FINISHED

To add a measurement, name it in `MeasureName`, add a field to `Measurements` and a method to
`_Measuring` of the same name, and show it in `measurement_tables` and `measurement_figures`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np

from delia_data._optional import require
from delia_data.errors import InputError, TokenError
from delia_data.evaluation.bootstrap import Cell, Estimate, Resampling, cell, decimal
from delia_data.evaluation.figures import (
    Drawing,
    alignment_by_block,
    cancellation_by_rows,
    cosines_with_held_out,
    norms_by_similarity,
    short,
    state_space_sizes,
)
from delia_data.evaluation.gradients import (
    DIMENSIONS,
    GROUP_TITLES,
    WHENS,
    Buffering,
    RowGradients,
    When,
    initial_weights,
    measure_buffering,
    row_gradients,
)
from delia_data.evaluation.representation import (
    MASS,
    Alignment,
    Band,
    Curve,
    StateSpace,
    first_middle_last,
    measure_alignment,
    measure_state_space,
)
from delia_data.evaluation.tables import Table
from delia_data.outputs import (
    FINISHED,
    MANIFEST,
    Manifest,
    Number,
    Settings,
    check_folder_is_ours,
    check_same_settings,
    file_sha256,
    finish,
    folder_lock,
    from_json,
    is_finished,
    read_manifest,
    setting,
    write_json,
)
from delia_data.ranking import rank
from delia_data.records import Record
from delia_data.sampling import read_cache
from delia_data.sampling.embeddings import Embed, Embedder
from delia_data.tasks import read_task_rows
from delia_data.tasks.reading import with_query
from delia_data.tokens import set_template_options

MEASUREMENTS: Final = "measurements.json"
FIGURES: Final = "figures"
_PLAN: Final = "measuring.json"
_UNDIVERSIFIED: Final = "undiversified"

MeasureName = Literal["representation", "state-space", "buffering"]
MEASURES: Final[tuple[MeasureName, ...]] = get_args(MeasureName)
Which = Literal["with", "without"]

_ORDER: Final = (
    *("before", "after", "change", "with", "without", "mean", "normal"),
    *("task", "common", "pairs", "mixture", "common_mixture", "held_out"),
)
"""Order in which groups are shown; in files they are sorted by name."""


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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = MEASUREMENTS) -> Measurements:
        """Build measurements from the values of their file, with groups in the order of tables.

        Raises:
            FormatError: A value is missing or has the wrong type.
        """
        return from_json(cls, _ordered(values), where)


def _field(name: MeasureName) -> str:
    """Return the field of `Measurements` that has a measurement."""
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


@dataclass(frozen=True, slots=True)
class MeasureSettings(Settings):
    """Settings of the measurements."""

    rows: int = setting(48, "Maximum number of held-out rows, and of task rows.", "Rows", ge=2)
    pairs: int = setting(96, "Maximum number of pairs, for buffering.", "Rows", ge=3)
    keywords: tuple[str, ...] = ()
    """Words to compare the token with; default: those of the task."""
    words: int = setting(256, "Ordinary words to sample from the vocabulary as controls.", ge=16)
    ratio: Number | None = setting(
        None,
        "Pairs per task row in the mixture whose gradient is examined. Default: that of the "
        "adapter's training, or all pairs of the cache if it was trained without pairs.",
        "Rows",
        ge=0,
    )
    dtype: Literal["float32", "bfloat16"] = setting("float32", "Type to compute in.")
    seed: int = setting(0, "Seed of rows, words and projection.", ge=0)
    template_options: Mapping[str, Any] | None = None
    """Options of the chat template that replace those of the training."""


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
    job = _Measuring(Path(adapter), rows, settings, device, cache, embed)
    job.check(names)
    if "buffering" in names and embed is None:
        job.embed = Embedder()
    require("matplotlib", extra="train")  # needed in the last step, after minutes of others
    recorded = {**asdict(settings), "mass": MASS, "dimensions": DIMENSIONS}
    recorded["keywords"] = list(settings.keywords)
    options = recorded.pop("template_options")
    plan = {
        **recorded,
        "template_options": options,
        "adapter_sha256": file_sha256(job.adapter / MANIFEST),
        "task_sha256": rows.sha256,
    }
    if cache is not None and "buffering" in names:
        file = Path(cache) / MANIFEST if Path(cache).is_dir() else Path(cache)
        plan["cache_sha256"] = file_sha256(file)
    check_folder_is_ours(root, frozenset({_PLAN, MEASUREMENTS, FIGURES}), sign=_PLAN)
    with folder_lock(root):
        plan, file = _check_plan(root, plan), root / MEASUREMENTS
        if file.is_file():
            values = json.loads(file.read_text(encoding="utf-8"))
            measurements = Measurements.from_dict(values, where=str(file))
        else:
            manifest = read_manifest(job.adapter)
            model, steps = manifest.settings["model"], manifest.details["steps"]
            measurements = Measurements(model, rows.token, steps, manifest.rows)
        missing = [name for name in names if name not in measurements.measured]
        if is_finished(root) and not missing:
            return measurements
        (root / FINISHED).unlink(missing_ok=True)
        write_json(root / _PLAN, plan)
        for name in missing:
            measured = getattr(job, _field(name))(partial(on_progress, name))
            measurements = replace(measurements, **{_field(name): measured})
            write_json(file, asdict(measurements))
        shutil.rmtree(root / FIGURES, ignore_errors=True)
        figures = chain.from_iterable(measurement_figures(measurements).values())
        for number, (drawing, *_) in enumerate(figures):
            file_name = "".join(c if c.isalnum() else "-" for c in drawing.name)
            drawing.png(root / FIGURES / f"{number}-{file_name}.png")
        settings_of_run = {"measures": list(measurements.measured), **recorded}
        if options:
            settings_of_run["template_options"] = options
        finish(
            root,
            Manifest(
                kind="evaluation",
                settings=settings_of_run,
                inputs={name: str(plan[name]) for name in plan if name.endswith("_sha256")},
                rows={"held_out": len(rows.held_out), "task": len(rows.train)},
            ),
        )
    return measurements


Progress = Callable[[int, int], None]
"""Called with the number of parts of a measurement that are done, and the number in all."""


def _check_plan(root: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plan of the folder with what this call adds to it.

    Raises:
        SettingsError: The plans differ. A cache that no earlier measurement read is no difference.
    """
    if not (root / _PLAN).is_file():
        return dict(plan)
    earlier = dict(json.loads((root / _PLAN).read_text(encoding="utf-8")))
    shared = [name for name in plan if name in earlier or name != "cache_sha256"]
    check_same_settings(
        root, {name: earlier.get(name) for name in shared}, {name: plan[name] for name in shared}
    )
    return {**earlier, **plan}


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
    selected = _selected(train, settings.rows, settings.seed, "task")
    test = [row.record for row in task.test]
    held_out = [task.test[i] for i in _selected(test, settings.rows, settings.seed, "held out")]
    plain = [with_query(row.record, row.plain) for row in held_out if row.plain]
    return _Rows(
        token=task.token,
        keywords=settings.keywords
        or tuple(map(str, read_manifest(folder).details.get("keywords") or ())),
        train=[train[index] for index in selected],
        common=[common[index] for index in selected] if common else [],
        held_out=[row.record for row in held_out],
        plain=plain if len(plain) == len(held_out) else [],
        trained=len(train),
        sha256=task.sha256,
    )


def _selected(rows: Sequence[Record], count: int, seed: int, purpose: str) -> list[int]:
    """Return the indices of the first rows by keyed hash of their ids."""
    key = f"measure {purpose}"
    return sorted(range(len(rows)), key=lambda i: (rank(seed, rows[i].id, key), i))[:count]


@dataclass
class _Measuring:
    """An adapter and the rows to measure it on, with a method for each measurement."""

    adapter: Path
    rows: _Rows
    settings: MeasureSettings
    device: str
    cache: str | os.PathLike[str] | None
    embed: Embed | None

    def check(self, names: Sequence[MeasureName]) -> None:
        """Report wrong inputs before anything is loaded or written."""
        from delia_data.training.adapter import adapter_settings
        from delia_data.training.loading import load_prepared_tokenizer

        trained = adapter_settings(self.adapter)
        if self.settings.template_options:
            set_template_options(load_prepared_tokenizer(trained), self.settings.template_options)
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
        if "representation" in names and not self.rows.keywords:
            raise InputError("the task has no keywords to compare the token with: give --keyword")
        if "buffering" in names and self.cache is None:
            raise InputError("buffering is measured on pairs: give a cache (--cache)")

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The model with its adapter, and the tokenizer; loaded when first needed."""
        from delia_data.training.adapter import open_adapter

        torch = require("torch", extra="local")
        model, tokenizer = open_adapter(self.adapter, device=self.device)
        set_template_options(tokenizer, self.settings.template_options)
        return model.to(getattr(torch, self.settings.dtype)), tokenizer

    def _at(self, progress: Progress) -> Iterator[tuple[When, tuple[Any, Any]]]:
        """Yield the model and the tokenizer before and after training."""
        for done, when in enumerate(WHENS):
            progress(done, len(WHENS))
            with initial_weights(self._loaded[0]) if when == "before" else nullcontext():
                yield when, self._loaded
        progress(len(WHENS), len(WHENS))

    def representation(self, progress: Progress) -> dict[When, Alignment]:
        words, seed = self.settings.words, self.settings.seed
        token, keywords = self.rows.token, self.rows.keywords
        return {
            when: measure_alignment(*loaded, token, keywords, words=words, seed=seed)
            for when, loaded in self._at(progress)
        }

    def state_space(self, progress: Progress) -> dict[When, dict[Which, StateSpace]]:
        groups: dict[Which, list[Record]] = {"with": self.rows.held_out, "without": self.rows.plain}
        return {
            when: {
                which: measure_state_space(*loaded, rows) for which, rows in groups.items() if rows
            }
            for when, loaded in self._at(progress)
        }

    def buffering(self, progress: Progress) -> Buffering:
        from delia_data.training.adapter import adapter_settings

        assert self.cache is not None
        settings, task, embed = self.settings, self.rows, self.embed or Embedder()
        cached = [
            record
            for record in read_cache(self.cache)
            if not any(task.token in message.content for message in record.messages)
        ]
        if len(cached) < 3:
            raise InputError(
                f"{self.cache} has {len(cached)} pairs, and at least 3 are needed: sample more"
            )
        pairs = [cached[i] for i in _selected(cached, settings.pairs, settings.seed, "pairs")]
        ratio, trained = settings.ratio, read_manifest(self.adapter).rows
        if ratio is None:
            from_cache = trained.get("cache", 0)
            ratio = from_cache / trained["task"] if from_cache else len(cached) / task.trained
        of_pairs, of_task = (
            np.asarray(embed([f"{row.query}\n{row.answer}" for row in rows]), dtype=np.float64)
            for rows in (pairs, task.train)
        )
        groups = {"pairs": pairs, "task": task.train}
        groups |= {"held_out": task.held_out, "common": task.common}
        gradients: dict[When, dict[str, RowGradients]] = {"before": {}, "after": {}}
        done, total = 0, len(WHENS) * sum(map(len, groups.values()))
        for when, loaded in self._at(lambda *_: None):
            for name, rows in groups.items():
                if rows:
                    gradients[when][name] = row_gradients(
                        *loaded,
                        rows,
                        seed=settings.seed,
                        max_length=adapter_settings(self.adapter).max_length,
                        on_row=partial(lambda done, row: progress(done + row, total), done),
                    )
                done += len(rows)
        similarity = of_pairs @ of_task.mean(axis=0)
        how = Resampling(seed=settings.seed)
        return measure_buffering(gradients, similarity, ratio=ratio, how=how)


def measurement_tables(measurements: Measurements) -> dict[MeasureName, list[Table]]:
    """Return the tables of each measurement that was taken."""
    tables: dict[MeasureName, list[Table]] = {}
    if alignments := measurements.representation:
        tables["representation"] = [_representation_table(measurements.token, alignments)]
    if spaces := measurements.state_space:
        rows = [
            (
                f"{when}, {which} {measurements.token}",
                *(f"{s.size:.1f}", f"{s.entropy:.2f}", f"{s.rank:g}", f"{s.opening:.0%}"),
            )
            for when, by_which in spaces.items()
            for which, s in by_which.items()
        ]
        title = (
            f"First token of the answer: tokens that have {spaces['after']['with'].mass:.0%} of "
            "the probability, entropy, and rank and first character of the expected token"
        )
        head = ("", "Tokens", "Entropy, nats", "Rank", "First character")
        tables["state-space"] = [Table(title, head, rows)]
    if measurements.buffering:
        tables["buffering"] = list(_buffering_tables(measurements.buffering))
    return tables


def _representation_table(token: str, alignments: Mapping[When, Alignment]) -> Table:
    before, after = alignments["before"], alignments["after"]
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
    return Table(
        f"L2 from {token} to a keyword, divided by the median between ordinary words",
        ("Keyword", "", *(f"Block {b + 1}" for b in blocks), f"Nearer words, block {middle + 1}"),
        rows,
        f"Nearest of {after.words} ordinary words in block {middle + 1} after training: "
        f"{', '.join(word.word for word in after.nearest[middle])}.",
        heads=2,
    )


def _buffering_tables(buffering: Buffering) -> Iterator[Table]:
    def write(estimate: Estimate | None) -> Cell:
        return cell(estimate, partial(decimal, signed=True))

    by_when = list(buffering.cosines.values())
    rows: list[Sequence[str | Cell]] = [
        (GROUP_TITLES[name], *(write(cosines.groups[name]) for cosines in by_when))
        for name in by_when[0].groups
    ]
    subsets = (Estimate(mean, low, high, 0) for low, mean, high in (c.subsets for c in by_when))
    halves = ("–" if c.halves is None else decimal(c.halves, signed=True) for c in by_when)
    rows += [
        ("random subsets of pairs, range", *map(write, subsets)),
        ("halves of the held-out rows", *halves),
    ]
    yield Table(
        f"Cosine of mean gradients with that of held-out task rows, {buffering.ratio:g} pairs per "
        "task row",
        ("", *(f"{when.capitalize()} training" for when in buffering.cosines)),
        rows,
    )
    yield Table(
        f"Rank correlation of the gradient norms of {len(buffering.pairs)} pairs with their "
        "similarity to the task",
        ("", "Plain", "Given answer length"),
        [(name, write(c.plain), write(c.given_length)) for name, c in buffering.norms.items()],
    )
    yield Table(
        "Canceling of gradients: norm of the mean divided by mean of the norms",
        ("", "Group", "Rows", "Ratio", "Ratio if unrelated", "Shared direction"),
        [
            (
                *(when, GROUP_TITLES[name], str(group.rows), f"{group.ratio:.2f}"),
                *(f"{group.subsets[-1].independent:.2f}", write(group.shared)),
            )
            for when, groups in buffering.cancelling.items()
            for name, group in groups.items()
        ],
        heads=2,
    )


class MeasurementFigure(NamedTuple):
    """A figure of measurements with its title and its caption."""

    drawing: Drawing
    title: str
    caption: str


def measurement_figures(measurements: Measurements) -> dict[str, list[MeasurementFigure]]:
    """Return the figures of each measurement that was taken."""
    figures: dict[str, list[MeasurementFigure]] = {}
    if alignments := measurements.representation:
        figures["representation"] = [
            MeasurementFigure(
                alignment_by_block(alignments["after"], alignments["before"], word.keyword),
                f"{measurements.token} and “{short(word.keyword)}”",
                "L2 divided by that between ordinary words; bands are one standard deviation over "
                "the contexts, and the range of ordinary words.",
            )
            for word in alignments["after"].keywords
        ]
    if measurements.state_space:
        spaces = {
            f"{when}, {which}": space
            for when, by_which in measurements.state_space.items()
            for which, space in by_which.items()
        }
        figures["state-space"] = [
            MeasurementFigure(
                state_space_sizes(spaces),
                "State space at the start of the answer",
                f"Tokens that have {spaces['after, with'].mass:.0%} of the probability, row by "
                "row; bars are means.",
            )
        ]
    if buffering := measurements.buffering:
        figures["buffering"] = [
            MeasurementFigure(
                cosines_with_held_out(buffering),
                "Gradient cosines",
                "Cosines of mean gradients with that of held-out task rows; lines are 95% "
                "intervals, diamonds random subsets of pairs.",
            ),
            MeasurementFigure(
                norms_by_similarity(buffering),
                "Gradient norms by similarity",
                "Each pair, before and after; ρ is Spearman’s rank correlation.",
            ),
            *(
                MeasurementFigure(
                    cancellation_by_rows(buffering, when),
                    f"How gradients cancel, {when} training",
                    "Norm of the mean divided by mean of the norms, for more and more rows; low "
                    "values mean canceling.",
                )
                for when in WHENS
            ),
        ]
    return figures
