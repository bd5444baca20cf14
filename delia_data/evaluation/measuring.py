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
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from pydantic_core import to_jsonable_python

from delia_data._optional import require
from delia_data.errors import InputError, TokenError
from delia_data.evaluation.bootstrap import Resampling
from delia_data.evaluation.gradients import (
    DIMENSIONS,
    WHENS,
    Buffering,
    RowGradients,
    When,
    initial_weights,
    measure_buffering,
    row_gradients,
)
from delia_data.evaluation.measurements import (
    MEASUREMENTS,
    MEASURES,
    Measurements,
    MeasureName,
    Which,
    field_of,
    measurement_figures,
    read_measurements,
)
from delia_data.evaluation.representation import Alignment, measure_alignment
from delia_data.evaluation.state_space import MASS, StateSpace, measure_state_space
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

FIGURES: Final = "figures"
_PLAN: Final = "measuring.json"
_UNDIVERSIFIED: Final = "undiversified"


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
    job = _Job(Path(adapter), rows, settings, device, cache, embed)
    job.check(names)
    if "buffering" in names and embed is None:
        job.embed = Embedder()
    require("matplotlib", extra="train")  # needed in the last step, after minutes of others
    recorded = {**to_jsonable_python(settings), "mass": MASS, "dimensions": DIMENSIONS}
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
        plan = _earlier_plan(root, plan) | plan
        file = root / MEASUREMENTS
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if is_finished(root) and all(known.get(field_of(name)) for name in names):
            return read_measurements(root)
        (root / FINISHED).unlink(missing_ok=True)
        write_json(root / _PLAN, plan)
        trained = read_manifest(job.adapter)
        known |= {
            "model": trained.settings["model"],
            "token": rows.token,
            "steps": trained.details["steps"],
            "trained_rows": trained.rows,
        }
        for name in names:
            if not known.get(field_of(name)):
                measured = _MEASURES[name](job, partial(on_progress, name))
                known[field_of(name)] = to_jsonable_python(measured)
                write_json(file, Measurements.from_dict(known).as_dict())
        measurements = Measurements.from_dict(known)
        shutil.rmtree(root / FIGURES, ignore_errors=True)
        figures = chain.from_iterable(measurement_figures(measurements).values())
        for number, (drawing, *_) in enumerate(figures):
            file_name = "".join(c if c.isalnum() else "-" for c in drawing.name)
            drawing.png(root / FIGURES / f"{number}-{file_name}.png")
        finish(
            root,
            Manifest(
                kind="evaluation",
                settings={
                    "measures": list(measurements.measured),
                    **recorded,
                    **({"template_options": options} if options else {}),
                },
                inputs={name: str(plan[name]) for name in plan if name.endswith("_sha256")},
                rows={"held_out": len(rows.held_out), "task": len(rows.train)},
            ),
        )
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
    test = [row.record for row in task.test]
    selected = _selected(train, settings.rows, settings.seed, "task")
    held_out = [task.test[i] for i in _selected(test, settings.rows, settings.seed, "held out")]
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


def _selected(rows: Sequence[Record], count: int, seed: int, purpose: str) -> list[int]:
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
        set_template_options(tokenizer, self.settings.template_options)
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
        with job.model(when) as loaded:
            alignments[when] = measure_alignment(
                *loaded,
                job.rows.token,
                job.keywords,
                words=job.settings.words,
                seed=job.settings.seed,
            )
    progress(len(WHENS), len(WHENS))
    return alignments


def _measure_state_space(job: _Job, progress: _Progress) -> dict[When, dict[Which, StateSpace]]:
    groups: dict[Which, list[Record]] = {"with": job.rows.held_out, "without": job.rows.plain}
    spaces: dict[When, dict[Which, StateSpace]] = {}
    for done, when in enumerate(WHENS):
        progress(done, len(WHENS))
        with job.model(when) as loaded:
            spaces[when] = {
                which: measure_state_space(*loaded, rows) for which, rows in groups.items() if rows
            }
    progress(len(WHENS), len(WHENS))
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
    pairs = [cached[i] for i in _selected(cached, settings.pairs, settings.seed, "pairs")]
    ratio, trained = settings.ratio, read_manifest(job.adapter).rows
    if ratio is None:
        from_cache = trained.get("cache", 0)
        ratio = from_cache / trained["task"] if from_cache else len(cached) / task.trained
    of_pairs, of_task = (
        np.asarray(job.embed([f"{row.query}\n{row.answer}" for row in rows]), dtype=np.float64)
        for rows in (pairs, task.train)
    )
    groups = {"pairs": pairs, "task": task.train, "held_out": task.held_out, "common": task.common}
    groups = {name: rows for name, rows in groups.items() if rows}
    gradients: dict[When, dict[str, RowGradients]] = {"before": {}, "after": {}}
    done, total = 0, len(WHENS) * sum(map(len, groups.values()))
    for when in WHENS:
        for name, rows in groups.items():
            with job.model(when) as loaded:
                gradients[when][name] = row_gradients(
                    *loaded,
                    rows,
                    seed=settings.seed,
                    max_length=adapter_settings(job.adapter).max_length,
                    on_row=partial(lambda done, row: progress(done + row, total), done),
                )
            done += len(rows)
    similarity = of_pairs @ of_task.mean(axis=0)
    how = Resampling(seed=settings.seed)
    return measure_buffering(gradients, similarity, ratio=ratio, how=how)


_MEASURES: Final[Mapping[MeasureName, Callable[[_Job, _Progress], Any]]] = {
    "representation": _measure_representation,
    "state-space": _measure_state_space,
    "buffering": _measure_buffering,
}
