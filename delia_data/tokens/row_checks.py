"""The checks of one row: is the token whole, is the loss on the answer, would it be asked so?

By name:

    too-long             the row has more tokens than training keeps
    token-missing        a task row does not name its token
    token-lost           the chat template or the tokenizer leaves fewer or more of it
    token-cut            truncation leaves fewer of it
    pair-names-token     a pair names it
    turns-refused        the chat template refuses the turns, such as a system turn
    turn-lost            the chat template leaves out or changes what a turn says
    prompt-differs       the model is asked with other tokens than those it was trained on
    two-beginnings       the row begins with the beginning-of-sequence token twice
    nothing-labelled     no token is labelled, or none is left after truncation
    answer-differs       the labelled tokens are not those of the answer
    end-not-labelled     the answer's end-of-turn token is not labelled: nothing teaches to stop
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from delia_data.records import Record
from delia_data.tokens.encoding import refusals_in_one_line
from delia_data.tokens.labels import Labelled, Loss

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHOWN: Final = 60
"""Characters of a text in a reason."""


class RowChecks:
    """The checks of one row, for a tokenizer and settings."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        ids: dict[str, int],
        max_length: int | None,
        truncate: bool,
        loss: Loss,
    ) -> None:
        """Take what the checks depend on.

        Args:
            tokenizer: The tokenizer, with the tokens added.
            ids: The special tokens and their ids.
            max_length: Tokens that training keeps of a row; all when not given.
            truncate: Whether a longer row is shortened; otherwise it is a problem.
            loss: How training tells the answer's tokens from the others.
        """
        self.tokenizer, self.ids, self.loss = tokenizer, ids, loss
        self.max_length, self.truncate = max_length, truncate
        own = set(ids.values())
        added = tokenizer.added_tokens_decoder
        marks = {i for i, token in added.items() if token.special} | {*tokenizer.all_special_ids}
        self.special, self.added = marks - own, {*added} - own

    def problems(
        self, record: Record, is_task: bool, labelled: Labelled
    ) -> Iterator[tuple[str, str]]:
        """Each problem of a row: the check's name, and the reason."""
        kept = labelled.cut(self.max_length)
        if len(kept.ids) < len(labelled.ids) and not self.truncate:
            yield "too-long", f"it has {len(labelled.ids)} tokens, more than {self.max_length}"
        yield from self._token(record, labelled, kept) if is_task else self._pair(record, labelled)
        yield from self._prompt(record, labelled)
        yield from self._answers(record, labelled)
        if any(labelled.mask) and not any(kept.mask):
            yield "nothing-labelled", f"no answer token is left within {self.max_length} tokens"

    def _token(
        self, record: Record, labelled: Labelled, kept: Labelled
    ) -> Iterator[tuple[str, str]]:
        text = "".join(message.content for message in record.messages)
        asked = "".join(message.content for message in record.prompt)
        if self.ids and not any(token in asked for token in self.ids):
            yield "token-missing", f"a task row does not name {' or '.join(self.ids)}"
        for token, token_id in self.ids.items():
            named, whole = text.count(token), labelled.ids.count(token_id)
            left = kept.ids.count(token_id)
            told = f"{token} is named {named} times, and {{}} are left after"
            if whole != named:
                yield "token-lost", told.format(whole) + " the chat template and the tokenizer"
            elif left != named:
                yield "token-cut", told.format(left) + " truncation"

    def _pair(self, record: Record, labelled: Labelled) -> Iterator[tuple[str, str]]:
        text = "".join(message.content for message in record.messages)
        for token, token_id in self.ids.items():
            if token in text or token_id in labelled.ids:
                yield "pair-names-token", f"a pair names {token}"

    def _prompt(self, record: Record, labelled: Labelled) -> Iterator[tuple[str, str]]:
        turns = [message.as_dict() for message in record.messages]
        with refusals_in_one_line(self.tokenizer, turns):
            text = str(self.tokenizer.apply_chat_template(turns, tokenize=False))
        for message in record.prompt:
            if message.content.strip() not in text:
                said = f"{message.content.strip()[:_SHOWN]!r}"
                yield "turn-lost", f"the chat template leaves out or changes {said}"
        bos = self.tokenizer.bos_token_id
        if bos is not None and labelled.ids[:2] == (bos, bos):
            yield "two-beginnings", f"it begins with {self.tokenizer.bos_token} twice"
        shared = labelled.shared
        if shared < len(labelled.prompt_ids):
            asked = self._text(labelled.prompt_ids[max(0, shared - 3) :])
            trained = self._text(labelled.ids[max(0, shared - 3) : len(labelled.prompt_ids) + 3])
            yield (
                "prompt-differs",
                f"the model is asked with {asked[:_SHOWN]!r}, and trained on {trained[:_SHOWN]!r}: "
                "tokens merge where the answer begins, or the chat template writes the prompt "
                "differently when an answer follows",
            )

    def _answers(self, record: Record, labelled: Labelled) -> Iterator[tuple[str, str]]:
        spoken = [m.content for m in record.messages if m.role == "assistant"]
        expected = spoken if self.loss == "generation-marks" else spoken[-1:]
        if not labelled.spans:
            yield "nothing-labelled", "no token is labelled"
            return
        if len(labelled.spans) != len(expected):
            yield (
                "answer-differs",
                f"{len(labelled.spans)} stretches of tokens are labelled, and the row has "
                f"{len(expected)} answers",
            )
            return
        for (begin, end), answer in zip(labelled.spans, expected, strict=True):
            span = labelled.ids[begin:end]
            closing = self._closing(span)
            body = self._text(span[:closing]).strip()
            if body != answer.strip():
                yield (
                    "answer-differs",
                    f"the answer's tokens do not decode back to the answer: {body[:_SHOWN]!r} "
                    f"instead of {answer.strip()[:_SHOWN]!r}",
                )
            elif closing is None:
                yield "end-not-labelled", "the answer's end-of-turn token is not labelled"

    def _closing(self, span: Sequence[int]) -> int | None:
        """Place of the end-of-turn token: the first special one, else the first added one."""
        for ends in (self.special, self.added):
            for place, token_id in enumerate(span):
                if token_id in ends:
                    return place
        return None

    def parts(self, kept: Labelled) -> tuple[tuple[str, bool], ...]:
        """A row's text in pieces, each with whether the loss is taken on it."""
        edges = sorted({0, len(kept.ids), *(edge for span in kept.spans for edge in span)})
        return tuple(
            (self._text(kept.ids[begin:end]), kept.mask[begin]) for begin, end in pairwise(edges)
        )

    def _text(self, ids: Sequence[int]) -> str:
        decoded: str = self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
        return decoded
