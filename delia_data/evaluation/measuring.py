"""Measure an adapter before and after training: the library call of `delia measure`.

out/
    measurements.json    all measurements (`Measurements.as_dict`)
    figures/*.png        their figures
    manifest.json        settings, and hashes of the adapter, the task and the cache
    FINISHED
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
from typing import Any, Final, Literal, TypeVar, get_args

from delia_data._optional import require
from delia_data.errors import InputError, TokenError
from delia_data.evaluation.bootstrap import Resampling
from delia_data.evaluation.buffering import (
    WHENS,
    Buffering,
    Groups,
    When,
    buffering_of,
    task_similarity,
)
from delia_data.evaluation.figures import (
    Drawing,
    alignment_by_block,
    cancelling_by_rows,
    cosines_with_held_out,
    in_order,
    norms_by_similarity,
    state_space_sizes,
)
from delia_data.evaluation.gradients import (
    Projection,
    RowGradients,
    at_start,
    read_gradients,
    row_gradients,
)
from delia_data.evaluation.representation import Alignment, measure_alignment
from delia_data.evaluation.serialization import from_plain, to_plain
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
    is_finished,
    read_manifest,
    write_json,
)
from delia_data.ranking import rank
from delia_data.records import Record
from delia_data.sampling import read_cache
from delia_data.sampling.embeddings import Embed, LazyEmbedder
from delia_data.tasks import TaskRow, TaskRows, read_task_rows
from delia_data.tasks.reading import with_query

MEASUREMENTS: Final = "measurements.json"
MeasureName = Literal["representation", "state-space", "buffering"]
MEASURES: Final[tuple[MeasureName, ...]] = get_args(MeasureName)

Which = Literal["with", "without"]


@dataclass(frozen=True, slots=True)
class MeasureSettings:
    """Settings of the measurements.

    Attributes:
        rows: Rows of each group at most: held-out ones, and task rows.
        pairs: Pairs at most, for buffering.
        keywords: Words that the token is compared with; the task's own where there are none.
        words: Ordinary words to draw from the vocabulary.
        mass: Probability that the state space holds.
        ratio: Pairs for each task row in the mixture whose gradient is looked at; the adapter's
            own when None, and where it was trained without pairs all that the cache has.
        dimensions: Dimensions of the gradients' projection.
        dtype: Type that the model computes in, `"float32"` or `"bfloat16"`.
        seed: Seed of the rows, the words and the projection.

    Raises:
        InputError: A value is out of its bounds.
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
        problems = [
            f"{name} {getattr(self, name)!r} must be at least {least}"
            for name, least in (("rows", 2), ("pairs", 3), ("words", 16), ("dimensions", 2))
            if getattr(self, name) < least
        ]
        if not 0 < self.mass <= 1:
            problems.append(f"mass {self.mass!r} must be above 0 and at most 1")
        if self.ratio is not None and not 0 <= self.ratio < float("inf"):
            problems.append(f"ratio {self.ratio!r} must be a number of at least 0")
        if self.dtype not in ("float32", "bfloat16"):
            problems.append(f"dtype {self.dtype!r} must be float32 or bfloat16")
        if self.seed < 0:
            problems.append(f"seed {self.seed!r} must be at least 0")
        if problems:
            raise InputError(f"measuring: {'; '.join(problems)}")

    def as_dict(self) -> dict[str, Any]:
        """Give the settings as plain values, as a manifest holds them."""
        return {**asdict(self), "keywords": list(self.keywords)}


@dataclass(frozen=True, slots=True)
class Measurements:
    """All measurements of one adapter.

    Attributes:
        model: Name of the model that was trained.
        token: The special token.
        steps: Optimiser steps of the training.
        trained_rows: Rows that it was trained on, by source.
        representation: `before` and `after` training; None where it was not measured.
        state_space: The same, each `with` the token and, where the rows have a plain form,
            `without` it; None where it was not measured.
        buffering: The gradients; None where they were not measured.
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
        """Names of what was measured."""
        found = (self.representation, self.state_space, self.buffering)
        return tuple(name for name, one in zip(MEASURES, found, strict=True) if one is not None)

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = MEASUREMENTS) -> Measurements:
        """Make it of what `as_dict` gave.

        Raises:
            FormatError: A value is missing or has the wrong type.
        """
        return from_plain(cls, values, where)


def check_measures(names: tuple[str, ...]) -> tuple[MeasureName, ...]:
    """Give names of measures back in their order, each once.

    Raises:
        InputError: There are none, or one is no measure.
    """
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        raise InputError(
            f"no measure is called {', '.join(unknown) or 'nothing'}: "
            f"give some of {','.join(MEASURES)}"
        )
    return tuple(name for name in MEASURES if name in names)


def read_measurements(folder: str | os.PathLike[str]) -> Measurements:
    """Read the measurements of a finished folder.

    Raises:
        UnfinishedError: The folder has no finish marker.
        InputError: It holds something else.
        FormatError: They were written by another version.
    """
    root = Path(folder)
    manifest = read_manifest(root)
    if manifest.kind != "evaluation" or MEASUREMENTS not in manifest.files:
        raise InputError(f"{root} holds no measurements: give what delia measure wrote")
    values = json.loads((root / MEASUREMENTS).read_text(encoding="utf-8"))
    return Measurements.from_dict(values, where=str(root / MEASUREMENTS))


T = TypeVar("T")

_UNDIVERSIFIED: Final = "undiversified"


@dataclass(frozen=True, slots=True)
class MeasuredTask:
    """A task as it is measured.

    Attributes:
        token: Its special token.
        keywords: Words that its token is expected to come near; none where it does not say.
        train: Training rows in their wordings.
        common: The same rows in one wording; none where the task folder has none.
        held_out: Held-out rows in held-out wordings.
        plain: Held-out rows without the token; none where one of them has no plain form.
        train_rows: Training rows that the task has in all.
        sha256: Hash of all its rows.
    """

    token: str
    keywords: tuple[str, ...]
    train: tuple[Record, ...]
    common: tuple[Record, ...]
    held_out: tuple[Record, ...]
    plain: tuple[Record, ...]
    train_rows: int
    sha256: str


def read_measured_task(folder: str | os.PathLike[str], *, rows: int, seed: int = 0) -> MeasuredTask:
    """Read a task folder, and pick rows of it.

    Args:
        folder: What `delia diversify` wrote.
        rows: Rows of each group at most.
        seed: Seed of the pick.

    Raises:
        InputError: It is no task folder, or has no held-out rows.
        UnfinishedError: It has no finish marker.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root} is no task folder: give what delia diversify wrote")
    task = read_task_rows(root)
    if not task.train or not task.test:
        raise InputError(
            f"task {root} has {len(task.train)} training rows and {len(task.test)} held-out ones, "
            "and both are measured: diversify it with held-out rows (--test, --test-share)"
        )
    places = _picked(range(len(task.train)), [r.record.id for r in task.train], rows, seed, "task")
    test = _picked(task.test, [row.record.id for row in task.test], rows, seed, "held out")
    common = _common(root, task)
    keywords = read_manifest(root).details.get("keywords") or ()
    return MeasuredTask(
        token=task.token,
        keywords=tuple(str(word) for word in keywords),
        train=tuple(task.train[place].record for place in places),
        common=tuple(common[place].record for place in places) if common else (),
        held_out=tuple(row.record for row in test),
        plain=tuple(_plain(row) for row in test) if all(row.plain for row in test) else (),
        train_rows=len(task.train),
        sha256=task.sha256,
    )


def picked_pairs(
    cache: str | os.PathLike[str], *, pairs: int, token: str, seed: int = 0
) -> tuple[tuple[Record, ...], int]:
    """Pick pairs of a cache.

    Args:
        cache: A cache folder, or a file of pairs.
        pairs: Pairs at most.
        token: The special token; a pair that names it is none.
        seed: Seed of the pick.

    Returns:
        The pairs, and how many the cache has in all.

    Raises:
        InputError: There is no such cache, or it has fewer than 3 pairs.
    """
    every = [
        record
        for record in read_cache(cache)
        if not any(token in message.content for message in record.messages)
    ]
    if len(every) < 3:
        raise InputError(f"{cache} has {len(every)} pairs, and at least 3 are needed: sample more")
    return tuple(_picked(every, [r.id for r in every], pairs, seed, "pairs")), len(every)


def _picked(rows: Sequence[T], ids: Sequence[str], count: int, seed: int, purpose: str) -> list[T]:
    order = sorted(range(len(rows)), key=lambda i: (rank(seed, ids[i], f"measure {purpose}"), i))
    return [rows[place] for place in order[:count]]


def _common(root: Path, task: TaskRows) -> tuple[TaskRow, ...]:
    """The training rows in one wording, in the order of the others; none where there are none."""
    if not is_finished(root / _UNDIVERSIFIED):
        return ()
    found = read_task_rows(root / _UNDIVERSIFIED).train
    answers = [row.record.answer for row in found]
    return found if answers == [row.record.answer for row in task.train] else ()


def _plain(row: TaskRow) -> Record:
    return with_query(row.record, row.plain or "")


Tell = Callable[[int, int], None]


class MeasuredAdapter:
    """An adapter with the rows that it is measured on; it is loaded at the first measure."""

    def __init__(
        self,
        folder: Path,
        task: MeasuredTask,
        settings: MeasureSettings,
        parts: Path,
        *,
        device: str = "cpu",
    ) -> None:
        """Keep what is measured; nothing is loaded yet.

        Args:
            folder: What `delia train` wrote.
            task: Rows of the task.
            settings: The settings.
            parts: Folder for the gradients of groups that are done.
            device: Where to compute.
        """
        self.folder = folder
        self.task = task
        self.settings = settings
        self.parts = parts
        self.device = device

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from delia_data.training.adapter import open_adapter

        torch = require("torch", extra="local")
        model, tokenizer = open_adapter(self.folder, device=self.device)
        return model.to(getattr(torch, self.settings.dtype)), tokenizer

    @contextmanager
    def _model(self, when: When) -> Iterator[tuple[Any, Any]]:
        model, tokenizer = self._loaded
        with at_start(model) if when == "before" else nullcontext():
            yield model, tokenizer

    def representation(self, keywords: Sequence[str], tell: Tell) -> Mapping[When, Alignment]:
        """Measure where the token stands."""
        found: dict[When, Alignment] = {}
        for when in WHENS:
            tell(len(found), len(WHENS))
            with self._model(when) as (model, tokenizer):
                found[when] = measure_alignment(
                    model,
                    tokenizer,
                    self.task.token,
                    keywords,
                    words=self.settings.words,
                    seed=self.settings.seed,
                )
        tell(len(found), len(WHENS))
        return found

    def state_space(self, tell: Tell) -> Mapping[When, Mapping[Which, StateSpace]]:
        """Measure the first answer token of held-out rows, with the token and without it."""
        groups: dict[Which, tuple[Record, ...]] = {"with": self.task.held_out}
        if self.task.plain:
            groups["without"] = self.task.plain
        found: dict[When, dict[Which, StateSpace]] = {}
        done, total = 0, len(WHENS) * len(groups)
        for when in WHENS:
            found[when] = {}
            with self._model(when) as (model, tokenizer):
                for which, rows in groups.items():
                    tell(done, total)
                    found[when][which] = measure_state_space(
                        model, tokenizer, rows, mass=self.settings.mass
                    )
                    done += 1
        tell(done, total)
        return found

    def buffering(self, cache: str | os.PathLike[str], embed: Embed, tell: Tell) -> Buffering:
        """Measure the gradients of pairs, task rows and held-out rows."""
        settings, trained = self.settings, read_manifest(self.folder)
        pairs, of = picked_pairs(
            cache, pairs=settings.pairs, token=self.task.token, seed=settings.seed
        )
        ratio = settings.ratio
        if ratio is None and trained.rows.get("cache"):
            ratio = trained.rows["cache"] / trained.rows["task"]
        similarity = task_similarity(pairs, self.task.train, embed)
        rows = {"pairs": pairs, "task": self.task.train, "held_out": self.task.held_out}
        if self.task.common:
            rows["common"] = self.task.common
        total, done = len(WHENS) * sum(map(len, rows.values())), 0
        found: dict[When, Groups] = {}
        for when in WHENS:
            groups = {}
            for name, records in rows.items():
                so_far = partial(_tell_after, done, total, tell)
                groups[name] = self._gradients(when, name, records, so_far)
                done += len(records)
                tell(done, total)
            found[when] = groups
        return buffering_of(
            found,
            similarity,
            ratio=of / self.task.train_rows if ratio is None else ratio,
            how=Resampling(seed=settings.seed),
        )

    def _gradients(
        self,
        when: When,
        name: str,
        rows: Sequence[Record],
        on_row: Callable[[int], None],
    ) -> RowGradients:
        """Gradients of a group; taken from the folder of parts where they are there."""
        from delia_data.training.adapter import adapter_settings

        file = self.parts / f"gradients-{when}-{name}.npz"
        if file.is_file():
            return read_gradients(file)
        with self._model(when) as (model, tokenizer):
            made = row_gradients(
                model,
                tokenizer,
                rows,
                Projection(self.settings.dimensions, self.settings.seed),
                max_length=adapter_settings(self.folder).max_length,
                on_row=on_row,
            )
        made.save(file)
        return made


def _tell_after(before: int, total: int, tell: Tell, row: int) -> None:
    tell(before + row, total)


FIGURES: Final = "figures"


def measurement_drawings(measurements: Measurements) -> Iterator[Drawing]:
    """Make a drawing of everything that was measured."""
    if representation := measurements.representation:
        for one in representation["after"].keywords:
            yield alignment_by_block(
                representation["after"], before=representation["before"], keyword=one.keyword
            )
    if spaces := measurements.state_space:
        yield state_space_sizes(
            {f"{when}, {which}": s for when, by in in_order(spaces) for which, s in in_order(by)}
        )
    if buffering := measurements.buffering:
        for when, _ in in_order(buffering.cancelling):
            yield cancelling_by_rows(buffering, when=when)
        yield norms_by_similarity(buffering)
        yield cosines_with_held_out(buffering)


def draw_measurements(measurements: Measurements, folder: Path) -> None:
    """Draw everything that was measured as PNG files; what the folder held before goes.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: The folder cannot be written.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for number, drawing in enumerate(measurement_drawings(measurements)):
        name = "".join(c if c.isalnum() else "-" for c in drawing.name)
        drawing.png(folder / f"{number}-{name}.png")


OnProgress = Callable[[MeasureName, int, int], None]

_PLAN: Final = "measuring.json"
_PARTS: Final = ".parts"


def measure(
    adapter: str | os.PathLike[str],
    task: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    cache: str | os.PathLike[str] | None = None,
    what: Sequence[str] = ("representation", "state-space"),
    settings: MeasureSettings | None = None,
    device: str = "cpu",
    embed: Embed | None = None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Measurements:
    """Measure an adapter before its training and after it.

    A killed run goes on when it is called again; a finished one is added to where more is asked.

    Args:
        adapter: What `delia train` wrote: LoRA, with the token's row.
        task: What `delia diversify` wrote.
        out: Where the measurements, the figures and the manifest go.
        cache: Pairs, a cache folder or a file; for buffering.
        what: Names of `MEASURES`.
        settings: The settings; the defaults when not given.
        device: Where to compute.
        embed: Turns texts into vectors of length 1, for buffering; all-MiniLM-L6-v2 when not
            given.
        on_progress: Called with what is being measured, how much of it is done and how much there
            is.

    Returns:
        All that the folder holds, as it is written.

    Raises:
        InputError: What is given cannot be measured.
        TokenError: The adapter is for another token than the task.
        SettingsError: The folder was begun with other settings or inputs.
        ForeignFolderError: The folder holds something else.
        LockedError: Another process measures there.
        UnfinishedError: The adapter, the task or the cache is not finished.
        MissingExtraError: A library or the embedding model is not installed.
    """
    names = check_measures(tuple(what))
    settings = settings or MeasureSettings()
    root, source = Path(out), Path(adapter)
    rows = read_measured_task(task, rows=settings.rows, seed=settings.seed)
    keywords = settings.keywords or rows.keywords
    _check(source, rows, keywords, names, cache)
    if "buffering" in names and embed is None:
        embed = LazyEmbedder()
    require("matplotlib", extra="train")  # the last step needs it, and the others take minutes
    plan = {**settings.as_dict(), **_inputs(source, rows, cache if "buffering" in names else None)}
    check_folder_is_ours(root, frozenset({_PLAN, MEASUREMENTS, FIGURES}), sign=_PLAN)
    with folder_lock(root):
        planned = _planned(root, plan)
        found = _found(root) if planned else {}
        if is_finished(root) and not set(names) - set(found):
            return read_measurements(root)
        parts = root / _PARTS
        for name, values in found.items():
            write_json(parts / f"{name}.json", values)
        (root / FINISHED).unlink(missing_ok=True)
        write_json(root / _PLAN, planned | plan)
        opened = MeasuredAdapter(source, rows, settings, parts, device=device)

        def tell(name: MeasureName) -> Callable[[int, int], None]:
            return lambda done, total: on_progress(name, done, total)

        for name in names:
            if name in found:
                continue
            if name == "representation":
                made: Any = opened.representation(keywords, tell(name))
            elif name == "state-space":
                made = opened.state_space(tell(name))
            else:
                assert cache is not None
                assert embed is not None
                made = opened.buffering(cache, embed, tell(name))
            found[name] = to_plain(made)
            write_json(parts / f"{name}.json", found[name])
        return _finish(root, source, rows, settings, found, planned | plan)


def _check(
    adapter: Path,
    task: MeasuredTask,
    keywords: Sequence[str],
    names: Sequence[MeasureName],
    cache: str | os.PathLike[str] | None,
) -> None:
    """Find what is wrong with what was given before anything is loaded or written."""
    from delia_data.training.adapter import adapter_settings

    trained = adapter_settings(adapter)
    if trained.token != task.token:
        raise TokenError(
            f"{adapter} was trained for the token {trained.token}, and the task names "
            f"{task.token}: give the task that it was trained on"
        )
    if trained.adaptation == "full":
        raise InputError(
            f"{adapter} holds a whole model: what it was before its training, and LoRA's "
            "gradients, can be told of an adapter alone"
        )
    if "representation" in names and not keywords:
        raise InputError(
            "the task does not say what the token comes near: give keywords (--keyword)"
        )
    if "buffering" in names and cache is None:
        raise InputError("buffering is measured on pairs: give a cache (--cache)")


def _inputs(
    adapter: Path, task: MeasuredTask, cache: str | os.PathLike[str] | None
) -> dict[str, str]:
    """Hashes of what is measured; that of the cache where it is read."""
    inputs = {"adapter_sha256": file_sha256(adapter / MANIFEST), "task_sha256": task.sha256}
    if cache is not None:
        given = Path(cache)
        inputs["cache_sha256"] = file_sha256(given / MANIFEST if given.is_dir() else given)
    return inputs


def _planned(root: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """What the folder was begun with; refused where that is something else.

    A cache that a measure did not read is no difference.
    """
    file = root / _PLAN
    if not file.is_file():
        return {}
    planned = dict(json.loads(file.read_text(encoding="utf-8")))
    shared = [name for name in plan if name in planned or name != "cache_sha256"]
    earlier = {name: planned.get(name) for name in shared}
    check_same_settings(root, earlier, {name: plan[name] for name in shared})
    return planned


def _found(root: Path) -> dict[MeasureName, Any]:
    """What is measured already, as plain values."""
    found: dict[MeasureName, Any] = {}
    if is_finished(root):
        done = read_measurements(root)
        values = done.as_dict()
        found = {name: values[name.replace("-", "_")] for name in done.measured}
    for name in MEASURES:
        if (part := root / _PARTS / f"{name}.json").is_file():
            found[name] = json.loads(part.read_text(encoding="utf-8"))
    return found


def _finish(
    root: Path,
    adapter: Path,
    task: MeasuredTask,
    settings: MeasureSettings,
    found: Mapping[MeasureName, Any],
    plan: Mapping[str, Any],
) -> Measurements:
    """Put all measures together, draw them, and write the manifest and the marker."""
    trained = read_manifest(adapter)
    made = Measurements.from_dict(
        {
            "model": trained.settings["model"],
            "token": task.token,
            "steps": trained.details["steps"],
            "trained_rows": trained.rows,
            **{name.replace("-", "_"): values for name, values in found.items()},
        }
    )
    write_json(root / MEASUREMENTS, made.as_dict())
    draw_measurements(made, root / FIGURES)
    manifest = Manifest(
        kind="evaluation",
        settings={"measures": list(made.measured), **settings.as_dict()},
        inputs={name: str(plan[name]) for name in plan if name.endswith("_sha256")},
        rows={"held_out": len(task.held_out), "task": len(task.train)},
    )
    finish(root, manifest)
    shutil.rmtree(root / _PARTS, ignore_errors=True)
    return made
