"""Self-sampling: a cache of pairs in the model's own words."""

from __future__ import annotations

from delia_data.bundled_cache import bundled_cache_folder
from delia_data.sampling.asking import Asking, Limits, query_id
from delia_data.sampling.coverage import Saturation, coverage
from delia_data.sampling.expand import expanded_queries
from delia_data.sampling.filters import Filter, default_filters
from delia_data.sampling.loop import Growing, sample
from delia_data.sampling.meter import Progress
from delia_data.sampling.planning import PROBE_ROWS, Estimate, Forecast, forecast
from delia_data.sampling.quality import Quality, measure_quality
from delia_data.sampling.queries import BundledQueries, Queries, Query, bundled_queries
from delia_data.sampling.query_files import FileQueries
from delia_data.sampling.query_list import QueryList
from delia_data.sampling.rows import Sampled
from delia_data.sampling.self_queries import self_queries
from delia_data.sampling.store import PairStore, read_cache, read_plan

__all__ = [
    "PROBE_ROWS",
    "Asking",
    "BundledQueries",
    "Estimate",
    "FileQueries",
    "Filter",
    "Forecast",
    "Growing",
    "Limits",
    "PairStore",
    "Progress",
    "Quality",
    "Queries",
    "Query",
    "QueryList",
    "Sampled",
    "Saturation",
    "bundled_cache_folder",
    "bundled_queries",
    "coverage",
    "default_filters",
    "expanded_queries",
    "forecast",
    "measure_quality",
    "query_id",
    "read_cache",
    "read_plan",
    "sample",
    "self_queries",
]
