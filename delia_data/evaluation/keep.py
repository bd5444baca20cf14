"""How much of the untrained model is left: divergence, similar answers, general ability.

    pair ──▶ the untrained model ──▶ p ─┐
        └──▶ the trained model ────▶ q ─┴──▶ KL(p, q) at every token of the answer, in nats

Special tokens are left out of both distributions: only one of the models was trained to expect
them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from delia_data._optional import require
from delia_data.errors import InputError
from delia_data.evaluation.representation import evaluating, length_batches
from delia_data.ranking import rank
from delia_data.records import Record
from delia_data.sampling import read_cache
from delia_data.tokens import encode, split_tokens

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from delia_data.sampling.embeddings import Embed

PAIRS: Final = 150
"""Greatest number of pairs whose divergence is measured."""
SIMILAR: Final = 0.9
"""Cosine similarity from which an answer counts as the untrained model's."""
_BATCH: Final = 4


@dataclass(frozen=True, slots=True)
class Divergence:
    """The divergence of one pair: content id, sum over the answer's tokens, and their number."""

    id: str
    nats: float
    tokens: int


def read_pairs(
    source: str | os.PathLike[str], *, tokens: Sequence[str], seed: int, count: int = PAIRS
) -> list[Record]:
    """Read the pairs that a mixture with this seed would take last.

    Args:
        source: A cache, or a file of pairs; `"bundled"` is the bundled cache.
        tokens: The special tokens; pairs with one are left out, as from a mixture.
        seed: Seed of the mixture.
        count: Greatest number of pairs.

    Raises:
        InputError: The input has no pairs.
    """
    parts = split_tokens(*tokens)
    usable = {
        row.id: row
        for row in read_cache(source)
        if not any(part in m.content for m in row.messages for part in parts)
    }
    if not usable:
        raise InputError(
            f"{source} has no pairs without {', '.join(tokens)}: give a cache or a file of pairs"
        )
    return nlargest(count, usable.values(), key=lambda row: rank(seed, row.id, "select"))


def divergences(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Record],
    *,
    untrained: Any,
    switched_off: Callable[[], AbstractContextManager[Any]],
    tokens: Sequence[str],
) -> Iterator[Divergence]:
    """Yield KL(untrained, trained) of each pair, summed over its answers' tokens, in nats.

    Args:
        model: The trained model.
        tokenizer: Its tokenizer.
        pairs: Conversations that end with an answer; those of similar length go together.
        untrained: The untrained model; the same one for an adapter.
        switched_off: Returns the context in which `untrained` answers as the untrained model.
        tokens: The special tokens.
    """
    encoded = [encode(tokenizer, row, every_answer=True) for row in pairs]
    vocabulary = tokenizer.get_vocab()
    token_ids = [vocabulary[token] for token in split_tokens(*tokens) if token in vocabulary]
    sequences, device = [row.ids for row in encoded], model.get_input_embeddings().weight.device
    for batch, ids, mask, _ in length_batches(sequences, _BATCH, device):
        given = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        with evaluating(untrained), switched_off():
            before = untrained(**given).logits
        with evaluating(model):
            after = model(**given).logits
        for number, index in enumerate(batch):
            marks = encoded[index].mask
            places = [place - 1 for place, counts in enumerate(marks) if counts and place]
            each = divergence(before[number, places], after[number, places], without=token_ids)
            yield Divergence(pairs[index].id, float(each.sum()), len(places))


def divergence(p: torch.Tensor, q: torch.Tensor, *, without: Sequence[int] = ()) -> torch.Tensor:
    """Return KL(p, q) of logits, in nats for each position.

    Args:
        p: Logits of shape (positions, vocabulary).
        q: Logits of the same positions; columns that only one of both has are left out.
        without: Ids of tokens that are left out of both.
    """
    import torch

    width = min(p.shape[-1], q.shape[-1])
    counted = torch.ones(width, dtype=torch.bool, device=p.device)
    counted[[token_id for token_id in without if token_id < width]] = False
    logs = [logits[:, :width][:, counted].float().log_softmax(-1) for logits in (p, q)]
    return (logs[0].exp() * (logs[0] - logs[1])).sum(-1).clamp(min=0)


def similarities(
    ours: Sequence[str], theirs: Sequence[str], embed: Callable[[], Embed]
) -> list[float]:
    """Return the cosine similarity of each text to its counterpart; equal texts have 1.

    Args:
        ours: Texts.
        theirs: As many texts.
        embed: Loads the model that turns texts into vectors of length 1; called only if some
            texts differ.
    """
    values = np.ones(len(ours))
    differing = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    if differing:
        turn = embed()
        left, right = (turn([side[i] for i in differing]) for side in (ours, theirs))
        values[differing] = (np.asarray(left) * np.asarray(right)).sum(axis=1)
    return [float(value) for value in values]


_ITEM: Final = re.compile(r"\s*(?:[-*•+#>|]|\(?\w{1,3}[.)])\s")
_ENDS: Final = tuple(".!?…。！？؟।'\"”’»)]}`*_~|>=")
_FEWEST_WORDS: Final = 4
_WORDS: Final = """
    a an the of to in on at by for from with and or but nor as that which who whose is are was
    were be been has have had will would can could should may might must not than into about its
    their his her your our my this these those because if when while such very
"""
_OPEN_WORDS: Final = frozenset(_WORDS.split())


def ends_in_mid_sentence(text: str) -> bool:
    """Return whether a text stops within a sentence.

    It does if its last line ends with a comma, a colon, a dash, an opening bracket or a word such
    as "the", or has several words and no mark at its end. Items of lists and short lines need no
    mark, unless the items before them have one.
    """
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if not lines:
        return False
    last = lines[-1]
    words = last.split()
    if last.endswith((",", ";", ":", "-", "–", "—", "(", "[", "{")):
        return True
    if len(words) > 1 and words[-1].casefold() in _OPEN_WORDS:
        return True
    if last.endswith(_ENDS) or not last[-1].isalnum() or len(words) < _FEWEST_WORDS:
        return False
    if not _ITEM.match(lines[-1]):
        return True
    earlier = [line for line in lines[:-1] if _ITEM.match(line)]
    return bool(earlier) and all(line.endswith(_ENDS) for line in earlier)


def satisfies(answer: str, constraints: Mapping[str, Any]) -> bool:
    """Return whether an answer satisfies all constraints of a request.

    `sentences`, `bullets`: exactly so many. `most_words`, `least_words`: bounds. `contains`,
    `forbids`: words. `lowercase`, `uppercase`: the case of all letters. `starts_with`,
    `ends_with`: texts; a final period or exclamation mark may differ.

    Raises:
        InputError: A constraint is unknown.
    """
    return all(_holds(name, value, answer.strip()) for name, value in constraints.items())


def _holds(name: str, value: Any, text: str) -> bool:
    words = re.findall(r"[\w'’-]+", text)
    lower = {word.casefold() for word in words}
    match name:
        case "sentences":
            return bool(len(re.findall(r"[.!?]+[\"'”’)]*(?=\s|$)", text)) == value)
        case "bullets":
            return bool(len(re.findall(r"^\s*[-*•]\s+\S", text, re.M)) == value)
        case "most_words":
            return bool(0 < len(words) <= value)
        case "least_words":
            return bool(len(words) >= value)
        case "contains":
            return lower >= set(value)
        case "forbids":
            return bool(words) and not lower & set(value)
        case "lowercase":
            return bool(words) and text == text.lower()
        case "uppercase":
            return bool(words) and text == text.upper()
        case "starts_with":
            return text.startswith(value)
        case "ends_with":
            return text.rstrip(' .!"”').endswith(value.rstrip(".!"))
    raise InputError(f"constraint {name!r} is unknown: see general.yaml for the known ones")


def lm_eval_scores(
    names: Sequence[str], model: Any, tokenizer: Any, *, batch_size: int
) -> dict[str, tuple[float, float | None]]:
    """Return the metrics of lm-eval's tasks for one model, each with its standard error.

    Args:
        names: Names of tasks, or files with the YAML of one.
        model: A causal model.
        tokenizer: Its tokenizer.
        batch_size: Requests at once.

    Returns:
        By `"TASK METRIC"`: the value, and its standard error if lm-eval computes one.

    Raises:
        MissingExtraError: lm-eval is not installed.
        InputError: There is no such task.
    """
    lm_eval = require("lm_eval", extra="general")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    files = [Path(name) for name in names if name.endswith((".yaml", ".yml"))]
    manager = TaskManager(include_path=[str(file.resolve().parent) for file in files] or None)
    task_names = [Path(name).stem if Path(name) in files else name for name in names]
    if missing := [name for name in task_names if name not in manager.all_tasks]:
        raise InputError(
            f"lm-eval has no task {missing[0]!r}: see lm-eval ls tasks, or give a YAML file whose "
            "name is that of its task"
        )
    results = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
        tasks=task_names,
        task_manager=manager,
        bootstrap_iters=0,
        log_samples=False,
    )
    scores: dict[str, tuple[float, float | None]] = {}
    for task, metrics in results["results"].items():
        for key, value in metrics.items():
            metric, _, kind = key.partition(",")
            if isinstance(value, float | int) and kind and not metric.endswith("_stderr"):
                error = metrics.get(f"{metric}_stderr,{kind}")
                spread = float(error) if isinstance(error, float | int) else None
                scores[f"{task} {metric}"] = (float(value), spread)
    return scores
