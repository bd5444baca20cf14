"""Attention over packed rows: each row attends to itself alone, without a mask.

A mask of (tokens, tokens) would compute the attention of every row to every other one and throw it
away. Here each row is computed by itself, and everything else of the model over all rows at once:

    tokens      a0 a1 a2 b0 b1 c0 c1 c2
    attention  [a0 a1 a2][b0 b1][c0 c1 c2]       causal within each
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

PACKED_ATTENTION: Final = "delia_packed_sdpa"


def packed_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row of a packed sequence, as transformers calls it.

    Args:
        module: The attention module.
        query: Of shape (1, heads, tokens, width).
        key: Of shape (1, key heads, tokens, width).
        value: As `key`.
        attention_mask: Nothing; the rows' bounds say it all.
        cu_seq_lens_q: Where each row begins, and the end, of shape (rows + 1,).
        max_length_q: Tokens of the longest row.
        dropout: Share of attention weights that are dropped.
        scaling: What scores are multiplied by; None for 1 / sqrt(width).
        sliding_window: Tokens that each one sees at most, itself among them; None for all.

    Returns:
        Values of shape (1, tokens, heads, width), and no weights.
    """
    assert attention_mask is None, (
        "transformers makes no mask for an attention that it does not know"
    )
    varlen = _varlen_attention() if _fits_varlen(query, dropout) else None
    if varlen is not None:
        seen = -1 if sliding_window is None else sliding_window - 1
        q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
        bounds = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
        window = (seen, 0)
        values = varlen(q, k, v, *bounds, scale=scaling, window_size=window, enable_gqa=True)
        return values[None], None
    lengths = cu_seq_lens_q.diff().tolist()
    parts = [torch.split(states, lengths, dim=2) for states in (query, key, value)]
    rows = [
        sdpa_attention_forward(
            module,
            *row,
            attention_mask=_window_mask(row[0], sliding_window),
            dropout=dropout,
            scaling=scaling,
            is_causal=True,
        )[0]
        for row in zip(*parts, strict=True)
    ]
    return torch.cat(rows, dim=1), None


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let a model attend within packed rows, for forward and backward passes inside the block.

    Flash attention does so by itself, and so does a model with another attention than torch's: it
    is told the rows' places, and makes a mask of them. Nothing changes for those.
    """
    config = model.config.get_text_config()
    if config._attn_implementation != "sdpa" or not model._supports_attention_backend:
        yield
        return
    AttentionInterface.register(PACKED_ATTENTION, packed_attention_forward)
    # Set here rather than by `set_attn_implementation`, which asks the Hub about unknown names.
    config._attn_implementation = PACKED_ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


def _window_mask(query: torch.Tensor, sliding_window: int | None) -> torch.Tensor | None:
    """Which tokens each one sees, of shape (1, 1, tokens, tokens); None where it is all before."""
    length = query.shape[2]
    if sliding_window is None or length <= sliding_window:
        return None
    place = torch.arange(length, device=query.device)
    behind = place[:, None] - place[None]
    return ((behind >= 0) & (behind < sliding_window))[None, None]


def _fits_varlen(query: torch.Tensor, dropout: float) -> bool:
    """Whether torch's own kernel for rows of different lengths can compute this."""
    half = query.dtype in (torch.float16, torch.bfloat16)
    return query.is_cuda and half and dropout == 0.0 and query.shape[-1] <= 256


@functools.cache
def _varlen_attention() -> Callable[..., Any] | None:
    """That kernel, where this version of torch has it with grouped queries."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    named = inspect.signature(varlen_attn).parameters
    known = {"scale", "window_size", "enable_gqa"} <= named.keys()
    return varlen_attn if known else None
