"""The token's trained row in the embedding, without a copy of the whole embedding.

PEFT writes trained rows into a copy of the embedding for each forward pass, and autograd makes a
gradient as large as the embedding of it: for a small model that is as much memory traffic as the
model itself. Here the frozen embedding is read as it is, and the rows are put where their ids are.
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer


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
