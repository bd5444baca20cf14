"""The smallest ratio that is about as good as the best, and whether the series settles it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from delia_data.ratio.draws import Series
from delia_data.ratio.settings import By, Choice
from delia_data.ratio.shapes import Shape, fit_curves

Verdict = Literal["settled", "flat", "falling", "noisy"]

SETTLED: Final = 0.8
"""Share of the draws in which a ratio must come out, for the series to settle it."""
_CURVE_POINTS: Final = 41


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A point of the fitted curve: a ratio, the value there, and the interval of the curve."""

    ratio: float
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A ratio, why, and how sure that is.

    Attributes:
        by: What it was chosen by.
        tolerance: Nats a token by which it may be worse than the best one.
        ratio: The smallest ratio whose fitted value is within the tolerance of the best fitted one.
        best: The ratio of the best fitted value.
        verdict: `"settled"`; `"flat"`: every ratio is within the tolerance; `"falling"`: it is the
            largest, and the one before it is worse by more than the tolerance, so that the best may
            lie beyond; `"noisy"`: other rows or seeds would often have given another one.
        share: Share of the draws in which this ratio would have been recommended.
        shares: The same share of each ratio.
        between: The ratios of the greatest shares that make up `SETTLED` of the draws.
        by_points: What the points alone would give, without a curve.
        rises: Share of the draws in which the largest ratio is worse than the best one by more than
            the tolerance.
        shape: Shape of the curve.
        parameters: Its parameters, as `ratio.shapes` names them, of the loss or of the negative
            selectivity.
        curve: The curve, from the smallest ratio to the largest; it is not carried on beyond.
    """

    by: By
    tolerance: float
    ratio: float
    best: float
    verdict: Verdict
    share: float
    shares: tuple[float, ...]
    between: tuple[float, ...]
    by_points: float
    rises: float
    shape: Shape
    parameters: dict[str, float]
    curve: tuple[CurvePoint, ...]

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recommendation:
        """Make it of what `as_dict` gave."""
        lists = {name: tuple(values[name]) for name in ("shares", "between")}
        curve = tuple(CurvePoint(**point) for point in values["curve"])
        return cls(**{**values, **lists, "curve": curve})


def recommend(ratios: Sequence[float], series: Series, choice: Choice) -> Recommendation:
    """Recommend a ratio of a series.

    A curve is fitted to the series as it is and to every draw of it; a draw may take another shape.

    Args:
        ratios: The ratios, rising.
        series: What it is chosen by, at each of them.
        choice: How; by `"selectivity"` the greatest value is the best one.

    Raises:
        InputError: There are fewer than two ratios.
    """
    sign = -1.0 if choice.by == "selectivity" else 1.0
    values, draws = sign * series.values, sign * series.draws
    fitted = fit_curves(ratios, values[None], series.covariance)
    drawn = fit_curves(ratios, draws, series.covariance)
    at = fitted.at(ratios)
    place = int(_smallest(at, choice.tolerance)[0])
    best = int(np.argmin(at[0]))
    drawn_at = drawn.at(ratios)
    places = _smallest(drawn_at, choice.tolerance)
    shares = np.bincount(places, minlength=len(ratios)) / len(places)
    between = _between(shares)
    verdict: Verdict = "settled"
    if between != [place]:
        verdict = "noisy"
    elif place == len(ratios) - 1:
        verdict = "falling"
    elif float(np.ptp(at)) <= choice.tolerance:
        verdict = "flat"
    return Recommendation(
        by=choice.by,
        tolerance=choice.tolerance,
        ratio=float(ratios[place]),
        best=float(ratios[best]),
        verdict=verdict,
        share=float(shares[place]),
        shares=tuple(shares.tolist()),
        between=tuple(float(ratios[i]) for i in between),
        by_points=float(ratios[int(_smallest(values[None], choice.tolerance)[0])]),
        rises=float((drawn_at[:, -1] > drawn_at[:, best] + choice.tolerance).mean()),
        shape=fitted.shape(),
        parameters=fitted.parameters(),
        curve=_curve(ratios, sign, fitted.at, drawn.at, choice.confidence),
    )


def _smallest(losses: NDArray[np.float64], tolerance: float) -> NDArray[np.int64]:
    """Place of the first loss within the tolerance of the least; shape (draws,)."""
    near = losses <= losses.min(axis=1, keepdims=True) + tolerance + 1e-12
    return np.asarray(np.argmax(near, axis=1))


def _between(shares: NDArray[np.float64]) -> list[int]:
    """Places of the greatest shares that make up `SETTLED`, in their order."""
    taken: list[int] = []
    for place in np.argsort(-shares, kind="stable").tolist():
        taken.append(place)
        if shares[taken].sum() >= SETTLED:
            break
    return sorted(taken)


def _curve(
    ratios: Sequence[float], sign: float, fitted: Any, drawn: Any, confidence: float
) -> tuple[CurvePoint, ...]:
    low_x, high_x = np.log1p([ratios[0], ratios[-1]]).tolist()
    grid = np.expm1(np.linspace(low_x, high_x, _CURVE_POINTS)).clip(ratios[0], ratios[-1])
    tail = (1 - confidence) / 2
    values = sign * fitted(grid)[0]
    low, high = np.quantile(sign * drawn(grid), [tail, 1 - tail], axis=0)
    return tuple(
        CurvePoint(*map(float, point)) for point in zip(grid, values, low, high, strict=True)
    )
