"""What an OpenAI-compatible server answers, as completions and refusals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import PurePath
from typing import Any, Final

from delia_data.engines._remote import Rejected
from delia_data.engines.base import Completion, Finish, Prices, Request

FILTERED: Final = "the API's content filter stopped the answer"
_GONE: Final = ("insufficient_quota", "billing_hard_limit_reached", "insufficient_balance")
_LONGEST: Final = 300


def public_name(model: str) -> dict[str, Any]:
    """What a manifest says of a model behind an API: its name, less the folder where it lies."""
    name = PurePath(model).name if model.startswith(("/", "~", ".")) else model
    return {"name": name, "weights_sha256": None, "chat_template_sha256": None}


def read_answer(request: Request, raw: bytes, prices: Prices | None) -> Completion:
    """Read the body of an answer.

    Raises:
        Rejected: It is no chat completion.
    """
    try:
        value = json.loads(raw)
    except ValueError:
        raise Rejected("again", "the server's answer is not JSON") from None
    return to_completion(request, value, prices)


def to_completion(request: Request, value: Any, prices: Prices | None) -> Completion:
    """Make a completion of an answer.

    A server that gives no usage leaves the tokens at 0 and the cost unknown: they are not
    guessed.

    Raises:
        Rejected: It is no chat completion.
    """
    try:
        choice = value["choices"][0]
        text = _whole(choice["message"].get("content") or "")
        reason = choice.get("finish_reason")
        usage = value.get("usage") or {}
        asked = int(usage.get("prompt_tokens") or 0)
        tokens = int(usage.get("completion_tokens") or 0)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Rejected("again", "the server's answer is not a chat completion") from None
    cost = None
    if prices is not None and asked:
        cost = asked * prices.prompt_token + tokens * prices.completion_token
    if reason == "content_filter":
        return Completion(request.id, "", tokens, "error", FILTERED, asked, cost)
    finish: Finish = "length" if reason == "length" else "stop"
    return Completion(request.id, text.strip(), tokens, finish, None, asked, cost)


def _whole(text: str) -> str:
    """A text without halves of surrogate pairs, which JSON can spell and no file can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_refusal(
    status: int,
    headers: Mapping[str, str],
    raw: bytes,
    *,
    where: str,
    model: str,
    key: str,
    variable: str,
) -> Rejected:
    """Read an answer whose status is not 200."""
    code, message = _error(raw)
    if key:
        message = message.replace(key, "***")
    return refusal_of(
        status,
        code,
        message,
        retry_after_s(headers),
        where=where,
        model=model,
        variable=variable,
    )


def refusal_of(
    status: int,
    code: str,
    message: str,
    wait_s: float | None,
    *,
    where: str,
    model: str,
    variable: str,
) -> Rejected:
    """Tell what a status means for the request, and for all others.

    Args:
        status: The HTTP status.
        code: The API's own word for the error, or nothing.
        message: Its message, without secrets.
        wait_s: Seconds after which to ask again, where it says so.
        where: What was asked, for messages.
        model: The model's name.
        variable: The environment variable that holds the key.
    """
    said = f": {message}" if message else ""
    if status == 402 or code in _GONE:
        return Rejected("end", f"the quota of {where} is used up{said}; raise it, then run again")
    if status in (401, 403):
        # No words of the server's: some repeat a part of the key.
        return Rejected(
            "end", f"{where} refuses the key (HTTP {status}): set {variable} in the environment"
        )
    if status == 404 or code == "model_not_found":
        return Rejected(
            "end", f"{where} has no model {model!r} (HTTP {status}){said}; check name and address"
        )
    if 300 <= status < 400 or status == 405:
        return Rejected("end", f"{where} is no such API (HTTP {status}): check the address")
    if status in (408, 429, 503, 529):
        again = "" if wait_s is None else f"; it asks to wait {wait_s:g} s"
        return Rejected("slow", f"{where} is asked too much (HTTP {status}){said}{again}", wait_s)
    if status >= 500 or status in (409, 425):
        return Rejected("again", f"{where} failed (HTTP {status}){said}", wait_s)
    return Rejected("row", f"the request was refused (HTTP {status}){said}")


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that `Retry-After` asks to wait: a number, or a date."""
    if (text := headers.get("retry-after-ms")) is not None and text.strip().isdigit():
        return int(text) / 1000
    text = (headers.get("retry-after") or "").strip()
    if not text:
        return None
    try:
        return max(float(text), 0.0)
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max((at - datetime.now(UTC)).total_seconds(), 0.0)


def _error(raw: bytes) -> tuple[str, str]:
    """Code and message of an error's body, on one line."""
    try:
        value = json.loads(raw)
    except ValueError:
        return "", ""
    if isinstance(value, dict):
        value = value.get("error", value)
    if not isinstance(value, dict):
        return "", one_line(value) if isinstance(value, str) else ""
    message = value.get("message") or value.get("detail") or ""
    code = value.get("code") or value.get("type") or ""
    return str(code), one_line(message if isinstance(message, str) else json.dumps(message))


def one_line(text: str) -> str:
    """Put a message on one line that is not too long."""
    return " ".join(text.split())[:_LONGEST].rstrip(".")
