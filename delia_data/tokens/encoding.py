"""Rows as the model sees them: turns put through its own chat template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from delia_data.errors import InputError
from delia_data.records import Record
from delia_data.tokens.marks import marked_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
        InputError: The tokenizer has no chat template, or one that refuses the turns.
    """
    if not tokenizer.chat_template:
        raise InputError(
            f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template: "
            "use an instruction-tuned model, or set tokenizer.chat_template"
        )
    with refusals_in_one_line(tokenizer, messages):
        encoded: Any = tokenizer.apply_chat_template(
            list(messages), tokenize=True, add_generation_prompt=generate, return_dict=True
        )
    return [int(i) for i in encoded["input_ids"]]


def render_user_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], prefill: str = ""
) -> list[int]:
    """Put turns through the chat template up to where the user's next turn begins.

    What the model writes from there is what it takes for a user's request (Magpie, arXiv
    2406.08464, section 2).

    Args:
        tokenizer: The tokenizer.
        messages: The turns before, none or a system turn.
        prefill: Text with which the user's turn begins.

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
    encoded: Any = tokenizer(before + prefill, add_special_tokens=False)
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


@contextmanager
def refusals_in_one_line(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]
) -> Iterator[None]:
    """Turn what a chat template raises into one line that says what to do.

    Raises:
        InputError: The template refuses the turns, such as a system turn that it has no place for.
    """
    from jinja2.exceptions import TemplateError

    try:
        yield
    except TemplateError as error:
        roles = [message["role"] for message in messages]
        advice = (
            "put what the system turn says into the user's, or use a model that has system turns"
            if "system" in roles
            else "change the rows' turns, or use another model"
        )
        raise InputError(
            f"{tokenizer.name_or_path or 'the tokenizer'}: the chat template refuses turns of "
            f"{', '.join(roles)} ({' '.join(str(error).split())}): {advice}"
        ) from error


Loss = Literal["prompt-completion", "generation-marks"]
LOSSES: Final[tuple[Loss, ...]] = get_args(Loss)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A row as a trainer sees it.

    Attributes:
        ids: Ids of the whole row.
        mask: For each of them, whether the loss is taken on it.
        prompt_ids: Ids of what the model is given when it is asked, up to where it speaks.
    """

    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    prompt_ids: tuple[int, ...]

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Runs of labelled tokens, each from its first up to behind its last."""
        edges = [
            place
            for place in range(len(self.mask) + 1)
            if (place < len(self.mask) and self.mask[place]) != (place > 0 and self.mask[place - 1])
        ]
        return list(zip(edges[::2], edges[1::2], strict=True))

    @property
    def shared(self) -> int:
        """Tokens that the row has in common with what the model is given when it is asked."""
        return common_length(self.prompt_ids, self.ids)

    def cut(self, max_length: int | None) -> Labelled:
        """The row as it is left after truncation."""
        return Labelled(self.ids[:max_length], self.mask[:max_length], self.prompt_ids)


def common_length(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many ids two sequences begin with alike."""
    length = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        length += 1
    return length


def label(
    tokenizer: PreTrainedTokenizerBase,
    record: Record,
    loss: Loss = "prompt-completion",
    *,
    template: str | None = None,
) -> Labelled:
    """Put a record through the chat template and mark what the loss is taken on.

    Args:
        tokenizer: The tokenizer.
        record: The row.
        loss: How the answer's tokens are told from the others.
        template: The chat template with generation marks, for `loss="generation-marks"`; found
            by `marked_template` when not given.

    Raises:
        InputError: There is no chat template, it refuses the turns, or it has no marks and none
            are known for it.
    """
    if loss not in LOSSES:
        raise InputError(f"loss {loss!r} is unknown: use one of {', '.join(LOSSES)}")
    turns = [message.as_dict() for message in record.messages]
    prompt = tuple(render_ids(tokenizer, turns[:-1], generate=True))
    if loss == "prompt-completion":
        ids = tuple(render_ids(tokenizer, turns, generate=False))
        shared = common_length(prompt, ids)
        return Labelled(ids, (False,) * shared + (True,) * (len(ids) - shared), prompt)
    with refusals_in_one_line(tokenizer, turns):
        encoded: Any = tokenizer.apply_chat_template(
            turns,
            chat_template=template or marked_template(tokenizer),
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
    return Labelled(
        tuple(map(int, encoded["input_ids"])), tuple(map(bool, encoded["assistant_masks"])), prompt
    )
