"""Cross-entropy through a frozen head, over labelled positions alone and a block at a time.

The head is as wide as the vocabulary, so that its logits are most of a small model's memory and
much of its work. They are computed for labelled positions only, a block of them at a time, and the
gradient of each block is taken while its logits are there: none are kept, none are computed twice.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.nn.functional import cross_entropy

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
