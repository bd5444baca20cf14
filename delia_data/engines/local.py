"""The common part of engines that run the model here: prompts, token sampling, answers.

Tokens are sampled by inverse transform, each with a number of the row's own:

    cumulative probabilities, most likely tokens first:   0 ──────┬────┬──┬─ top_p ─ 1
    the row's number, scaled to the mass up to top_p:              ▲ selects the first token

The number depends only on the row's seed and the token's position in the answer, so a row gets the
same tokens in every batch, after a preemption, and in every engine that samples here.
vLLM on a CPU does so with `RowSampler`, for the engines `vllm` and `ray`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from delia_data._optional import require
from delia_data.engines.base import Completion, Finish, Request, Sampling
from delia_data.models import resolve_model
from delia_data.ranking import rank
from delia_data.tokens import (
    opened_reasoning,
    render_ids,
    render_user_ids,
    split_reasoning,
    thinks,
)

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedTokenizerBase
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

# Nearly every nucleus fits into the first number of tokens, nearly every other into the second.
# Only rows with a larger one are sorted completely.
_TOP_K: Final = (64, 2048)
_ROW_SAMPLING: Final = "delia"
ROW_SAMPLER: Final = f"{__name__}:RowSampler"
"""Logits processor that samples with each row's own numbers, for vLLM on a CPU.

On a GPU vLLM's `seed` makes rows independent of the batch. On a CPU it does not work: vLLM rewinds
a generator by its offset when a prompt was computed in parts, and CPU generators have none ("CPU
Generator does not use offset"). There vLLM decodes greedily, and this processor makes the sampled
token the most likely one.
"""
_PROMPT_END: Final = 32  # tokens; the mark that begins thoughts is at the end of a prompt


def encode_prompt(tokenizer: PreTrainedTokenizerBase, request: Request) -> list[int]:
    """Return the token ids of a request in the model's own chat template.

    Raises:
        InputError: The tokenizer has no chat template, or no place in it for the user's turn.
    """
    turns = [message.as_dict() for message in request.messages]
    if request.role == "user":
        return render_user_ids(tokenizer, turns, request.prefill)
    return render_ids(tokenizer, turns, generate=True)


def end_token_ids(tokenizer: PreTrainedTokenizerBase, config: GenerationConfig) -> set[int]:
    """Return the ids of the tokens that end an answer."""
    configured = config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return {int(i) for i in (*ids, tokenizer.eos_token_id) if i is not None}


def load_end_token_ids(name: str, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the ids of the tokens that end an answer, without loading the model."""
    transformers = require("transformers", extra="local")
    source = resolve_model(name)
    try:
        config = transformers.GenerationConfig.from_pretrained(source)
    except OSError:
        model_config = transformers.AutoConfig.from_pretrained(source)
        config = transformers.GenerationConfig.from_model_config(model_config)
    return end_token_ids(tokenizer, config)


def uniform_number(seed: int, position: int) -> float:
    """Return the number in [0, 1) with which a row samples the token at a position."""
    return rank(seed, str(position), "token") / 2**128


def sample_tokens(
    logits: torch.Tensor, numbers: Sequence[float], temperature: float, top_p: float
) -> torch.Tensor:
    """Sample one token per row: temperature, then top-p, then inverse transform.

    Args:
        logits: Logits of shape (rows, vocabulary).
        numbers: One number in [0, 1) per row.
        temperature: Sampling temperature, greater than 0.
        top_p: Probability mass of the tokens to sample from.

    Returns:
        Token ids of shape (rows, 1). Each depends only on its own row.
    """
    import torch

    scaled = logits.float() / temperature
    total = scaled.logsumexp(dim=-1, keepdim=True)
    uniform = torch.tensor(numbers, device=logits.device, dtype=torch.float32).unsqueeze(1)
    sampled = torch.empty_like(uniform, dtype=torch.long)
    left = torch.arange(len(scaled), device=logits.device)
    for k in _TOP_K:
        if k >= scaled.shape[-1]:
            break
        values, tokens = scaled[left].topk(k, dim=-1)
        probabilities = (values - total[left]).exp()
        sampled[left] = _inverse_transform(probabilities, tokens, uniform[left], top_p)
        left = left[probabilities.sum(dim=-1) < top_p]
        if not len(left):
            return sampled
    values, tokens = scaled[left].sort(dim=-1, descending=True, stable=True)
    probabilities = (values - total[left]).exp()
    sampled[left] = _inverse_transform(probabilities, tokens, uniform[left], top_p)
    return sampled


def _inverse_transform(
    probabilities: torch.Tensor, tokens: torch.Tensor, uniform: torch.Tensor, top_p: float
) -> torch.Tensor:
    """Return the tokens that numbers select among probabilities in descending order."""
    import torch

    cumulative = probabilities.cumsum(dim=-1)
    nucleus = (cumulative - probabilities < top_p).sum(dim=-1, keepdim=True)
    mass = cumulative.gather(1, nucleus - 1)
    index = torch.searchsorted(cumulative, uniform * mass, right=True).clamp(max=nucleus - 1)
    return tokens.gather(1, index)


def sampling_arguments(
    sampling: Sampling, seed: int, end: int, *, on_cpu: bool, max_tokens: int | None = None
) -> dict[str, Any]:
    """Return the arguments of vLLM's `SamplingParams` for one row.

    `end` is a token that ends an answer, besides those in the model's own settings. On a CPU the
    engine runs `ROW_SAMPLER`.
    """
    limit = max_tokens or sampling.max_tokens
    arguments = {"max_tokens": limit, "stop_token_ids": [end], "detokenize": False}
    if sampling.temperature == 0:
        return {**arguments, "temperature": 0.0}
    row = {"seed": seed, "temperature": sampling.temperature, "top_p": sampling.top_p}
    if on_cpu:
        return {**arguments, "temperature": 0.0, "extra_args": {_ROW_SAMPLING: row}}
    return {**arguments, **row}


if not TYPE_CHECKING:  # for type checkers, the module has no other names

    def __getattr__(name: str) -> Any:
        """Return `RowSampler`, whose base class is vLLM's, without importing vLLM earlier."""
        if name == "RowSampler":
            return _row_sampler()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _row_sampler() -> type[LogitsProcessor]:
    from vllm.v1.sample.logits_processor import LogitsProcessor
    from vllm.v1.sample.logits_processor.builtin import process_dict_updates

    class RowSampler(LogitsProcessor):  # type: ignore[misc]
        """Makes the token that a row samples the most likely one.

        `rows` maps a row's index in vLLM's batch, which changes, to its seed, its temperature and
        top-p, and its tokens so far, a list that vLLM extends.
        """

        def __init__(self, config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
            self.rows: dict[int, tuple[int, tuple[float, float], list[int]]] = {}

        @classmethod
        def validate_params(cls, sampling_params: SamplingParams) -> None:
            """Accept all parameters."""

        def is_argmax_invariant(self) -> bool:
            """Return False, because the processor changes the most likely token."""
            return False

        def update_state(self, batch_update: BatchUpdate | None) -> None:
            """Follow rows as they are added, removed, and moved."""

            def row(parameters: SamplingParams, _: Any, answer: list[int]) -> Any:
                given = (parameters.extra_args or {}).get(_ROW_SAMPLING)
                return given and (given["seed"], (given["temperature"], given["top_p"]), answer)

            process_dict_updates(self.rows, batch_update, row)

        def apply(self, logits: torch.Tensor) -> torch.Tensor:
            """Sample a token for each row of logits of shape (rows, vocabulary)."""
            groups: dict[tuple[float, float], list[int]] = {}
            for index, (_, settings, _) in self.rows.items():
                groups.setdefault(settings, []).append(index)
            for (temperature, top_p), indexes in groups.items():
                rows = [self.rows[index] for index in indexes]
                numbers = [uniform_number(seed, len(answer)) for seed, _, answer in rows]
                sampled = sample_tokens(logits[indexes], numbers, temperature, top_p)
                logits[indexes, sampled.squeeze(1)] = float("inf")
            return logits

    return RowSampler


def generation_limit(tokenizer: PreTrainedTokenizerBase, sampling: Sampling) -> Sampling:
    """Return sampling parameters whose `max_tokens` has room for thoughts too."""
    total = sampling.total_tokens(thinks=thinks(tokenizer))
    return replace(sampling, max_tokens=total)


def decode_completion(
    request: Request,
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[int],
    finish: Finish,
    prompt: Sequence[int],
    sampling: Sampling,
) -> Completion:
    """Return the completion for generated ids, which include the end token.

    Thoughts are separated from the answer, and do not count toward its `max_tokens`.
    """

    def decode(some: Sequence[int]) -> str:
        return str(tokenizer.decode(list(some), skip_special_tokens=True))

    def complete(text: str, thoughts: str | None = None) -> Completion:
        return Completion(
            request.id,
            text.strip(),
            len(ids),
            finish,
            prompt_tokens=len(prompt),
            reasoning=thoughts is not None,
            thoughts=thoughts or "",
        )

    if request.role == "user":
        return complete(request.prefill + decode(ids))
    answer, thoughts = _parse(tokenizer, ids, prompt)
    if thoughts is None:
        return complete(decode(ids))
    answer_ids, thought_ids = (
        tokenizer.encode(text.strip(), add_special_tokens=False) for text in (answer, thoughts)
    )
    if len(answer_ids) > sampling.max_tokens:
        answer_ids, finish = answer_ids[: sampling.max_tokens], "length"
    return complete(decode(answer_ids), decode(thought_ids).strip())


def _parse(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], prompt: Sequence[int]
) -> tuple[str, str | None]:
    """Return an answer and the thoughts before it, by the tokenizer's own rules if it has some."""
    if getattr(tokenizer, "response_template", None) is not None:
        try:
            parsed = tokenizer.parse_response(list(ids), prefix=list(prompt))
        except ValueError:  # a required part is missing, as in an answer that was cut off
            parsed = {}
        for name in ("thinking", "reasoning_content", "reasoning"):
            if isinstance(thoughts := parsed.get(name), str):
                return str(parsed.get("content") or ""), thoughts
    opened = opened_reasoning(str(tokenizer.decode(list(prompt[-_PROMPT_END:]))))
    return split_reasoning(opened + str(tokenizer.decode(list(ids))))


def failed_completion(request: Request, error: str, prompt_tokens: int = 0) -> Completion:
    """Return the completion of a request that failed, with the first line of the error."""
    line = next((text.strip() for text in error.splitlines() if text.strip()), "no reason given")
    return Completion(request.id, "", 0, "error", line, prompt_tokens)


def prompt_too_long(request: Request, tokens: int, limit: int) -> Completion:
    """Return the completion of a request whose prompt leaves no room for an answer."""
    error = (
        f"the prompt has {tokens} tokens, and prompt and answer together may have {limit}: raise "
        "max_model_len, or leave the row out"
    )
    return Completion(request.id, "", 0, "error", error, tokens, final=True)
