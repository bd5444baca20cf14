"""TRL's trainer for mixtures: in order, with logits computed only where there are labels."""

from __future__ import annotations

import functools
from typing import Any

import torch
from trl import SFTTrainer

__all__ = ["MixtureTrainer"]


class MixtureTrainer(SFTTrainer):  # type: ignore[misc]
    """`SFTTrainer` with a loss over the answers' positions alone, and a rate for the token's row.

    The head is as wide as the vocabulary, so computing it where there is no label is most of a
    small model's work. TRL 1.16 scores every position outside Triton devices, and its fused head
    asks for `lm_head.bias`, which PEFT's wrapper of a tied head does not have.
    """

    def __init__(self, *args: Any, token_learning_rate: float | None = None, **kwargs: Any) -> None:
        """Make the trainer.

        Args:
            *args: As for `SFTTrainer`.
            token_learning_rate: Learning rate of the token's embedding row, if it has its own.
            **kwargs: As for `SFTTrainer`.
        """
        self.token_learning_rate = token_learning_rate
        super().__init__(*args, **kwargs)
        # The vocabulary grew by the token alone, whose row the adapter has: checkpoints need not
        # carry the whole embedding.
        save = self.model.save_pretrained
        self.model.save_pretrained = functools.partial(save, save_embedding_layers=False)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean cross-entropy of the labelled tokens of a batch of shape (rows, length)."""
        causal = self.accelerator.unwrap_model(model)
        causal = causal.get_base_model() if hasattr(causal, "get_base_model") else causal
        backbone = getattr(causal, causal.base_model_prefix)
        hidden = backbone(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            use_cache=False,
        ).last_hidden_state[:, :-1]
        labels = inputs["labels"][:, 1:]
        labelled = labels != -100
        logits = causal.get_output_embeddings()(hidden[labelled]).float()
        total = torch.nn.functional.cross_entropy(logits, labels[labelled], reduction="sum")
        loss = total / (labelled.sum() if num_items_in_batch is None else num_items_in_batch)
        return (loss, {"logits": logits}) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Give the token's row its own learning rate, without decay."""
        if self.token_learning_rate is None:
            made: torch.optim.Optimizer = super().create_optimizer(model)
            return made
        named = [(n, p) for n, p in (model or self.model).named_parameters() if p.requires_grad]
        row = [p for n, p in named if "trainable_tokens" in n]
        rest = [p for n, p in named if "trainable_tokens" not in n]
        optimizer = torch.optim.AdamW(
            [
                {"params": rest, "weight_decay": self.args.weight_decay},
                {"params": row, "lr": self.token_learning_rate, "weight_decay": 0.0},
            ],
            lr=self.args.learning_rate,
        )
        self.optimizer = optimizer
        return optimizer
