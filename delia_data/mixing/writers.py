"""Which models wrote the pairs of a mixture, as far as the caches' manifests say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from delia_data.outputs import is_finished, read_manifest


def writers_of(caches: Mapping[str, Any]) -> dict[str, Any]:
    """Give the model that wrote each cache, by the cache's name.

    Args:
        caches: The caches as `mix` takes them, by name. Rows in memory, files and Hub ids say
            nothing of their writer, and are left out.

    Returns:
        What the engine said of its model when it sampled: `name`, `weights_sha256` and
        `chat_template_sha256`, or a name alone for a model behind an API.
    """
    written = {}
    for name, given in caches.items():
        folder = getattr(given, "folder", given)
        if isinstance(folder, str | os.PathLike) and is_finished(Path(folder)):
            model = read_manifest(folder).settings.get("model")
            if model:
                written[name] = model
    return written
