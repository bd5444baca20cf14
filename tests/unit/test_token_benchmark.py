"""The training methods that the benchmark of token distances compares."""

from __future__ import annotations

import pytest

token_distance = pytest.importorskip("benchmarks.token_distance")


def test_each_way_is_another_training_of_the_same_mixture() -> None:
    grids = [token_distance._grid(way) for way in token_distance.WAYS.values()]
    experiments = [grid.experiments["formatted-text"] for grid in grids]
    assert len({experiment.blocks for experiment in experiments}) == 1
    trained = [experiment.settings() for experiment in experiments]
    ways = [(one.token_training, one.token_rate, one.learning_rate) for one in trained]
    assert ways == [
        ("row", 0.15, 2e-4),
        ("row", 0.015, 2e-4),
        ("row", 0.0015, 2e-4),
        ("lora", None, 2e-4),
    ]
    alike = {"token_training": "row", "token_rate": None}
    assert len({str(one.as_dict() | alike) for one in trained}) == 1
