"""Options that the engines over HTTP share, and what they refuse."""

from __future__ import annotations

from urllib.parse import urlsplit

from delia_data.engines.base import Prices
from delia_data.errors import InputError


def check_address(address: str) -> str:
    """Give an API's address without a slash at its end.

    Raises:
        InputError: It is none, or holds a secret.
    """
    parts = urlsplit(address)
    if parts.username or parts.password:
        raise InputError(
            "api_base holds a user name or password: give the bare address, "
            "and the key in the environment"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise InputError(
            f"api_base {address!r} is no address: give one such as http://127.0.0.1:8000/v1"
        )
    return address.rstrip("/")


def check_options(
    *, timeout_s: float, retries: int, prompt_price: float | None, completion_price: float | None
) -> None:
    """Refuse options that cannot be meant.

    Raises:
        InputError: A value is out of its bounds, or one price is given and the other is not.
    """
    if not timeout_s > 0:
        raise InputError(f"timeout_s {timeout_s} is too short: give more than 0")
    if retries < 0:
        raise InputError(f"retries {retries} is out of bounds: give 0 or more")
    if (prompt_price is None) != (completion_price is None):
        raise InputError("prompt_price and completion_price belong together: give both or neither")
    for name, price in (("prompt_price", prompt_price), ("completion_price", completion_price)):
        if price is not None and not 0 <= price < float("inf"):
            raise InputError(f"{name} {price} is out of bounds: give dollars for a million tokens")


def given_prices(prompt_price: float | None, completion_price: float | None) -> Prices | None:
    """Prices for a token from those for a million, where they are given."""
    if prompt_price is None or completion_price is None:
        return None
    return Prices(prompt_price / 1e6, completion_price / 1e6)
