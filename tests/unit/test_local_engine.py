"""Token sampling: the distribution is that of a plain sort, and rows are independent."""

from __future__ import annotations

import pytest
import torch

from delia_data.engines.local import sample_tokens, uniform_number


def sorted_whole(scores: torch.Tensor, number: float, temperature: float, top_p: float) -> int:
    """Apply temperature, top-p, and inverse transform to one row by their definitions."""
    ordered, tokens = (scores.double() / temperature).softmax(-1).sort(descending=True, stable=True)
    before = ordered.cumsum(0) - ordered
    nucleus = ordered[before < top_p]
    place = int((nucleus.cumsum(0) <= number * nucleus.sum()).sum())
    return int(tokens[min(place, len(nucleus) - 1)])


@pytest.mark.parametrize("top_p", [0.1, 0.95, 1.0])
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 6.0])
def test_sampling_equals_a_full_sort(sharpness: float, top_p: float) -> None:
    """Flat rows have a nucleus of thousands of tokens, sharp ones of a few."""
    scores = torch.randn(64, 5000, generator=torch.Generator().manual_seed(0)) * sharpness
    draws = [uniform_number(row, 3) for row in range(64)]
    picked = sample_tokens(scores, draws, 0.7, top_p).squeeze(1).tolist()
    whole = [sorted_whole(scores[row], draws[row], 0.7, top_p) for row in range(64)]
    # A draw may fall on a border that float32 puts elsewhere.
    assert sum(one == other for one, other in zip(picked, whole, strict=True)) >= 62


def test_rows_are_independent() -> None:
    scores = torch.cat([torch.randn(8, 3000), torch.randn(8, 3000) * 8])
    draws = [uniform_number(row, 0) for row in range(16)]
    together = sample_tokens(scores, draws, 1.0, 0.9)
    alone = [
        sample_tokens(scores[row : row + 1], draws[row : row + 1], 1.0, 0.9) for row in range(16)
    ]
    assert torch.equal(together, torch.cat(alone))


def test_numbers_follow_from_seed_and_position() -> None:
    numbers = [uniform_number(seed, step) for seed in range(50) for step in range(50)]
    assert numbers == [uniform_number(seed, step) for seed in range(50) for step in range(50)]
    assert len(set(numbers)) == 2500
    assert all(0 <= number < 1 for number in numbers)
    assert abs(sum(numbers) / 2500 - 0.5) < 0.03
