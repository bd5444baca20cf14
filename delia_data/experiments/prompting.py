"""Methods that answer without training: examples and dictionaries in the prompt, model arithmetic.

In-context learning and DiPMT (Ghazvininejad et al. 2023) change the prompt. With DiPMT every text,
also those of the examples, comes with dictionary entries of its words:

    Translate ... : The dog sleeps.
    In this text, the word "dog" means "hundur"; the word "sleeps" means "sefur".

Controlled text generation (Dekoninck et al. 2023) changes the engine. A formula is a weighted sum
of distributions Q_i, here one model under several prompts. The next token is sampled from

    softmax( sum_i w_i log Q_i  /  sum_i w_i )

which is the paper's solution for weights that do not depend on the token. The method here is

    (1 + b) Q(question and the token's explanation)  -  b Q(question only),      b = 0.5

so half of what the explanation adds to the plain question is added once more.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from delia_data._batches import batches
from delia_data.engines import FREE, Completion, Prices, Request, RequestStream, Sampling
from delia_data.engines.local import (
    decode_completion,
    end_token_ids,
    sample_tokens,
    uniform_number,
)
from delia_data.errors import FormatError, InputError
from delia_data.models import identify
from delia_data.ranking import rank
from delia_data.records import Message, Record
from delia_data.tokens import render_ids

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from delia_data.experiments.methods import Material

Prompt = Callable[[Sequence[Message], str], tuple[Message, ...]]
"""Make a prompt from the conversation of a row and the row's bare query."""

_ENTRIES: Final = 20  # dictionary entries in one prompt, at most
_BIAS: Final = 0.5
_WORD: Final = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_NULL: Final = ""  # source word of target words that no word in the sentence explains


# In-context learning and DiPMT


def in_context(material: Material) -> Prompt:
    """Return the prompt builder that puts examples before the question.

    Raises:
        InputError: The task has fewer training rows than examples.
    """
    wording = material.task.common_wording
    examples = [(wording.fill(row.query), row.answer) for row in _example_rows(material)]
    return lambda asked, _: _with_examples(examples, asked)


def dipmt(material: Material) -> Prompt:
    """Return the prompt builder that adds dictionary entries and examples.

    Raises:
        InputError: The task is not a translation, or has fewer training rows than examples.
    """
    task = material.task
    if task.scoring != "translation":
        raise InputError(
            f"task {task.name} is not a translation, and DiPMT needs a dictionary of two "
            "languages: use another method"
        )
    dictionary = material.dictionary
    if dictionary is None:
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


def read_dictionary(path: str | os.PathLike[str]) -> dict[str, tuple[str, ...]]:
    """Read a dictionary: one entry per line, the word and its translations separated by tabs.

    Raises:
        InputError: The file cannot be read.
        FormatError: A line has no translation.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not UTF-8 text: {error.reason}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; check the path") from error
    dictionary: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        word, *others = (part.strip() for part in line.split("\t"))
        translations = tuple(other for other in others if other)
        if not word or not translations:
            raise FormatError(
                f"{path}, line {number}: {line!r} is not an entry: write a word, a tab, and its "
                "translation"
            )
        dictionary[word.casefold()] = (*dictionary.get(word.casefold(), ()), *translations)
    return dictionary


def _words(text: str) -> list[str]:
    return [match.group().casefold() for match in _WORD.finditer(text)]


# Controlled text generation


@dataclass(frozen=True, slots=True)
class Term:
    """One distribution of a formula.

    Attributes:
        weight: Weight; below 0 to lead the answer away from the distribution.
        prompt: Make the term's prompt from the request's.
    """

    weight: float
    prompt: Callable[[Sequence[Message]], tuple[Message, ...]]


def controlled_engine(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, material: Material, batch_size: int
) -> ArithmeticEngine:
    """Make the engine of controlled text generation for a task.

    Raises:
        InputError: The task has no description.
    """
    explain = explained(material.task.token, material.task.description)
    terms = (Term(1 + _BIAS, explain), Term(-_BIAS, tuple))
    return ArithmeticEngine(model, tokenizer, terms, batch_size=batch_size)


def explained(token: str, description: str) -> Callable[[Sequence[Message]], tuple[Message, ...]]:
    """Return a function that adds the meaning of the token to a conversation's last turn.

    Raises:
        InputError: The description is empty.
    """
    if not description.strip():
        raise InputError("the task does not say what its token stands for: give a description")
    meaning = f"{token} stands for {description.strip().rstrip('.')}."

    def explain(asked: Sequence[Message]) -> tuple[Message, ...]:
        *before, last = asked
        return (*before, replace(last, content=f"{last.content}\n\n{meaning}"))

    return explain


def combine_logits(logits: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Combine distributions by their weights.

    Args:
        logits: Logits of shape (terms, ..., vocabulary).
        weights: A weight for each term; their sum is above 0.

    Returns:
        Scores of shape (..., vocabulary), whose softmax is the formula's distribution.
    """
    import torch

    logs = torch.log_softmax(logits.float(), dim=-1)
    scale = torch.tensor(list(weights), device=logits.device) / sum(weights)
    combined: torch.Tensor = torch.einsum("t,t...->...", scale, logs)
    return combined


class ArithmeticEngine:
    """An engine that generates from a formula over several prompts of one transformers model.

    request ──▶ prompt 1 ──▶ log Q_1 ─┐ w_1
            ──▶ prompt 2 ──▶ log Q_2 ─┤ w_2 ──▶ sum / (w_1 + w_2 + ...) ──▶ next token
            ...                       ┘         which is appended to every prompt

    Attributes:
        prices: Prices: free.
        writes_users: Whether the engine accepts requests with `role="user"`: no.
    """

    prices: Prices | None = FREE
    writes_users = False

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        terms: Sequence[Term],
        *,
        batch_size: int = 16,
    ) -> None:
        """Wrap a model.

        Args:
            model: The model.
            tokenizer: Its tokenizer, with a padding token.
            terms: The formula.
            batch_size: Answers generated at once; each needs as many rows as there are terms.

        Raises:
            InputError: The sum of the weights is not above 0, or the batch size is below 1.
        """
        if not terms or sum(term.weight for term in terms) <= 0:
            weights = ", ".join(f"{term.weight:g}" for term in terms)
            raise InputError(f"weights ({weights or 'none'}) must add up to more than 0")
        if batch_size < 1:
            raise InputError(f"batch size {batch_size} is too small: give at least 1")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.terms = tuple(terms)
        self.batch_size = batch_size

    def describe(self) -> dict[str, Any]:
        """Return the engine's name, its weights and the model's identity."""
        weights = [term.weight for term in self.terms]
        model = identify(self.model, self.tokenizer)
        return {"engine": "arithmetic", "weights": weights, "model": model}

    def generate(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Completion]:
        """Answer every request once, one batch at a time."""
        stream = RequestStream(requests)
        while not stream.ended:
            for batch in batches(stream.take(self.batch_size), self.batch_size):
                yield from self._generate(batch, sampling)

    def close(self) -> None:
        """Do nothing: the engine holds only memory."""

    def _generate(self, batch: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Generate a batch of answers; sequences are ordered by term, then by request."""
        import torch

        prompts = [
            render_ids(
                self.tokenizer,
                [turn.as_dict() for turn in term.prompt(request.messages)],
                generate=True,
            )
            for term in self.terms
            for request in batch
        ]
        width = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id
        device = self.model.device
        ends = end_token_ids(self.tokenizer, self.model.generation_config)
        weights = [term.weight for term in self.terms]

        def next_scores(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            combined = combine_logits(scores.reshape(len(weights), len(batch), -1), weights)
            if sampling.temperature > 0:
                position = ids.shape[1] - width
                numbers = [uniform_number(request.seed, position) for request in batch]
                token = sample_tokens(combined, numbers, sampling.temperature, sampling.top_p)
                combined = torch.full_like(combined, float("-inf")).scatter_(1, token, 0.0)
            return combined.repeat(len(weights), 1)

        with torch.inference_mode():
            output = self.model.generate(
                input_ids=torch.tensor(
                    [[pad] * (width - len(p)) + p for p in prompts], device=device
                ),
                attention_mask=torch.tensor(
                    [[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device
                ),
                do_sample=False,
                max_new_tokens=sampling.max_tokens,
                pad_token_id=pad,
                eos_token_id=sorted(ends),
                logits_processor=[next_scores],
            )
        for number, (request, answer) in enumerate(
            zip(batch, output[: len(batch), width:].tolist(), strict=True)
        ):
            stop = next((i + 1 for i, token in enumerate(answer) if token in ends), None)
            asked = sum(map(len, prompts[number :: len(batch)]))
            finish: Any = "length" if stop is None else "stop"
            yield decode_completion(request, self.tokenizer, answer[:stop], finish, asked)
