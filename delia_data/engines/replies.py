"""Answers and errors of an OpenAI-compatible API.

    HTTP 200 ──▶ read_completion ──▶ Completion
                      │                 "stop"   the model ended the answer
                      │                 "length" the token limit cut it off
                      ▼                 "error"  the answer cannot be used
    any error ─▶ RequestFailure, whose kind says whether a retry can help

An API may report an error in an answer with status 200, inside a choice, or as an HTML page. All of
them end in the server's own words on one line, without secrets.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import PurePath
from typing import Any, Final, Literal

from delia_data.engines.base import Completion, Finish, Prices, Request, Sampling
from delia_data.tokens import split_reasoning

CONTENT_FILTER: Final = "the API's content filter stopped the answer"

# Finish reasons, reduced to their lowercase letters, so that MAX_TOKENS and max-tokens are one.
_COMPLETE: Final = frozenset({"stop", "eos", "eostoken", "stopsequence", "endturn"})
_TRUNCATED: Final = re.compile(
    "length|(max|maxoutput|maxnew|maxcompletion)tokens?|(max|model)length|tokenlimit|"
    "modelcontextwindowexceeded"
)
_TRANSIENT: Final = frozenset({"error", "abort", "aborted", "insufficientsystemresource"})

# Words that APIs use as codes or types of errors, and the HTTP status that each stands for.
_STATUS_OF: Final = {
    400: "invalidrequesterror invalidrequest badrequest badrequesterror contextlengthexceeded "
    "invalidargument validationerror",
    401: "invalidapikey authenticationerror unauthorized unauthenticated",
    402: "paymentrequired insufficientquota insufficientbalance insufficientcredits "
    "insufficientfunds billinghardlimitreached billingnotactive exceededcurrentquotaerror "
    "arrearage",
    403: "permissionerror permissiondenied forbidden accessdenied",
    404: "modelnotfound notfounderror notfound",
    429: "ratelimiterror ratelimitexceeded ratelimit toomanyrequests resourceexhausted",
    500: "servererror internalerror internalservererror apierror timeout",
    503: "overloadederror overloaded engineoverloaded unavailable serviceunavailable serverbusy",
}
_STATUS_BY_WORD: Final = {
    word: status for status, words in _STATUS_OF.items() for word in words.split()
}
_UNPAID: Final = re.compile(
    r"credit balance is too low|payment required|"
    r"insufficient (?:account )?(?:balance|credit|fund|quota)",
    re.IGNORECASE,
)
_SECRET_NAME: Final = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS")
_MASKED_KEY: Final = re.compile(r"[\w-]*\*{3}[\w*-]*")
_MAX_MESSAGE: Final = 300
_MAX_COUNT: Final = 2**53


class RequestFailure(Exception):  # noqa: N818 - handled inside the engine, not reported
    """One attempt at a request failed.

    Attributes:
        kind: `"row"`: this request can never succeed. `"invalid"`: the answer cannot be used;
            two more attempts may help. `"retry"`: a later attempt may succeed. `"throttle"`: the
            same, and the API receives too many requests. `"unreachable"`: no connection.
            `"stop"`: no request can succeed.
        reason: Description of the failure on one line, without secrets.
        retry_after_s: Seconds to wait before the next attempt, if the API gives them.
    """

    def __init__(
        self,
        kind: Literal["row", "invalid", "retry", "throttle", "unreachable", "stop"],
        reason: str,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Api:
    """The words with which errors name an API.

    Attributes:
        name: The API, such as `"the server at http://127.0.0.1:8000/v1"`.
        model: The model's name.
        key: Source of the key, such as `"OPENAI_API_KEY"`.
        secrets: Texts that must not appear in a message.
    """

    name: str
    model: str
    key: str
    secrets: tuple[str, ...] = ()


def environment_secrets() -> tuple[str, ...]:
    """Return the values of environment variables whose names say that they are secret."""
    return tuple(
        value
        for name, value in os.environ.items()
        if len(value) >= 8 and _SECRET_NAME.search(name.upper())
    )


def public_name(model: str) -> dict[str, Any]:
    """Return a manifest's entry for a model behind an API, without the folder of a path."""
    name = PurePath(model).name if model.startswith(("/", "~", ".")) else model
    return {"name": name, "weights_sha256": None, "chat_template_sha256": None}


def read_completion(
    raw: bytes, request: Request, sampling: Sampling, api: Api, prices: Prices | None
) -> Completion:
    """Read the body of an answer with status 200.

    Raises:
        RequestFailure: The body is not a chat completion, or reports an error.
    """
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        text = describe_text(raw) or "nothing"
        raise RequestFailure(
            "invalid",
            f"{api.name} sent no JSON but {redact(text, api)}; check the address",
        ) from None
    return to_completion(value, request, sampling, api, prices)


def to_completion(
    value: Any, request: Request, sampling: Sampling, api: Api, prices: Prices | None
) -> Completion:
    """Convert a parsed answer to a completion.

    A server that reports no usage leaves the token counts at 0 and the cost unknown: neither is
    estimated.

    Raises:
        RequestFailure: The answer is not a chat completion, or reports an error.
    """
    choice = _choice(value, api)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise RequestFailure("invalid", f"the answer of {api.name} has no message")
    text, has_reasoning, error = _content(message.get("content"))
    text, in_text = split_reasoning(_replace_surrogates(text))
    text, thoughts = text.strip(), in_text or ""
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(reasoning, str):
        thoughts = thoughts or _replace_surrogates(reasoning).strip()
    if not text:
        has_reasoning |= bool(reasoning)
    usage = value.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    prompt, tokens = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    cost = None
    if prices is not None and prompt:
        cost = prompt * prices.prompt_token + tokens * prices.completion_token
    finish: Finish = "error"
    final = True
    if refusal := message.get("refusal"):
        error = f"the model refused: {_show(refusal)}"
    elif message.get("tool_calls") or message.get("function_call"):
        error = "the answer calls a tool"
    if error is None:
        limit = sampling.total_tokens(thinks=False)
        finish, error, final = _finish(choice.get("finish_reason"), tokens, limit)
        details = usage.get("completion_tokens_details")
        reasoned = _count(details.get("reasoning_tokens")) if isinstance(details, dict) else 0
        if finish == "stop" and reasoned and tokens - reasoned > sampling.max_tokens:
            finish = "length"
    if error is not None:
        return Completion(
            request.id, "", tokens, "error", redact(error, api), prompt, cost, final=final
        )
    reasoning = has_reasoning or in_text is not None
    return Completion(
        request.id,
        text,
        tokens,
        finish,
        prompt_tokens=prompt,
        cost=cost,
        reasoning=reasoning,
        thoughts=thoughts,
    )


def _choice(value: Any, api: Api) -> dict[str, Any]:
    """Return the first choice of an answer, or raise the error that the answer reports."""
    choices = value.get("choices") if isinstance(value, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    for part in (value, choice):
        if isinstance(part, dict) and part.get("error"):
            raise _error_in_answer(part, api)
    if isinstance(choice, dict):
        return choice
    if read_error(value)[1]:
        raise _error_in_answer(value, api)
    raise RequestFailure("invalid", f"the answer of {api.name} has no choices")


def _error_in_answer(value: Any, api: Api) -> RequestFailure:
    """Classify an error that an answer with status 200 reports."""
    code, message = read_error(value)
    numeric = code.isdecimal() and len(code) == 3
    status = int(code) if numeric else _STATUS_BY_WORD.get(_letters(code), 0)
    if not 400 <= status < 600:
        reason = redact(message or code or "no reason given", api)
        return RequestFailure("invalid", f"{api.name} reported an error: {reason}")
    failure = classify_error(status, code, message, None, api, shown=f"error {code}")
    if status == 500:  # the server works, so this request is probably what it cannot answer
        failure.kind = "invalid"
    return failure


def _content(content: Any) -> tuple[str, bool, str | None]:
    """Return the text of a message, whether it has reasoning parts, and why it cannot be used."""
    if content is None or isinstance(content, str):
        return content or "", False, None
    if not isinstance(content, list):
        return "", False, "the answer's content is not text"
    texts, has_reasoning = [], False
    for part in content:
        if isinstance(part, str):
            part = {"text": part}
        kind = part.get("type", "text") if isinstance(part, dict) else None
        if kind in ("text", "output_text") and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in ("thinking", "redacted_thinking", "reasoning"):
            has_reasoning = True
        elif kind == "refusal":
            return "", False, f"the model refused: {_show(part.get(kind))}"
        else:
            return (
                "",
                False,
                f"the answer has a part of type {_show(kind)[:40]!r}, which is not text",
            )
    return "".join(texts), has_reasoning, None


def _finish(reason: Any, tokens: int, max_tokens: int) -> tuple[Finish, str | None, bool]:
    """Return how an answer ended, why it cannot be used, and whether a retry is useless."""
    if reason is None or reason == "":
        if tokens:
            return ("stop" if tokens < max_tokens else "length"), None, False
        missing = "the server reports neither finish_reason nor usage"
        return "error", f"{missing}: the answer may be truncated", True
    word = _letters(_show(reason)).removeprefix("finishreason")
    if word in _COMPLETE:
        return "stop", None, False
    if _TRUNCATED.fullmatch(word):
        return "length", None, False
    if word == "contentfilter":
        return "error", CONTENT_FILTER, True
    error = f"the answer ended with finish_reason {_show(reason)[:80]!r}"
    return "error", error, word not in _TRANSIENT


def read_failure(status: int, headers: Mapping[str, str], raw: bytes, api: Api) -> RequestFailure:
    """Classify an answer whose status is not 200."""
    try:
        code, message = read_error(json.loads(raw))
    except (ValueError, RecursionError):
        code, message = "", describe_text(raw)
    return classify_error(status, code, message, read_retry_after(headers), api)


def classify_error(
    status: int,
    code: str,
    message: str,
    retry_after_s: float | None,
    api: Api,
    *,
    shown: str | None = None,
) -> RequestFailure:
    """Return what an error means for this request and for all others.

    The API's own code and message may be empty. `shown` is the status in the error message, by
    default `"HTTP 429"` for 429.
    """
    message, shown = redact(message, api), shown or f"HTTP {status}"
    cause = f"({shown}): {message}" if message else f"({shown})"
    word = _STATUS_BY_WORD.get(_letters(code))
    if status == 402 or word == 402 or (status < 500 and _UNPAID.search(message)):
        return RequestFailure(
            "stop", f"the quota of {api.name} is used up {cause}; raise it, then run again"
        )
    if status in (401, 403):
        return RequestFailure(
            "stop",
            f"{api.name} rejects the key {cause}; check {api.key} in the environment",
        )
    if status == 404 or word == 404:
        return RequestFailure(
            "stop", f"{api.name} has no model {api.model!r} {cause}; check name and address"
        )
    if 300 <= status < 400 or status in (405, 501):
        return RequestFailure(
            "stop", f"{api.name} is not a chat completions API {cause}; check the address"
        )
    if status in (408, 429, 503, 529):
        wait = "" if retry_after_s is None else f"; it asks to wait {retry_after_s:g} s"
        return RequestFailure(
            "throttle",
            f"{api.name} receives too many requests {cause}{wait}",
            retry_after_s,
        )
    if status >= 500 or status in (409, 425):
        return RequestFailure("retry", f"{api.name} failed {cause}", retry_after_s)
    return RequestFailure("row", f"the request was rejected {cause}{_hint(message)}")


def _hint(message: str) -> str:
    """Return the option that avoids an error about a field of the request."""
    if "max_completion_tokens" in message:
        return "; try -o token_limit_field=max_completion_tokens"
    unknown = re.search(
        r"unsupported|unknown|unrecognized|not (?:supported|permitted)", message, re.I
    )
    return "; try -o send_seed=false" if unknown and re.search(r"\bseed\b", message) else ""


def read_error(value: Any) -> tuple[str, str]:
    """Return the code and the message of an error's parsed body; both may be empty."""
    if isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, dict):
        return "", value if isinstance(value, str) else ""
    error = value.get("error") or value.get("errors") or value
    if isinstance(error, list) and error:
        error = error[0]
    if not isinstance(error, dict):
        return "", _show(error)
    message = _show(error.get("message") or error.get("detail") or error.get("msg"))
    details = error.get("metadata")
    if isinstance(details, dict) and details.get("raw"):
        message = f"{message}: {_show(details['raw'])}"
    codes = [_show(error[key])[:80] for key in ("code", "type", "status") if error.get(key)]
    recognized = [code for code in codes if code.isdecimal() or _letters(code) in _STATUS_BY_WORD]
    return next(iter([*recognized, *codes]), ""), message


def describe_text(raw: bytes) -> str:
    """Return the title of an HTML page, or the beginning of any other text."""
    text = raw[:20_000].decode("utf-8", "replace")
    lower = text.lower()
    if "<html" not in lower[:1000] and "<!doctype html" not in lower[:1000]:
        return text
    _, _, title = text[lower.find("<title") :].partition(">") if "<title" in lower else ("", "", "")
    title = re.split(r"</title", title, maxsplit=1, flags=re.IGNORECASE)[0].strip()
    return f"an HTML page: {title}" if title else "an HTML page"


def redact(text: str, api: Api) -> str:
    """Return a message on one line of limited length, without secrets and partly masked keys."""
    for secret in api.secrets:
        text = text.replace(secret, "***")
    line = " ".join(_replace_surrogates(text[: 10 * _MAX_MESSAGE]).split())
    return _MASKED_KEY.sub("***", line[:_MAX_MESSAGE]).rstrip(".")


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that `Retry-After` asks to wait, given as a number or a date."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = (headers.get(name) or "").strip()
        try:
            seconds = float(text) * unit_s
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(seconds, 0.0)
    try:
        at = parsedate_to_datetime(headers.get("retry-after") or "")
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return max((at - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _count(value: Any) -> int:
    """Return a number of tokens; 0 for anything else."""
    return value if type(value) is int and 0 <= value < _MAX_COUNT else 0


def _show(value: Any) -> str:
    """Return a value of an answer as text; an empty string for None and for what is too deep."""
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return json.dumps(value)
    except RecursionError:
        return ""


def _letters(text: str) -> str:
    return re.sub("[^a-z]", "", text[:200].lower())


def _replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which JSON can spell and no file can hold."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
