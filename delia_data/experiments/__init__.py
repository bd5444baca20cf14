"""Experiments: series of trainings, run cell by cell: `delia ratio` and `delia reproduce`.

grid ──▶ cells (method, task rows, ratio, seed) ──▶ workers ──▶ results ──▶ tables and figures

`methods` has all methods in one registry; a new method is one entry there.
"""

from __future__ import annotations

from delia_data.experiments.grid import SCALES, Cell, Grid, read_grid
from delia_data.experiments.methods import METHODS, Method
from delia_data.experiments.ratio import (
    RatioResult,
    RatioSettings,
    estimate_ratio,
    read_ratio,
    run_ratio,
)
from delia_data.experiments.reproduction import Reproduction, reproduce
from delia_data.experiments.results import Results, read_results
from delia_data.experiments.tables import check_claims, make_tables

__all__ = [
    "METHODS",
    "SCALES",
    "Cell",
    "Grid",
    "Method",
    "RatioResult",
    "RatioSettings",
    "Reproduction",
    "Results",
    "check_claims",
    "estimate_ratio",
    "make_tables",
    "read_grid",
    "read_ratio",
    "read_results",
    "reproduce",
    "run_ratio",
]
