"""Self-sampling: a cache of pairs in the model's own words."""

from __future__ import annotations

from delia_data.sampling.filters import Filter, default_filters
from delia_data.sampling.loop import query_id, sample
from delia_data.sampling.queries import Query, bundled_queries
from delia_data.sampling.store import PairStore, Sampled, bundled_cache_folder, read_cache

__all__ = [
    "Filter",
    "PairStore",
    "Query",
    "Sampled",
    "bundled_cache_folder",
    "bundled_queries",
    "default_filters",
    "query_id",
    "read_cache",
    "sample",
]
