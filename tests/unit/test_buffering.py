"""Planted gradients: what cancels, what points one way, what goes with similarity."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delia_data.errors import FormatError, InputError
from delia_data.evaluation.bootstrap import Resampling, rank_correlation
from delia_data.evaluation.buffering import (
    Buffering,
    PairGradient,
    cancelling,
    cosines,
    task_similarity,
)
from delia_data.evaluation.gradients import RowGradients, read_gradients
from delia_data.records import Record

HOW = Resampling(resamples=400)
WIDTH = 512


def of(vectors: Any, tokens: Any = None) -> RowGradients:
    rows = np.asarray(vectors, dtype=np.float64)
    count = np.ones(len(rows)) if tokens is None else np.asarray(tokens, dtype=np.float64)
    return RowGradients(rows, np.linalg.norm(rows, axis=1), np.ones(len(rows)), count)


def noise(rows: int, seed: int = 0) -> Any:
    """Rows of about norm 1 in unrelated directions."""
    return np.random.default_rng(seed).normal(size=(rows, WIDTH)) / WIDTH**0.5


def test_opposite_gradients_cancel_whole() -> None:
    found = cancelling(of([[3, 0], [-3, 0], [0, 2], [0, -2]]), HOW)
    assert found.rows == 4
    assert found.norm_of_mean == pytest.approx(0)
    assert found.mean_of_norms == pytest.approx(2.5)
    assert found.ratio == pytest.approx(0)


def test_gradients_of_one_direction_do_not_cancel() -> None:
    found = cancelling(of([[1, 2], [2, 4], [5, 10]]), HOW)
    assert found.ratio == pytest.approx(1)
    assert found.subsets[-1].mean == pytest.approx(1)
    assert found.shared is not None
    # Pairwise 5 * (2 + 5 + 10) / 3 over the squared mean norm 5 * (8 / 3) ** 2.
    assert found.shared.value == pytest.approx((17 / 3) / (8 / 3) ** 2)


def test_rows_weigh_as_much_as_they_have_tokens() -> None:
    """By hand: (1 * [4, 0] + 3 * [0, 1]) / 4 = [1, 0.75], and (4 + 3) / 4 the mean norm."""
    found = cancelling(of([[4, 0], [0, 1]], tokens=[1, 3]), HOW)
    assert found.norm_of_mean == pytest.approx(1.25)
    assert found.mean_of_norms == pytest.approx(1.75)
    # Both shares of the mean's norm are unrelated: the whole is the root of their squares.
    assert found.subsets[-1].independent == pytest.approx(1.25 / 1.75)


def test_unrelated_gradients_fall_with_the_root_of_the_rows() -> None:
    found = cancelling(of(noise(256)), HOW)
    assert [subset.rows for subset in found.subsets] == [4, 16, 64, 256]
    for subset in found.subsets:
        assert subset.mean == pytest.approx(subset.rows**-0.5, rel=0.1)
        assert subset.independent == pytest.approx(subset.rows**-0.5, rel=0.05)
        assert subset.low <= subset.mean <= subset.high
    assert found.ratio == found.subsets[-1].mean
    assert found.shared is not None
    assert found.shared.low < 0 < found.shared.high
    assert abs(found.shared.value) < 0.002


@pytest.mark.parametrize("part", [0.3, 0.8])
def test_a_shared_direction_is_found_in_the_noise(part: float) -> None:
    """Of each row's squared length, a share of `part ** 2` lies in one direction."""
    direction = np.zeros(WIDTH)
    direction[0] = 1
    rows = part * direction + (1 - part**2) ** 0.5 * noise(200)
    found = cancelling(of(rows), HOW)
    assert found.shared is not None
    assert found.shared.value == pytest.approx(part**2, rel=0.1)
    assert 0 < found.shared.low < part**2 < found.shared.high
    assert found.ratio > 1.5 * found.subsets[-1].independent


def test_the_interval_of_what_is_shared_covers_it() -> None:
    """Of 60 groups that share a quarter of their squared length, nearly all intervals hold it."""
    hits = 0
    for seed in range(60):
        rows = 0.5 * np.eye(WIDTH)[0] + 0.75**0.5 * noise(60, seed)
        shared = cancelling(of(rows), HOW, subsets=2).shared
        assert shared is not None
        hits += shared.low <= 0.25 <= shared.high
    assert hits >= 50


def test_the_mixture_is_compared_with_the_ideal_task() -> None:
    """By hand, in three directions: what is ideal, what is biased, what pairs do."""
    ideal, bias, pair = np.eye(3)
    groups = {
        "task": of([ideal, ideal]),
        "common": of([ideal + bias, ideal + bias]),
        "pairs": of([pair, pair, pair, pair]),
        "held_out": of([ideal, ideal, ideal]),
    }
    found = cosines(groups, ratio=2, how=HOW)
    values = {name: estimate.value for name, estimate in found.groups.items()}
    assert values["task"] == pytest.approx(1)
    assert values["common"] == pytest.approx(1 / math.sqrt(2))
    assert values["pairs"] == pytest.approx(0)
    # Two pairs for a row: 1 of the ideal beside 2 of the pairs' direction.
    assert values["mixture"] == pytest.approx(1 / math.sqrt(5))
    assert values["common_mixture"] == pytest.approx(1 / math.sqrt(6))
    assert found.subsets == pytest.approx((0, 0, 0))
    assert found.halves == pytest.approx(1)
    assert found.groups["mixture"].rows == 6


def test_pairs_that_outweigh_a_bias_bring_the_mixture_nearer() -> None:
    """What the paper claims, planted: the pairs hold what is ideal and none of the bias."""
    ideal, bias = np.eye(WIDTH)[:2]
    groups = {
        "task": of(ideal + 2 * bias + 0.3 * noise(40, 1)),
        "pairs": of(0.5 * ideal + noise(300, 2)),
        "held_out": of(ideal + 0.3 * noise(40, 3)),
    }
    found = cosines(groups, ratio=20, how=HOW)
    task, mixture = found.groups["task"], found.groups["mixture"]
    assert task.high < 0.6 < mixture.low
    assert found.subsets[0] < found.subsets[1] < found.subsets[2]
    assert found.halves is not None
    assert found.halves > 0.95
    assert cosines(groups, ratio=0, how=HOW).groups["mixture"].value == pytest.approx(task.value)


def test_one_held_out_row_has_no_halves() -> None:
    one = of([[1.0, 0.0]])
    found = cosines({"task": one, "pairs": one, "held_out": one}, ratio=1, how=HOW)
    assert found.halves is None
    assert "common" not in found.groups


@pytest.mark.parametrize(
    ("left", "right", "value"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 400], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        # Ranks 1 2.5 2.5 4 and 1 2 3 4: 4.5 / sqrt(4.5 * 5).
        ([5, 7, 7, 9], [1, 2, 3, 4], 4.5 / math.sqrt(4.5 * 5)),
        ([1, 2, 3], [2, 1, 3], 0.5),
    ],
)
def test_rank_correlation_by_hand(left: list[float], right: list[float], value: float) -> None:
    found = rank_correlation(left, right, [1.0] * len(left), HOW)
    assert found.plain is not None
    assert found.plain.value == pytest.approx(value)
    assert found.given_length is not None  # lengths that do not vary explain nothing
    assert found.given_length.value == pytest.approx(value)


def test_what_lengths_explain_is_taken_out() -> None:
    """Both sides follow the length and nothing else: correlated, but not given the length."""
    draw = np.random.default_rng(0)
    lengths = draw.permutation(400) + 1.0
    left, right = (lengths + draw.normal(scale=40, size=400) for _ in range(2))
    found = rank_correlation(left, right, lengths, HOW)
    assert found.plain is not None
    assert found.given_length is not None
    assert found.plain.low > 0.8
    assert found.given_length.low < 0 < found.given_length.high
    whole = rank_correlation(lengths, right, lengths, HOW)
    assert whole.given_length is None  # nothing is left of one side


def test_a_side_that_does_not_vary_has_no_correlation() -> None:
    found = rank_correlation([1, 1, 1, 1], [1, 2, 3, 4], [1, 2, 3, 4], HOW)
    assert found.plain is None
    assert found.given_length is None


def test_similarity_is_the_mean_cosine_to_the_task() -> None:
    said = {"q1\na1": [1.0, 0.0], "q2\na2": [0.0, 1.0], "p\nx": [0.6, 0.8], "r\ny": [-1.0, 0.0]}
    found = task_similarity(
        [Record.pair("p", "x"), Record.pair("r", "y")],
        [Record.pair("q1", "a1"), Record.pair("q2", "a2")],
        lambda texts: np.asarray([said[text] for text in texts], dtype=np.float32),
    )
    assert found == pytest.approx([0.7, -0.5])


def test_gradients_are_kept_in_a_file(tmp_path: Path) -> None:
    made = of(noise(3), tokens=[1, 2, 3])
    made.save(tmp_path / "g.npz")
    read = read_gradients(tmp_path / "g.npz")
    assert len(read) == 3
    for name in ("sketches", "norms", "losses", "tokens"):
        assert np.array_equal(getattr(read, name), getattr(made, name))
    assert [path.name for path in tmp_path.iterdir()] == ["g.npz"]


def test_all_numbers_go_through_json() -> None:
    groups = {name: of(noise(8, seed)) for seed, name in enumerate(("task", "pairs", "held_out"))}
    flat = rank_correlation([1, 1, 1], [1, 2, 3], [1, 2, 3], HOW)
    made = Buffering(
        ratio=2.0,
        dimensions=WIDTH,
        projection_error=0.01,
        seed=0,
        pairs=(PairGradient(0.5, 12, 1.0, 0.5),),
        norms={"before": rank_correlation([1, 3, 2], [1, 2, 3], [5, 6, 9], HOW), "after": flat},
        cancelling={"before": {name: cancelling(g, HOW) for name, g in groups.items()}},
        cosines={"before": cosines(groups, ratio=2, how=HOW)},
    )
    text = json.dumps(made.as_dict(), allow_nan=False)
    assert Buffering.from_dict(json.loads(text)) == made
    with pytest.raises(FormatError, match=r"ratio.*run its command again"):
        Buffering.from_dict({**made.as_dict(), "ratio": None})


def test_bad_gradients_are_refused() -> None:
    with pytest.raises(InputError, match="all gradients are zero"):
        cancelling(of(np.zeros((3, 4))), HOW)
    with pytest.raises(InputError, match="not finite"):
        cancelling(of([[1.0, math.nan]]), HOW)
    with pytest.raises(InputError, match="no gradients: measure"):
        cancelling(of(np.zeros((0, 4))), HOW)
    one = of([[1.0, 2.0]])
    with pytest.raises(InputError, match="no gradients of held_out, pairs"):
        cosines({"task": one}, ratio=1, how=HOW)
    with pytest.raises(InputError, match="ratio -1"):
        cosines({"task": one, "pairs": one, "held_out": one}, ratio=-1, how=HOW)
    with pytest.raises(InputError, match="at least 3"):
        rank_correlation([1, 2], [1, 2], [1, 2], HOW)
    with pytest.raises(InputError, match="at least 3"):
        rank_correlation([1, 2, 3], [1, 2, 3], [1, 2], HOW)
    with pytest.raises(InputError, match="0 pairs"):
        task_similarity([], [Record.pair("a", "b")], lambda texts: np.ones((1, 2)))
