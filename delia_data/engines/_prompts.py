"""Prompts as ids and answers as text: the same for every engine that runs the model here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from delia_data._optional import require
from delia_data.engines.base import Completion, Finish, Request
from delia_data.models import resolve_model
from delia_data.tokens import render_ids, render_user_ids

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase


def prompt_ids(tokenizer: PreTrainedTokenizerBase, request: Request) -> list[int]:
    """Put a request through the model's own chat template.

    Raises:
        InputError: The tokenizer has no chat template, or none that lets the user speak.
    """
    turns = [message.as_dict() for message in request.messages]
    if request.role == "user":
        return render_user_ids(tokenizer, turns, request.prefill)
    return render_ids(tokenizer, turns, generate=True)


def end_ids(tokenizer: PreTrainedTokenizerBase, config: GenerationConfig) -> set[int]:
    """Ids of the tokens that end an answer."""
    configured = config.eos_token_id
    ends = configured if isinstance(configured, list) else [configured]
    return {int(i) for i in (*ends, tokenizer.eos_token_id) if i is not None}


def load_end_ids(name: str, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the tokens that end an answer, where the model itself is not loaded here."""
    transformers = require("transformers", extra="local")
    source = resolve_model(name)
    try:
        config = transformers.GenerationConfig.from_pretrained(source)
    except OSError:
        plain = transformers.AutoConfig.from_pretrained(source)
        config = transformers.GenerationConfig.from_model_config(plain)
    return end_ids(tokenizer, config)


def completed(
    request: Request,
    tokenizer: PreTrainedTokenizerBase,
    generated: Sequence[int],
    finish: Finish,
    prompt: int,
) -> Completion:
    """Make a completion of generated ids, the end mark included, and the prompt's length."""
    text = request.prefill + str(tokenizer.decode(list(generated), skip_special_tokens=True))
    return Completion(request.id, text.strip(), len(generated), finish, None, prompt)


def failed(request: Request, error: str, prompt: int = 0) -> Completion:
    """Make the completion of a request that could not be answered; the error in one line."""
    line = next((text.strip() for text in error.splitlines() if text.strip()), "no reason given")
    return Completion(request.id, "", 0, "error", line, prompt)
