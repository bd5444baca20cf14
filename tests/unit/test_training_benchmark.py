"""The counts of the training benchmark, compared with manual calculations."""

from __future__ import annotations

import pytest
from conftest import tiny_llama

trained = pytest.importorskip("benchmarks._trained")


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("An unknown card", None),
    ],
)
def test_the_longest_matching_name_gives_the_cards_peak(name: str, peak: float | None) -> None:
    assert trained.card_peak(name) == peak


@pytest.mark.parametrize("tied", [True, False])
def test_the_flops_of_a_model(tied: bool) -> None:
    """Two layers of width 32, four heads of 8, two of keys; 64 inside; 261 tokens."""
    attention = 32 * 32 + 32 * 16 * 2 + 32 * 32
    layer = attention + 3 * 32 * 64 + 2 * 32
    weights = 2 * layer + 32
    forwards_and_back = 4 * weights * (5 + 3) + 4 * 261 * 32 * 6
    scores = 12 * (2 * 32) * (5 * 5 + 3 * 3) / 2
    model = tiny_llama(tied=tied)
    assert trained.model_flops(model, [5, 3], labeled=6) == forwards_and_back + scores
