"""The choice of a ratio from synthetic losses: differences, intervals, the smallest ratio."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from delia_data.errors import SettingsError
from delia_data.experiments import RatioResult, RatioSettings, run_ratio
from delia_data.experiments.cells import AnswerLoss
from delia_data.experiments.ratio import (
    RatioPoint,
    compare_ratios,
    smallest_enough,
    summarize,
)
from delia_data.experiments.results import Measured, over_tokens
from delia_data.training import TrainSettings

RATIOS = (0.0, 1.0, 4.0, 16.0, 65.0)
X = np.log1p(RATIOS)
SATURATING = 0.3 + 0.5 * np.exp(-1.5 * X)  # 0.80 0.48 0.34 0.31 0.30
U_SHAPED = 0.3 + 0.3 * np.exp(-1.2 * X) + 0.04 * X  # 0.60 0.46 0.41 0.42 0.47
FALLING = 0.5 - 0.08 * X
FLAT = np.full(5, 0.3)


def losses(
    truth: Any, *, seeds: int = 2, sd: float = 0.003, rows: int = 60, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return losses around a true value, with large differences of rows, and seeds by `sd`."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(10, 40, rows).astype(float)
    shape = (len(truth), seeds)
    nats = np.asarray(truth)[:, None, None] + draw.normal(0, 0.5, rows)
    nats = nats + draw.normal(0, 0.02, (*shape, rows)) + draw.normal(0, sd, (*shape, 1))
    return nats * tokens, tokens


def measure(table: Any, tokens: Any) -> Measured:
    return over_tokens(
        [[AnswerLoss(*one) for one in zip(row, tokens, strict=True)] for row in table]
    )


def result_of(truth: Any, *, tolerance: float = 0.02, **how: Any) -> RatioResult:
    nats, tokens = losses(truth, **how)
    measured = [measure(table, tokens) for table in nats]
    points = tuple(
        RatioPoint(ratio, round(100 * ratio), difference, loss)
        for ratio, difference, loss in zip(
            RATIOS, compare_ratios([(nats, tokens)]), measured, strict=True
        )
    )
    enough = smallest_enough(RATIOS, [point.difference for point in points], tolerance)
    return RatioResult(
        task="t",
        token="<sep>",
        settings={"seeds": 2},
        task_rows=100,
        trained_task_rows=100,
        held_out_rows=60,
        by="loss",
        tolerance=tolerance,
        points=points,
        best=min(points, key=lambda point: point.difference.value).ratio,
        enough=enough,
        pairs_needed=round(100 * enough),
    )


@pytest.mark.parametrize(
    ("truth", "ratio"),
    [(SATURATING, 16), (U_SHAPED, 4), (FALLING, 65), (FLAT, 0)],
    ids=["saturating", "u-shaped", "falling", "flat"],
)
def test_the_smallest_ratio_within_the_tolerance_is_chosen(truth: Any, ratio: float) -> None:
    assert result_of(truth).enough == ratio


def test_a_larger_tolerance_needs_fewer_pairs() -> None:
    chosen = [result_of(SATURATING, tolerance=t).enough for t in (0.02, 0.1, 0.3, 1.0)]
    assert chosen == [16, 4, 1, 0]


def test_intervals_cover_the_true_difference() -> None:
    """Over 40 series with noise of seeds, at least 34 intervals hold the truth (95% each)."""
    covered = 0
    for seed in range(40):
        difference = compare_ratios([losses(SATURATING, sd=0.02, seed=seed)])[0]
        assert difference.low is not None and difference.high is not None
        # The best ratio of a series may be the last one or the one before it.
        covered += difference.low <= 0.5 <= difference.high
    assert covered >= 34


def test_seeds_that_differ_widen_the_intervals() -> None:
    alike, apart = (compare_ratios([losses(FLAT, sd=sd)]) for sd in (0.0, 0.1))

    def width(differences: Any) -> float:
        return max(one.high - one.low for one in differences)

    assert width(apart) > 5 * width(alike)


def test_rows_are_the_same_for_every_ratio() -> None:
    """A constant that a row adds to every ratio changes no difference."""
    nats, tokens = losses(SATURATING)
    common = np.random.default_rng(1).normal(0, 50, 60)
    for a, b in zip(
        compare_ratios([(nats, tokens)]),
        compare_ratios([(nats + common, tokens)]),
        strict=True,
    ):
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high))


def test_differences_and_the_noise_of_seeds_by_hand() -> None:
    """Two rows of 1 and 3 tokens, two seeds: 10 nats in 4 tokens against 6 nats."""
    nats = np.array([[[1.0, 9.0], [1.0, 9.0]], [[1.0, 5.0], [1.0, 5.0]]])
    tokens = np.array([1.0, 3.0])
    worse, best = compare_ratios([(nats, tokens)])
    assert (worse.value, worse.by_seed) == (1.0, (1.0, 1.0))
    assert (best.value, best.low, best.high) == (0.0, 0.0, 0.0)
    assert [measure(table, tokens).value for table in nats] == [2.5, 1.5]
    # Both seeds agree, so the interval is that of the rows: 0 of the first, 4/3 of the second.
    assert (worse.low, worse.high) == (0.0, pytest.approx(4 / 3))


def test_the_leak_of_a_ratio_is_that_of_its_worst_probe() -> None:
    """Two probes of four and two rows, one seed: 1 and 0, then 0 and 1/2, then none."""
    first = np.array([[[1.0] * 4], [[0.0] * 4], [[0.0] * 4]])
    second = np.array([[[0.0, 0.0]], [[1.0, 0.0]], [[0.0, 0.0]]])
    without, few, best = compare_ratios([(first, np.ones(4)), (second, np.ones(2))])
    assert (without.value, few.value, best.value) == (1.0, 0.5, 0.0)
    assert (few.low, few.high) == (0.0, 1.0)
    assert smallest_enough((0, 0.1, 1), (without, few, best), 0.02) == 0.1
    points = (leaky(0.5, 0), leaky(0.0, 65))
    series = replace(result_of(FLAT), by="leak", points=points, best=65.0, enough=65.0)
    line, numbers, *_ = summarize(series, {})
    assert line.startswith("ratio 65 has the best leak, and every smaller ratio is more than 2 p")
    assert numbers == "at this ratio: keep: KL 0.0000, loss 0.0000"


def leaky(leak: float, ratio: float) -> RatioPoint:
    zero = Measured(0.0, (0.0,), 0.0, 0.0)
    same = Measured(leak, (leak,), leak, leak)
    return RatioPoint(ratio, 0, same, zero, leak=same, keep=zero)


def test_the_outcome_in_sentences() -> None:
    lines = list(summarize(result_of(U_SHAPED), {"keep": 16.0}))
    assert lines[0].startswith("ratio 4 ")
    assert "for 100 task rows that is 400 pairs" in lines[0]
    assert "by keep, ratio 16 would be enough" in lines
    falling = list(summarize(result_of(FALLING), {}))
    assert "ratio 65 has the best loss, and every smaller ratio is more than 0.02" in falling[0]
    assert "for ratio 260 the cache needs 26,000 pairs" in falling[1]
    saturating = list(summarize(result_of(SATURATING), {}))
    assert "ratio 16 is the smallest whose loss may be within 0.02 nats per token" in saturating[0]
    small = replace(result_of(FLAT), trained_task_rows=50, settings={"seeds": 1})
    notes = " ".join(summarize(small, {}))
    assert "50 of 100 task rows" in notes
    assert "--seeds 2" in notes


def test_all_problems_of_the_settings_are_reported_at_once(tmp_path: Any) -> None:
    with pytest.raises(SettingsError) as wrong:
        RatioSettings(ratios=(4, 1), seeds=0, rows=1, pairs=0, task_rows=0)
    for part in ("4, 1 must be ascending", "seeds 0", "rows 1", "pairs 0", "task_rows 0"):
        assert part in str(wrong.value)
    with pytest.raises(SettingsError, match="is not a series"):
        RatioSettings(ratios=(4,))
    with pytest.raises(SettingsError, match="-1, inf must be finite"):
        RatioSettings(ratios=(-1, float("inf")))
    for values in ({"tolerance": 0.0}, {"by": "luck"}):
        with pytest.raises(SettingsError, match=r"one of leak, keep, follow, loss.*more than 0"):
            run_ratio("task", "cache", tmp_path / "out", TrainSettings(), **values)  # type: ignore[arg-type]
