"""One training in several processes, as `accelerate launch` starts them.

All of them read, encode and compute; the main one alone writes, holds the folder's lock, and
leaves the manifest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from delia_data.outputs import folder_lock


def process_count() -> int:
    """Processes of this training; 1 where nothing launched several."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def is_main_process() -> bool:
    """Whether this is the process that writes."""
    return process_count() == 1 or int(os.environ.get("RANK") or 0) == 0


def own_device(device: str) -> str:
    """Where this process puts its model, of those that were launched together.

    Each has a GPU of its own. One whose model is to be sharded leaves it on the CPU, from where
    each GPU takes its part: it need not hold the whole one.

    Args:
        device: The device of the settings, `"cpu"` or `"cuda"`.
    """
    if process_count() == 1 or device != "cuda":
        return device
    return "cpu" if sharding_is_asked_for() else f"cuda:{int(os.environ.get('LOCAL_RANK') or 0)}"


def sharding_is_asked_for() -> bool:
    """Whether `accelerate launch` was given an FSDP configuration."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def wait_for_all() -> None:
    """Go on when every process has come here; needs a trainer to have been made before."""
    if process_count() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


@contextmanager
def held_by_main(folder: Path) -> Iterator[None]:
    """Hold a folder in the main process; the others go by its lock.

    Raises:
        LockedError: Another training holds it.
    """
    if not is_main_process():
        yield
        return
    with folder_lock(folder):
        yield
