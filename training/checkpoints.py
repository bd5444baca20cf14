"""Checkpoints from which a stopped training goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

CHECKPOINTS: Final = ".checkpoints"
"""Folder beside the adapter that holds them while the model trains."""


def last_checkpoint(root: Path) -> str | None:
    """The newest whole checkpoint; one that a kill cut short has no trainer state yet."""
    whole = [
        state.parent
        for state in (root / CHECKPOINTS).glob("checkpoint-*/trainer_state.json")
        if _is_json(state)
    ]
    newest = max(whole, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)
    return None if newest is None else str(newest)


def _is_json(file: Path) -> bool:
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True
