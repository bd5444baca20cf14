"""The loss on held-out task rows while a model trains (paper, Figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from delia_data.errors import InputError
from delia_data.evaluation.hidden_states import evaluating
from delia_data.records import Record
from delia_data.tokens import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["LOSS", "TaskLossWatch", "answer_loss"]

LOSS: Final = "held_out_loss"


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
    import torch

    if not rows:
        raise InputError("there are no rows to take a loss of: give at least one")
    encoded = sorted((encode(tokenizer, row) for row in rows), key=lambda one: len(one.ids))
    device = model.get_input_embeddings().weight.device
    total, count = 0.0, 0
    with evaluating(model):
        for start in range(0, len(encoded), batch_size):
            batch = encoded[start : start + batch_size]
            width = max(len(one.ids) for one in batch)
            ids = torch.tensor([one.ids + [0] * (width - len(one.ids)) for one in batch])
            mask = torch.tensor([[1] * len(o.ids) + [0] * (width - len(o.ids)) for o in batch])
            logits = model(
                input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
            ).logits
            for place, one in enumerate(batch):
                begin, end = len(one.prompt_ids), len(one.ids)
                scores = logits[place, begin - 1 : end - 1].float()
                wanted = ids[place, begin:end].to(device)
                loss = torch.nn.functional.cross_entropy(scores, wanted, reduction="sum")
                total, count = total + float(loss), count + end - begin
    return total / count


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
