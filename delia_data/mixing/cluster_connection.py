"""The connection to a Ray cluster: found, used, left as it was."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from delia_data._optional import require
from delia_data.errors import EngineError, InputError

_ANSWER_S: Final = 10.0


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one, with the settings that Ray Data needs here.

    Raises:
        InputError: No cluster answers at the address.
        EngineError: The cluster failed.
    """
    ray, data = require("ray", extra="ray"), require("ray.data", extra="ray")
    ours = not ray.is_initialized()
    if ours:
        try:
            _check_answers(address or os.environ.get("RAY_ADDRESS", ""))
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"no Ray cluster answers at {address or 'this machine'}: {_last_line(error)}; "
                "start one with ray start --head, or give another --address"
            ) from error
    elif address not in (None, "auto", there := ray.get_runtime_context().gcs_address):
        raise InputError(
            f"this process is connected to the Ray cluster {there}, not to {address}: give that "
            "address, or none"
        )
    log, context = logging.getLogger("ray.data"), data.DataContext.get_current()
    kept = log.level, context.shuffle_strategy, context.enable_progress_bars
    log.setLevel(logging.ERROR)
    # The pull-based sort is made of tasks alone: what a lost node had is worked out again. The
    # hash shuffle keeps rows in actors, which a node takes with it.
    context.shuffle_strategy = data.context.ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
    context.enable_progress_bars = False
    try:
        yield
    except (ray.exceptions.RayError, data.exceptions.SystemException) as error:
        raise EngineError(
            f"the Ray cluster failed: {_last_line(error)}; every node needs this package in the "
            "same version"
        ) from error
    finally:
        log.setLevel(kept[0])
        context.shuffle_strategy, context.enable_progress_bars = kept[1:]
        if ours:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Fail at once where nothing listens: Ray itself goes on trying for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
