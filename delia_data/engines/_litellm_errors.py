"""What litellm's exceptions mean: the one place that knows them."""

from __future__ import annotations

import os
import re
from typing import Any, Final

from delia_data.engines._remote import Rejected
from delia_data.engines._replies import FILTERED, one_line, refusal_of, retry_after_s

_UNREACHED: Final = ("ConnectError", "ConnectTimeout", "ClientConnectorError")
_SECRET: Final = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS")
_PREFIX: Final = re.compile(r"^(?:litellm\.)?(?:\w+(?:Error|Exception)\b(?:: | - ))+")


def translated(
    litellm: Any,
    error: Exception,
    *,
    model: str,
    provider: str,
    api_base: str | None,
    timeout_s: float,
) -> Rejected:
    """Tell what an exception of litellm means.

    Args:
        litellm: The library.
        error: What it raised.
        model: The model's name.
        provider: Whose model it is, for messages.
        api_base: Where it was asked, where that is not the provider's own address.
        timeout_s: Seconds that were waited at most.
    """
    kinds = litellm.exceptions
    where = f"the server at {api_base}" if api_base else provider
    message = message_of(error)
    if _unreached(error):
        return Rejected("down", f"{where} cannot be reached; check that it runs, and the network")
    if isinstance(error, kinds.Timeout):
        return Rejected("slow", f"no answer within {timeout_s:g} s")
    if isinstance(error, kinds.UnsupportedParamsError):
        return Rejected("end", f"{model} does not take what it is asked with: {message}")
    if isinstance(error, kinds.ContentPolicyViolationError):
        return Rejected("row", FILTERED)
    status = getattr(error, "status_code", None)
    if not isinstance(status, int):
        return Rejected("again", f"litellm failed: {type(error).__name__}: {message}")
    body = getattr(error, "body", None)
    code = str(body.get("code") or "") if isinstance(body, dict) else ""
    headers = getattr(error, "litellm_response_headers", None) or {}
    return refusal_of(
        status,
        code,
        message,
        retry_after_s(headers),
        where=where,
        model=model,
        variable="the provider's key",
    )


def _unreached(error: BaseException | None) -> bool:
    """Whether no connection was made, by whichever library litellm went through."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if type(error).__name__ in _UNREACHED:
            return True
        error = error.__cause__ or error.__context__
    return False


def message_of(error: Exception) -> str:
    """The API's own words, on one line, without what the environment keeps secret."""
    text = _PREFIX.sub("", str(getattr(error, "message", None) or error))
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET.search(name.upper()):
            text = text.replace(value, "***")
    return one_line(text)
