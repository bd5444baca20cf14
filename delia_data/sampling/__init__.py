"""Self-sampling: a cache of pairs in the model's own words."""

from __future__ import annotations

from delia_data.sampling.asking import Asking, Limits, query_id
from delia_data.sampling.filters import Filter, default_filters
from delia_data.sampling.loop import sample
from delia_data.sampling.meter import Progress
from delia_data.sampling.queries import Queries, Query, bundled_queries
from delia_data.sampling.rows import Sampled
from delia_data.sampling.store import PairStore, bundled_cache_folder, read_cache

__all__ = [
    "Asking",
    "Filter",
    "Limits",
    "PairStore",
    "Progress",
    "Queries",
    "Query",
    "Sampled",
    "bundled_cache_folder",
    "bundled_queries",
    "default_filters",
    "query_id",
    "read_cache",
    "sample",
]
