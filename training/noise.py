"""Noise on the input embeddings while training (NEFTune, Jain et al. 2023, arXiv 2310.05914).

The noise of a row is uniform with a bound of alpha / sqrt(length * width). The length is the row's
own, whether it is padded or packed with others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


def lengths_of_rows(batch: Mapping[str, Any]) -> torch.Tensor:
    """Tokens of the row that each token of a micro-batch belongs to.

    Args:
        batch: Tensors as `pack_rows` or `pad_rows` give them.

    Returns:
        Lengths that broadcast over `input_ids`: of shape (1, tokens), or (rows, 1).
    """
    if "cu_seq_lens_q" in batch:
        packed: torch.Tensor = batch["cu_seq_lens_q"].diff().long()
        return packed.repeat_interleave(packed)[None]
    padded: torch.Tensor = batch["attention_mask"].sum(1, keepdim=True)
    return padded


class EmbeddingNoise:
    """Adds noise to what an embedding gives, inside `rows` and nowhere else."""

    def __init__(self, embedding: torch.nn.Module, alpha: float) -> None:
        """Hang on to an embedding.

        Args:
            embedding: The embedding; what it gives is of shape (rows, tokens, width).
            alpha: Scale of the noise.
        """
        self.alpha = alpha
        self._lengths: torch.Tensor | None = None
        embedding.register_forward_hook(self._add)

    @contextmanager
    def rows(self, lengths: torch.Tensor) -> Iterator[None]:
        """Add noise to rows of these lengths, as `lengths_of_rows` gives them."""
        self._lengths = lengths
        try:
            yield
        finally:
            self._lengths = None

    def _add(self, module: torch.nn.Module, given: Any, embedded: torch.Tensor) -> torch.Tensor:
        if self._lengths is None:
            return embedded
        bound = self.alpha * (self._lengths * embedded.shape[-1]).float().rsqrt()[..., None]
        noise = torch.empty_like(embedded).uniform_(-1, 1)
        return embedded + noise * bound.to(embedded.dtype)
