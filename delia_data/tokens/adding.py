"""The special token: add it to a tokenizer and a model, and initialize its embedding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal, get_args

from delia_data.errors import InputError, TokenError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_TOKEN: Final = "<sep>"
Init = Literal["mean", "normal", "description"]
INITS: Final[tuple[Init, ...]] = get_args(Init)

_ADDED_HERE: Final = "delia_tokens"
_BRACKETED: Final = re.compile(r"<[^\s<>]+>|\[[^\s\[\]]+\]")


def token_sequence(token: str, length: int) -> str:
    """Name a sequence of tokens that stands for one task, such as `<sep><sep:2><sep:3>`.

    Args:
        token: Name of the first token, in brackets for a sequence of several.
        length: Number of tokens.

    Raises:
        TokenError: `length` is below 1, or several tokens have a name without brackets.
    """
    if length < 1 or (length > 1 and not _BRACKETED.fullmatch(token)):
        raise TokenError(
            f"{token!r} cannot name a sequence of {length} tokens: give at least 1, and for "
            f"several a name in brackets, such as {DEFAULT_TOKEN}"
        )
    later = (f"{token[:-1]}:{number}{token[-1]}" for number in range(2, length + 1))
    return "".join([token, *later])


def split_tokens(*tokens: str) -> tuple[str, ...]:
    """Return the single tokens of each task's token: several for a sequence (`token_sequence`)."""
    parts: list[str] = []
    for token in tokens:
        few = _BRACKETED.findall(token)
        parts += few if few and token_sequence(few[0], len(few)) == token else [token]
    return tuple(parts)


def add_token_to_tokenizer(tokenizer: PreTrainedTokenizerBase, token: str = DEFAULT_TOKEN) -> int:
    """Add one special token to a tokenizer; adding it again changes nothing.

    Args:
        tokenizer: The tokenizer; changed in place.
        token: The new token's text.

    Returns:
        The token's id.

    Raises:
        TokenError: The text is empty or has spaces, or the vocabulary already has it as one id
            with another role (a word, an end mark, a reserved token).
    """
    if not token or token != token.strip() or len(token.split()) != 1:
        raise TokenError(
            f"token {token!r} is empty or has spaces: give one such as {DEFAULT_TOKEN}"
        )
    if token in added_tokens(tokenizer):
        return int(tokenizer.convert_tokens_to_ids(token))
    if token in tokenizer.get_vocab() or token in tokenizer.all_special_tokens:
        raise TokenError(
            f"token {token!r} is already in the model's vocabulary with another role: "
            "choose a text that is not in it"
        )
    others = [str(t) for t in getattr(tokenizer, "extra_special_tokens", None) or []]
    tokenizer.add_special_tokens({"additional_special_tokens": [*others, token]})
    tokenizer.init_kwargs[_ADDED_HERE] = [*added_tokens(tokenizer), token]
    ids = tokenizer.encode(token, add_special_tokens=False)
    if len(ids) != 1:
        raise TokenError(f"token {token!r} is {len(ids)} ids after adding it: choose another text")
    return int(ids[0])


def add_token(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    token: str = DEFAULT_TOKEN,
    *,
    init: Init = "mean",
    description: str | None = None,
    seed: int = 0,
    keep_row: bool = True,
) -> int:
    """Add one special token to a tokenizer and a model, and initialize its embedding.

    The row of the new id is written, also if the model's embedding is padded beyond the
    vocabulary and needs no resizing. An untied output head gets a row of the same kind. Adding the
    token again changes nothing.

    Args:
        model: The model; its embedding grows by one row where the id needs it.
        tokenizer: Its tokenizer; changed in place.
        token: The new token's text.
        init: `"mean"`: the mean of the existing rows. `"normal"`: drawn from a normal
            distribution with the existing rows' mean and standard deviation in each dimension.
            `"description"`: the mean of the rows of the description's tokens (Welch et al. 2020).
        description: Meaning of the token in words, for `init="description"`.
        seed: Seed of `init="normal"`.
        keep_row: Keep the row of a token that the tokenizer has from this package. False for a
            tokenizer that got the token before the model did.

    Returns:
        The token's id.

    Raises:
        InputError: `init` is unknown, or a description is needed and not given.
        TokenError: As `add_token_to_tokenizer`.
    """
    if init not in INITS:
        raise InputError(f"init {init!r} is unknown: use one of {', '.join(INITS)}")
    if init == "description" and not (description or "").strip():
        raise InputError("init 'description' needs a description: give the token's meaning")
    has_row = keep_row and token in added_tokens(tokenizer)
    token_id = add_token_to_tokenizer(tokenizer, token)
    embedding = model.get_input_embeddings()
    if has_row and token_id < embedding.weight.shape[0] and bool(embedding.weight[token_id].any()):
        return token_id
    if token_id >= embedding.weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    described = (
        tokenizer.encode(description, add_special_tokens=False) if description is not None else []
    )
    _initialize_row(model.get_input_embeddings().weight, token_id, init, described, seed)
    head = model.get_output_embeddings()
    if head is not None and head.weight is not model.get_input_embeddings().weight:
        _initialize_row(head.weight, token_id, init, described, seed)
    return token_id


def _initialize_row(
    weight: torch.Tensor, row: int, init: Init, described: Sequence[int], seed: int
) -> None:
    """Write one row of an embedding of shape (vocabulary, width), in place."""
    import torch

    with torch.no_grad():
        existing = weight[:row].float().cpu()  # the same row wherever the model is
        value = existing[list(described)].mean(0) if init == "description" else existing.mean(0)
        if init == "normal":
            generator = torch.Generator().manual_seed(seed)
            value += existing.std(0) * torch.randn(value.shape, generator=generator)
        weight[row] = value.to(weight)


def added_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the tokens that this package added; the tokenizer saves them in its configuration."""
    return list(tokenizer.init_kwargs.get(_ADDED_HERE) or [])
