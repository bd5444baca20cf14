"""Reproduction: a grid of methods run cell by cell, and the paper's tables and figures of it."""

from __future__ import annotations

from delia_data.reproduction.cell import Cell, cells_of
from delia_data.reproduction.findings import Finding, find
from delia_data.reproduction.grid import SCALES, Grid, read_grid
from delia_data.reproduction.report import write_reproduction
from delia_data.reproduction.results import Results, read_results
from delia_data.reproduction.run import Run
from delia_data.reproduction.running import reproduce
from delia_data.reproduction.tables import Table, make_tables

__all__ = [
    "SCALES",
    "Cell",
    "Finding",
    "Grid",
    "Results",
    "Run",
    "Table",
    "cells_of",
    "find",
    "make_tables",
    "read_grid",
    "read_results",
    "reproduce",
    "write_reproduction",
]
