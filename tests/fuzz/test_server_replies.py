"""Fuzz target: replies of API servers. Each becomes a completion or a failure with a reason."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from delia_data.engines import Completion, Prices, Request, Sampling
from delia_data.engines.replies import (
    Api,
    RequestFailure,
    read_completion,
    read_failure,
    read_retry_after,
)
from delia_data.records import Message
from delia_data.tokens import split_reasoning

SECRET = "sk-fuzz-0123456789"
API = Api("the server", "stand-in", "OPENAI_API_KEY", (SECRET,))
REQUEST = Request("id", (Message("user", "Hello?"),), 0)
MAX_TOKENS = 8
SAMPLING = Sampling(max_tokens=MAX_TOKENS)

WORDS = """<think> </think> stop length max_tokens tool_calls error 402 429 insufficient_quota
invalid_request_error text thinking refusal image_url <html> <title>"""
words = st.sampled_from([*WORDS.split(), SECRET, "", "\ud800", "\x00", "\u202e", "a\nb"])
texts = st.one_of(words, st.text(max_size=20), st.lists(words, max_size=6).map("".join))
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), texts, st.sampled_from([402, 429, 2**80])
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)


def fields(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return objects with these fields, or any value in their place."""
    return st.one_of(st.fixed_dictionaries(required, optional=optional), values)


errors = fields({}, dict.fromkeys(("message", "code", "type", "metadata", "detail"), values))
parts = st.lists(fields({}, {"type": values, "text": values, "refusal": values}), max_size=4)
messages = fields(
    {"content": st.one_of(texts, parts, values)},
    {"refusal": values, "reasoning_content": values, "reasoning": values},
)
choices = fields({"message": messages}, {"finish_reason": values, "error": errors})
usage = fields({}, {"prompt_tokens": values, "completion_tokens": values})
replies = fields(
    {"choices": st.one_of(st.lists(choices, max_size=2), values)},
    {"usage": usage, "error": errors, "errors": st.lists(errors, max_size=2), "message": values},
)
bodies = st.one_of(
    replies.map(lambda value: json.dumps(value).encode()),
    st.tuples(replies, st.integers(0, 60)).map(lambda it: json.dumps(it[0]).encode()[: -it[1]]),
    st.binary(max_size=60),
    texts.map(lambda text: text.encode("utf-8", "surrogatepass")),
)
SLOW = settings(deadline=None, suppress_health_check=list(HealthCheck))


def check_line(text: str) -> None:
    """Check that a text is one line of limited length, without the secret, and can be written."""
    assert text
    assert len(text.splitlines()) == 1
    assert len(text) < 600
    assert SECRET not in text
    text.encode()


@SLOW
@given(bodies)
@example(b"[" * 50_000)
@example(b'{"choices": ' + b'[{"message": ' * 400 + b"1" + b"}]" * 400 + b"}")
@example(b'{"error": ' + b'{"message": ' * 900 + b"1" + b"}" * 900 + b"}")
@example(b'{"usage": {"prompt_tokens": 1e999}, "choices": [{"message": {}}]}')
@example(b"9" * 10_000)
def test_any_body_is_a_completion_or_a_failure(raw: bytes) -> None:
    try:
        completion = read_completion(raw, REQUEST, SAMPLING, API, Prices(1.0, 2.0))
    except RequestFailure as failure:
        check_line(failure.reason)
        return
    check_completion(completion)


def check_completion(completion: Completion) -> None:
    """Check that the fields of a completion agree with each other."""
    assert completion.id == REQUEST.id
    assert completion.tokens >= 0 <= completion.prompt_tokens
    assert completion.cost is None or math.isfinite(completion.cost)
    assert (completion.finish == "error") == (completion.error is not None)
    completion.text.encode()
    assert completion.text == completion.text.strip()
    if completion.error is not None:
        check_line(completion.error)
        assert completion.text == ""


@SLOW
@given(
    st.integers(100, 599).filter(lambda status: status != 200),
    st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms"]), st.text(max_size=40)),
    bodies,
)
def test_any_error_is_classified(status: int, headers: dict[str, str], raw: bytes) -> None:
    failure = read_failure(status, headers, raw, API)
    check_line(failure.reason)
    wait_s = failure.retry_after_s
    assert wait_s is None or (math.isfinite(wait_s) and wait_s >= 0)


@given(
    st.one_of(
        st.text(max_size=40),
        st.from_regex(r"(Wed|Xyz), \d{1,3} (Oct|Foo) \d{1,9} \d\d:\d\d:\d\d (GMT|[+-]\d{1,6})"),
    )
)
def test_any_retry_after_is_read(text: str) -> None:
    seconds = read_retry_after({"retry-after": text})
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)


@given(st.lists(texts, max_size=12).map(" ".join))
def test_reasoning_is_removed_from_any_text(text: str) -> None:
    answer, thoughts = split_reasoning(text)
    assert thoughts is not None or answer == text
    assert len(answer) <= len(text)
    assert split_reasoning(split_reasoning(answer)[0])[0] == split_reasoning(answer)[0]
