"""Intervals by bootstrap: exact small cases, coverage by simulation, equal for equal seeds."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from delia_data.errors import InputError
from delia_data.evaluation.bootstrap import Estimate, Resampling, bootstrap, bootstrap_mean

MANY = Resampling(resamples=20_000)


def exact_ends(values: list[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return the ends of the interval over all resamples of the rows."""
    means = sorted(sum(drawn) / len(values) for drawn in product(values, repeat=len(values)))
    tail = (1 - confidence) / 2
    low, high = (means[math.ceil(share * len(means)) - 1] for share in (tail, 1 - tail))
    return low, high


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0, 1.0, 5.0], [0.0, 0.0, 1.0, 2.0]])
def test_the_ends_are_those_of_all_draws(values: list[float]) -> None:
    found = bootstrap_mean(values, MANY)
    assert found.value == pytest.approx(sum(values) / len(values))
    assert (found.low, found.high) == pytest.approx(exact_ends(values))
    assert found.rows == len(values)


def test_equal_seeds_give_equal_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).random(50)
    first, again, other = (bootstrap_mean(values, Resampling(seed=seed)) for seed in (3, 3, 4))
    assert first == again
    assert first.value == other.value
    assert (first.low, first.high) != (other.low, other.high)
    monkeypatch.setattr("delia_data.evaluation.bootstrap._CHUNK", 50 * 7)  # drawn in parts
    assert bootstrap_mean(values, Resampling(seed=3)) == first


def test_what_belongs_to_a_row_is_drawn_with_it() -> None:
    """Two columns that differ by 1 in every row: their difference never varies."""
    values = np.random.default_rng(2).random(40)
    columns = np.stack([values + 1, values], axis=1)
    found = bootstrap(columns, lambda sums: (sums[:, 0] - sums[:, 1]) / 40, Resampling())
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))


def test_where_all_rows_agree_the_exact_bound_of_a_share_is_taken() -> None:
    """Of a share p of misses, 20 rows show none with (1 - p) ** 20, which is 2.5% at p = 0.1684."""
    unseen = 1 - 0.025 ** (1 / 20)
    assert (1 - unseen) ** 20 == pytest.approx(0.025)
    found = bootstrap_mean([1.0] * 20, Resampling(), bounds=(0, 1))
    assert (found.value, found.low, found.high) == pytest.approx((1, 1 - unseen, 1))
    found = bootstrap_mean([0.0] * 20, Resampling(), bounds=(-1, 1))
    assert (found.low, found.high) == pytest.approx((-unseen, unseen))
    assert bootstrap_mean([1.0] * 20, Resampling()) == Estimate(1, 1, 1, 20)


@pytest.mark.parametrize(
    ("share", "rows", "least", "most"), [(0.9, 50, 0.92, 0.99), (0.98, 30, 0.92, 1)]
)
def test_coverage_of_a_share(share: float, rows: int, least: float, most: float) -> None:
    """How often the 95% interval holds the share that the rows were drawn with.

    At 0.98 of 30 rows more than half of the draws are all alike: without the bound 45% would.
    """
    generator = np.random.default_rng(0)
    held = 0
    for trial in range(300):
        seen = (generator.random(rows) < share).astype(float)
        found = bootstrap_mean(seen, Resampling(300, seed=trial), bounds=(0, 1))
        held += found.low <= share <= found.high
    assert least <= held / 300 <= most


def test_coverage_of_a_paired_difference() -> None:
    """Two systems that fail on the same hard rows, the second on a tenth of the others too."""
    generator = np.random.default_rng(0)
    held, narrower = 0, 0
    for trial in range(300):
        hard = generator.random(80) < 0.4
        ours = (~hard).astype(float)
        theirs = (~hard & (generator.random(80) >= 0.1)).astype(float)
        paired = bootstrap_mean(ours - theirs, Resampling(300, seed=trial), bounds=(-1, 1))
        alone = [bootstrap_mean(each, Resampling(300, seed=trial)) for each in (ours, theirs)]
        held += paired.low <= 0.06 <= paired.high
        narrower += paired.high - paired.low < max(each.high - each.low for each in alone)
    assert 0.88 <= held / 300 <= 0.99
    assert narrower == 300


def test_an_undefined_statistic_has_no_estimate() -> None:
    def ratio(sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return sums[:, 0] / sums[:, 1]

    assert bootstrap([[0, 0], [0, 0]], ratio, Resampling()) is None
    found = bootstrap([[1, 1], [0, 0], [0, 0]], ratio, Resampling())
    assert found == Estimate(1, 1, 1, 3)  # of the resamples that have the first row


def test_what_cannot_be() -> None:
    with pytest.raises(InputError, match="at least one row"):
        bootstrap_mean([], Resampling())
    with pytest.raises(InputError, match="resamples 99 is wrong"):
        Resampling(99)
    with pytest.raises(InputError, match=r"confidence 1\.0 is wrong"):
        Resampling(confidence=1.0)
    with pytest.raises(InputError, match="seed -1 is wrong"):
        Resampling(seed=-1)
