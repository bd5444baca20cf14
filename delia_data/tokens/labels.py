"""Which tokens of a row the loss is taken on: the answer's, and nothing else.

Two ways lead there, and every trainer that can leave prompts out knows one of them:

    prompt-completion    the prompt is put through the chat template by itself; what the whole
                         row has beyond it is labelled
    generation-marks     the template says so, between {% generation %} and {% endgeneration %}

    ids     <|user|> why <|end|> <|assistant|> because <|end|>
    mask       0      0     0         0           1      1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from delia_data.errors import InputError
from delia_data.records import Record
from delia_data.tokens.encoding import refusals_in_one_line, render_ids
from delia_data.tokens.marks import marked_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
