"""The engine over litellm, as far as it goes without the library (tests/engines has the rest)."""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from delia_data.engines import Prices, load_engine
from delia_data.engines.litellm import _known_prices, _Threads, translate_error
from delia_data.engines.replies import Api
from delia_data.errors import MissingExtraError


class RefusedError(Exception):
    """An error like litellm's: a status, a message, headers, a body."""

    def __init__(self, status: int | None, message: str = "no", **more: Any) -> None:
        super().__init__(message)
        self.status_code = status
        self.message = message
        self.litellm_response_headers = more.get("headers")
        self.body = more.get("body")


class LateError(Exception):
    pass


class UnsupportedError(Exception):
    pass


class FilteredError(Exception):
    pass


KINDS = SimpleNamespace(
    exceptions=SimpleNamespace(
        Timeout=LateError,
        UnsupportedParamsError=UnsupportedError,
        ContentPolicyViolationError=FilteredError,
    )
)
API = Api("acme", "acme/m", "the provider's key", ("very-secret-1",))


def test_without_litellm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litellm", None)
    with pytest.raises(MissingExtraError, match=r"delia_data\[litellm\]"):
        load_engine("litellm", model="openai/gpt-4o")


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (RefusedError(400), "row", "rejected (HTTP 400): no"),
        (RefusedError(401, "key very-secret-1"), "stop", "acme rejects the key"),
        (RefusedError(402), "stop", "quota"),
        (RefusedError(404), "stop", "acme has no model 'acme/m'"),
        (RefusedError(429), "throttle", "too many requests"),
        (RefusedError(429, body={"code": "insufficient_quota"}), "stop", "quota"),
        (RefusedError(500), "retry", "failed (HTTP 500)"),
        (RefusedError(503, headers={"retry-after": "7"}), "throttle", "to wait 7 s"),
        (RefusedError(None, "odd"), "retry", "litellm failed: RefusedError: odd"),
        (LateError(), "throttle", "no answer within 9 s"),
        (UnsupportedError("top_p"), "stop", "acme/m does not accept a parameter: top_p"),
        (FilteredError(), "row", "content filter"),
    ],
    ids=str,
)
def test_exceptions_of_litellm_are_classified(error: Exception, kind: str, said: str) -> None:
    refusal = translate_error(KINDS, error, API, 9.0)
    assert refusal.kind == kind
    assert said in refusal.reason
    assert "very-secret" not in refusal.reason


def test_connection_error_is_found_behind_other_errors() -> None:
    class ConnectError(Exception):
        pass

    outer = RefusedError(500, "Connection error.")
    outer.__context__ = ValueError()
    outer.__context__.__cause__ = ConnectError()
    assert translate_error(KINDS, outer, API, 9.0).kind == "unreachable"


def test_messages_lose_prefixes_and_secrets() -> None:
    text = "litellm.RateLimitError: RateLimitError: OpenAIException - slow\ndown, very-secret-1"
    failure = translate_error(KINDS, RefusedError(429, text), API, 9.0)
    assert failure.reason == "acme receives too many requests (HTTP 429): slow down, ***"


@pytest.mark.parametrize(
    ("info", "prices"),
    [
        ({"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6}, Prices(1e-6, 2e-6)),
        ({"input_cost_per_token": 0.0, "output_cost_per_token": 0.0}, None),
        ({}, None),
    ],
)
def test_price_of_zero_is_unknown(info: dict[str, float], prices: Prices | None) -> None:
    assert _known_prices(SimpleNamespace(get_model_info=lambda _: info), "m") == prices


def test_unknown_model_has_no_price() -> None:
    assert _known_prices(SimpleNamespace(), "m") is None


@pytest.mark.parametrize("finished", [False, True], ids=["in the thread", "not delivered yet"])
def test_cancelled_call_leaves_no_coroutine(finished: bool) -> None:
    """As litellm does: a thread makes the coroutine of a call, and the task then awaits it."""
    made: list[Coroutine[Any, Any, None]] = []
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    async def call() -> None:
        pytest.fail("this call was cancelled")

    def prepare() -> Coroutine[Any, Any, None]:
        begun.set()
        assert go_on.wait(60)
        made.append(call())
        return made[0]

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        await (await loop.run_in_executor(None, prepare))

    async def run() -> None:
        loop = asyncio.get_running_loop()
        threads = _Threads(1)
        loop.set_default_executor(threads)
        task = loop.create_task(ask())
        await asyncio.sleep(0)
        assert begun.wait(60)
        if finished:
            go_on.set()
            threads.submit(ended.set)
            assert ended.wait(60)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        go_on.set()
        await loop.shutdown_default_executor()

    asyncio.run(run())
    assert [inspect.getcoroutinestate(each) for each in made] == [inspect.CORO_CLOSED]
