"""The token's trained row in the embedding, without a copy of the whole embedding.

PEFT writes trained rows into a copy of the embedding for each forward pass, and autograd makes a
gradient as large as the embedding of it: for a small model that is as much memory traffic as the
model itself. Here the frozen embedding is read as it is, and the rows are put where their ids are.
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Any, Final

import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch.nn.functional import cross_entropy

from delia_data.training.packing import IGNORED


@dataclass(frozen=True, slots=True)
class TrainedRow:
    """The one trained row of a frozen head.

    Attributes:
        weight: The head without it, of shape (vocabulary, width).
        row: The row, of shape (width,).
        row_id: Its id.
    """

    weight: torch.Tensor
    row: torch.Tensor
    row_id: int


def read_rows_in_place(model: torch.nn.Module) -> None:
    """Make every embedding of a model that has trained rows read them without a copy of itself."""
    for module in model.modules():
        if isinstance(module, TrainableTokensLayer) and isinstance(
            module.base_layer, torch.nn.Embedding
        ):
            module.forward_adapters = types.MethodType(_embed, module)


def trained_head_row(head: torch.nn.Module) -> TrainedRow | None:
    """Where a head is a frozen linear layer with one trained row, that row; else None."""
    layer = getattr(head, "token_adapter", None)
    if not isinstance(layer, TrainableTokensLayer) or not _simple(layer, layer.active_adapters):
        return None
    ids = layer.token_indices[layer.active_adapters[0]]
    base = layer.base_layer
    plain = isinstance(base, torch.nn.Linear) and base.bias is None
    if not plain or base.weight.requires_grad or len(ids) != 1:
        return None
    rows = layer.trainable_tokens_delta[layer.active_adapters[0]]
    return TrainedRow(base.weight, rows[0], int(ids[0]))


def _simple(layer: TrainableTokensLayer, active: Any) -> bool:
    """Whether one adapter alone is at work, and is not merged."""
    return len(active) == 1 and not layer.disable_adapters and not layer.merged


def _embed(self: Any, x: torch.Tensor, active_adapters: Any, *args: Any, **kwargs: Any) -> Any:
    """What `TrainableTokensLayer.forward_adapters` gives for ids of any shape."""
    if not _simple(self, active_adapters):
        return type(self).forward_adapters(self, x, active_adapters, *args, **kwargs)
    states = self.base_layer(x, *args, **kwargs)
    scale = self._get_embed_scale()
    rows = self.trainable_tokens_delta[active_adapters[0]]
    for row, row_id in zip(rows, self.token_indices[active_adapters[0]], strict=True):
        own = row.to(states.dtype) if scale is None else row.to(states.dtype) * scale
        states = torch.where((x == row_id)[..., None], own, states)
    return states


_BLOCK_BYTES: Final = {"cpu": 2**26}
_DEFAULT_BLOCK_BYTES: Final = 2**30


def frozen_head_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    row: torch.Tensor | None = None,
    row_id: int = 0,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of targets under a head that is not trained, but for one row of it.

    Args:
        hidden: States of shape (positions, width).
        weight: The head, of shape (vocabulary, width); gets no gradient.
        targets: Ids of shape (positions,).
        row: The trained row of shape (width,), in place of the head's own.
        row_id: Its id.
        bias: The head's bias of shape (vocabulary,); gets no gradient.

    Returns:
        The sum of the losses, and the loss of each position in float32, which has no gradient.
    """
    apply: Any = _FrozenHead.apply
    total, losses = apply(hidden, weight, targets, row, row_id, bias)
    return total, losses


def head_loss(
    hidden: torch.Tensor, head: torch.nn.Module, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same through a head that is itself trained, or is more than a product.

    The logits of a block are computed again for its gradient, unless one block is all.
    """
    from torch.utils.checkpoint import checkpoint

    def losses(states: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return cross_entropy(head(states).float(), ids, reduction="none")

    weight = head.weight
    assert isinstance(weight, torch.Tensor)
    blocks = list(_blocks(hidden, targets, len(weight)))
    if len(blocks) == 1:
        each = losses(hidden, targets)
    else:
        parts = [checkpoint(losses, *block, use_reentrant=False) for block in blocks]
        each = torch.cat(parts)
    return each.sum(), each.detach()


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        row: torch.Tensor | None,
        row_id: int,
        bias: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        own = None if row is None else row.to(hidden.dtype)
        losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        to_hidden = torch.empty_like(hidden) if hidden.requires_grad else None
        to_row = None if row is None else torch.zeros_like(row, dtype=torch.float32)
        begin = 0
        for states, ids in _blocks(hidden, targets, len(weight)):
            part = slice(begin, begin + len(ids))
            begin += len(ids)
            logits = (states @ weight.T).float()
            if bias is not None:
                logits += bias
            if own is not None:
                logits[:, row_id] = states @ own if bias is None else states @ own + bias[row_id]
            sums = logits.logsumexp(1)
            losses[part] = sums - logits.gather(1, ids[:, None])[:, 0]
            if to_hidden is None and to_row is None:
                continue
            slopes = logits.sub_(sums[:, None]).exp_()
            slopes[torch.arange(len(ids), device=ids.device), ids] -= 1
            slopes = slopes.to(hidden.dtype)
            if own is not None and to_row is not None:
                column = slopes[:, row_id].clone()
                slopes[:, row_id] = 0
                to_row += (column @ states).float()
            if to_hidden is not None:
                torch.mm(slopes, weight, out=to_hidden[part])
                if own is not None:
                    to_hidden[part].addr_(column, own)
        ctx.save_for_backward(
            to_hidden, None if row is None or to_row is None else to_row.to(row.dtype)
        )
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> Any:
        to_hidden, to_row = ctx.saved_tensors
        return (
            None if to_hidden is None else to_hidden * slopes[0].to(to_hidden.dtype),
            None,
            None,
            None if to_row is None else to_row * slopes[0].to(to_row.dtype),
            None,
            None,
        )


def _blocks(hidden: torch.Tensor, targets: torch.Tensor, vocabulary: int) -> Any:
    """Cut positions into blocks whose logits in float32 stay small."""
    size = _BLOCK_BYTES.get(hidden.device.type, _DEFAULT_BLOCK_BYTES)
    rows = max(1, size // (4 * vocabulary))
    return zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)


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
