"""What a series came to: `ratio.json`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from delia_data.errors import InputError
from delia_data.outputs import read_manifest
from delia_data.ratio.draws import Series
from delia_data.ratio.recommendation import Recommendation

RESULT: Final = "ratio.json"


@dataclass(frozen=True, slots=True)
class Value:
    """A number at one ratio, in nats a token.

    Attributes:
        value: Mean over seeds.
        low: Lower end of the interval over rows, and over seeds where there are several; what moves
            all ratios alike is left out of it.
        high: Upper end of it.
        by_seed: The number of each seed.
    """

    value: float
    low: float
    high: float
    by_seed: tuple[float, ...]

    @classmethod
    def from_dict(cls, values: dict[str, Any] | None) -> Value | None:
        """Make it of what `as_dict` of a result gave."""
        return None if values is None else cls(**{**values, "by_seed": tuple(values["by_seed"])})


@dataclass(frozen=True, slots=True)
class RatioPoint:
    """One ratio of a series.

    Attributes:
        ratio: Pairs for each task row.
        pairs: Pairs in its mixture.
        loss: Loss of held-out answers where the prompt names the token.
        pair_loss: Loss of pairs that are in no mixture.
        plain: Loss of the held-out answers where the prompt does not name the token.
        selectivity: `plain` minus `loss`, row by row.
    """

    ratio: float
    pairs: int
    loss: Value
    pair_loss: Value
    plain: Value | None = None
    selectivity: Value | None = None


@dataclass(frozen=True, slots=True)
class RatioResult:
    """What a series came to.

    Attributes:
        task: Name of the task.
        token: Its special token.
        settings: Of the series, of the training and of the choice.
        task_rows: Training rows of the task in all; the series may have been trained on fewer.
        trained_task_rows: Training rows of the task in every mixture.
        held_out_rows: Held-out rows whose loss was taken.
        points: The ratios, rising.
        seed_sd: Standard deviation of one seed's loss at one ratio; None with one seed.
        chosen: The recommendation.
        by_loss: The recommendation by the loss.
        by_selectivity: The one by selectivity; None where rows have no plain form.
        pairs_needed: Pairs that a cache needs for the recommended ratio and all rows of the task.
        told: The outcome in sentences, the recommendation first.
    """

    task: str
    token: str
    settings: dict[str, Any]
    task_rows: int
    trained_task_rows: int
    held_out_rows: int
    points: tuple[RatioPoint, ...]
    seed_sd: float | None
    chosen: Recommendation
    by_loss: Recommendation
    by_selectivity: Recommendation | None
    pairs_needed: int
    told: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON takes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RatioResult:
        """Make it of what `as_dict` gave."""
        points = tuple(
            RatioPoint(
                point["ratio"],
                point["pairs"],
                *(
                    Value.from_dict(point[name])  # type: ignore[arg-type]  # the first two are there
                    for name in ("loss", "pair_loss", "plain", "selectivity")
                ),
            )
            for point in values["points"]
        )
        recommendations = {
            name: None if values[name] is None else Recommendation.from_dict(values[name])
            for name in ("chosen", "by_loss", "by_selectivity")
        }
        told = tuple(values["told"])
        return cls(**{**values, "points": points, **recommendations, "told": told})


def values_of(series: Series, confidence: float) -> list[Value]:
    """The numbers of a series, one a ratio."""
    low, high = series.interval(confidence)
    return [
        Value(float(value), float(a), float(b), tuple(map(float, seeds)))
        for value, a, b, seeds in zip(series.values, low, high, series.by_seed, strict=True)
    ]


def read_ratio(folder: str | os.PathLike[str]) -> RatioResult:
    """Read what `find_ratio` wrote.

    Raises:
        UnfinishedError: The series has not come to its end.
        InputError: The folder holds something else.
    """
    root = Path(folder)
    manifest = read_manifest(root)
    if RESULT not in manifest.files:
        raise InputError(f"{root} holds no {RESULT}: give what delia ratio wrote")
    return RatioResult.from_dict(json.loads((root / RESULT).read_text(encoding="utf-8")))
