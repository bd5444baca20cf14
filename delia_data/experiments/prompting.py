"""Methods that answer without training: examples and dictionaries in the prompt, model arithmetic.

In-context learning and DiPMT (Ghazvininejad et al. 2023) change the prompt. With DiPMT every text,
also those of the examples, comes with dictionary entries of its words:

    Translate ... : The dog sleeps.
    In this text, the word "dog" means "hundur"; the word "sleeps" means "sefur".

Controlled text generation (Dekoninck et al. 2023) changes the engine. It combines distributions of
the next token, here those of one model after two prompts:

    softmax( (1 + b) log Q(question and the token's explanation)  -  b log Q(question) ),   b = 0.5

so half of what the explanation adds to the plain question is added once more.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from delia_data.engines import RequestStream, Sampling
from delia_data.engines.local import encode_prompt
from delia_data.engines.transformers import Row, TransformersEngine
from delia_data.errors import InputError
from delia_data.ranking import rank
from delia_data.records import Message, Record

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from delia_data.experiments.methods import Material

Prompt = Callable[[Sequence[Message], str], tuple[Message, ...]]
"""Make a prompt from the conversation of a row and the row's bare query."""
Explain = Callable[[Sequence[Message]], tuple[Message, ...]]
"""Add the token's explanation to a conversation."""

_ENTRIES: Final = 20  # dictionary entries in one prompt, at most
_BIAS: Final = 0.5
_WORD: Final = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_NULL: Final = ""  # source word of target words that no word in the sentence explains


# In-context learning and DiPMT


def in_context(material: Material) -> Prompt:
    """Return the prompt builder that puts examples before the question."""
    wording = material.task.common_wording
    examples = [(wording.fill(row.query), row.answer) for row in _example_rows(material)]
    return lambda asked, _: _with_examples(examples, asked)


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

    def build(asked: Sequence[Message], query: str) -> tuple[Message, ...]:
        *before, last = asked
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
    examples: Iterable[tuple[str, str]], asked: Sequence[Message]
) -> tuple[Message, ...]:
    """Put examples as earlier turns before a question; a system turn stays first."""
    system = [turn for turn in asked[:1] if turn.role == "system"]
    turns = [
        turn
        for question, answer in examples
        for turn in (Message("user", question), Message("assistant", answer))
    ]
    return (*system, *turns, *asked[len(system) :])


# Dictionaries


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


# Controlled text generation


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

    def explain(asked: Sequence[Message]) -> tuple[Message, ...]:
        *before, last = asked
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
