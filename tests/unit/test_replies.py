"""What a server answers is read as it stands, or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from delia_data.engines import Completion, Prices, Request
from delia_data.engines._remote import Rejected
from delia_data.engines._replies import read_answer
from delia_data.records import Message

REQUEST = Request("a", (Message("user", "Hello?"),), 0)


def body(content: Any, **more: Any) -> bytes:
    """As a server writes it: every character beyond ASCII escaped."""
    return json.dumps({"choices": [{"message": {"content": content}, **more}]}).encode()


def test_halves_of_characters_are_replaced_and_whole_ones_stay() -> None:
    found = read_answer(REQUEST, body("a \ud83d b \U0001f600 \udc00"), None)
    assert found.text == "a \ufffd b \U0001f600 \ufffd"
    found.text.encode()


def test_tokens_and_cost_are_those_of_the_usage() -> None:
    raw = json.loads(body(" yes ", finish_reason="length"))
    raw["usage"] = {"prompt_tokens": 10, "completion_tokens": 4}
    found = read_answer(REQUEST, json.dumps(raw).encode(), Prices(1.0, 10.0))
    assert found == Completion("a", "yes", 4, "length", None, 10, 50.0)


@pytest.mark.parametrize(
    "raw", [b"<html>", b"{}", b'{"choices": []}', b'{"choices": [1]}', body(5)]
)
def test_what_is_no_answer_is_asked_for_again(raw: bytes) -> None:
    with pytest.raises(Rejected):
        read_answer(REQUEST, raw, None)
