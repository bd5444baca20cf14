"""Draws by inverse transform: each token with a number of the row's own.

    probabilities of the likeliest tokens, cumulated:   0 ──────┬────┬──┬─ top_p ─ 1
    the row's number, scaled to the mass that is kept:       ▲ picks the first token

The number follows from the row's seed and the token's place in the answer, and from nothing else,
so that a row draws alike in every batch, after a preemption, and in every engine that picks here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from delia_data.ranking import rank

if TYPE_CHECKING:
    import torch

# Nearly every nucleus lies within the first number of tokens, nearly every other within the second;
# a row whose own does not is sorted whole.
_FEW: Final = (64, 2048)


def draw(seed: int, step: int) -> float:
    """The number in [0, 1) with which a row draws the token at a place of its answer."""
    return rank(seed, str(step), "token") / 2**128


def pick(
    scores: torch.Tensor, draws: Sequence[float], temperature: float, top_p: float
) -> torch.Tensor:
    """Pick a token for each row: temperature, then top-p, then where the row's number falls.

    Args:
        scores: Scores of shape (rows, vocabulary).
        draws: A number in [0, 1) for each row.
        temperature: Above 0.
        top_p: Smallest probability mass that is drawn from.

    Returns:
        Token ids of shape (rows, 1). Each depends on its own row alone.
    """
    import torch

    scaled = scores.float() / temperature
    total = scaled.logsumexp(dim=-1, keepdim=True)
    numbers = torch.tensor(draws, device=scores.device, dtype=torch.float32).unsqueeze(1)
    picked = torch.empty_like(numbers, dtype=torch.long)
    left = torch.arange(len(scaled), device=scores.device)
    for few in _FEW:
        if few >= scaled.shape[-1]:
            break
        values, tokens = scaled[left].topk(few, dim=-1)
        likeliest = (values - total[left]).exp()
        picked[left] = _find(likeliest, tokens, numbers[left], top_p)
        left = left[likeliest.sum(dim=-1) < top_p]
        if not len(left):
            return picked
    values, tokens = scaled[left].sort(dim=-1, descending=True, stable=True)
    picked[left] = _find((values - total[left]).exp(), tokens, numbers[left], top_p)
    return picked


def _find(
    ordered: torch.Tensor, tokens: torch.Tensor, numbers: torch.Tensor, top_p: float
) -> torch.Tensor:
    """Find the tokens where numbers fall among probabilities, highest first."""
    import torch

    cumulated = ordered.cumsum(dim=-1)
    kept = (cumulated - ordered < top_p).sum(dim=-1, keepdim=True)
    mass = cumulated.gather(1, kept - 1)
    index = torch.searchsorted(cumulated, numbers * mass, right=True).clamp(max=kept - 1)
    return tokens.gather(1, index)
