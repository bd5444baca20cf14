"""A causal model's forward pass that gives losses where it is given labels.

The whole pass has to run inside the model's own call: what shards a model or averages its
gradients hangs on that call.
"""

from __future__ import annotations

import types
from typing import Any, Final

import torch

from delia_data.training.batches import IGNORED
from delia_data.training.token_loss import frozen_head_loss, head_loss
from delia_data.training.token_rows import trained_head_row

_SCALED_LOGITS: Final = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
)
"""Settings of models that do more to logits than multiply states by the head."""


def plain_forward(model: Any) -> None:
    """Take away a forward pass that was put on this very model, such as TRL's fused head."""
    model.__dict__.pop("forward", None)


def give_losses(model: Any) -> None:
    """Let a causal model give the sum of losses, and each of them, where it is given labels.

    Without labels its forward pass is what it was.
    """
    own_forward = model.forward

    def forward(self: Any, *args: Any, labels: torch.Tensor | None = None, **given: Any) -> Any:
        if labels is None:
            return own_forward(*args, **given)
        labelled = labels[:, 1:] != IGNORED
        targets = labels[:, 1:][labelled]
        config = self.config.get_text_config()
        if any(getattr(config, name, None) is not None for name in _SCALED_LOGITS):
            return _own_logits(own_forward, labelled, targets, *args, **given)
        hidden = self.base_model(*args, **given).last_hidden_state[:, :-1]
        return _losses(hidden, labelled, targets, self.get_output_embeddings())

    model.forward = types.MethodType(forward, model)


def _losses(
    hidden: torch.Tensor, labelled: torch.Tensor, targets: torch.Tensor, head: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses through a head, the cheapest way that it allows."""
    if not len(targets):
        return hidden.float().sum() * 0, hidden.new_zeros(0, dtype=torch.float32)
    states = hidden[labelled]
    trained = trained_head_row(head)
    if trained is not None:
        states = states.to(trained.weight.dtype)
        return frozen_head_loss(
            states, _whole(trained.weight), targets, row=trained.row, row_id=trained.row_id
        )
    if type(head) is torch.nn.Linear and not head.weight.requires_grad:
        states = states.to(head.weight.dtype)
        return frozen_head_loss(states, _whole(head.weight), targets, bias=head.bias)
    return head_loss(states, head, targets)


def _own_logits(
    own_forward: Any, labelled: torch.Tensor, targets: torch.Tensor, *args: Any, **given: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of the logits that the model makes itself, in the columns that have a label."""
    columns = labelled.any(0).nonzero()[:, 0]
    if not len(columns):
        columns = torch.zeros(1, dtype=torch.long, device=labelled.device)
    logits = own_forward(*args, logits_to_keep=columns, **given).logits
    chosen = logits[labelled[:, columns]].float()
    each = torch.nn.functional.cross_entropy(chosen, targets, reduction="none")
    return each.sum() + logits.float().sum() * 0, each.detach()


def _whole(weight: torch.Tensor) -> torch.Tensor:
    """A weight that is sharded over processes, gathered; any other as it is."""
    gather = getattr(weight, "full_tensor", None)
    gathered: torch.Tensor = weight if gather is None else gather()
    return gathered
