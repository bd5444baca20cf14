"""One page on any runs: what `delia report` writes."""

from __future__ import annotations

from delia_data.report.report import Report, make_report
from delia_data.report.runs import Run, Runs, read_runs

__all__ = ["Report", "Run", "Runs", "make_report", "read_runs"]
