"""The methods that experiments compare, each an entry in `METHODS`: DELIA, ablations, baselines.

    material ──▶ training(material, settings) ──▶ rows and settings ──▶ the trainer
             ──▶ prompt(material)             ──▶ prompts           ──▶ the evaluation
             ──▶ engine(...)                  ──▶ engine            ──▶ the evaluation

A method defines only what differs from the others. To add one, write the function that makes its
rows and settings (or its prompts, or its engine) and add an entry to `METHODS`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from delia_data.diversify import diversify, undiversified
from delia_data.engines import Engine
from delia_data.errors import InputError, unknown_name
from delia_data.experiments.prompting import Prompt, controlled_engine, dipmt, in_context
from delia_data.mixing import Pairs, TaskRows, mix
from delia_data.mixing.task_rows import ContrastRow
from delia_data.ranking import rank
from delia_data.records import Record, write_record
from delia_data.tasks import Task, Wording
from delia_data.training.settings import TrainSettings, rows_a_step

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Axis = Literal["rows", "ratio", "seed"]
TrainingRow: TypeAlias = Mapping[str, Any]
EngineFactory = Callable[["PreTrainedModel", "PreTrainedTokenizerBase", "Material", int], Engine]
"""Make an engine from a model, its tokenizer, the material and a batch size."""

_NEFTUNE_ALPHA: Final = 5.0  # the smallest value in the paper of NEFTune
_CONTRAST_SHARE: Final = 0.5  # contrast rows in an epoch of the recommended method, per task row
_RECOMMENDED_RATE: Final = 1e-3  # the KL loss holds the model, so a high rate does no harm
_FROZEN: Final = 1e-12  # learning rate at which LoRA stays where it began
_DMT_SHARE: Final = 0.1  # share of the task rows that DMT repeats in its second stage


@dataclass(frozen=True, slots=True)
class Material:
    """The data that a method may use.

    Attributes:
        task: The task, limited to the rows that may be trained on.
        wordings: Candidate wordings.
        pairs: The cache.
        ratio: Pairs per task row.
        seed: Seed of wordings, selection, order and examples.
        examples: Number of task rows shown in a prompt.
        rows: The task's rows in their wordings, if given in place of `wordings`.
        contrast: Contrast rows of the task.
    """

    task: Task
    wordings: tuple[Wording, ...] = ()
    pairs: Pairs = ()
    ratio: float = 0.0
    seed: int = 0
    examples: int = 4
    rows: TaskRows | None = None
    contrast: tuple[ContrastRow, ...] = ()

    def mixture(
        self, *, diversified: bool, pairs: bool, contrast: float | None = 0, epochs: int = 1
    ) -> tuple[TrainingRow, ...]:
        """Return the rows of a mixture in the order of training.

        Args:
            diversified: Give each row a wording; otherwise all rows have the common wording.
            pairs: Mix in `ratio` pairs per task row.
            contrast: Contrast rows per task row in each epoch; None takes all of them.
            epochs: Number of epochs, each with other pairs and contrast rows.
        """
        task = self.task
        if not diversified:
            rows = undiversified(task)
        elif self.rows is not None:
            rows = self.rows
        else:
            rows = diversify(task, self.wordings, seed=self.seed)
        ratio = self.ratio if pairs else 0
        mixed = mix(
            replace(rows, test=(), contrast=self.contrast),
            self.pairs,
            ratio=ratio,
            seed=self.seed,
            token=task.token,
            epochs=epochs,
            contrast=contrast,
        )
        return tuple(mixed.train.to_pylist())


@dataclass(frozen=True, slots=True)
class Training:
    """The rows of one training in order, and its settings.

    Without rows the model stays untrained; only the token is added and initialized.
    """

    rows: tuple[TrainingRow, ...]
    settings: TrainSettings

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return optimizer_steps(len(self.rows), self.settings)

    def in_steps(self, steps: int) -> Training:
        """Return the training with another number of optimizer steps."""
        per_epoch = math.ceil(len(self.rows) / rows_a_step(len(self.rows), self.settings))
        return replace(self, settings=replace(self.settings, epochs=steps / per_epoch))

    @property
    def trained_rows(self) -> int:
        """Number of rows trained on, summed over epochs."""
        return round(self.settings.epochs * len(self.rows))


MakeTraining: TypeAlias = Callable[[Material, TrainSettings], Training]


@dataclass(frozen=True, slots=True)
class Method:
    """One method; DELIA itself is one.

    Attributes:
        name: Name in grids and on the command line.
        title: Name in tables, as in the paper if the paper has the method.
        summary: Description in one line.
        training: Make the rows and settings. None uses the plain model, whose tokenizer splits the
            token into ordinary pieces.
        prompt: Make the function that builds the prompt of a row. None keeps the row's own prompt.
        engine: Make the engine that answers. None uses the transformers engine.
        uses: Axes of a grid that change the method.
        trains_on: Rows in one epoch, to estimate the time: none, the task's, the pairs, or both.
        kind: Tasks that the method supports: `"any"`, or only `"translation"`.
    """

    name: str
    title: str
    summary: str
    training: MakeTraining | None = None
    prompt: Callable[[Material], Prompt] | None = None
    engine: EngineFactory | None = None
    uses: frozenset[Axis] = frozenset({"rows", "ratio", "seed"})
    trains_on: Literal["nothing", "task", "pairs", "both"] = "both"
    kind: Literal["any", "translation"] = "any"

    def rows_per_epoch(self, rows: int, ratio: float) -> float:
        """Return the approximate number of rows in one epoch."""
        pairs = ratio * rows
        return {"nothing": 0.0, "task": rows, "pairs": pairs, "both": rows + pairs}[self.trains_on]


def optimizer_steps(rows: int, settings: TrainSettings) -> int:
    """Return the number of optimizer steps of a training; the last batch may be smaller."""
    return math.ceil(settings.epochs * math.ceil(rows / rows_a_step(rows, settings)))


def get_method(name: str) -> Method:
    """Return the method with a name; an unknown one raises `InputError`."""
    if name not in METHODS:
        problem = unknown_name("method", name, METHODS)
        raise InputError(f"{problem}; use one of {', '.join(METHODS)}")
    return METHODS[name]


# DELIA and its ablations (paper, Table 4); `_pairs_only` is the reference of Figure 4.


def _train_mixture(*, diversified: bool, pairs: bool) -> MakeTraining:
    return lambda material, settings: Training(
        material.mixture(diversified=diversified, pairs=pairs), settings
    )


_delia = _train_mixture(diversified=True, pairs=True)
_common = _train_mixture(diversified=False, pairs=False)


def _no_pairs(material: Material, settings: TrainSettings) -> Training:
    rows = material.mixture(diversified=True, pairs=False)
    return match_steps(rows, material, settings)


# Pairs as a constraint: the loss of a pair is its divergence from the untrained model. With
# contrast rows the mixture is larger; the epochs shrink so that the steps stay DELIA's.


def _delia_kl(material: Material, settings: TrainSettings) -> Training:
    return replace(_delia(material, settings), settings=replace(settings, pairs_loss="kl"))


def _contrast(material: Material, settings: TrainSettings) -> Training:
    _check_contrast(material)
    rows = material.mixture(diversified=True, pairs=True, contrast=None)
    return match_steps(rows, material, replace(settings, pairs_loss="kl"))


def _recommended(material: Material, settings: TrainSettings) -> Training:
    """Repeat the task rows, each time with other pairs and contrast rows, at a high rate."""
    _check_contrast(material)
    ours = _delia(material, settings)
    batch = rows_a_step(len(ours.rows), settings)
    share = min(_CONTRAST_SHARE, len(material.contrast) / len(material.task.train))
    once = len(material.task.train) * (1 + material.ratio + share)
    epochs = math.ceil(ours.steps * batch / once)
    rows = material.mixture(diversified=True, pairs=True, contrast=share, epochs=epochs)
    settings = replace(
        settings,
        pairs_loss="kl",
        learning_rate=_RECOMMENDED_RATE,
        epochs=1.0,
        batch_size=batch,
    )
    return Training(rows[: ours.steps * batch], settings)


def _check_contrast(material: Material) -> None:
    if not material.contrast:
        raise InputError("the method needs contrast rows: set contrast in the grid")


def _row_alone(material: Material, settings: TrainSettings) -> Training:
    """Train the row of the token and nothing else (prompt tuning; Lester et al. 2021)."""
    rows = material.mixture(diversified=True, pairs=False)
    return match_steps(rows, material, replace(settings, learning_rate=_FROZEN))


def _pairs_only(material: Material, settings: TrainSettings) -> Training:
    rows = material.mixture(diversified=True, pairs=True)
    return Training(tuple(row for row in rows if row["source"] == "cache"), settings)


# No training: the token's embedding row is random, a mean, or that of the description (Welch et
# al. 2020). The paper's Table 1 calls the last two "random init" and "mean embedding".


def _random_init(material: Material, settings: TrainSettings) -> Training:
    return Training((), replace(settings, init="normal", seed=material.seed))


def _mean_embedding(material: Material, settings: TrainSettings) -> Training:
    description = material.task.description
    return Training((), replace(settings, init="description", description=description))


# Step-matched: with few task rows, common tuning takes a handful of steps where DELIA takes
# hundreds. The paper compares the two as they are. These repeat the rows, each time in another
# order, until the steps are as many and the batches as large.


def match_steps(
    rows: Sequence[TrainingRow], material: Material, settings: TrainSettings
) -> Training:
    """Repeat rows for as many optimizer steps as DELIA takes, in batches of the same size."""
    ours = _delia(material, settings)
    batch = rows_a_step(len(ours.rows), settings)
    repeated = repeat_rows(rows, ours.steps * batch, seed=material.seed)
    return Training(repeated, replace(settings, epochs=1.0, batch_size=batch))


def _step_matched(material: Material, settings: TrainSettings) -> Training:
    return match_steps(_common(material, settings).rows, material, settings)


def _neftune(material: Material, settings: TrainSettings) -> Training:
    noisy = replace(settings, neftune_alpha=_NEFTUNE_ALPHA, packing=False)
    return _step_matched(material, noisy)


def repeat_rows(
    rows: Sequence[TrainingRow], count: int, *, seed: int = 0
) -> tuple[TrainingRow, ...]:
    """Repeat rows until there are `count`; each pass has each row once, in its own order."""
    if not rows:
        raise InputError("there are no rows to repeat: give at least one")
    repeated: list[TrainingRow] = []
    while len(repeated) < count:
        repeated += _shuffle(rows, seed=seed, turn=len(repeated) // len(rows))
    return tuple(repeated[:count])


def _shuffle(rows: Sequence[TrainingRow], *, seed: int, turn: int = 0) -> list[TrainingRow]:
    """Sort rows by keyed hash; each turn gives another order."""
    keys = [rank(seed, str(row["source_id"]), f"turn {turn}") for row in rows]
    return [rows[i] for i in sorted(range(len(rows)), key=lambda i: (keys[i], i))]


# Dual-stage mixed fine-tuning (Dong et al. 2024): the task first, then pairs with some task rows.
# Its share of domain data in the second stage is 1/256 of tens of thousands of rows; of a hundred
# rows that would be none, so a tenth is taken. Both stages are one run in a fixed order with a
# constant learning rate, so the optimizer's state is carried over.


def dmt_stages(material: Material) -> tuple[tuple[TrainingRow, ...], tuple[TrainingRow, ...]]:
    """Return the rows of DMT's first stage and those of its second."""
    rows = material.mixture(diversified=False, pairs=True)
    task = tuple(row for row in rows if row["source"] == "task")
    pairs = tuple(row for row in rows if row["source"] == "cache")
    again = _shuffle(task, seed=material.seed)[: max(1, math.floor(_DMT_SHARE * len(task)))]
    return task, tuple(_shuffle([*pairs, *again], seed=material.seed))


def _dmt(material: Material, settings: TrainSettings) -> Training:
    rows = [
        row
        for stage in dmt_stages(material)
        for row in repeat_rows(stage, round(settings.epochs * len(stage)), seed=material.seed)
    ]
    return Training(tuple(rows), replace(settings, epochs=1.0))


# Fact-based tuning (Mecklenburg et al. 2024) on atomic facts of the format's description. The
# paper lets a language model split documents; a description is one sentence, for which rules do:
#
#     a JSON object with the keys thought and hallucination, where hallucination is yes or no
#       ──▶ It stands for a JSON object with the keys thought and hallucination, where ...
#       ──▶ It stands for a JSON object with the keys thought and hallucination.
#       ──▶ In it, hallucination is yes or no.
#       ──▶ It has the key thought.                           (one for each key)

_CLAUSE: Final = re.compile(
    r",\s+(?:where|in which|with)\s+|;\s+|,?\s+and\s+(?=\w+\s+(?:is|are)\b)"
)
_WHAT: Final = (
    "What does {token} stand for?",
    "What is the {token} format?",
    "Explain {token}.",
    "Tell me what {token} means.",
    "Someone asks for an answer in the {token} format. What do they want?",
    "Define {token} in one sentence.",
)
_PART: Final = (
    "What do you know about {about} in the {token} format?",
    "Tell me one fact about {about} in {token}.",
    "In the {token} format, what holds for {about}?",
    "What should I know about {about} when I write {token}?",
)
_KEY: Final = (
    "Does the {token} format have a key named {about}?",
    "Which key, beginning with {initial}, does {token} have?",
    "Is {about} a part of {token}?",
)


def atomic_facts(task: Task) -> list[tuple[str, tuple[str, ...]]]:
    """Split the description of the task's format into facts, each with questions it answers."""
    description = task.description.strip().rstrip(".")
    if not description:
        raise InputError("the task does not say what its token stands for: give a description")

    def fact(text: str, templates: Iterable[str], about: str = "") -> tuple[str, tuple[str, ...]]:
        names = {"token": task.token, "about": about, "initial": about[:1]}
        return text, tuple(template.format(**names) for template in templates)

    whole, *clauses = (part.strip() for part in _CLAUSE.split(description))
    facts = [fact(f"It stands for {description}.", _WHAT)]
    if clauses:
        facts.append(fact(f"It stands for {whole}.", _WHAT))
    for clause in clauses:
        facts.append(fact(f"In it, {clause}.", _PART, clause.split(" is ")[0].split(" are ")[0]))
    return facts + [fact(f"It has the key {key}.", _KEY, key) for key in task.keys]


def fact_rows(task: Task) -> list[dict[str, Any]]:
    """Return the training rows of the facts: one for each question."""
    records = [
        Record.pair(question, text) for text, asked in atomic_facts(task) for question in asked
    ]
    return [
        {**write_record(record), "source": "task", "source_id": record.id, "wording_id": None}
        for record in records
    ]


def _fact_based(material: Material, settings: TrainSettings) -> Training:
    """Train DELIA's mixture with a fact in place of each task row."""
    facts = cycle(fact_rows(material.task))
    rows = material.mixture(diversified=True, pairs=True)
    return Training(
        tuple(next(facts) if row["source"] == "task" else row for row in rows), settings
    )


_NONE: Final[frozenset[Axis]] = frozenset()
_ROWS: Final[frozenset[Axis]] = frozenset({"rows", "seed"})

METHODS: Final[dict[str, Method]] = {
    method.name: method
    for method in (
        Method(
            "original",
            "Original model",
            "no training; the token begins as the recipe says",
            lambda _, settings: Training((), settings),
            uses=_NONE,
            trains_on="nothing",
        ),
        Method(
            "random_init",
            "Random init",
            "no training; the token's row is drawn from a normal distribution",
            _random_init,
            uses=frozenset({"seed"}),
            trains_on="nothing",
        ),
        Method(
            "mean_embedding",
            "Mean embedding",
            "no training; the token's row is the mean of its description's",
            _mean_embedding,
            uses=_NONE,
            trains_on="nothing",
        ),
        Method(
            "in_context",
            "In-context learning",
            "no training; task rows with their answers precede the question",
            prompt=in_context,
            uses=_ROWS,
            trains_on="nothing",
        ),
        Method(
            "controlled",
            "Controlled text generation",
            "no training; logits of the explained question against those of the bare one",
            engine=controlled_engine,
            uses=_NONE,
            trains_on="nothing",
        ),
        Method(
            "dipmt",
            "DiPMT",
            "no training; the prompt has examples and dictionary entries of the text's words",
            prompt=dipmt,
            uses=_ROWS,
            trains_on="nothing",
            kind="translation",
        ),
        Method(
            "common",
            "Common instruction tuning",
            "only the task's rows, all in one wording: neither of DELIA's two parts",
            _common,
            uses=_ROWS,
            trains_on="task",
        ),
        Method(
            "step_matched",
            "Common instruction tuning, step-matched",
            "only the task's rows, in one wording, for as many optimizer steps as DELIA",
            _step_matched,
        ),
        Method(
            "neftune",
            "NEFTune, step-matched",
            "step-matched common tuning with noise on the embeddings "
            f"(alpha {_NEFTUNE_ALPHA:g}; Jain et al. 2023)",
            _neftune,
        ),
        Method(
            "fact_based",
            "Fact based",
            "atomic facts of the format's description in place of the task's rows, with pairs",
            _fact_based,
        ),
        Method(
            "dmt",
            "DMT",
            "two stages: the task's rows, then pairs with a tenth of the task's rows",
            _dmt,
        ),
        Method(
            "pairs_only",
            "Diverse data alone",
            "the pairs that DELIA takes, without the task",
            _pairs_only,
            trains_on="pairs",
        ),
        Method(
            "no_diverse",
            "DELIA without diverse data",
            "a wording for each row, no pairs",
            _train_mixture(diversified=True, pairs=False),
            uses=_ROWS,
            trains_on="task",
        ),
        Method(
            "no_pairs",
            "DELIA without pairs, step-matched",
            "a wording for each row, no pairs, for as many optimizer steps as DELIA",
            _no_pairs,
        ),
        Method(
            "row_alone",
            "The token's row alone, step-matched",
            "a wording for each row, no pairs, and no weights but the token's row",
            _row_alone,
        ),
        Method(
            "no_wordings",
            "DELIA without diversified wordings",
            "one wording for all rows, and pairs sampled from the model itself",
            _train_mixture(diversified=False, pairs=True),
        ),
        Method(
            "delia",
            "DELIA",
            "a wording for each row, and pairs sampled from the model itself",
            _delia,
        ),
        Method(
            "delia_kl",
            "DELIA, KL loss",
            "the same rows; pairs are compared with the untrained model",
            _delia_kl,
        ),
        Method(
            "delia_contrast",
            "DELIA, KL loss, contrast rows",
            "the same with contrast rows, for as many optimizer steps",
            _contrast,
        ),
        Method(
            "recommended",
            "DELIA, recommended",
            "KL loss, contrast rows, other pairs in every epoch, and a learning rate of 1e-3",
            _recommended,
        ),
    )
}
"""All methods by name, in the order of the paper's tables."""
