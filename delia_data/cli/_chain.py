"""The chain behind `delia quickstart`: steps that are each finished on disk before the next.

    out/
        quickstart.json   settings; a rerun with others is refused
        cache/            1  pairs that the model wrote
        task/             2  task rows in their wordings
        mixture/          3  both, mixed          4  read back through load_dataset("delia_mix")
        before/              the untrained model's answers and distances
        adapter/          5  LoRA and the token's embedding row
        after/            6  the trained model's answers and distances
        report.html       7  everything to look at

A step whose folder has its finish marker is not done again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from delia_data.cli._console import console, step, with_parts
from delia_data.diversify import diversify, gate_task_wordings, save_task_rows
from delia_data.engines.base import Sampling
from delia_data.errors import RatioError
from delia_data.evaluation import (
    BlockDistances,
    LossPoint,
    ProbedRow,
    probe,
    read_probe,
    token_distances,
    write_probe,
)
from delia_data.mixing import mix, parse_ratio, save_mixture
from delia_data.models import DEFAULT_MODEL, load_model, load_tokenizer, quiet
from delia_data.outputs import (
    Manifest,
    check_folder_is_ours,
    check_same_settings,
    finish,
    is_finished,
    read_manifest,
    write_json,
)
from delia_data.sampling import BundledQueries, default_filters, sample
from delia_data.tasks import Task, TaskRow, Wording, bundled_task, bundled_wordings, read_task_rows
from delia_data.tokens import add_token
from delia_data.training import load_adapter, read_recipe, train
from delia_data.training.adapter import LOSSES
from delia_data.training.settings import TrainSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


SHOWN: Final = Wording(
    text="{query}\nIs this answer right? Follow the <sep> format.",
    plain="{query}\nIs this answer right?",
    split="test",
)
"""The wording of the one question whose four answers are printed."""

_RECIPE: Final = "smollm2-135m-cpu"
_STEPS: Final = ("cache", "task", "mixture", "before", "adapter", "after")
_BEGUN: Final = "quickstart.json"
_ANSWERS: Final = "answers.jsonl"
_DISTANCES: Final = "distances.json"
_TIMINGS: Final = "timings.json"


@dataclass(frozen=True, slots=True)
class ChainSettings:
    """Settings of a quickstart.

    Attributes:
        pairs: Pairs to sample.
        ratio: Pairs for each task row; None takes all that were sampled.
        seed: Seed of every step.
        device: Where the model computes.
        task_rows: Training rows of the bundled task that are used.
        held_out_rows: Held-out rows that are asked.
        epochs: Times that the mixture is trained on; None takes the recipe's.
        max_tokens: Tokens of a sampled answer at most.

    Raises:
        RatioError: The ratio is no number of at least 0, or asks for more than `pairs`.
    """

    pairs: int = 96
    ratio: float | None = None
    seed: int = 0
    device: str = "cpu"
    task_rows: int = 100
    held_out_rows: int = 100
    epochs: float | None = None
    max_tokens: int = 96

    @classmethod
    def pairs_for(cls, ratio: float | None) -> int:
        """Pairs to sample where only the ratio is given."""
        return cls().pairs if ratio is None else max(1, round(ratio * cls().task_rows))

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise RatioError(f"{self.pairs} pairs are too few: give at least 1")
        if self.ratio is None:
            return
        wanted = round(parse_ratio(self.ratio) * self.task_rows)
        if wanted > self.pairs:
            raise RatioError(
                f"ratio {self.ratio:g} of {self.task_rows} task rows needs {wanted} pairs, and "
                f"{self.pairs} are to be sampled: add --pairs {wanted}, or lower the ratio to "
                f"{self.pairs / self.task_rows:.4g}"
            )


@dataclass(frozen=True, slots=True)
class Probed:
    """What was asked of one model: answers to held-out rows, and distances of the token."""

    shown: ProbedRow
    rows: list[ProbedRow]
    distances: list[BlockDistances]


class Chain:
    """The steps, each with what it needs of the earlier ones."""

    def __init__(self, out: Path, settings: ChainSettings) -> None:
        """Look at a folder to run in; nothing is written yet.

        Raises:
            ForeignFolderError: The folder holds something else.
            SettingsError: It was begun with other settings.
        """
        self.out = out
        self.settings = settings
        own = frozenset({_BEGUN, "report.html", _TIMINGS, *_STEPS})
        check_folder_is_ours(out, own, sign=_BEGUN)
        if (out / _BEGUN).is_file():
            check_same_settings(out, json.loads((out / _BEGUN).read_text()), asdict(settings))

    def begin(self) -> None:
        """Write the settings down."""
        write_json(self.out / _BEGUN, asdict(self.settings))

    @cached_property
    def task(self) -> Task:
        """The bundled task, cut to the rows that are used."""
        whole, s = bundled_task(), self.settings
        return replace(whole, train=whole.train[: s.task_rows], test=whole.test[: s.held_out_rows])

    @cached_property
    def recipe(self) -> TrainSettings:
        """Settings of the training."""
        s = self.settings
        recipe = replace(read_recipe(_RECIPE), seed=s.seed, device=s.device, token=self.task.token)
        return recipe if s.epochs is None else replace(recipe, epochs=s.epochs)

    @cached_property
    def _base(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The untrained model; loaded at the first step that needs it."""
        with console.status("loading the embedded model"):
            model = load_model(DEFAULT_MODEL, device=self.settings.device)
            return model, load_tokenizer(DEFAULT_MODEL)

    @property
    def timings(self) -> dict[str, float]:
        """Seconds that each finished step took."""
        file = self.out / _TIMINGS
        return dict(json.loads(file.read_text())) if file.is_file() else {}

    def sample(self) -> Manifest:
        """Step 1: the model answers bundled queries."""
        folder = self.out / "cache"
        with self._step("1 sample", folder) as (done, update):
            if done:
                return read_manifest(folder)
            from delia_data.engines.transformers import TransformersEngine

            engine, pairs = TransformersEngine(*self._base), self.settings.pairs
            tell = with_parts(engine, lambda kept: update(kept, pairs))
            return sample(
                engine,
                BundledQueries(seed=self.settings.seed),
                folder,
                target=pairs,
                sampling=Sampling(max_tokens=self.settings.max_tokens),
                seed=self.settings.seed,
                token=self.task.token,
                # Answers are short here so that the run is: most are cut.
                filters=default_filters(self.task.token, keep_truncated=True),
                on_progress=lambda progress: tell(progress.kept),
            )

    def diversify(self) -> Manifest:
        """Step 2: every task row gets its own bundled wording, checked."""
        folder = self.out / "task"
        with self._step("2 diversify", folder) as (done, update):
            if done:
                return read_manifest(folder)
            wordings = bundled_wordings(self.task.name)
            gates = gate_task_wordings(self.task, wordings)
            update(len(gates.accepted), len(wordings))
            rows = diversify(self.task, wordings, seed=self.settings.seed)
            seed = self.settings.seed
            return save_task_rows(folder, rows, self.task, seed=seed, gates=gates)

    def mix(self) -> Manifest:
        """Step 3: task rows and pairs in one order."""
        folder = self.out / "mixture"
        with self._step("3 mix", folder) as (done, update):
            if done:
                return read_manifest(folder)
            rows, cache = read_task_rows(self.out / "task"), self.out / "cache"
            ratio, seed = self.settings.ratio, self.settings.seed
            if ratio is None:
                ratio = read_manifest(cache).rows["kept"] / len(rows.train)
            mixture = mix(
                rows.train, cache, ratio=ratio, seed=seed, test=rows.test, token=rows.token
            )
            manifest = save_mixture(mixture, folder)
            count = manifest.rows["task"] + manifest.rows["cache"]
            update(count, count)
            return manifest

    def read_back(self) -> list[dict[str, Any]]:
        """Step 4: read the mixture the way a user does.

        The builder mixes the same task and cache anew, in the same order.
        """
        from datasets import load_dataset

        made = read_manifest(self.out / "mixture")
        with self._step("4 load_dataset", None) as (_, update), quiet():
            dataset = load_dataset(
                "delia_mix",
                ratio=made.settings["ratio"],
                seed=made.settings["seed"],
                task=str(self.out / "task"),
                cache=str(self.out / "cache"),
                split="train",
            )
            rows: list[dict[str, Any]] = dataset.to_list()
            update(len(rows), made.rows["task"] + made.rows["cache"])
            return rows

    def train(self, rows: Sequence[dict[str, Any]]) -> Manifest:
        """Step 5: add the token, lint, train."""
        folder = self.out / "adapter"
        with self._step("5 train", folder) as (done, update):
            if done:
                return read_manifest(folder)
            return train(
                self.recipe, rows, folder, on_step=lambda number, of, _: update(number, of)
            )

    def losses(self) -> list[LossPoint]:
        """Loss of every training step."""
        return list(json.loads((self.out / "adapter" / LOSSES).read_text()))

    def probe_before(self) -> Probed:
        """Ask the untrained model, whose new token has its initial embedding."""
        folder = self.out / "before"
        with self._step("  ask before", folder) as (done, update):
            if not done:
                model, tokenizer = self._base
                recipe = self.recipe
                add_token(model, tokenizer, recipe.token, init=recipe.init, seed=recipe.seed)
                self._probe(model, tokenizer, folder, update)
        self.__dict__.pop("_base", None)
        return self._probed(folder)

    def probe_after(self) -> Probed:
        """Step 6: ask the trained model the same."""
        folder = self.out / "after"
        with self._step("6 ask after", folder) as (done, update):
            if not done:
                device = self.settings.device
                model, tokenizer = load_adapter(self.out / "adapter", device=device)
                self._probe(model, tokenizer, folder, update)
        return self._probed(folder)

    def _probe(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        update: Any,
    ) -> None:
        from delia_data.engines.transformers import TransformersEngine

        check_folder_is_ours(folder, frozenset({_ANSWERS, _DISTANCES}))
        engine = TransformersEngine(model, tokenizer, batch_size=50)
        rows = [self._shown(), *read_task_rows(self.out / "task").test]
        asked = 2 * len(rows)
        tell = with_parts(engine, lambda done: update(done, asked))
        answers = probe(engine, rows, on_progress=lambda done, _: tell(done))
        distances = token_distances(model, tokenizer, self.task.token, self.task.keywords)
        folder.mkdir(parents=True, exist_ok=True)
        write_probe(folder / _ANSWERS, answers)
        write_json(folder / _DISTANCES, [asdict(block) for block in distances])
        finish(folder, Manifest(kind="evaluation", rows={"held_out": len(answers) - 1}))

    def _probed(self, folder: Path) -> Probed:
        shown, *rows = read_probe(folder / _ANSWERS)
        distances = [
            BlockDistances(d["keyword"], tuple(d["l2"]), tuple(d["cosine"]))
            for d in json.loads((folder / _DISTANCES).read_text())
        ]
        return Probed(shown, rows, distances)

    def _shown(self) -> TaskRow:
        """The held-out row with the shortest question, in the wording of what is printed."""
        row = min(self.task.test, key=lambda record: (len(record.query), record.query))
        record = type(row).pair(SHOWN.fill(row.query), row.answer)
        return TaskRow(record, SHOWN.id, SHOWN.fill_plain(row.query))

    @contextmanager
    def _step(self, title: str, folder: Path | None) -> Iterator[tuple[bool, Any]]:
        """Show a step, tell whether it is done already, and keep the seconds that it took."""
        done = folder is not None and is_finished(folder)
        began = time.monotonic()
        with step(f"{title:<14}") as update:
            if done:
                update(1, 1)
            yield done, update
        if not done:
            name = title.strip().lstrip("1234567 ")
            write_json(self.out / _TIMINGS, {**self.timings, name: time.monotonic() - began})
