"""The loss on held-out task rows while a model trains (paper, Figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from delia_data.errors import InputError
from delia_data.evaluation.representation import evaluating
from delia_data.records import Record
from delia_data.tokens import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOSS: Final = "held_out_loss"


@dataclass(frozen=True, slots=True)
class AnswerLoss:
    """The loss of one row's answer.

    Attributes:
        nats: Sum over its tokens.
        tokens: Their number.
    """

    nats: float
    tokens: int


def answer_loss(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Record], *, batch_size: int = 8
) -> float:
    """Mean cross-entropy of the answers' tokens, in nats a token; prompts do not count.

    Args:
        model: A causal language model, also one wrapped by peft; left as it was.
        tokenizer: Its tokenizer.
        rows: Conversations that end with an answer.
        batch_size: Rows that are computed at once.

    Raises:
        InputError: There are no rows.
    """
    losses = answer_losses(model, tokenizer, rows, batch_size=batch_size)
    return sum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses)


def answer_losses(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Record], *, batch_size: int = 8
) -> list[AnswerLoss]:
    """Cross-entropy of every answer by itself, in the rows' order; arguments as `answer_loss`.

    Raises:
        InputError: There are no rows.
    """
    import torch

    if not rows:
        raise InputError("there are no rows to take a loss of: give at least one")
    encoded = [encode(tokenizer, row) for row in rows]
    order = sorted(range(len(rows)), key=lambda place: len(encoded[place].ids))
    device = model.get_input_embeddings().weight.device
    found: dict[int, AnswerLoss] = {}
    with evaluating(model):
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            batch = [encoded[place] for place in places]
            width = max(len(one.ids) for one in batch)
            ids = torch.tensor([one.ids + [0] * (width - len(one.ids)) for one in batch])
            mask = torch.tensor([[1] * len(o.ids) + [0] * (width - len(o.ids)) for o in batch])
            logits = model(
                input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
            ).logits
            for number, (place, one) in enumerate(zip(places, batch, strict=True)):
                begin, end = len(one.prompt_ids), len(one.ids)
                scores = logits[number, begin - 1 : end - 1].float()
                wanted = ids[number, begin:end].to(device)
                loss = torch.nn.functional.cross_entropy(scores, wanted, reduction="sum")
                found[place] = AnswerLoss(float(loss), end - begin)
    return [found[place] for place in range(len(rows))]


class TaskLossWatch:
    """Measures the loss on held-out rows (a `training.watching.Watch`), as `held_out_loss`."""

    def __init__(self, rows: Sequence[Record], *, batch_size: int = 8) -> None:
        """Keep what is measured.

        Args:
            rows: Held-out rows that name the token.
            batch_size: Rows that are computed at once.
        """
        self.rows = tuple(rows)
        self.batch_size = batch_size

    def measure(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, step: int
    ) -> dict[str, float]:
        """Measure the model as it is at a step."""
        return {LOSS: answer_loss(model, tokenizer, self.rows, batch_size=self.batch_size)}
