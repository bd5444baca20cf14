"""Choosing a ratio of losses that are made up: known shapes come back, noise is called noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delia_data.errors import InputError, SettingsError
from delia_data.ratio import Choice, RatioSettings
from delia_data.ratio.draws import Series, draw_series
from delia_data.ratio.recommendation import Recommendation, recommend
from delia_data.ratio.shapes import fit_curves
from delia_data.ratio.words import verdict

RATIOS = (0.0, 1.0, 4.0, 16.0, 65.0)
X = np.log1p(RATIOS)
FAST = Choice(draws=400)

SATURATING = 0.3 + 0.5 * np.exp(-1.5 * X)  # 0.80 0.48 0.34 0.31 0.30
U_SHAPED = 0.3 + 0.3 * np.exp(-1.2 * X) + 0.04 * X  # 0.60 0.46 0.41 0.42 0.47
FALLING = 0.5 - 0.08 * X  # 0.50 0.44 0.37 0.27 0.16
RISING = 0.3 + 0.03 * X
FLAT = np.full(5, 0.3)


def series(
    truth: Sequence[float], *, seeds: int = 2, sd: float = 0.003, rows: int = 60, seed: int = 0
) -> Series:
    """A series around a truth: rows differ by far more than ratios do, seeds by `sd`."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(10, 40, rows).astype(float)
    shape = (len(truth), seeds)
    nats = np.asarray(truth)[:, None, None] + draw.normal(0, 0.5, rows)
    nats = nats + draw.normal(0, 0.02, (*shape, rows)) + draw.normal(0, sd, (*shape, 1))
    return draw_series(nats * tokens, tokens, draws=FAST.draws)


def chosen(truth: Sequence[float], **how: Any) -> Recommendation:
    ratios = RATIOS[: len(truth)]
    return recommend(ratios, series(truth, **how), FAST)


# What comes out


@pytest.mark.parametrize(
    ("truth", "ratio", "outcome", "shape"),
    [
        (SATURATING, 16, "settled", "saturating"),
        (U_SHAPED, 4, "settled", "u-shaped"),
        (FALLING, 65, "falling", "line"),
        (RISING, 0, "settled", "line"),
        (FLAT, 0, "flat", "flat"),
    ],
    ids=["saturating", "u-shaped", "falling", "rising", "flat"],
)
def test_a_known_curve_is_found_again(truth: Any, ratio: float, outcome: str, shape: str) -> None:
    found = chosen(truth)
    assert (found.ratio, found.verdict, found.shape) == (ratio, outcome, shape)
    assert found.between == (ratio,)
    at_points = np.interp(
        X, np.log1p([p.ratio for p in found.curve]), [p.value for p in found.curve]
    )
    assert np.abs((at_points - at_points.mean()) - (truth - truth.mean())).max() < 0.02


def test_more_pairs_that_do_harm_are_told_of() -> None:
    assert chosen(U_SHAPED).rises > 0.95
    assert chosen(RISING).rises > 0.95
    assert chosen(SATURATING).rises < 0.05


def test_seeds_that_differ_by_more_than_ratios_settle_nothing() -> None:
    found = chosen(0.3 - 0.01 * X, sd=0.1, seed=1)
    assert found.verdict == "noisy"
    assert len(found.between) > 1
    assert "too noisy to tell between" in verdict(found, task_rows=100)
    assert sum(found.shares) == pytest.approx(1)


def test_the_tolerance_trades_pairs_for_loss() -> None:
    made = series(SATURATING)
    ratios = [
        recommend(RATIOS, made, Choice(tolerance=tolerance, draws=400)).ratio
        for tolerance in (0.02, 0.1, 0.3, 1.0)
    ]
    assert ratios == [16, 4, 1, 0]


def test_by_selectivity_the_greatest_is_the_best() -> None:
    made = series(1 - SATURATING)
    found = recommend(RATIOS, made, Choice(by="selectivity", draws=400))
    assert found.ratio == 16
    assert found.curve[-1].value > found.curve[0].value  # shown as it is, not turned over
    falling = recommend(RATIOS, series(-FALLING), Choice(by="selectivity", draws=400))
    assert "still rising at ratio 65" in verdict(falling, task_rows=100)


def test_a_curve_that_no_shape_has_is_left_to_its_points() -> None:
    found = chosen([0.5, 0.2, 0.5, 0.2, 0.5])
    assert found.shape == "free"
    assert found.ratio == found.by_points == 1


def test_two_ratios_are_a_series() -> None:
    found = recommend((0.0, 4.0), series([0.5, 0.3]), FAST)
    assert (found.ratio, found.shape) == (4, "line")


def test_a_settled_choice_is_seldom_wrong() -> None:
    """Over 40 series: what is called settled is right, and most of them are settled."""
    outcomes = [chosen(SATURATING, sd=0.01, seed=seed) for seed in range(40)]
    settled = [found for found in outcomes if found.verdict != "noisy"]
    assert len(settled) > 20
    assert sum(found.ratio != 16 for found in settled) <= 2


# What it is made of


def test_rows_are_the_same_ones_for_every_ratio() -> None:
    """What a row adds to every ratio alike changes no interval between ratios."""
    draw = np.random.default_rng(0)
    tokens = np.full(30, 10.0)
    own = draw.normal(0, 1, (5, 1, 30))
    common = draw.normal(0, 50, 30)
    small, large = (draw_series(nats, tokens) for nats in (own, own + common))
    assert np.ptp(large.draws - small.draws, axis=1).max() < 1e-9


def test_noise_of_seeds_is_what_remains_beside_ratio_and_seed() -> None:
    """By hand: residuals of [[0, 2], [0, 0]] are ±0.5, their squares add up to 1, one is free."""
    nats = np.array([[[0.0], [2.0]], [[0.0], [0.0]]])
    assert draw_series(nats, np.ones(1)).seed_sd == pytest.approx(1.0)
    shifted = nats + np.array([0.0, 7.0])[None, :, None]  # a seed that is worse everywhere
    assert draw_series(shifted, np.ones(1)).seed_sd == pytest.approx(1.0)
    assert draw_series(nats[:, :1], np.ones(1)).seed_sd is None


def test_loss_is_a_mean_over_tokens_not_over_rows() -> None:
    nats, tokens = np.array([[[1.0, 9.0]], [[1.0, 9.0]]]), np.array([1.0, 3.0])
    assert draw_series(nats, tokens).values.tolist() == [2.5, 2.5]


def test_equal_seeds_give_equal_draws() -> None:
    assert (series(U_SHAPED).draws == series(U_SHAPED).draws).all()


@given(st.floats(-3, 3), st.floats(0.1, 3), st.floats(0.1, 2.5))
def test_a_saturating_curve_without_noise_is_fitted(c: float, a: float, b: float) -> None:
    truth = c + a * np.exp(-b * X)
    found = fit_curves(RATIOS, truth[None], 1e-3**2 * np.eye(5))
    assert np.abs(found.at(RATIOS)[0] - truth).max() < 0.03 * a + 0.01


def test_every_draw_is_fitted_by_itself() -> None:
    both = fit_curves(RATIOS, np.stack([FLAT, FALLING]), 1e-2**2 * np.eye(5))
    assert [both.shape(0), both.shape(1)] == ["flat", "line"]
    assert both.parameters(1) == pytest.approx({"c": 0.5, "d": -0.08})
    alone = fit_curves(RATIOS, FALLING[None], 1e-2**2 * np.eye(5))
    assert both.at([2.0, 30.0])[1] == pytest.approx(alone.at([2.0, 30.0])[0])


def test_nothing_is_read_off_beyond_what_was_trained() -> None:
    found = fit_curves(RATIOS, FALLING[None], 1e-2**2 * np.eye(5))
    with pytest.raises(InputError, match="from ratio 0 to 65"):
        found.at([260.0])


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(InputError, match="no series of 5 ratios"):
        fit_curves(RATIOS, FLAT[None, :4], np.eye(5))
    with pytest.raises(InputError, match="are no series"):
        draw_series(np.zeros((2, 2, 3)), np.ones(4))


# What it says


def test_the_largest_ratio_names_what_the_next_one_needs() -> None:
    told = verdict(chosen(FALLING), task_rows=100)
    assert "still falling at ratio 65" in told
    assert "to try ratio 260, the cache needs 26,000 pairs" in told


def test_a_settled_one_names_its_pairs() -> None:
    told = verdict(chosen(U_SHAPED), task_rows=100)
    assert told.startswith("ratio 4 is the smallest within 0.02 nats a token of the best")
    assert "for 100 task rows that is 400 pairs" in told
    assert "flat: ratio 0 is enough" in verdict(chosen(FLAT), task_rows=100)


def test_a_recommendation_is_the_same_after_json() -> None:
    import json

    found = chosen(U_SHAPED)
    assert Recommendation.from_dict(json.loads(json.dumps(found.as_dict()))) == found


# Settings


def test_all_that_is_wrong_with_the_settings_is_said_at_once() -> None:
    with pytest.raises(SettingsError) as wrong:
        RatioSettings(ratios=(4, 1), seeds=0, rows=1, pairs=0, task_rows=0)
    for part in ("4, 1 must rise", "seeds 0", "rows 1", "pairs 0", "task_rows 0"):
        assert part in str(wrong.value)
    with pytest.raises(SettingsError, match="makes no series"):
        RatioSettings(ratios=(4,))
    with pytest.raises(SettingsError, match="-1, inf must be numbers of at least 0"):
        RatioSettings(ratios=(-1, float("inf")))
    with pytest.raises(SettingsError) as wrong:
        Choice(tolerance=0, by="luck", draws=1, confidence=1)  # type: ignore[arg-type]
    for part in ("tolerance 0", "'luck' must be one of loss, selectivity", "draws 1", "confidence"):
        assert part in str(wrong.value)
