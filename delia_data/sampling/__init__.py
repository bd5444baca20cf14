"""Self-sampling: a cache of pairs that the model itself wrote."""

from __future__ import annotations

from delia_data.bundled_cache import bundled_cache_folder
from delia_data.records import Rejection
from delia_data.sampling.budget import Limits
from delia_data.sampling.embeddings import Saturation
from delia_data.sampling.filters import Filter, Judge, default_filters
from delia_data.sampling.generated_queries import expanded_queries, load_queries, self_queries
from delia_data.sampling.quality import Quality, measure_quality
from delia_data.sampling.queries import (
    BundledQueries,
    FileQueries,
    Queries,
    Query,
    QueryList,
    bundled_queries,
)
from delia_data.sampling.sampler import Interval, Progress, RunEstimate, estimate, sample
from delia_data.sampling.schedule import PromptOptions
from delia_data.sampling.store import read_cache, read_plan

__all__ = [
    "BundledQueries",
    "FileQueries",
    "Filter",
    "Interval",
    "Judge",
    "Limits",
    "Progress",
    "PromptOptions",
    "Quality",
    "Queries",
    "Query",
    "QueryList",
    "Rejection",
    "RunEstimate",
    "Saturation",
    "bundled_cache_folder",
    "bundled_queries",
    "default_filters",
    "estimate",
    "expanded_queries",
    "load_queries",
    "measure_quality",
    "read_cache",
    "read_plan",
    "sample",
    "self_queries",
]
