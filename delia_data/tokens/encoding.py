"""Encode rows with the model's chat template, and label the answers.

Only the answer's tokens have a loss. There are two ways to find them, and every trainer that can
exclude prompts supports one of them:

    prompt-completion    the prompt is encoded separately; the tokens of the row after it are
                         labeled
    generation-marks     the template marks answers with {% generation %} and {% endgeneration %}

    ids     <|user|> why <|end|> <|assistant|> because <|end|>
    mask       0      0     0         0           1      1

A chat template may write more before an answer than the prompt has, such as an empty block of
thoughts or the mark of a channel. It is the same before every answer, and is not labeled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from delia_data.errors import InputError
from delia_data.records import Record
from delia_data.tokens.marks import marked_template
from delia_data.tokens.template import (
    opened_reasoning,
    template_options,
    template_variables,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Loss = Literal["prompt-completion", "generation-marks"]
LOSSES: Final[tuple[Loss, ...]] = get_args(Loss)
_THINKING_SWITCHES: Final = frozenset({"enable_thinking", "thinking"})


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """An encoded row.

    Attributes:
        ids: Ids of the row.
        mask: For each id, whether it has a loss.
        prompt_ids: Ids of the prompt, up to the beginning of the assistant's turn.
    """

    ids: list[int]
    mask: list[bool]
    prompt_ids: list[int]

    @property
    def answer_ids(self) -> list[int]:
        """Ids after the prompt: the answer and its end-of-turn token."""
        return self.ids[len(self.prompt_ids) :]

    @property
    def shared(self) -> int:
        """Number of leading ids that the row shares with its prompt."""
        pairs = zip(self.prompt_ids, self.ids, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Runs of labeled tokens, each as (index of the first, index after the last)."""
        padded = [False, *self.mask, False]
        edges = [i for i in range(len(padded) - 1) if padded[i] != padded[i + 1]]
        return list(zip(edges[::2], edges[1::2], strict=True))

    def cut(self, max_length: int | None) -> EncodedRow:
        """Return the first `max_length` tokens of the row."""
        return EncodedRow(self.ids[:max_length], self.mask[:max_length], self.prompt_ids)


def render_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], *, generate: bool
) -> list[int]:
    """Encode turns with the model's chat template, and return the ids.

    Args:
        tokenizer: The tokenizer.
        messages: The turns, each with a `role` and a `content`.
        generate: End with the beginning of the assistant's turn.

    Raises:
        InputError: The tokenizer has no chat template, or the template refuses the turns.
    """
    encoded = _apply_template(tokenizer, messages, add_generation_prompt=generate, return_dict=True)
    return [int(i) for i in encoded["input_ids"]]


def render_text(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], **options: Any
) -> str:
    """Render turns with the model's chat template, and return the text.

    Args:
        tokenizer: The tokenizer.
        messages: The turns, each with a `role` and a `content`.
        options: Template options instead of the tokenizer's, and `add_generation_prompt`.

    Raises:
        InputError: The tokenizer has no chat template, or the template refuses the turns.
    """
    return str(_apply_template(tokenizer, messages, tokenize=False, **options))


def render_user_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], opening: str = ""
) -> list[int]:
    """Encode turns up to the beginning of the user's next turn.

    The model continues with a user's request (Magpie, arXiv 2406.08464,
    section 2).

    Args:
        tokenizer: The tokenizer.
        messages: The turns before: none, a system turn, or a conversation that ends with an answer.
        opening: Text with which the user's turn begins.

    Raises:
        InputError: The tokenizer has no chat template, or one that changes the user's turn.
    """
    mark = "USERTURNBEGINSHERE"
    text = render_text(tokenizer, [*messages, {"role": "user", "content": mark}])
    before, mark_found, _ = text.rpartition(mark)
    if not mark_found:
        raise InputError(
            f"the chat template of {_name(tokenizer)} changes the user's turn, so the model cannot "
            "continue it: let another model write the user's turns, or provide the queries and "
            "leave out turns (--turns)"
        )
    encoded: Any = tokenizer(before + opening, add_special_tokens=False)
    return [int(i) for i in encoded["input_ids"]]


def encode(
    tokenizer: PreTrainedTokenizerBase,
    record: Record,
    loss: Loss = "prompt-completion",
    *,
    template: str | None = None,
    check_prompt: bool = True,
    every_answer: bool = False,
) -> EncodedRow:
    """Encode a record with the chat template, and label its answer.

    Args:
        tokenizer: The tokenizer.
        record: The row.
        loss: Method to find the answer's tokens.
        template: The chat template with generation marks, for `loss="generation-marks"`; None
            looks one up with `marked_template`.
        check_prompt: Refuse a row that does not begin with its prompt's ids. The lint reports
            such rows itself.
        every_answer: Label the answers before the last one too, if the row has the same ids up to
            the end of each as the conversation up to there. Some chat templates write an earlier
            answer differently, without its block of thoughts for example. Generation marks label
            every answer anyway.

    Raises:
        InputError: There is no chat template, the template refuses the turns, it has no
            generation marks and no equivalent with marks is known, or the row does not begin
            with its prompt's ids.
    """
    if loss not in LOSSES:
        raise InputError(f"loss {loss!r} is unknown: use one of {', '.join(LOSSES)}")
    turns = [message.as_dict() for message in record.messages]
    prompt_ids = render_ids(tokenizer, turns[:-1], generate=True)
    if loss == "prompt-completion":
        ids = render_ids(tokenizer, turns, generate=False)
        row = EncodedRow(ids, [], prompt_ids)
        shared = row.shared
        row.mask.extend([False] * shared + [True] * (len(ids) - shared))
    else:
        encoded = _apply_template(
            tokenizer,
            turns,
            chat_template=template or marked_template(tokenizer),
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        mask = [bool(labeled) for labeled in encoded["assistant_masks"]]
        row = EncodedRow([int(i) for i in encoded["input_ids"]], mask, prompt_ids)
    frame = answer_frame(tokenizer)
    for begin, _ in row.spans:
        width = len(frame.opening)
        if width and tuple(row.ids[begin : begin + width]) == frame.opening:
            row.mask[begin : begin + width] = [False] * width
    if check_prompt and row.ids[: len(prompt_ids)] != prompt_ids:
        raise InputError(
            f"{_name(tokenizer)}: the chat template writes the prompt differently when an answer "
            f"follows, so the answer's tokens cannot be found: {prompt_advice(tokenizer)}"
        )
    if every_answer and loss == "prompt-completion":
        _label_earlier_answers(tokenizer, record, row)
    return row


def _label_earlier_answers(
    tokenizer: PreTrainedTokenizerBase, record: Record, row: EncodedRow
) -> None:
    roles = [message.role for message in record.messages[:-1]]
    ends = [i + 1 for i, role in enumerate(roles) if role == "assistant" and "user" in roles[:i]]
    parts = [encode(tokenizer, Record(record.messages[:end]), check_prompt=False) for end in ends]
    if all(row.ids[: len(part.ids)] == part.ids for part in parts):
        for begin, end in (span for part in parts for span in part.spans):
            row.mask[begin:end] = [True] * (end - begin)


def prompt_advice(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return advice for a chat template that writes the prompt differently before an answer."""
    question = [{"role": "user", "content": "Question?"}]
    answered = [*question, {"role": "assistant", "content": "Yes"}]

    def ids(turns: list[dict[str, str]], **options: Any) -> list[int]:
        return list(_apply_template(tokenizer, turns, return_dict=True, **options)["input_ids"])

    for name in _THINKING_SWITCHES.intersection(template_variables(tokenizer)):
        prompt = ids(question, add_generation_prompt=True, **{name: False})
        changes = prompt != ids(question, add_generation_prompt=True)
        if changes and ids(answered, **{name: False})[: len(prompt)] == prompt:
            return f"switch its thoughts off with --template-option {name}=false"
    prompt_text = render_text(tokenizer, question, add_generation_prompt=True)
    if mark := opened_reasoning(prompt_text):
        return (
            f"the prompt begins thoughts, and no option prevents it: take {mark} and the line "
            "break after it out of tokenizer.chat_template, and save the tokenizer"
        )
    return "use another template, or leave out answers that begin with blanks"


@dataclass(frozen=True, slots=True)
class AnswerFrame:
    """How a chat template writes turns and surrounds answers.

    Attributes:
        opening: Ids before every answer that the prompt alone does not have.
        in_parts: Whether the template reads the content of a turn as a list of parts.
    """

    opening: tuple[int, ...] = ()
    in_parts: bool = False


def answer_frame(tokenizer: PreTrainedTokenizerBase) -> AnswerFrame:
    """Return how a tokenizer's chat template surrounds answers, found by writing some."""
    options = json.dumps(template_options(tokenizer), sort_keys=True)
    return _answer_frame(tokenizer, str(tokenizer.chat_template), options)


@lru_cache(maxsize=8)
def _answer_frame(tokenizer: PreTrainedTokenizerBase, _template: str, _options: str) -> AnswerFrame:
    """Find the frame; the other arguments are only keys of the cache."""
    question = {"role": "user", "content": "Question?"}
    in_parts = False
    for in_parts in (False, True):
        try:
            text = _render(tokenizer, [question], in_parts, tokenize=False)
        except Exception:  # a template may fail in any way on content that it does not read
            text = ""
        if "Question?" in text:
            break
    else:
        return AnswerFrame()

    def ids(*answers: str, generate: bool = False) -> list[int]:
        turns = [question, *({"role": "assistant", "content": answer} for answer in answers)]
        options = {"add_generation_prompt": generate, "return_dict": True}
        return list(_render(tokenizer, turns, in_parts, **options)["input_ids"])

    try:
        unasked, prompt, first, second = ids(), ids(generate=True), ids("Yes"), ids("No")
    except Exception:  # encoding a row raises the error
        return AnswerFrame(in_parts=in_parts)
    shared = EncodedRow(first, [], second).shared
    opening = first[len(prompt) : shared]
    # Blanks belong to the answer, and so does a turn's beginning that no prompt ends with.
    is_prompt = prompt != unasked and first[: len(prompt)] == prompt
    if not is_prompt or not tokenizer.decode(opening).strip():
        opening = []
    return AnswerFrame(tuple(opening), in_parts)


def thinks(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the chat template, with its options, asks the model to think."""
    if not tokenizer.chat_template:
        return False
    question = [{"role": "user", "content": "Question?"}]
    prompt = render_text(tokenizer, question, add_generation_prompt=True)
    for name in _THINKING_SWITCHES.intersection(template_variables(tokenizer)):
        on, off = (
            render_text(tokenizer, question, add_generation_prompt=True, **{name: value})
            for value in (True, False)
        )
        if on != off:
            return prompt == on
    levels = {"reasoning_effort", "reasoning_strength"}
    return bool(opened_reasoning(prompt) or levels.intersection(template_variables(tokenizer)))


def thinking_note(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return which template options are used, and whether the model thinks; None if neither."""
    options = template_options(tokenizer)
    used = ", ".join(f"{name}={json.dumps(value)}" for name, value in options.items())
    parts = [f"template options {used}"] if used else []
    if thinks(tokenizer):
        parts.append("the chat template asks the model to think before it answers")
        for name in _THINKING_SWITCHES.intersection(template_variables(tokenizer)):
            parts[-1] += f" (--template-option {name}=false switches that off)"
    return "; ".join(parts) or None


def _apply_template(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], **options: Any
) -> Any:
    """Call `apply_chat_template`; all rendering of turns uses this function.

    Raises:
        InputError: There is no chat template, or the template refuses the turns.
    """
    if not tokenizer.chat_template:
        raise InputError(
            f"{_name(tokenizer)} has no chat template: use an instruction-tuned model, or set "
            "tokenizer.chat_template"
        )
    with _template_errors(tokenizer, messages):
        return _render(tokenizer, messages, answer_frame(tokenizer).in_parts, **options)


def _render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[dict[str, str]],
    in_parts: bool,
    **options: Any,
) -> Any:
    turns: list[dict[str, Any]] = [*messages]
    if in_parts:
        turns = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    return tokenizer.apply_chat_template(turns, **{**template_options(tokenizer), **options})


@contextmanager
def _template_errors(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]
) -> Iterator[None]:
    """Translate the errors of a chat template into one line with advice."""
    from jinja2.exceptions import TemplateError

    try:
        yield
    except TemplateError as error:
        roles = [message["role"] for message in messages]
        advice = (
            "move the system turn's text into the user turn, or use a model with system turns"
            if "system" in roles
            else "change the rows' turns, or use another model"
        )
        raise InputError(
            f"{_name(tokenizer)}: the chat template refuses turns of {', '.join(roles)} "
            f"({' '.join(str(error).split())}): {advice}"
        ) from error


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.name_or_path or "the tokenizer")
