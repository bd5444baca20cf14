"""The loss of a causal model, at labeled positions alone and without copies as large as the head.

    model(labels=...)    give_losses: hidden states of labeled positions -> loss of each
    frozen head          frozen_head_loss: logits a block at a time, each with its gradient
    trained head         head_loss: logits a block at a time, computed again for the gradient
    scaled logits        the model's own logits, in the columns with a label

The head is as wide as the vocabulary: its logits take most of a small model's memory and much of
its work. The whole pass runs inside the model's own call, because sharding and the averaging of
gradients depend on that call.
"""

from __future__ import annotations

import types
from typing import Any, Final

import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch.nn.functional import cross_entropy

from delia_data.training.packing import IGNORED

_BLOCK_BYTES: Final = {"cpu": 2**26}
_DEFAULT_BLOCK_BYTES: Final = 2**30
_SCALED_LOGITS: Final = (
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
    "output_multiplier",
)
"""Settings of models whose logits are more than states times the head."""


def plain_forward(model: Any) -> None:
    """Remove a forward pass that was set on this very model, such as TRL's fused head."""
    model.__dict__.pop("forward", None)


def give_losses(model: Any) -> None:
    """Make a causal model return the sum of losses, and each of them, when it gets labels.

    Without labels its forward pass is unchanged.
    """
    own_forward = model.forward

    def forward(self: Any, *args: Any, labels: torch.Tensor | None = None, **given: Any) -> Any:
        if labels is None:
            return own_forward(*args, **given)
        labeled = labels[:, 1:] != IGNORED
        targets = labels[:, 1:][labeled]
        config = self.config.get_text_config()
        if any(getattr(config, name, None) is not None for name in _SCALED_LOGITS):
            return _own_logits_loss(own_forward, labeled, targets, *args, **given)
        hidden = self.base_model(*args, **given).last_hidden_state[:, :-1]
        if not len(targets):
            return hidden.float().sum() * 0, hidden.new_zeros(0, dtype=torch.float32)
        states, head = hidden[labeled], self.get_output_embeddings()
        frozen = _frozen_parts(head)
        if frozen is None:
            return head_loss(states, head, targets)
        return frozen_head_loss(states.to(frozen["weight"].dtype), targets=targets, **frozen)

    model.forward = types.MethodType(forward, model)


def frozen_head_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    row: torch.Tensor | None = None,
    row_id: int = 0,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cross-entropy of targets under a head of which at most one row is trained.

    Logits are computed a block of positions at a time, and the gradient of each block while its
    logits are there: none are kept, and none are computed twice.

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
    """Return the same through a head that is trained itself, or is more than a product.

    The logits of a block are computed again for its gradient, unless there is only one block.
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


def read_rows_in_place(model: torch.nn.Module) -> None:
    """Make every embedding with trained rows read them without a copy of itself.

    PEFT writes trained rows into a copy of the embedding for each forward pass, and autograd makes
    a gradient as large as the embedding of it: for a small model, as much memory traffic as the
    model itself. Here the frozen embedding is read as it is, and the rows replace their ids'.
    """
    for module in model.modules():
        if isinstance(module, TrainableTokensLayer) and isinstance(
            module.base_layer, torch.nn.Embedding
        ):
            module.forward_adapters = types.MethodType(_embed, module)


def _embed(self: Any, x: torch.Tensor, active_adapters: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the result of `TrainableTokensLayer.forward_adapters`, for ids of any shape."""
    if not _is_simple(self, active_adapters):
        return type(self).forward_adapters(self, x, active_adapters, *args, **kwargs)
    states = self.base_layer(x, *args, **kwargs)
    scale = self._get_embed_scale()
    rows = self.trainable_tokens_delta[active_adapters[0]]
    for row, row_id in zip(rows, self.token_indices[active_adapters[0]], strict=True):
        own = row.to(states.dtype) if scale is None else row.to(states.dtype) * scale
        states = torch.where((x == row_id)[..., None], own, states)
    return states


def _is_simple(layer: TrainableTokensLayer, active: Any) -> bool:
    """Return whether a single adapter is active, and is not merged."""
    return len(active) == 1 and not layer.disable_adapters and not layer.merged


def _frozen_parts(head: Any) -> dict[str, Any] | None:
    """Return a head's weight, bias and trained row, if only that row of it is trained.

    A weight that is sharded over processes is gathered.
    """
    layer = getattr(head, "token_adapter", None)
    row, row_id = None, 0
    if isinstance(layer, TrainableTokensLayer):
        active = layer.active_adapters
        ids: list[int] = layer.token_indices[active[0]] if _is_simple(layer, active) else []
        head = layer.base_layer
        plain = isinstance(head, torch.nn.Linear) and getattr(head, "bias", None) is None
        if len(ids) != 1 or not plain:
            return None
        row, row_id = layer.trainable_tokens_delta[active[0]][0], int(ids[0])
    elif type(head) is not torch.nn.Linear:
        return None
    if head.weight.requires_grad:
        return None
    gather = getattr(head.weight, "full_tensor", None)
    weight = head.weight if gather is None else gather()
    return {"weight": weight, "bias": head.bias, "row": row, "row_id": row_id}


def _own_logits_loss(
    own_forward: Any, labeled: torch.Tensor, targets: torch.Tensor, *args: Any, **given: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the losses of the logits that the model makes itself, in the columns with a label."""
    columns = labeled.any(0).nonzero()[:, 0]
    if not len(columns):
        columns = torch.zeros(1, dtype=torch.long, device=labeled.device)
    logits = own_forward(*args, logits_to_keep=columns, **given).logits
    chosen = logits[labeled[:, columns]].float()
    each = cross_entropy(chosen, targets, reduction="none")
    return each.sum() + logits.float().sum() * 0, each.detach()


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
