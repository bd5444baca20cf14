"""The inputs that all cells of one experiment share: task, pairs, probes, rows to measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml

from delia_data.bundled_cache import cache_path
from delia_data.diversify import diversify, make_task_folder
from delia_data.engines import Sampling, load_engine
from delia_data.errors import InputError
from delia_data.evaluation.probes import EvalTask, Probe, make_probes
from delia_data.experiments.grid import FORMATTED, Cell, Experiment, task_of
from delia_data.experiments.methods import Material
from delia_data.mixing import read_task_rows
from delia_data.outputs import MANIFEST, file_sha256, is_finished
from delia_data.records import Message, Record
from delia_data.sampling import (
    BundledQueries,
    FileQueries,
    PromptOptions,
    default_filters,
    read_cache,
    sample,
    self_queries,
)
from delia_data.tasks import Task, Wording, bundled_task, bundled_wordings, translation_task
from delia_data.tasks.reading import limit
from delia_data.tokens import DEFAULT_TOKEN
from delia_data.training import TrainSettings

_LANGUAGES: Final[Mapping[str, str]] = {"en": "English", "is": "Icelandic"}
_HELD_OUT_SHARE: Final = 0.3


@dataclass(frozen=True, slots=True)
class ExperimentInputs:
    """The inputs that all cells of one experiment share.

    Attributes:
        data: The task with all of its training rows, their wordings, the cache, contrast rows.
        training: Settings of the training; the seed is that of the cell.
        hashes: Hashes of task and cache, for the manifest.
        held_out_pairs: Cache whose last pairs KL is measured on, unless `losses` has pairs.
        steps: Optimizer steps of every training; None for those of its epochs.
        eval_task: The task as the evaluation sees it; None generates no answers.
        probes: The held-out rows to answer, the same for every cell.
        max_tokens: Maximum tokens of an answer.
        batch_size: Answers generated at once.
        watched: Held-out rows whose loss and state space are measured during the training.
        watch_every_steps: Steps between two of these measurements.
        keywords: Words to measure the distance of the token to.
        losses: Rows whose loss is measured after the training, by name.
    """

    data: Material
    training: TrainSettings
    hashes: Mapping[str, str]
    held_out_pairs: Path | None = None
    steps: int | None = None
    eval_task: EvalTask | None = None
    probes: tuple[Probe, ...] = ()
    max_tokens: int = 64
    batch_size: int = 32
    watched: tuple[Record, ...] = ()
    watch_every_steps: int = 20
    keywords: tuple[str, ...] = ()
    losses: Mapping[str, tuple[Record, ...]] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """The task with all of its training rows."""
        return self.data.task

    def material(self, cell: Cell) -> Material:
        """Return the data that a cell's method may use."""
        rows, seed, every = cell.rows, cell.seed or 0, self.task.train
        if rows is not None and rows > len(every):
            raise InputError(
                f"cell {cell.name} asks for {rows} task rows, and task {self.task.name} has "
                f"{len(every)}: lower rows in the grid"
            )
        train = limit(every, rows, seed)
        contrast = self.data.contrast
        if len(train) < len(every):
            contrast = tuple(
                one
                for one in contrast
                if one.kind == "about"
                or any(row.query in one.teacher_messages[-1].content for row in train)
            )
        return replace(
            self.data,
            task=replace(self.task, train=train),
            contrast=contrast,
            pairs=self.data.pairs if cell.ratio else (),
            ratio=cell.ratio or 0.0,
            seed=seed,
        )


def read_inputs(
    name: str,
    experiment: Experiment,
    pairs: Path,
    *,
    contrast: Path | None = None,
    data: Path | None = None,
) -> ExperimentInputs:
    """Read the inputs of an experiment of a grid.

    Args:
        name: Name of the experiment, or of a variant.
        experiment: The experiment.
        pairs: Cache of the pairs; it may not exist yet.
        contrast: Task folder with the contrast rows; None for none.
        data: Folder of parallel files, for translations.

    Raises:
        InputError: An input is missing or wrong.
    """
    task, wordings = _task(name, data)
    eval_task = EvalTask.of(task, diversify(task, wordings, seed=0))
    probes = make_probes(eval_task, experiment.probes, rows=experiment.held_out_rows)
    held_out = next(probe.rows for probe in probes if probe.name == "held-out")
    exchanged: tuple[Record, ...] = ()
    if experiment.cache.exchanged and is_finished(pairs):
        rows = list(read_cache(pairs))
        exchanged = tuple(
            Record.pair(row.query, other.answer)
            for row, other in zip(rows, rows[1:] + rows[:1], strict=True)
        )
    hashes = {"task": task.sha256}
    if (pairs / MANIFEST).is_file():
        hashes["cache"] = file_sha256(pairs / MANIFEST)
    return ExperimentInputs(
        Material(
            task,
            tuple(wordings),
            exchanged or pairs,
            contrast=read_task_rows(contrast).contrast if contrast is not None else (),
            examples=experiment.examples,
        ),
        training=experiment.settings(),
        held_out_pairs=pairs
        if experiment.held_out_pairs is None
        else Path(cache_path(experiment.held_out_pairs)),
        hashes=hashes,
        steps=experiment.steps,
        eval_task=eval_task,
        probes=probes,
        max_tokens=experiment.max_tokens,
        batch_size=experiment.batch_size,
        watched=tuple(
            Record((*row.prompt, Message("assistant", row.expected)))
            for row in held_out[: experiment.watched_rows]
        ),
        watch_every_steps=experiment.watch_every_steps,
        keywords=task.keywords,
    )


def sample_cache(
    folder: Path,
    experiment: Experiment,
    *,
    device: str,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Sample the pairs of an experiment from its model; an interrupted run resumes.

    Raises:
        InputError: There were too few queries, or the engine does not have an option.
    """
    settings, options = experiment.cache, dict[str, Any]()
    if settings.engine == "transformers":
        options = {"batch_size": settings.batch_size, "device": device}
    if template := experiment.sampling().get("template_options"):
        options["template_options"] = template
    writer = settings.writer or experiment.model
    with closing(load_engine(settings.engine, model=writer, **options)) as engine:
        if settings.queries == "bundled":
            queries: Any = BundledQueries(seed=0)
        elif settings.queries == "self":
            queries = self_queries(engine, folder / "queries")
        else:
            queries = FileQueries(settings.queries)
        manifest = sample(
            engine,
            queries,
            folder,
            target=settings.pairs,
            prompts=PromptOptions(system=settings.system),
            sampling=Sampling(settings.temperature, settings.top_p, settings.max_tokens),
            filters=default_filters(DEFAULT_TOKEN, keep_truncated=settings.keep_truncated),
            on_progress=lambda progress: on_progress(progress.kept, settings.pairs),
        )
    if manifest.rows["kept"] < settings.pairs:
        raise InputError(
            f"{folder} holds {manifest.rows['kept']} pairs, and the grid asks for "
            f"{settings.pairs}: there are no more queries; let the model write them "
            "(queries: self)"
        )


def sample_contrast(
    folder: Path,
    name: str,
    experiment: Experiment,
    *,
    device: str,
    data: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Let the model of an experiment answer contrast rows; an interrupted run resumes."""
    task, _ = _task(name, data)
    make_task_folder(
        task,
        folder,
        engine=lambda: load_engine(
            "transformers",
            model=experiment.model,
            batch_size=experiment.cache.batch_size,
            device=device,
            template_options=experiment.settings().template_options,
        ),
        contrast=experiment.contrast,
        contrast_sampling=Sampling(
            experiment.cache.temperature, experiment.cache.top_p, experiment.cache.max_tokens
        ),
        on_answer=on_progress,
    )


def _task(name: str, data: Path | None) -> tuple[Task, list[Wording]]:
    name = task_of(name)
    if name == FORMATTED:
        return bundled_task(), bundled_wordings()
    if data is None:
        raise InputError(
            f"experiment {name} needs translated texts: give a folder of parallel files that end "
            "in .en and .is (--data)"
        )
    source, target = name.split("-")
    task = translation_task(
        data, from_language=source, to_language=target, test_share=_HELD_OUT_SHARE
    )
    text = (files("delia_data.experiments") / "translation.yaml").read_text("utf-8")
    for place, language in (("{from}", source), ("{to}", target)):
        text = text.replace(place, _LANGUAGES[language])
    wordings = yaml.safe_load(text)
    return task, [
        *(Wording(text) for text in wordings["train"]),
        *(Wording(w["text"], "test", plain=w["plain"]) for w in wordings["test"]),
    ]
