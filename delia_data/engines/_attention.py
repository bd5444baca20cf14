"""Attention of one new token in each row, on a CPU.

    queries  (rows, heads, 1, size)   ──▶  (rows, heads of keys, queries of each, size)
    scores = queries x keys, softmax in float32, times values

PyTorch's fused kernel splits the work by query, of which there is one here. For 32 rows of
SmolLM2-135M with 200 tokens it takes 4.5 ms a layer in bfloat16, and as transformers calls it,
with a copy of the keys for each query that shares them, 6.8 ms; two products of matrices take
1.0 ms. Rounding is that of transformers' "eager" attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_NAME: Final = "delia_data_grouped"


@contextmanager
def quick_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let a model on a CPU use this attention meanwhile, if it uses PyTorch's own."""
    config = model.config
    if model.device.type != "cpu" or config._attn_implementation != "sdpa":
        yield
        return
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(_NAME, _attend)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as `transformers` wants it; what is not one token a row goes the usual way."""
    rows, heads, tokens, size = query.shape
    if tokens > 1 or options.get("position_bias") is not None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
    scores = (grouped @ key.transpose(2, 3)).float() * (scaling or size**-0.5)
    if attention_mask is not None:
        if attention_mask.dtype.is_floating_point:
            scores += attention_mask
        else:
            scores.masked_fill_(~attention_mask, float("-inf"))
    attended = scores.softmax(-1).to(value.dtype) @ value
    return attended.reshape(rows, 1, heads, value.shape[-1]), None
