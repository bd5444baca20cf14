"""The curve of a loss over the ratio: which of a few shapes fits, for many draws at once.

    flat         c
    line         c + d x                     x = log(1 + ratio)
    saturating   c + a exp(-b x)             that is c + a (1 + ratio)^-b, with a > 0
    u-shaped     c + a exp(-b x) + d x       with a, d > 0: falls, then rises
    free         the points themselves

Each is fitted by least squares weighted with the covariance of the points, and a shape with more
parameters must fit the better for it: the one with the least chi-square + 4 x parameters is taken,
so that a further parameter has to explain what chance explains about once in twenty times. A free
curve is what remains where no smooth one fits. For a fixed b all shapes are linear, so that b is
tried on a grid, and thousands of draws are fitted by a product of matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from delia_data.errors import InputError

Shape = Literal["flat", "line", "saturating", "u-shaped", "free"]
Floats: TypeAlias = NDArray[np.float64]

_PENALTY: Final = 4.0
_DECAYS: Final = np.geomspace(0.05, 4.0, 24)


@dataclass(frozen=True, slots=True)
class _Candidate:
    shape: Shape
    parameters: int
    decay: float | None = None

    def basis(self, x: Floats) -> Floats:
        """Columns of shape (points, coefficients)."""
        columns = [np.ones_like(x)]
        if self.decay is not None:
            columns.append(np.exp(-self.decay * x))
        if self.shape in ("line", "u-shaped"):
            columns.append(x)
        return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Curves:
    """Curves that were fitted to draws of one series.

    Attributes:
        ratios: The ratios of the points, rising.
        candidates: What was tried.
        chosen: Which of them each draw takes; shape (draws,).
        coefficients: Coefficients of the chosen one, one array a candidate; of the free one, the
            points.
    """

    ratios: tuple[float, ...]
    candidates: tuple[_Candidate, ...]
    chosen: NDArray[np.int64]
    coefficients: tuple[Floats, ...]

    def shape(self, draw: int = 0) -> Shape:
        """The shape that a draw takes."""
        return self.candidates[int(self.chosen[draw])].shape

    def parameters(self, draw: int = 0) -> dict[str, float]:
        """The parameters of a draw's curve, under the names that this module's head has."""
        which = int(self.chosen[draw])
        candidate, values = self.candidates[which], self.coefficients[which][draw].tolist()
        if candidate.shape == "free":
            return {}
        names = {"flat": "c", "line": "cd", "saturating": "ca", "u-shaped": "cad"}
        found = dict(zip(names[candidate.shape], values, strict=True))
        return found if candidate.decay is None else {**found, "b": float(candidate.decay)}

    def at(self, ratios: Sequence[float]) -> Floats:
        """Losses of every draw's curve at ratios, of shape (draws, ratios).

        A free curve is read off straight lines in `log(1 + ratio)`.

        Raises:
            InputError: A ratio lies outside those that were trained.
        """
        asked = np.asarray(ratios, dtype=np.float64)
        if asked.min() < self.ratios[0] - 1e-9 or asked.max() > self.ratios[-1] + 1e-9:
            raise InputError(
                f"the curve is known from ratio {self.ratios[0]:g} to {self.ratios[-1]:g}: "
                "ask within it, or train further ratios"
            )
        x, own = np.log1p(asked), np.log1p(np.asarray(self.ratios))
        found = np.empty((len(self.chosen), len(asked)))
        for number, candidate in enumerate(self.candidates):
            mask = self.chosen == number
            if not mask.any():
                continue
            values = self.coefficients[number][mask]
            if candidate.shape == "free":
                found[mask] = [np.interp(x, own, row) for row in values]
            else:
                found[mask] = values @ candidate.basis(x).T
        return found


def fit_curves(ratios: Sequence[float], losses: Floats, covariance: Floats) -> Curves:
    """Fit a curve to every draw of a series.

    Args:
        ratios: The ratios, rising.
        losses: Loss at each of them; shape (draws, ratios).
        covariance: Of the losses' noise; shape (ratios, ratios), positive definite.

    Raises:
        InputError: The shapes do not belong together, or there are fewer than two ratios.
    """
    x = np.log1p(np.asarray(ratios, dtype=np.float64))
    y = np.atleast_2d(np.asarray(losses, dtype=np.float64))
    count = len(x)
    if count < 2 or y.shape[1] != count or covariance.shape != (count, count):
        raise InputError(
            f"{y.shape} losses and a covariance of {covariance.shape} are no series of {count} "
            "ratios: give a loss for each of at least two"
        )
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    candidates = tuple(_candidates(count))
    coefficients, scores = [], []
    for candidate in candidates:
        if candidate.shape == "free":
            values, square, allowed = y, np.zeros(len(y)), np.ones(len(y), dtype=bool)
        else:
            basis = candidate.basis(x)
            values = y @ whiten.T @ np.linalg.pinv(whiten @ basis).T
            errors = (y - values @ basis.T) @ whiten.T
            square = (errors**2).sum(axis=1)
            allowed = _is_its_shape(candidate, values)
        coefficients.append(values)
        scores.append(np.where(allowed, square + _PENALTY * candidate.parameters, np.inf))
    chosen = np.argmin(np.stack(scores, axis=1), axis=1)
    return Curves(tuple(map(float, ratios)), candidates, chosen, tuple(coefficients))


def _candidates(points: int) -> Iterator[_Candidate]:
    """All shapes that so many points can tell from a free curve, the simplest first."""
    yield _Candidate("flat", 1)
    yield _Candidate("line", 2)
    if points > 3:
        yield from (_Candidate("saturating", 3, float(decay)) for decay in _DECAYS)
    if points > 4:
        yield from (_Candidate("u-shaped", 4, float(decay)) for decay in _DECAYS)
    yield _Candidate("free", points)


def _is_its_shape(candidate: _Candidate, values: Floats) -> NDArray[np.bool_]:
    """Whether the signs of the coefficients are those of the shape."""
    if candidate.shape == "saturating":
        return np.asarray(values[:, 1] > 0)
    if candidate.shape == "u-shaped":
        return np.asarray((values[:, 1] > 0) & (values[:, 2] > 0))
    return np.ones(len(values), dtype=bool)
