"""How many pairs are enough: a series of ratios, its curve, the smallest that is about the best."""

from __future__ import annotations

from delia_data.ratio.finding import estimate_ratio, find_ratio
from delia_data.ratio.recommendation import Recommendation
from delia_data.ratio.result import RatioPoint, RatioResult, Value, read_ratio
from delia_data.ratio.settings import Choice, RatioSettings

__all__ = [
    "Choice",
    "RatioPoint",
    "RatioResult",
    "RatioSettings",
    "Recommendation",
    "Value",
    "estimate_ratio",
    "find_ratio",
    "read_ratio",
]
