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
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from delia_data.diversify import diversify, undiversified
from delia_data.engines import Engine, RequestStream, Sampling
from delia_data.engines.local import encode_prompt
from delia_data.engines.transformers import Row, TransformersEngine
from delia_data.errors import InputError, unknown_name
from delia_data.mixing import Pairs, TaskRows, mix
from delia_data.mixing.task_rows import ContrastRow
from delia_data.ranking import rank
from delia_data.records import Message, Record, write_record
from delia_data.tasks import Task, Wording
from delia_data.training.settings import TrainSettings, rows_a_step

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Axis = Literal["rows", "ratio", "seed"]
TrainingRow: TypeAlias = Mapping[str, Any]
Prompt = Callable[[Sequence[Message], str], tuple[Message, ...]]
"""Make a prompt from the conversation of a row and the row's bare query."""
Explain = Callable[[Sequence[Message]], tuple[Message, ...]]
"""Add the token's explanation to a conversation."""
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
_no_wordings = _train_mixture(diversified=False, pairs=True)
_no_diverse = _train_mixture(diversified=True, pairs=False)
_common = _train_mixture(diversified=False, pairs=False)


def _no_pairs(material: Material, settings: TrainSettings) -> Training:
    """Train on a wording for each row, without pairs, for as many steps as DELIA."""
    rows = material.mixture(diversified=True, pairs=False)
    return match_steps(rows, material, settings)


# Pairs as a constraint: the loss of a pair is its divergence from the untrained model. With
# contrast rows the mixture is larger; the epochs shrink so that the steps stay DELIA's.


def _delia_kl(material: Material, settings: TrainSettings) -> Training:
    """Train on DELIA's rows; pairs are compared with the untrained model."""
    return replace(_delia(material, settings), settings=replace(settings, pairs_loss="kl"))


def _contrast(material: Material, settings: TrainSettings) -> Training:
    """Train on DELIA's rows and contrast rows under the KL loss."""
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
    """Train on the pairs that DELIA takes, without the task."""
    rows = material.mixture(diversified=True, pairs=True)
    return Training(tuple(row for row in rows if row["source"] == "cache"), settings)


# No training: the token's embedding row is random, a mean, or that of the description (Welch et
# al. 2020). The paper's Table 1 calls the last two "random init" and "mean embedding".


def _untrained(_: Material, settings: TrainSettings) -> Training:
    return Training((), settings)


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
    """Train on the task's rows in one wording, for as many steps as DELIA."""
    return match_steps(_common(material, settings).rows, material, settings)


def _neftune(material: Material, settings: TrainSettings) -> Training:
    """Train step-matched, with noise on the embeddings (Jain et al. 2023)."""
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
        Record.pair(one, text) for text, questions in atomic_facts(task) for one in questions
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


# Without training, examples and dictionaries in the prompt: in-context learning, and DiPMT
# (Ghazvininejad et al. 2023). With DiPMT every text, also those of the examples, comes with
# dictionary entries of its words:
#
#     Translate ... : The dog sleeps.
#     In this text, the word "dog" means "hundur"; the word "sleeps" means "sefur".

_ENTRIES: Final = 20  # dictionary entries in one prompt, at most
_WORD: Final = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_NULL: Final = ""  # source word of target words that no word in the sentence explains


def in_context(material: Material) -> Prompt:
    """Return the prompt builder that puts examples before the question."""
    wording = material.task.common_wording
    examples = [(wording.fill(row.query), row.answer) for row in _example_rows(material)]
    return lambda turns, _: _with_examples(examples, turns)


def dipmt(material: Material) -> Prompt:
    """Return the prompt builder that adds dictionary entries and examples."""
    task = material.task
    if task.scoring != "translation":
        raise InputError(
            f"task {task.name} is not a translation, and DiPMT needs a dictionary of two "
            "languages: use another method"
        )
    dictionary = learn_dictionary(task.train)
    examples = [
        (with_entries(task.common_wording.fill(row.query), row.query, dictionary), row.answer)
        for row in _example_rows(material)
    ]

    def build(turns: Sequence[Message], query: str) -> tuple[Message, ...]:
        *before, last = turns
        question = replace(last, content=with_entries(last.content, query, dictionary))
        return _with_examples(examples, [*before, question])

    return build


def with_entries(question: str, text: str, dictionary: Mapping[str, Sequence[str]]) -> str:
    """Add the dictionary entries of a text's words to a question about the text."""
    words = [word for word in dict.fromkeys(_words(text)) if word in dictionary][:_ENTRIES]
    if not words:
        return question
    meanings = {word: '" or "'.join(dictionary[word]) for word in words}
    entries = "; ".join(f'the word "{word}" means "{each}"' for word, each in meanings.items())
    return f"{question}\nIn this text, {entries}."


def _example_rows(material: Material) -> list[Record]:
    """Return the first rows in a keyed order, so fewer examples are a prefix of more."""
    rows = sorted(material.task.train, key=lambda row: rank(material.seed, row.id, "examples"))
    if len(rows) < material.examples:
        raise InputError(
            f"{material.examples} examples do not fit: the task has only {len(rows)} training "
            "rows; lower the number of examples"
        )
    return rows[: material.examples]


def _with_examples(
    examples: Iterable[tuple[str, str]], conversation: Sequence[Message]
) -> tuple[Message, ...]:
    """Put examples as earlier turns before a question; a system turn stays first."""
    system = [turn for turn in conversation[:1] if turn.role == "system"]
    turns = [
        turn
        for question, answer in examples
        for turn in (Message("user", question), Message("assistant", answer))
    ]
    return (*system, *turns, *conversation[len(system) :])


def learn_dictionary(
    rows: Sequence[Record], *, translations: int = 2, rounds: int = 8
) -> dict[str, tuple[str, ...]]:
    """Learn a dictionary from translated texts by IBM's model 1 (Brown et al. 1993).

    The probability of each target word given each source word is estimated by expectation
    maximization from uniform starts. A hundred sentences give a rough dictionary; entries seen in
    only one sentence and entries with a probability below 0.2 are left out.

    Args:
        rows: Rows whose query is a text and whose answer is its translation.
        translations: Translations of a word at most, the most probable first.
        rounds: Rounds of expectation maximization.

    Returns:
        Translations by source word, in lower case.
    """
    pairs = [([_NULL, *dict.fromkeys(_words(row.query))], _words(row.answer)) for row in rows]
    chances: dict[str, dict[str, float]] = defaultdict(dict)
    for source, target in pairs:
        for s in source:
            chances[s].update(dict.fromkeys(target, 1.0))
    for _ in range(rounds):
        counts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for source, target in pairs:
            for t in target:
                total = sum(chances[s][t] for s in source)
                for s in source:
                    counts[s][t] += chances[s][t] / total
        for s, row in counts.items():
            mass = sum(row.values())
            chances[s] = {t: count / mass for t, count in row.items()}
    sentences = Counter(
        (s, t) for source, target in pairs for s in source for t in dict.fromkeys(target)
    )
    dictionary: dict[str, tuple[str, ...]] = {}
    for word, row in sorted(chances.items()):
        entries = [(-p, t) for t, p in row.items() if p >= 0.2 and sentences[word, t] > 1]
        if word != _NULL and entries:
            dictionary[word] = tuple(t for _, t in sorted(entries)[:translations])
    return dictionary


def _words(text: str) -> list[str]:
    return [match.group().casefold() for match in _WORD.finditer(text)]


# Controlled text generation (Dekoninck et al. 2023) changes the engine. It combines distributions
# of the next token, here those of one model after two prompts, with b = 0.5:
#
#     softmax( (1 + b) log Q(question and the token's explanation)  -  b log Q(question) )
#
# so half of what the explanation adds to the plain question is added once more.

_BIAS: Final = 0.5


def controlled_engine(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, material: Material, batch_size: int
) -> ControlledEngine:
    """Make the engine of controlled text generation for a task."""
    explain = explained(material.task.token, material.task.description)
    return ControlledEngine(model, tokenizer, explain, batch_size=batch_size)


def explained(token: str, description: str) -> Explain:
    """Return a function that adds the meaning of the token to a conversation's last turn."""
    if not description.strip():
        raise InputError("the task does not say what its token stands for: give a description")
    meaning = f"{token} stands for {description.strip().rstrip('.')}."

    def explain(turns: Sequence[Message]) -> tuple[Message, ...]:
        *before, last = turns
        return (*before, replace(last, content=f"{last.content}\n\n{meaning}"))

    return explain


class ControlledEngine(TransformersEngine):
    """Generates answers to explained prompts, guided away from the answers to the plain ones.

    transformers' classifier-free guidance computes the formula; its scale is `1 + b`.
    """

    writes_users = False

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        explain: Explain,
        *,
        batch_size: int = 16,
    ) -> None:
        """Wrap a model, which computes two rows for each answer of a batch."""
        super().__init__(model, tokenizer, batch_size=batch_size)
        self.explain = explain

    def describe(self) -> dict[str, Any]:
        """Return the engine's name, the weights of its formula and the model's identity."""
        return {**super().describe(), "engine": "arithmetic", "weights": [1 + _BIAS, -_BIAS]}

    def _generate_continuously(self, stream: RequestStream, sampling: Sampling) -> Iterator[Row]:
        """Generate in batches, as transformers' guidance needs it."""
        return self._generate_in_batches(stream, sampling)

    def _generate_batch(
        self, batch: Sequence[Row], sampling: Sampling, **options: Any
    ) -> Sequence[Row]:
        plain_ids, plain_mask = self._pad([row.prompt for row in batch])
        for row in batch:
            request = replace(row.request, messages=self.explain(row.request.messages))
            row.prompt = encode_prompt(self.tokenizer, request)
        return super()._generate_batch(
            batch,
            sampling,
            guidance_scale=1 + _BIAS,
            negative_prompt_ids=plain_ids,
            negative_prompt_attention_mask=plain_mask,
            **options,
        )


_NONE: Final[frozenset[Axis]] = frozenset()
_SEED: Final[frozenset[Axis]] = frozenset({"seed"})
_ROWS: Final[frozenset[Axis]] = frozenset({"rows", "seed"})

METHODS: Final[dict[str, Method]] = {
    method.name: method
    for method in (
        # Without training.
        Method("original", "Original model", _untrained, uses=_NONE, trains_on="nothing"),
        Method("random_init", "Random init", _random_init, uses=_SEED, trains_on="nothing"),
        Method(
            "mean_embedding", "Mean embedding", _mean_embedding, uses=_NONE, trains_on="nothing"
        ),
        Method(
            "in_context", "In-context learning", prompt=in_context, uses=_ROWS, trains_on="nothing"
        ),
        Method(
            "controlled",
            "Controlled text generation",
            engine=controlled_engine,
            uses=_NONE,
            trains_on="nothing",
        ),
        Method("dipmt", "DiPMT", prompt=dipmt, uses=_ROWS, trains_on="nothing", kind="translation"),
        # Baselines.
        Method("common", "Common instruction tuning", _common, uses=_ROWS, trains_on="task"),
        Method("step_matched", "Common instruction tuning, step-matched", _step_matched),
        Method("neftune", "NEFTune, step-matched", _neftune),
        Method("fact_based", "Fact based", _fact_based),
        Method("dmt", "DMT", _dmt),
        Method("pairs_only", "Diverse data alone", _pairs_only, trains_on="pairs"),
        # Ablations, then DELIA and its variants.
        Method(
            "no_diverse", "DELIA without diverse data", _no_diverse, uses=_ROWS, trains_on="task"
        ),
        Method("no_pairs", "DELIA without pairs, step-matched", _no_pairs),
        Method("row_alone", "The token's row alone, step-matched", _row_alone),
        Method("no_wordings", "DELIA without diversified wordings", _no_wordings),
        Method("delia", "DELIA", _delia),
        Method("delia_kl", "DELIA, KL loss", _delia_kl),
        Method("delia_contrast", "DELIA, KL loss, contrast rows", _contrast),
        Method("recommended", "DELIA, recommended", _recommended),
    )
}
"""All methods by name, in the order of the paper's tables."""
