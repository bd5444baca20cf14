"""The Hub: publish a task, its cache and its mixtures, in versions that never change.

push     one commit and one tag; the same content again changes nothing
pull     exactly one version, every file compared with its hash
diff     what differs between two versions
"""

from __future__ import annotations

from delia_data.hub.client import Retry
from delia_data.hub.diff import Difference, diff
from delia_data.hub.plan import PlannedFile, Pushed
from delia_data.hub.pull import Published, find_version, open_mixture, published_mixture, pull
from delia_data.hub.push import needs_licence, push
from delia_data.hub.versions import Version
from delia_data.hub.workshop import Options

__all__ = [
    "Difference",
    "Options",
    "PlannedFile",
    "Published",
    "Pushed",
    "Retry",
    "Version",
    "diff",
    "find_version",
    "needs_licence",
    "open_mixture",
    "published_mixture",
    "pull",
    "push",
]
