"""What comes of posting to an API over HTTP, and what can go wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


class Unreachable(Exception):  # noqa: N818 - it is handled, not reported
    """There is no connection to the server."""


class Broken(Exception):  # noqa: N818
    """The connection ended before the answer did."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answers.

    Attributes:
        status: HTTP's status.
        headers: Headers by their names; those of `Connections` in lower case.
        body: The body as it came.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Poster(Protocol):
    """Posts to one address within one event loop."""

    async def open(self) -> None:
        """Get ready; nothing is sent."""

    async def post(self, body: bytes) -> Reply:
        """Send a body, and read the answer.

        Raises:
            Unreachable: There is no connection.
            Broken: The connection ended early.
            TimeoutError: The answer took too long.
        """

    async def close(self) -> None:
        """Close every connection."""


def why(error: Exception) -> str:
    """What the system says of an error, without addresses."""
    number = getattr(error, "errno", None) or 0
    return os.strerror(number) if number > 0 else str(error) or type(error).__name__
