"""An engine that writes under several prompts at once and adds up their log-probabilities.

request ──▶ prompt 1 ──▶ log Q_1 ─┐ w_1
        ──▶ prompt 2 ──▶ log Q_2 ─┤ w_2 ──▶ sum / (w_1 + w_2 + ...) ──▶ next token
        ...                       ┘              the same one goes to every prompt
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from delia_data._batches import batches
from delia_data.engines import FREE, Completion, Prices, Request, RequestStream, Sampling
from delia_data.engines.base import Finish
from delia_data.engines.local import decode_completion, end_token_ids, sample_tokens, uniform_number
from delia_data.errors import InputError
from delia_data.models import identify
from delia_data.records import Message
from delia_data.tokens import render_ids

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Term:
    """One distribution of a formula.

    Attributes:
        weight: Its weight; below 0 for what the answer is led away from.
        prompt: Makes the conversation that it is taken under of the one that was asked.
    """

    weight: float
    prompt: Callable[[Sequence[Message]], tuple[Message, ...]]


@dataclass(slots=True)
class _Row:
    """One answer that is being written."""

    request: Request
    prompts: list[list[int]]
    answer: list[int] = field(default_factory=list)
    finish: Finish | None = None


def combined(logits: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Combine distributions by their weights.

    Args:
        logits: Of shape (terms, ..., vocabulary).
        weights: A weight for each term; their sum is above 0.

    Returns:
        Scores of shape (..., vocabulary), whose softmax is the formula's distribution.
    """
    import torch

    logs = torch.log_softmax(logits.float(), dim=-1)
    scale = torch.tensor(list(weights), device=logits.device) / sum(weights)
    summed: torch.Tensor = torch.einsum("t,t...->...", scale, logs)
    return summed


class ArithmeticEngine:
    """An engine around one transformers model and a formula over its prompts.

    Attributes:
        prices: What it charges: nothing.
        writes_users: Whether it takes requests with `role="user"`: no.
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
            batch_size: Answers written at once; each is as many rows as there are terms.

        Raises:
            InputError: The weights do not add up to more than 0, or the batch is empty.
        """
        if not terms or sum(term.weight for term in terms) <= 0:
            weights = ", ".join(f"{term.weight:g}" for term in terms)
            raise InputError(f"weights {weights or 'of nothing'} must add up to more than 0")
        if batch_size < 1:
            raise InputError(f"batch size {batch_size} is too small: give at least 1")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.terms = tuple(terms)
        self.batch_size = batch_size

    def describe(self) -> dict[str, Any]:
        """Name the engine, its weights and the model."""
        weights = [term.weight for term in self.terms]
        model = identify(self.model, self.tokenizer)
        return {"engine": "arithmetic", "weights": weights, "model": model}

    def generate(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Completion]:
        """Answer every request once, a batch at a time."""
        stream = RequestStream(requests)
        while not stream.ended:
            taken = stream.take(self.batch_size)
            for batch in batches(taken, self.batch_size):
                yield from self._write([self._row(request) for request in batch], sampling)

    def close(self) -> None:
        """Nothing is held but memory, which goes with the object."""

    def _row(self, request: Request) -> _Row:
        prompts = [
            render_ids(
                self.tokenizer,
                [turn.as_dict() for turn in term.prompt(request.messages)],
                generate=True,
            )
            for term in self.terms
        ]
        return _Row(request, prompts)

    def _write(self, rows: Sequence[_Row], sampling: Sampling) -> list[Completion]:
        """Write a batch of answers; sequences stand term by term: all rows of the first, ..."""
        import torch

        weights = [term.weight for term in self.terms]
        prompts = [row.prompts[i] for i in range(len(weights)) for row in rows]
        width = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id
        place = {"device": self.model.device}
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], **place)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], **place)
        ends = end_token_ids(self.tokenizer, self.model.generation_config)
        cache: Any = None
        with torch.inference_mode():
            while True:
                output = self.model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :],
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                cache = output.past_key_values
                scores = combined(output.logits[:, -1].unflatten(0, (len(weights), -1)), weights)
                picked = self._picked(rows, scores, sampling, ends)
                if all(row.finish is not None for row in rows):
                    return [self._completion(row) for row in rows]
                ids = picked.repeat(len(weights), 1)
                mask = torch.cat([mask, torch.ones_like(ids)], dim=1)

    def _picked(
        self, rows: Sequence[_Row], scores: torch.Tensor, sampling: Sampling, ends: Collection[int]
    ) -> torch.Tensor:
        """Pick the next token of each row; shape (rows, 1)."""
        if sampling.temperature == 0:
            picked = scores.argmax(-1, keepdim=True)
        else:
            draws = [uniform_number(row.request.seed, len(row.answer)) for row in rows]
            picked = sample_tokens(scores, draws, sampling.temperature, sampling.top_p)
        for row, token in zip(rows, picked.squeeze(1).tolist(), strict=True):
            if row.finish is not None:
                continue
            row.answer.append(token)
            if token in ends:
                row.finish = "stop"
            elif len(row.answer) >= sampling.max_tokens:
                row.finish = "length"
        return picked

    def _completion(self, row: _Row) -> Completion:
        assert row.finish is not None
        asked = sum(map(len, row.prompts))
        return decode_completion(row.request, self.tokenizer, row.answer, row.finish, asked)
