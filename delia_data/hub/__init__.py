"""Publish a task, its cache, and its mixtures, or a model on the Hub, in fixed versions.

push     one commit and one tag; the same content again changes nothing
pull     exactly one version, with the hash of every file verified
diff     the difference between two versions
"""

from __future__ import annotations

from delia_data.hub.client import Retry
from delia_data.hub.pull import (
    Difference,
    Published,
    diff,
    download_parts,
    find_version,
    published_mixture,
    pull,
)
from delia_data.hub.push import Pushed, Version, push

__all__ = [
    "Difference",
    "Published",
    "Pushed",
    "Retry",
    "Version",
    "diff",
    "download_parts",
    "find_version",
    "published_mixture",
    "pull",
    "push",
]
