"""Answers and errors of APIs: each is read exactly, or rejected with the server's own words."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

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

KEY = "sk-test-0123456789abcdef"
REQUEST = Request("a", (Message("user", "Hello?"),), 0)
API = Api("the server", "stand-in", "OPENAI_API_KEY", (KEY,))
USAGE = {"prompt_tokens": 10, "completion_tokens": 4}


def read(value: Any, prices: Prices | None = None, max_tokens: int = 8) -> Completion:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return read_completion(raw, REQUEST, Sampling(max_tokens=max_tokens), API, prices)


def answer(content: Any = "yes", finish: Any = "stop", usage: Any = USAGE, **message: Any) -> Any:
    choice = {"message": {"content": content, **message}, "finish_reason": finish}
    return {"choices": [choice], "usage": usage}


def test_lone_surrogates_are_replaced() -> None:
    completion = read(answer("a \ud83d b \U0001f600 \udc00"))
    assert completion.text == "a \ufffd b \U0001f600 \ufffd"
    completion.text.encode()


def test_tokens_and_cost_come_from_usage() -> None:
    completion = read(answer(" yes ", "length"), Prices(1.0, 10.0))
    assert completion == Completion("a", "yes", 4, "length", None, 10, 50.0)


@pytest.mark.parametrize("usage", [None, [], {}, {"prompt_tokens": "10", "completion_tokens": -1}])
def test_missing_usage_is_not_estimated(usage: Any) -> None:
    completion = read(answer(usage=usage), Prices(1.0, 10.0))
    assert (completion.tokens, completion.prompt_tokens, completion.cost) == (0, 0, None)


@pytest.mark.parametrize(
    ("reasons", "finish"),
    [
        ("stop eos_token eos stop_sequence end_turn STOP", "stop"),
        ("length max_tokens MAX_TOKENS max-tokens maxTokens max_output_tokens max_length"
         " model_length FINISH_REASON_MAX_TOKENS", "length"),
    ],
)  # fmt: skip
def test_complete_and_truncated_answers(reasons: str, finish: str) -> None:
    for reason in reasons.split():
        completion = read(answer(finish=reason))
        assert (completion.text, completion.finish, completion.error) == ("yes", finish, None)


@pytest.mark.parametrize(
    ("reason", "final"),
    [("tool_calls", True), ("function_call", True), ("SAFETY", True), ("banana", True),
     ("error", False), ("abort", False), (7, True), ({"type": "x"}, True)],
)  # fmt: skip
def test_any_other_finish_reason_fails_with_that_reason(reason: Any, final: bool) -> None:
    completion = read(answer(finish=reason), Prices(1.0, 10.0))
    shown = reason if isinstance(reason, str) else json.dumps(reason)
    assert completion.error == f"the answer ended with finish_reason {shown!r}"
    assert (completion.finish, completion.text, completion.final) == ("error", "", final)
    assert completion.cost == 50.0


def test_content_filter_is_named() -> None:
    completion = read(answer(finish="content_filter"))
    assert completion.error == "the API's content filter stopped the answer"
    assert completion.final


@pytest.mark.parametrize("reason", [None, ""])
def test_missing_finish_reason_needs_usage(reason: str | None) -> None:
    assert read(answer(finish=reason)).finish == "stop"
    assert read(answer(finish=reason), max_tokens=4).finish == "length"
    failed = read(answer(finish=reason, usage=None))
    assert (failed.finish, failed.text) == ("error", "")
    assert "neither finish_reason nor usage" in str(failed.error)


@pytest.mark.parametrize(
    ("text", "rest", "reasoned"),
    [
        ("plain", "plain", False),
        ("", "", False),
        ("<think>a</think>b", "b", True),
        ("<think></think>\n\nb", "\n\nb", True),
        ("<THINK>a</Think>b", "b", True),
        ("x <think>a</think>b", "x b", True),
        ("<think>a</think>b<think>c</think>d", "bd", True),
        ("<think>a<think>b</think>c</think>d", "d", True),
        ("thoughts</think>b", "b", True),
        ("<think>a</think>", "", True),
        ("<think>never closed", "", True),
        ("a <think> is a tag", "a <think> is a tag", False),
        ("write `<think>` and `</think>`", "write `<think>` and `</think>`", False),
    ],
)
def test_reasoning_is_removed(text: str, rest: str, reasoned: bool) -> None:
    left, thoughts = split_reasoning(text)
    assert (left, thoughts is not None) == (rest, reasoned)
    completion = read(answer(text))
    assert (completion.text, completion.reasoning) == (rest.strip(), reasoned)


def test_many_tags_take_linear_time() -> None:
    assert split_reasoning("<think>" * 200_000)[0] == ""
    assert split_reasoning("</think>" * 200_000)[0] == ""


def test_reasoning_content_is_ignored_unless_nothing_follows() -> None:
    completion = read(answer("yes", reasoning_content="hm"))
    assert (completion.text, completion.reasoning) == ("yes", False)
    for name in ("reasoning_content", "reasoning"):
        completion = read(answer(None, "length", **{name: "hm"}))
        assert (completion.text, completion.reasoning) == ("", True)


def test_thoughts_do_not_count_toward_the_limit_of_an_answer() -> None:
    for reasoned, finish in ((30, "stop"), (10, "length")):
        usage = {
            "completion_tokens": 40,
            "completion_tokens_details": {"reasoning_tokens": reasoned},
        }
        raw = json.dumps(answer("yes", usage=usage, reasoning_content="hm")).encode()
        sampling = Sampling(max_tokens=20, max_thinking_tokens=30)
        completion = read_completion(raw, REQUEST, sampling, API, None)
        assert (completion.finish, completion.thoughts) == (finish, "hm")


def test_text_parts_are_joined_and_thinking_is_left_out() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    parts = [thinking, {"type": "text", "text": "Hello"}, {"text": ", "}, "world"]
    completion = read(answer(parts))
    assert (completion.text, completion.reasoning) == ("Hello, world", True)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (answer([{"type": "image_url"}]), "has a part of type 'image_url', which is not text"),
        (answer([3]), "has a part of type '', which is not text"),
        (answer(5), "content is not text"),
        (answer({"text": "yes"}), "content is not text"),
        (answer(None, refusal=f"I will not, {KEY}."), "the model refused: I will not, ***"),
        (answer([{"type": "refusal", "refusal": "no"}]), "the model refused: no"),
        (answer("It is 12:00.", tool_calls=[{"id": "1"}]), "the answer calls a tool"),
        (answer("It is 12:00.", function_call={"name": "clock"}), "the answer calls a tool"),
    ],
)
def test_unusable_content_fails_the_row_and_keeps_its_cost(value: Any, message: str) -> None:
    completion = read(value, Prices(1.0, 10.0))
    assert completion.error is not None and completion.error.endswith(message)
    assert (completion.finish, completion.final, completion.cost) == ("error", True, 50.0)


def failure(value: Any) -> RequestFailure:
    with pytest.raises(RequestFailure) as caught:
        read(value)
    assert "\n" not in caught.value.reason
    assert KEY not in caught.value.reason
    return caught.value


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ({"error": {"message": "pay first", "code": 402}}, "stop", "quota .*402.*: pay first"),
        ({"error": {"message": "x", "type": "insufficient_quota"}}, "stop", "quota"),
        ({"error": {"message": "x", "code": "billing_hard_limit_reached"}}, "stop", "quota"),
        ({"error": {"message": f"bad key {KEY}", "code": 401}}, "stop", r"key .*: bad key \*\*\*"),
        ({"error": {"message": "x", "code": "model_not_found"}}, "stop", "has no model"),
        ({"error": {"message": "slow down", "code": "429"}}, "throttle", "slow down"),
        ({"error": {"message": "busy", "type": "overloaded_error"}}, "throttle", "busy"),
        ({"error": {"message": "oops", "type": "server_error"}}, "invalid", "oops"),
        ({"error": {"message": "oops", "code": 500}}, "invalid", "oops"),
        ({"error": {"message": "no upstream", "code": 502}}, "retry", "no upstream"),
        ({"error": {"message": "too long", "code": "context_length_exceeded"}}, "row", "too long"),
        ({"error": {"message": "odd"}}, "invalid", "the server reported an error: odd"),
        ({"error": "plain words"}, "invalid", "reported an error: plain words"),
        ({"error": {"message": "Provider returned error", "metadata": {"raw": "why"}}},
         "invalid", "error: why"),
        ({"choices": [{"error": {"code": 402, "message": "empty"}}]}, "stop", "empty"),
        ({"choices": [], "message": "no room"}, "invalid", "no room"),
        ({"object": "error", "message": "too long", "code": 400}, "row", "too long"),
        ({"detail": "maintenance"}, "invalid", "maintenance"),
        ({"choices": []}, "invalid", "has no choices"),
        ({"choices": [1]}, "invalid", "has no choices"),
        ({"choices": [{"message": None}]}, "invalid", "has no message"),
        ([], "invalid", "has no choices"),
        (None, "invalid", "has no choices"),
        (b"<!DOCTYPE html><html><title>Sign in\n</title>", "invalid", "page: Sign in; check"),
        (b"<html>", "invalid", "no JSON but an HTML page; check"),
        (b"upstream timed out", "invalid", "no JSON but upstream timed out"),
        (b"", "invalid", "no JSON but nothing"),
        (b"[" * 100_000, "invalid", "no JSON but"),
        (b"1" * 5000, "invalid", "no JSON but"),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_errors_in_an_answer_with_status_200(value: Any, kind: str, message: str) -> None:
    caught = failure(value)
    assert caught.kind == kind
    assert re.search(message, caught.reason)
    assert len(caught.reason) < 500


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (400, {"error": {"message": "too long"}}, "row", r"rejected \(HTTP 400\): too long"),
        (400, {"error": {"message": "Your credit balance is too low"}}, "stop", "quota"),
        (400, {"error": {"message": "no such", "code": "model_not_found"}}, "stop", "has no model"),
        (400, {"error": {"message": "Use 'max_completion_tokens' instead."}}, "row",
         "try -o token_limit_field=max_completion_tokens"),
        (422, {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
         "row", "try -o send_seed=false"),
        (401, {"error": {"message": "Bad key sk-a****yz"}}, "stop", r"key \*\*\*; check OPENAI"),
        (402, {}, "stop", "quota"),
        (403, {"message": "region not supported"}, "stop", "region not supported"),
        (404, {}, "stop", "has no model 'stand-in'"),
        (302, {}, "stop", "not a chat completions API"),
        (429, {}, "throttle", "too many requests"),
        (429, {"error": {"type": "insufficient_quota", "code": None}}, "stop", "quota"),
        (500, {"errors": [{"message": "broken"}]}, "retry", "broken"),
        (502, b"<html><TITLE>Bad gateway</TITLE></html>", "retry", "an HTML page: Bad gateway"),
        (503, "busy", "throttle", "busy"),
        (504, b"\xff\xfe", "retry", "HTTP 504"),
    ],
)  # fmt: skip
def test_errors_are_classified(status: int, body: Any, kind: str, message: str) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    caught = read_failure(status, {}, raw, API)
    assert caught.kind == kind
    assert re.search(message, caught.reason)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "-7"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 99 Oct 99999999999 07:28:00 GMT"}, None),
    ],
)
def test_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert read_retry_after(headers) == seconds


def test_retry_after_may_be_a_date() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert 80 < (read_retry_after({"retry-after": at}) or 0) <= 90
