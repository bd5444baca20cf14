"""Turn system prompts into tokens without labels: `distill` is `delia distill`.

    queries ──▶ model with the system prompt ──▶ answers ──▶ task: queries that name the token
                                                               │  + contrast rows, pairs
                                                               ▼
    KL( untrained model with the system prompt, trained model with the token ) on these answers

    out/
        distill.json        settings; a rerun with others is refused
        prompts/NAME/       for each token
            teacher/        1  the model's answers with the system prompt
            task/           2  the queries in wordings that name the token, with contrast rows
        mixture/            3  all tasks and the pairs, for any trainer
        adapter/            4  LoRA and the tokens' embedding rows
        evaluation/NAME/    5  agreement with the system prompt, leak, obey, keep
        result.json, report.html

A finished step is not repeated.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any, Final

import yaml

from delia_data.diversify import make_task_folder
from delia_data.engines import Engine
from delia_data.engines.base import Sampling
from delia_data.engines.transformers import TransformersEngine
from delia_data.errors import InputError
from delia_data.evaluation import EvalTask, Evaluation, evaluate, read_evaluation
from delia_data.evaluation.answer_format import earliest_object
from delia_data.evaluation.generation import System, open_adapter_system
from delia_data.evaluation.keep import satisfies
from delia_data.evaluation.representation import evaluating
from delia_data.mixing import mix, save_mixture
from delia_data.models import load_model, load_tokenizer
from delia_data.outputs import ShowStep, Steps, Update, is_finished, setting, write_json, write_text
from delia_data.ranking import rank
from delia_data.records import Message, Record
from delia_data.report import make_report
from delia_data.sampling import PromptOptions, load_queries, read_cache, sample
from delia_data.sampling.filters import truncated
from delia_data.tasks import Task, Wording
from delia_data.tasks.scoring import json_object
from delia_data.tokens import render_ids, split_tokens
from delia_data.training import TrainSettings, train

SETTINGS: Final = "distill.json"
RESULT: Final = "result.json"
REPORT: Final = "report.html"
_PROMPTS, _MIXTURE, _ADAPTER, _EVALUATION = "prompts", "mixture", "adapter", "evaluation"
_TIMED: Final = 16  # prompts whose processing is timed
_OBJECTS: Final = 0.5  # share of answers with the same keys from which answers are objects


@dataclass(frozen=True, slots=True)
class DistillSettings:
    """Settings of a distillation.

    Raises:
        InputError: A value is out of bounds.
    """

    prompts: Mapping[str, str]
    """Text of each system prompt by its token, such as `<support>`. A token may be a sequence
    (`tokens.token_sequence`), whose rows have more room."""
    queries: str = setting(
        "bundled",
        "bundled, or a file, glob, folder or Hub id of queries in any row format, without answers.",
    )
    rows: int = setting(200, "Queries of each prompt.")
    held_out: float = setting(
        0.5, "Share of the queries that is only evaluated on, above 0 and below 1."
    )
    pairs: str = setting(
        "bundled",
        "Pairs to mix in: bundled, a cache or a file. With the KL loss their answers may come from "
        "any model.",
    )
    ratio: float = setting(1.0, "Pairs for each training row in an epoch.")
    contrast: float = setting(
        0.5, "Contrast rows for each training row in an epoch, different ones in each."
    )
    max_tokens: int = setting(
        256, "Maximum number of tokens of an answer; longer ones are dropped and counted."
    )
    constraints: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By token, constraints that code checks in answers of free text (`evaluation.keep.satisfies`),
    such as `{"most_words": 80}`."""
    seed: int = 0
    """Seed of every step."""

    def __post_init__(self) -> None:
        if not self.prompts or not all(text.strip() for text in self.prompts.values()):
            raise InputError("a system prompt is empty or missing: give one for each token")
        if unknown := set(self.constraints) - set(self.prompts):
            raise InputError(f"constraints name {min(unknown)}, which has no system prompt")
        if not 0 < self.held_out < 1:
            raise InputError(f"held-out share {self.held_out} must be above 0 and below 1")
        if self.rows < 4:
            raise InputError(f"{self.rows} queries are too few: give at least 4")


@dataclass(frozen=True, slots=True)
class DistilledToken:
    """A token that stands for a system prompt.

    Attributes:
        evaluation: Numbers of the token, and of the untrained model without and with the system
            prompt. `agree` is the agreement with the greedy answers to the system prompt. Its
            upper bound is the agreement of sampled answers to the system prompt with them.
        prompt_tokens: Mean tokens of a request with the token.
        full_tokens: Mean tokens of the request with the system prompt.
        prefill_s: Median seconds to the first token of an answer, with the token.
        full_prefill_s: Median seconds to the first token of an answer, with the system prompt.
    """

    evaluation: Evaluation
    prompt_tokens: float
    full_tokens: float
    prefill_s: float
    full_prefill_s: float


@dataclass(frozen=True, slots=True)
class DistillResult:
    """The result of a distillation.

    Attributes:
        tokens: The tokens.
        seconds: Duration of each step in seconds.
        requests: Requests after which the prefill time saved equals the time of all steps before
            the evaluation; None if no time is saved.
        report: The report.
    """

    tokens: Mapping[str, DistilledToken]
    seconds: Mapping[str, float]
    requests: int | None
    report: Path

    @property
    def sentences(self) -> list[str]:
        """Return sentences about the costs."""
        lines = [
            f"A request has {one.prompt_tokens:.0f} tokens with {token} and {one.full_tokens:.0f} "
            f"with the system prompt; its prefill takes {1000 * one.prefill_s:.0f} ms and "
            f"{1000 * one.full_prefill_s:.0f} ms."
            for token, one in self.tokens.items()
        ]
        if self.requests is not None:
            lines.append(
                f"The prefill time saved by {self.requests:,} requests equals the time of the run."
            )
        return lines


def distill(
    out: str | os.PathLike[str],
    settings: DistillSettings,
    training: TrainSettings,
    *,
    engine: Callable[[], Engine] | None = None,
    show_step: ShowStep = lambda title: nullcontext(lambda done, total: None),
) -> DistillResult:
    """Turn system prompts into tokens of one adapter.

    Args:
        out: Folder of the run; a rerun continues there.
        settings: The prompts and the data.
        training: Settings of the training. Its tokens are those of the prompts. Its `pairs_loss`
            decides the loss of the answers: `"kl"` the distribution of the model with the system
            prompt, `"ce"` its sampled tokens.
        engine: Opens the engine that answers, of the model of `training`; by default it runs here.
        show_step: Shows the progress of a step.

    Raises:
        InputError: There are too few queries or answers, or answers of free text without
            constraints.
        ForeignFolderError: The folder holds something else.
        SettingsError: The folder was begun with other settings.
        LockedError: Another process works in the folder.
    """
    tokens = tuple(settings.prompts)
    token = tokens[0] if len(tokens) == 1 else tokens
    training = replace(training, token=token, seed=settings.seed)
    steps = _Distillation(out, settings, training, engine, show_step)
    with steps.locked():
        with closing(steps):
            for token in settings.prompts:
                folder = steps.folder(token)
                steps.do(f"teacher {token}", folder / "teacher", partial(steps.ask, token))
                steps.do(f"diversify {token}", folder / "task", partial(steps.diversify, token))
        steps.do("mix", steps.out / _MIXTURE, steps.mix)
        steps.do("train", steps.out / _ADAPTER, steps.train)
        for token in settings.prompts:
            evaluated = steps.evaluated(token)
            steps.do(f"evaluate {token}", evaluated, partial(steps.evaluate, token))
        return steps.result()


class _Distillation(Steps):
    """The steps of a distillation, with the objects that they share."""

    def __init__(
        self,
        out: str | os.PathLike[str],
        settings: DistillSettings,
        training: TrainSettings,
        engine: Callable[[], Engine] | None,
        show_step: ShowStep,
    ) -> None:
        described = {**asdict(settings), "training": training.as_dict()}
        known = (RESULT, REPORT, _PROMPTS, _MIXTURE, _ADAPTER, _EVALUATION)
        super().__init__(out, show_step, file=SETTINGS, settings=described, known=known)
        self.settings, self.training = settings, training
        self.open_engine = engine or self._load

    def _load(self) -> Engine:
        options = self.training.template_options
        model = load_model(self.training.model, device=self.training.device)
        return TransformersEngine(model, load_tokenizer(self.training.model, options))

    @cached_property
    def engine(self) -> Engine:
        """The engine that answers; opened by the first step that needs it."""
        return self.open_engine()

    def close(self) -> None:
        """Close the engine, and free its memory."""
        if engine := self.__dict__.pop("engine", None):
            engine.close()

    def folder(self, token: str) -> Path:
        """Return the folder of a token's steps."""
        return self.out / _PROMPTS / _name(token)

    def evaluated(self, token: str) -> Path:
        """Return the folder of a token's evaluation."""
        return self.out / _EVALUATION / _name(token)

    def ask(self, token: str, update: Update) -> None:
        """Let the model answer the queries with the system prompt."""
        s = self.settings
        manifest = sample(
            self.engine,
            load_queries(s.queries, seed=s.seed),
            self.folder(token) / "teacher",
            target=s.rows,
            sampling=Sampling(max_tokens=s.max_tokens),
            seed=s.seed,
            token=token,
            prompts=PromptOptions(system=s.prompts[token]),
            filters=[truncated],
            on_progress=lambda progress: update(progress.kept, s.rows),
        )
        if manifest.rows["kept"] < s.rows:
            dropped = ", ".join(f"{n} {why}" for why, n in manifest.dropped.items()) or "none"
            raise InputError(
                f"{manifest.rows['kept']} of {s.rows} answers with the prompt of {token} can be "
                f"used (dropped: {dropped}): give more queries, or lower rows (--rows) in a new "
                "folder"
            )

    def diversify(self, token: str, update: Update) -> None:
        """Put each query into a wording that names the token, and make contrast rows."""
        s = self.settings
        make_task_folder(
            make_task(
                read_cache(self.folder(token) / "teacher"),
                token,
                s.prompts[token],
                held_out=s.held_out,
                seed=s.seed,
            ),
            self.folder(token) / "task",
            wordings=prompt_wordings(token),
            embed=False,
            engine=self.engine,
            contrast=s.contrast * self.epochs,
            contrast_sampling=Sampling(max_tokens=s.max_tokens),
            seed=s.seed,
            on_answer=update,
        )

    @property
    def epochs(self) -> int:
        """Number of epochs in the mixture, each with its own pairs and contrast rows."""
        return math.ceil(self.training.epochs)

    def mix(self, update: Update) -> None:
        """Mix the rows of all tokens with pairs."""
        s = self.settings
        tasks: Any = {_name(token): str(self.folder(token) / "task") for token in s.prompts}
        mixture = mix(
            tasks,
            s.pairs,
            ratio=s.ratio,
            seed=s.seed,
            epochs=self.epochs,
            contrast=s.contrast,
            on_short="repeat",
        )
        save_mixture(mixture, self.out / _MIXTURE)
        update(mixture.num_rows, mixture.num_rows)

    def train(self, update: Update) -> None:
        """Train LoRA and the tokens' rows."""
        train(
            replace(self.training, epochs=self.training.epochs / self.epochs),
            self.out / _MIXTURE,
            self.out / _ADAPTER,
            on_step=lambda number, steps, _: update(number, steps),
        )

    @cached_property
    def system(self) -> System:
        """The trained model, and the untrained one, which is the same model without its adapter."""
        first = next(iter(self.settings.prompts))
        return open_adapter_system(
            self.out / _ADAPTER, token=first, device=self.training.device, batch_size=32
        )

    def evaluate(self, token: str, update: Update) -> None:
        """Evaluate a token on its held-out queries."""
        tasks = {each: self.eval_task(each) for each in self.settings.prompts}
        evaluate(
            self.system,
            tasks.pop(token),
            self.evaluated(token),
            max_tokens=self.settings.max_tokens,
            others=tuple(tasks.values()),
            reuse=[folder for folder in map(self.evaluated, tasks) if is_finished(folder)],
            seed=self.settings.seed,
            on_progress=update,
        )

    def eval_task(self, token: str) -> EvalTask:
        """Read the task of a token."""
        constraints = self.settings.constraints.get(token)
        rule = partial(satisfies, constraints=constraints) if constraints else None
        return EvalTask.read(self.folder(token) / "task", rule=rule)

    def result(self) -> DistillResult:
        """Measure the costs once, and write the result and the report."""
        file = self.out / RESULT
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        measured = known.get("tokens", {})
        costs = {t: measured.get(t) or self._measure(t) for t in self.settings.prompts}
        tokens = {
            token: DistilledToken(read_evaluation(self.evaluated(token))[0], **cost)
            for token, cost in costs.items()
        }
        seconds = self.seconds
        spent = sum(s for name, s in seconds.items() if not name.startswith("evaluate"))
        saved = sum(one.full_prefill_s - one.prefill_s for one in tokens.values()) / len(tokens)
        requests = round(spent / saved) if saved > 0 else None
        write_json(file, {"tokens": costs, "seconds": seconds, "requests": requests})
        result = DistillResult(tokens, seconds, requests, self.out / REPORT)
        folders = [*map(self.evaluated, tokens)]
        folders += [self.folder(token) / "task" for token in tokens]
        folders += [self.out / _MIXTURE, self.out / _ADAPTER]
        title = f"Prompts of {self.training.model} as tokens"
        report = make_report(folders, title=title, lead=result.sentences)
        write_text(self.out / REPORT, report.html())
        return result

    def _measure(self, token: str) -> dict[str, float]:
        """Count the tokens of requests, and measure the prefill time."""
        rows = self.eval_task(token).held_out
        system = Message("system", self.settings.prompts[token])
        engine: Any = self.system.engine
        costs = {}
        for prefix, prompts in (
            ("", [row.worded.record.prompt for row in rows]),
            ("full_", [(system, *row.record.prompt) for row in rows]),
        ):
            ids = [
                render_ids(engine.tokenizer, [turn.as_dict() for turn in turns], generate=True)
                for turns in prompts
            ]
            costs[f"{prefix}{'' if prefix else 'prompt_'}tokens"] = sum(map(len, ids)) / len(ids)
            costs[f"{prefix}prefill_s"] = prefill_seconds(engine.model, ids[:_TIMED])
        return costs


def prompt_wordings(token: str) -> list[Wording]:
    """Return the wordings in which a query names a token that stands for a system prompt."""
    file = files("delia_data.diversify") / "data" / "distill.yaml"
    by_split = yaml.safe_load(file.read_text(encoding="utf-8"))
    return [
        Wording(text.replace("{token}", token), split, plain="{query}")
        for split, texts in by_split.items()
        for text in texts
    ]


def make_task(
    answered: Sequence[Record], token: str, system: str, *, held_out: float = 0.5, seed: int = 0
) -> Task:
    """Make the task of a token from answers to its system prompt.

    Args:
        answered: Queries with the model's answers.
        token: The token.
        system: The system prompt.
        held_out: Share of the rows to hold out, by keyed hash.
        seed: Seed of the choice.

    Returns:
        The task. Its keys are those of the answers, if most are objects with the same keys.
    """
    rows = [Record.pair(row.query, row.answer) for row in answered]
    order = sorted(rows, key=lambda row: rank(seed, row.id, "held out queries"))
    count = min(max(1, round(held_out * len(rows))), len(rows) - 1)
    test = {row.id for row in order[:count]}
    keys = _keys_of([row.answer for row in rows])
    return Task(
        name=_name(token),
        instruction="",
        description="",
        common_wording=Wording(f"{{query}}\n\nFollow {token}.", plain="{query}"),
        keys=keys,
        keywords=(),
        train=tuple(row for row in rows if row.id not in test),
        test=tuple(row for row in rows if row.id in test),
        token=token,
        scoring="json" if keys else "exact",
        system=system,
    )


def _keys_of(answers: Sequence[str]) -> tuple[str, ...]:
    """Return the keys of most answers' objects; empty if most answers are not such objects."""
    objects = [json_object(earliest_object(answer) or "") for answer in answers]
    counts = Counter(tuple(sorted(value)) for value in objects if value)
    keys, count = counts.most_common(1)[0] if counts else ((), 0)
    return keys if count >= _OBJECTS * len(answers) else ()


def prefill_seconds(model: Any, prompts: Sequence[Sequence[int]]) -> float:
    """Return the median prefill time of single prompts in seconds."""
    import torch

    seconds = []
    with evaluating(model):
        for ids in [prompts[0], *prompts]:  # the first one warms up
            began = time.perf_counter()
            inputs = torch.tensor([list(ids)], device=model.device)
            model(inputs, logits_to_keep=1).logits.cpu()  # waits for the device
            seconds.append(time.perf_counter() - began)
    return median(seconds[1:])


def _name(token: str) -> str:
    """Return the name of a token's folders, of the first token of a sequence."""
    return re.sub(r"\W+", "-", split_tokens(token)[0]).strip("-") or "token"
