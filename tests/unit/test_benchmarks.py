"""The counts of the training benchmark by hand; the methods of the benchmark of distances."""

from __future__ import annotations

import pytest
from conftest import tiny_llama

token_distance = pytest.importorskip("benchmarks.token_distance")
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


def test_each_way_is_another_training_of_the_same_mixture() -> None:
    grids = [token_distance._grid(way) for way in token_distance.WAYS.values()]
    experiments = [grid.experiments["formatted-text"] for grid in grids]
    assert len({experiment.blocks for experiment in experiments}) == 1
    settings = [experiment.settings() for experiment in experiments]
    ways = [(one.token_training, one.token_rate, one.learning_rate) for one in settings]
    assert ways == [
        ("row", 0.15, 2e-4),
        ("row", 0.015, 2e-4),
        ("row", 0.0015, 2e-4),
        ("lora", None, 2e-4),
    ]
    alike = {"token_training": "row", "token_rate": None}
    assert len({str(one.as_dict() | alike) for one in settings}) == 1
