"""One page on any runs: the output of `delia report`."""

from __future__ import annotations

from delia_data.report.report import Report, check_place, make_report

__all__ = ["Report", "check_place", "make_report"]
