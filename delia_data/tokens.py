"""The special token: add it, initialise its embedding, prove that it is whole.

One new token (`<sep>`) stands for the output format and comes to mean it (paper, section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from delia_data.errors import InputError, TokenError
from delia_data.records import Record

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "DEFAULT_TOKEN",
    "INITS",
    "Encoded",
    "Init",
    "LintProblem",
    "add_token",
    "add_token_to_tokenizer",
    "encode",
    "lint",
    "render_ids",
    "render_user_ids",
]

DEFAULT_TOKEN: Final = "<sep>"
Init = Literal["mean", "normal", "description"]
INITS: Final[tuple[Init, ...]] = get_args(Init)

_ADDED_HERE: Final = "delia_tokens"


def add_token_to_tokenizer(tokenizer: PreTrainedTokenizerBase, token: str = DEFAULT_TOKEN) -> int:
    """Add one special token to a tokenizer; doing so again changes nothing.

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
    if token in _added_here(tokenizer):
        return int(tokenizer.convert_tokens_to_ids(token))
    if token in tokenizer.get_vocab() or token in tokenizer.all_special_tokens:
        raise TokenError(
            f"token {token!r} is already in the model's vocabulary with another role: "
            "choose one that the model does not know"
        )
    others = [str(t) for t in getattr(tokenizer, "extra_special_tokens", None) or []]
    tokenizer.add_special_tokens({"additional_special_tokens": [*others, token]})
    tokenizer.init_kwargs[_ADDED_HERE] = [*_added_here(tokenizer), token]
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
) -> int:
    """Add one special token to a tokenizer and a model, and initialise its embedding.

    The new row is written where the new id points, also where the model's embedding is padded
    beyond the vocabulary and needs no resizing. An untied output head gets the row of the same
    kind. Doing it again on a model that has the token changes nothing.

    Args:
        model: The model; its embedding grows by one row where the id needs it.
        tokenizer: Its tokenizer; changed in place.
        token: The new token's text.
        init: `"mean"`: the mean of the existing rows. `"normal"`: drawn from a normal
            distribution with the existing rows' mean and standard deviation in each dimension.
            `"description"`: the mean of the rows of the description's tokens (Welch et al. 2020).
        description: What the token stands for, in words; for `init="description"`.
        seed: Seed of `init="normal"`.

    Returns:
        The token's id.

    Raises:
        InputError: `init` is unknown, or a description is needed and not given.
        TokenError: As `add_token_to_tokenizer`.
    """
    if init not in INITS:
        raise InputError(f"init {init!r} is unknown: use one of {', '.join(INITS)}")
    if init == "description" and not (description or "").strip():
        raise InputError("init 'description' needs a description: say what the token stands for")
    known = token in _added_here(tokenizer)
    token_id = add_token_to_tokenizer(tokenizer, token)
    embedding = model.get_input_embeddings()
    if known and token_id < embedding.weight.shape[0] and bool(embedding.weight[token_id].any()):
        return token_id
    if token_id >= embedding.weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    described = (
        tokenizer.encode(description, add_special_tokens=False) if description is not None else []
    )
    _initialise_row(model.get_input_embeddings().weight, token_id, init, described, seed)
    head = model.get_output_embeddings()
    if head is not None and head.weight is not model.get_input_embeddings().weight:
        _initialise_row(head.weight, token_id, init, described, seed)
    return token_id


def _initialise_row(
    weight: torch.Tensor, row: int, init: Init, described: Sequence[int], seed: int
) -> None:
    """Write one row of an embedding of shape (vocabulary, width), in place."""
    import torch

    with torch.no_grad():
        existing = weight[:row].float()
        if init == "description":
            value = weight[torch.tensor(list(described), device=weight.device)].float().mean(0)
        else:
            value = existing.mean(0)
        if init == "normal":
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(value.shape, generator=generator).to(value.device)
            value = value + existing.std(0) * noise
        weight[row] = value.to(weight.dtype)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A record as the model sees it.

    Attributes:
        prompt_ids: Ids of everything before the answer, through the chat template.
        answer_ids: Ids of the answer with its end mark: what the loss is taken on.
    """

    prompt_ids: list[int]
    answer_ids: list[int]

    @property
    def ids(self) -> list[int]:
        """The whole sequence."""
        return self.prompt_ids + self.answer_ids


def render_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], *, generate: bool
) -> list[int]:
    """Put turns through the model's own chat template and give the ids.

    Args:
        tokenizer: The tokenizer.
        messages: The turns, each a `role` and a `content`.
        generate: End where the assistant begins to speak.

    Raises:
        InputError: The tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise InputError(
            f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template: "
            "use an instruction-tuned model, or set tokenizer.chat_template"
        )
    encoded: Any = tokenizer.apply_chat_template(
        list(messages), tokenize=True, add_generation_prompt=generate, return_dict=True
    )
    return [int(i) for i in encoded["input_ids"]]


def render_user_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], opening: str = ""
) -> list[int]:
    """Put turns through the chat template up to where the user's next turn begins.

    What the model writes from there is what it takes for a user's request (Magpie, arXiv
    2406.08464, section 2).

    Args:
        tokenizer: The tokenizer.
        messages: The turns before, none or a system turn.
        opening: Text with which the user's turn begins.

    Raises:
        InputError: The tokenizer has no chat template, or one that leaves out what the user says.
    """
    mark = "USERTURNBEGINSHERE"
    turns = [*messages, {"role": "user", "content": mark}]
    render_ids(tokenizer, turns, generate=False)  # raises where there is no template
    text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    before, found, _ = text.rpartition(mark)
    if not found:
        raise InputError(
            f"the chat template of {tokenizer.name_or_path or 'the tokenizer'} does not hold the "
            "user's turn as it is: let another model write the queries, or give some"
        )
    encoded: Any = tokenizer(before + opening, add_special_tokens=False)
    return [int(i) for i in encoded["input_ids"]]


def encode(tokenizer: PreTrainedTokenizerBase, record: Record) -> Encoded:
    """Put a record through the chat template and split it where the answer begins.

    Raises:
        InputError: There is no chat template, or the template writes the prompt differently
            when an answer follows, so that there is no one place where the answer begins.
    """
    turns = [message.as_dict() for message in record.messages]
    prompt = render_ids(tokenizer, turns[:-1], generate=True)
    whole = render_ids(tokenizer, turns, generate=False)
    if whole[: len(prompt)] != prompt:
        raise InputError(
            f"{tokenizer.name_or_path}: the chat template writes the prompt differently when an "
            "answer follows, so that the answer's tokens cannot be told: use another template"
        )
    return Encoded(prompt, whole[len(prompt) :])


@dataclass(frozen=True, slots=True)
class LintProblem:
    """One row in which the token is not whole.

    Attributes:
        row: Index of the row.
        reason: What is wrong, in words.
    """

    row: int
    reason: str


def lint(
    rows: Iterable[tuple[Record, bool]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    token: str = DEFAULT_TOKEN,
    max_length: int | None = None,
) -> list[LintProblem]:
    """Prove on the tokenised data that the token is whole (design, invariant 8).

    Every task row's prompt has the token as one id after the chat template and truncation, as
    often as its text names it; no pair has it; every row keeps at least one answer token; the
    answer's ids decode back to the answer.

    Args:
        rows: Records, each with whether it is a task row (else it is a pair).
        tokenizer: The tokenizer, with the token added.
        token: The special token.
        max_length: Tokens that training keeps of a row; all when not given.

    Returns:
        The problems found, in the order of the rows; none means that the data is sound.
    """
    ids = tokenizer.encode(token, add_special_tokens=False)
    if len(ids) != 1:
        return [LintProblem(-1, f"{token} is {len(ids)} ids: add it to the tokenizer first")]
    problems = []
    for index, (record, is_task) in enumerate(rows):
        reasons = _lint_row(record, is_task, tokenizer, token, ids[0], max_length)
        problems += [LintProblem(index, reason) for reason in reasons]
    return problems


def _lint_row(
    record: Record,
    is_task: bool,
    tokenizer: PreTrainedTokenizerBase,
    token: str,
    token_id: int,
    max_length: int | None,
) -> list[str]:
    encoded = encode(tokenizer, record)
    kept_prompt = encoded.prompt_ids[:max_length]
    kept_answer = encoded.ids[:max_length][len(encoded.prompt_ids) :]
    count = kept_prompt.count(token_id)
    named = sum(message.content.count(token) for message in record.prompt)
    reasons = []
    if is_task and named == 0:
        reasons.append(f"a task row does not name {token}")
    elif is_task and count != named:
        reasons.append(f"{token} is named {named} times, and {count} are left after truncation")
    if not is_task and (named or token_id in encoded.ids):
        reasons.append(f"a pair names {token}")
    if not kept_answer:
        reasons.append(f"no answer token is left within {max_length} tokens")
    decoded = tokenizer.decode(encoded.answer_ids, skip_special_tokens=True)
    if decoded.strip() != record.answer.replace(token, "").strip():
        reasons.append("the answer's tokens do not decode back to the answer")
    return reasons


def _added_here(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The tokens that this package added; saved with the tokenizer's own configuration."""
    return list(tokenizer.init_kwargs.get(_ADDED_HERE) or [])
