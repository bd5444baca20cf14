"""What the cells of one experiment share: task, wordings, probes, pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml

from delia_data.diversify import diversify
from delia_data.engines import Sampling, load_engine
from delia_data.errors import InputError
from delia_data.evaluation.probes import EvalTask, Probe, make_probes
from delia_data.mixing.sources import Pairs
from delia_data.records import Message, Record
from delia_data.reproduction.cell import Cell
from delia_data.reproduction.grid import CacheSettings, Experiment, ExperimentName
from delia_data.reproduction.run import Run
from delia_data.sampling import BundledQueries, FileQueries, default_filters, sample, self_queries
from delia_data.tasks import Task, Wording, bundled_task, bundled_wordings, translation_task
from delia_data.tasks.splits import limit
from delia_data.tokens import DEFAULT_TOKEN
from delia_data.training.baselines import Material
from delia_data.training.baselines.dictionary import read_dictionary

_LANGUAGES: Final[Mapping[str, str]] = {"en": "English", "is": "Icelandic"}
_HELD_OUT_SHARE: Final = 0.3


@dataclass(frozen=True, slots=True)
class Ground:
    """What the cells of one experiment share.

    Attributes:
        experiment: The experiment.
        task: The task with all of its training rows.
        wordings: The wordings that rows may get.
        asked: The task as it is asked about.
        probes: The held-out rows as they are put: the same for every cell.
        pairs: The cache.
        dictionary: Translations of words, where they were given.
    """

    experiment: Experiment
    task: Task
    wordings: tuple[Wording, ...]
    asked: EvalTask
    probes: tuple[Probe, ...]
    pairs: Pairs
    dictionary: Mapping[str, Sequence[str]] | None

    @classmethod
    def of(cls, run: Run, name: ExperimentName) -> Ground:
        """Gather an experiment's ground.

        Raises:
            InputError: An input is missing or not as it should be.
        """
        experiment = run.grid.experiments[name]
        task, wordings = _task(run, name)
        rows = diversify(task, wordings, seed=0)
        asked = EvalTask.of(task, rows, wordings)
        probes = make_probes(asked, experiment.probes, rows=experiment.held_out_rows)
        dictionary = None
        if run.dictionary is not None and name != "formatted-text":
            dictionary = read_dictionary(run.dictionary / f"{name}.tsv")
        pairs: Pairs = run.cache_of(experiment)
        return cls(experiment, task, tuple(wordings), asked, probes, pairs, dictionary)

    def material(self, cell: Cell) -> Material:
        """What a cell's method may draw on.

        Raises:
            InputError: The task does not have as many training rows as the cell asks for.
        """
        rows, seed = cell.rows, cell.seed_or()
        if rows is not None and rows > len(self.task.train):
            raise InputError(
                f"cell {cell.name} asks for {rows} task rows, and task {self.task.name} has "
                f"{len(self.task.train)}: lower rows in the grid"
            )
        return Material(
            task=replace(self.task, train=limit(self.task.train, rows, seed)),
            wordings=self.wordings,
            pairs=self.pairs if cell.ratio else (),
            ratio=cell.ratio or 0.0,
            seed=seed,
            examples=self.experiment.examples,
            dictionary=self.dictionary,
        )

    def watched(self) -> list[Record]:
        """Held-out rows that are looked at during a training, in their wordings."""
        held = next(probe for probe in self.probes if probe.name == "held-out")
        return [
            Record((*row.prompt, Message("assistant", row.expected)))
            for row in held.rows[: self.experiment.watched_rows]
        ]


def sample_cache(
    folder: Path,
    model: str,
    how: CacheSettings,
    *,
    device: str,
    on_progress: Callable[[int, int], None] = lambda kept, of: None,
) -> None:
    """Let a model write an experiment's pairs; a run that was stopped goes on.

    Raises:
        InputError: The queries ran out, or the engine has no such option.
    """
    options: dict[str, Any] = {"batch_size": how.batch_size, "device": device}
    if how.engine != "transformers":
        options = {}
    with closing(load_engine(how.engine, model=model, **options)) as engine:
        if how.queries == "bundled":
            queries: Any = BundledQueries(seed=0)
        elif how.queries == "self":
            queries = self_queries(engine, folder / "queries")
        else:
            queries = FileQueries(how.queries)
        manifest = sample(
            engine,
            queries,
            folder,
            target=how.pairs,
            sampling=Sampling(how.temperature, how.top_p, how.max_tokens),
            # Answers are cut where they are long, as the paper's were.
            filters=default_filters(DEFAULT_TOKEN, keep_truncated=True),
            on_progress=lambda progress: on_progress(progress.kept, how.pairs),
        )
    if manifest.rows["kept"] < how.pairs:
        raise InputError(
            f"{folder} holds {manifest.rows['kept']} pairs, and {how.pairs} were asked for: the "
            "queries ran out; let the model write them (queries: self)"
        )


def translation_wordings(from_language: str, to_language: str) -> list[Wording]:
    """The bundled wordings of a translation task, held-out ones among them."""
    text = (files("delia_data.reproduction") / "data" / "translation.yaml").read_text("utf-8")
    known = yaml.safe_load(text)

    def fill(text: str) -> str:
        named = text.replace("{from}", _LANGUAGES[from_language])
        return named.replace("{to}", _LANGUAGES[to_language])

    return [
        *(Wording(fill(text)) for text in known["train"]),
        *(Wording(fill(w["text"]), "test", plain=fill(w["plain"])) for w in known["test"]),
    ]


def _task(run: Run, name: ExperimentName) -> tuple[Task, list[Wording]]:
    if name == "formatted-text":
        return bundled_task(), bundled_wordings()
    if run.data is None:
        raise InputError(
            f"experiment {name} needs translated texts: give a folder with parallel files that "
            "end in .en and .is (--data)"
        )
    begin, end = name.split("-")
    task = translation_task(
        run.data, from_language=begin, to_language=end, test_share=_HELD_OUT_SHARE
    )
    return task, translation_wordings(begin, end)
