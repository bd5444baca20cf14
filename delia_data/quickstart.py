"""The whole method on the embedded model, in minutes on two cores: `run` is `delia quickstart`.

    out/
        quickstart.json   settings; a rerun with others is refused
        cache/            1  pairs that the model wrote
        task/             2  task rows in their wordings
        mixture/          3  both, mixed          4  read back through load_dataset("delia_mix")
        adapter/          5  LoRA and the token's embedding row
        trained/          6  evaluation of the trained and the untrained model
        measurements/     7  the token before and after training
        report.html       8  the report on all of these

A finished step is not repeated.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from delia_data.diversify import make_task_folder
from delia_data.engines.base import Sampling, with_parts
from delia_data.engines.transformers import TransformersEngine
from delia_data.errors import RatioError
from delia_data.evaluation import (
    AnsweredRow,
    EvalTask,
    Evaluation,
    MeasureSettings,
    evaluate,
    measure,
    read_evaluation,
)
from delia_data.evaluation.system import open_adapter_system
from delia_data.mixing import mix, parse_ratio, save_mixture
from delia_data.models import DEFAULT_MODEL, load_model, load_tokenizer, quiet
from delia_data.outputs import ShowStep, Steps, Update, read_manifest, write_text
from delia_data.report import make_report
from delia_data.sampling import BundledQueries, default_filters, sample
from delia_data.tasks import Task, bundled_task, read_task_rows
from delia_data.training import read_recipe, train
from delia_data.training.settings import TrainSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SETTINGS: Final = "quickstart.json"
REPORT: Final = "report.html"
_RECIPE: Final = "smollm2-135m-cpu"
_STEPS: Final = ("cache", "task", "mixture", "adapter", "trained", "measurements")
_EARLIER: Final = ("before", "after", "untrained")
"""Evaluations that earlier versions wrote; they are not read again."""


@dataclass(frozen=True, slots=True)
class QuickstartSettings:
    """Settings of a quickstart.

    Attributes:
        pairs: Pairs to sample.
        ratio: Pairs per task row; None takes all sampled pairs.
        seed: Seed of every step.
        device: Device of the model.
        task_rows: Training rows of the bundled task.
        held_out_rows: Held-out rows to evaluate on.
        epochs: Epochs of the training; None takes the recipe's.
        max_tokens: Greatest number of tokens in a sampled answer; longer answers are dropped.
        keep_truncated: Keep them, cut off.
        contrast: Contrast rows for each task row.

    Raises:
        RatioError: The ratio is negative, or needs more pairs than `pairs`.
    """

    pairs: int = 96
    ratio: float | None = None
    seed: int = 0
    device: str = "cpu"
    task_rows: int = 100
    held_out_rows: int = 40
    epochs: float | None = None
    max_tokens: int = 96
    keep_truncated: bool = False
    contrast: float = 0.5

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise RatioError(f"{self.pairs} pairs are too few: give at least 1")
        if self.ratio is None:
            return
        wanted = round(parse_ratio(self.ratio) * self.task_rows)
        if wanted > self.pairs:
            raise RatioError(
                f"ratio {self.ratio:g} of {self.task_rows} task rows needs {wanted} pairs, but "
                f"only {self.pairs} are sampled: add --pairs {wanted}, or lower the ratio to "
                f"{self.pairs / self.task_rows:.4g}"
            )


@dataclass(frozen=True, slots=True)
class QuickstartResult:
    """The result of a quickstart.

    Attributes:
        report: The page.
        evaluation: Numbers of the trained model, between those of the untrained one.
        shown: One request with the answers of both models, to print: with the token, without it,
            and with the format forbidden.
        seconds: Duration of each step in seconds.
    """

    report: Path
    evaluation: Evaluation
    shown: Mapping[str, AnsweredRow]
    seconds: dict[str, float]


def run(
    out: str | os.PathLike[str],
    settings: QuickstartSettings | None = None,
    *,
    show_step: ShowStep = lambda title: nullcontext(lambda done, total: None),
) -> QuickstartResult:
    """Run every step that is not finished yet, and write the report.

    Args:
        out: Folder of the run; a rerun continues there.
        settings: The settings.
        show_step: Shows the progress of a step.

    Raises:
        ForeignFolderError: The folder holds something else.
        SettingsError: The folder was begun with other settings.
        LockedError: Another process works in the folder.
        MissingExtraError: A library or the embedded model is not installed.
    """
    steps = _Quickstart(out, settings or QuickstartSettings(), show_step)
    with steps.locked():
        for number, (name, folder, work) in enumerate(
            (
                ("sample", "cache", steps.sample),
                ("diversify", "task", steps.diversify),
                ("mix", "mixture", steps.mix),
                ("load_dataset", "", steps.read_back),
                ("train", "adapter", steps.train),
                ("evaluate", "trained", steps.evaluate_trained),
                ("measure", "measurements", steps.measure),
            ),
            1,
        ):
            written = steps.out / folder if folder else None
            steps.do(name, written, work, title=f"{f'{number} {name}':<14}")
        return steps.report()


class _Quickstart(Steps):
    """The steps of a quickstart, with the objects that they share."""

    def __init__(
        self, out: str | os.PathLike[str], settings: QuickstartSettings, show_step: ShowStep
    ) -> None:
        known = (REPORT, *_STEPS, *_EARLIER)
        super().__init__(out, show_step, file=SETTINGS, settings=asdict(settings), known=known)
        self.settings = settings
        self.rows: list[dict[str, Any]] = []  # of the mixture, read by step 4

    @cached_property
    def task(self) -> Task:
        """The bundled task with as many rows as the settings say."""
        whole, s = bundled_task(), self.settings
        return replace(whole, train=whole.train[: s.task_rows], test=whole.test[: s.held_out_rows])

    @cached_property
    def recipe(self) -> TrainSettings:
        """Settings of the training."""
        s, recipe = self.settings, read_recipe(_RECIPE)
        return replace(
            recipe,
            model=DEFAULT_MODEL,
            token=self.task.token,
            epochs=recipe.epochs if s.epochs is None else s.epochs,
            pairs_loss="kl",
            seed=s.seed,
            device=s.device,
        )

    @cached_property
    def base(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The untrained model; loaded by the first step that needs it."""
        return load_model(DEFAULT_MODEL, device=self.settings.device), load_tokenizer(DEFAULT_MODEL)

    def sample(self, update: Update) -> None:
        """Let the model answer bundled queries."""
        s, engine = self.settings, TransformersEngine(*self.base)
        show_kept = with_parts(engine, s.pairs, lambda kept: update(kept, s.pairs))
        sample(
            engine,
            BundledQueries(seed=s.seed),
            self.out / "cache",
            target=s.pairs,
            sampling=Sampling(max_tokens=s.max_tokens),
            seed=s.seed,
            token=self.task.token,
            filters=default_filters(self.task.token, keep_truncated=s.keep_truncated),
            on_progress=lambda progress: show_kept(progress.kept),
        )

    def diversify(self, update: Update) -> None:
        """Give each task row a bundled wording, and let the model answer contrast rows."""
        s = self.settings
        made = make_task_folder(
            self.task,
            self.out / "task",
            embed=False,
            engine=lambda: TransformersEngine(*self.base),
            contrast=s.contrast,
            contrast_sampling=Sampling(max_tokens=s.max_tokens),
            seed=s.seed,
            on_answer=update,
        )
        rows = len(made.rows.train) + len(made.rows.contrast)
        update(rows, rows)

    def mix(self, update: Update) -> None:
        """Mix task rows and pairs."""
        rows, cache = read_task_rows(self.out / "task"), self.out / "cache"
        ratio, seed = self.settings.ratio, self.settings.seed
        if ratio is None:
            ratio = read_manifest(cache).rows["kept"] / len(rows.train)
        mixture = mix(rows, cache, ratio=ratio, seed=seed)
        save_mixture(mixture, self.out / "mixture")
        update(mixture.num_rows, mixture.num_rows)

    def read_back(self, update: Update) -> None:
        """Read the mixture as a user does: the builder mixes task and cache in the same order."""
        from datasets import load_dataset

        made = read_manifest(self.out / "mixture")
        with quiet():
            dataset = load_dataset(
                "delia_mix",
                ratio=made.settings["ratio"],
                seed=made.settings["seed"],
                task=str(self.out / "task"),
                cache=str(self.out / "cache"),
                split="train",
            )
        self.rows = dataset.to_list()
        names = ("task", "contrast", "cache")
        update(len(self.rows), sum(made.rows.get(name, 0) for name in names))

    def train(self, update: Update) -> None:
        """Add the token, lint, train."""
        self.__dict__.pop("base", None)  # frees the memory of the untrained model
        train(
            self.recipe,
            self.rows,
            self.out / "adapter",
            on_step=lambda number, steps, _: update(number, steps),
        )

    def evaluate_trained(self, update: Update) -> None:
        """Evaluate the trained model, and the untrained one with the adapter switched off."""
        s, task = self.settings, EvalTask.read(self.out / "task")
        adapter, device = self.out / "adapter", s.device
        system = open_adapter_system(adapter, token=task.token, device=device, batch_size=50)
        evaluate(
            system,
            task,
            self.out / "trained",
            max_tokens=64,
            seed=s.seed,
            on_progress=update,
        )

    def measure(self, update: Update) -> None:
        """Compare the token with its keywords before and after training."""
        measure(
            self.out / "adapter",
            self.out / "task",
            self.out / "measurements",
            what=("representation",),
            settings=MeasureSettings(words=64, seed=self.settings.seed),
            device=self.settings.device,
            on_progress=lambda _, done, total: update(done, total),
        )

    def report(self) -> QuickstartResult:
        """Write the report on all steps."""
        trained, rows = read_evaluation(self.out / "trained")
        report = make_report([self.out], title=f"Quickstart with {DEFAULT_MODEL}")
        write_text(self.out / REPORT, report.html())
        shown = _shown([row.answered for row in rows])
        return QuickstartResult(self.out / REPORT, trained, shown, self.seconds)


def _shown(rows: Sequence[AnsweredRow]) -> dict[str, AnsweredRow]:
    """Return the request with the shortest question, as each probe of the task asks it."""
    of_task = [row for row in rows if row.probe in ("held-out", "plain", "forbid")]
    first = min(of_task, key=lambda row: (row.probe != "held-out", len(row.question), row.id))
    return {row.probe: row for row in of_task if row.id == first.id}
