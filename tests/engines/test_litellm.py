"""The engine over litellm: every fault of a server on loopback, and a real server."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai_server import Call, OpenAIServer, Reply, answer, drop, refusal
from real_server import RealServer, serving

from delia_data.engines import (
    ApiOptions,
    Completion,
    Engine,
    Prices,
    Request,
    Sampling,
    load_engine,
)
from delia_data.engines.litellm import LitellmEngine
from delia_data.errors import EngineError, InputError
from delia_data.records import Message

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
pytest.importorskip("litellm")
pytestmark = [
    pytest.mark.engines,
    # What pydantic says of litellm's own types when they are first used.
    pytest.mark.filterwarnings("ignore:Item '.*' on TypedDict class:UserWarning"),
]

KEY = "sk-test-0123456789abcdef"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("delia_data.engines.api._BACKOFF_S", 0.002)


def asked(count: int) -> list[Request]:
    return [Request(str(i), (Message("user", f"question {i}"),), 2**62 + i) for i in range(count)]


def engine_for(server: OpenAIServer, **options: Any) -> LitellmEngine:
    return LitellmEngine("openai/stand-in", ApiOptions(**{"api_base": server.url, **options}))


def answers(
    reply: Callable[[Call], Reply] | None, count: int = 10, **options: Any
) -> tuple[list[Completion], OpenAIServer]:
    with OpenAIServer(reply) as server:
        completions = list(engine_for(server, **options).generate(asked(count), Sampling()))
    assert sorted(int(c.id) for c in completions) == list(range(count))
    return sorted(completions, key=lambda c: int(c.id)), server


def first_time(reply: Reply) -> Callable[[Call], Reply]:
    seen: set[str] = set()

    def judge(call: Call) -> Reply:
        if call.question in seen:
            return answer(call.question)
        seen.add(call.question)
        return reply

    return judge


def test_each_request_is_sent_once() -> None:
    completions, server = answers(lambda call: answer(f" re {call.question} ", words=3))
    assert [c.text for c in completions] == [f"re question {i}" for i in range(10)]
    assert (completions[0].tokens, completions[0].prompt_tokens) == (3, 10)
    assert len(server.calls) == 10
    call = next(call for call in server.calls if call.question == "question 3")
    assert call.headers["authorization"] == f"Bearer {KEY}"
    assert call.body == {
        "model": "stand-in",
        "messages": [{"role": "user", "content": "question 3"}],
        "temperature": 0.7,
        "top_p": 0.95,
        "max_tokens": 512,
        "seed": 3,
    }


def test_manifest_names_no_machine() -> None:
    engine = load_engine("litellm", model="openai/stand-in", api_base="http://host.inside/v1")
    assert isinstance(engine, Engine)
    assert engine.describe() == {
        "engine": "litellm",
        "api": "openai",
        "model": {
            "name": "openai/stand-in",
            "weights_sha256": None,
            "chat_template_sha256": None,
        },
    }
    assert not engine.writes_users
    with pytest.raises(InputError, match="--expand"):
        list(engine.generate([Request("0", (), 0, role="user")], Sampling()))


def test_own_server_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    completions, _ = answers(None, 2)
    assert not any(c.error for c in completions)


def test_prices() -> None:
    table = LitellmEngine("openai/gpt-4o").prices
    assert table is not None
    assert 0 < table.prompt_token < table.completion_token < 1e-3
    given = LitellmEngine(
        "openai/gpt-4o", ApiOptions(prompt_price=1.0, completion_price=2.0)
    ).prices
    assert given == Prices(1e-6, 2e-6)
    assert LitellmEngine("openai/nobody-knows-it").prices is None
    assert LitellmEngine("ollama/llama3").prices is None


def test_tokens_and_costs_are_counted() -> None:
    completions, _ = answers(lambda _: answer(words=7), 2, prompt_price=2.0, completion_price=10)
    assert completions[0].cost == pytest.approx((10 * 2 + 7 * 10) / 1e6)
    unknown, _ = answers(None, 2)
    assert unknown[0].cost is None


def test_options_change_the_request() -> None:
    completions, server = answers(
        None,
        1,
        send_seed=False,
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
        extra_headers={"x-title": "delia"},
    )
    assert completions[0].finish == "stop"
    (call,) = server.calls
    assert call.headers["x-title"] == "delia"
    assert call.body["chat_template_kwargs"] == {"enable_thinking": False}
    assert "seed" not in call.body


def test_reasoning_is_removed() -> None:
    completions, _ = answers(lambda _: answer("<think>hm</think>yes"), 1)
    assert completions[0].text == "yes"


@pytest.mark.parametrize(("told", "finish"), [("stop", "stop"), ("length", "length")])
def test_finish_reasons(told: str, finish: str) -> None:
    completions, _ = answers(lambda _: answer("yes", finish=told), 1)
    assert (completions[0].finish, completions[0].text) == (finish, "yes")


def test_content_filter_is_an_error() -> None:
    completions, _ = answers(lambda _: answer("ye", finish="content_filter"), 1)
    assert (completions[0].finish, completions[0].text) == ("error", "")
    refused, server = answers(lambda _: refusal(400, "no", code="content_policy_violation"), 2)
    assert all(c.finish == "error" for c in refused)
    assert server.count == 2


@pytest.mark.parametrize(
    "fault",
    [
        refusal(500),
        refusal(503),
        refusal(429),
        refusal(429, retry_after=0.01),
        drop(),
        Reply(body=b'{"choices": ['),
        Reply(body=b'{"choices": []}'),
    ],
    ids=lambda r: f"{r.status}-{r.dropped}-{r.body[-12:]!r}-{r.headers}",
)
def test_transient_faults_lose_no_row(fault: Reply) -> None:
    completions, server = answers(first_time(fault))
    assert [c.text for c in completions] == [f"question {i}" for i in range(10)]
    assert server.count == 20


def test_hanging_request_is_retried() -> None:
    completions, _ = answers(first_time(answer(delay_s=60)), 3, timeout_s=0.5)
    assert [c.text for c in completions] == [f"question {i}" for i in range(3)]


def test_bad_request_fails_only_its_row() -> None:
    def judge(call: Call) -> Reply:
        if call.question == "question 4":
            return refusal(400, f"This is too long,\n{KEY}.")
        return answer(call.question)

    completions, server = answers(judge)
    (failed,) = [c for c in completions if c.finish == "error"]
    assert failed.id == "4"
    assert failed.error == "the request was rejected (HTTP 400): This is too long, ***"
    assert server.count == 10


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (refusal(401, f"Incorrect API key provided: {KEY}"), "rejects the key"),
        (refusal(403, "no"), "rejects the key"),
        (refusal(404, "The model `stand-in` does not exist"), "has no model 'openai/stand-in'"),
        (refusal(429, "You exceeded your quota", code="insufficient_quota"), "quota"),
        (refusal(402, f"Pay first, owner of {KEY}"), "quota"),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_fatal_error_ends_the_run_with_one_line(
    fault: Reply, said: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with OpenAIServer(lambda call: answer("yes") if call.number <= 10 else fault) as server:
        engine = engine_for(server, concurrency=4)
        given: list[Completion] = []
        with pytest.raises(EngineError, match=said) as caught:
            given.extend(engine.generate(asked(1000), Sampling()))
    assert [c.text for c in given] == ["yes"] * 10
    assert server.count <= 14
    assert "\n" not in str(caught.value)
    printed = "".join(capfd.readouterr())
    assert not printed
    for place in (str(caught.value), repr(engine), str(engine.describe()), caplog.text):
        assert KEY not in place


def test_unreachable_server_is_reported_soon() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        engine = LitellmEngine("openai/m", ApiOptions(api_base=address))
        with pytest.raises(EngineError, match=f"{address} cannot be reached"):
            list(engine.generate(asked(9), Sampling()))


def test_concurrency_is_never_exceeded() -> None:
    _, server = answers(lambda _: answer(delay_s=0.02), 40, concurrency=5)
    assert server.most_busy == 5


def test_unsupported_parameter_is_an_error_before_sending() -> None:
    with OpenAIServer() as server:
        engine = LitellmEngine("openai/o3-mini", ApiOptions(api_base=server.url))
        with pytest.raises(EngineError, match="top_p"):
            list(engine.generate(asked(5), Sampling(temperature=1.0)))
        assert server.count == 0
        (completion,) = engine.generate(asked(1), Sampling(temperature=1.0, top_p=1.0))
    assert completion.finish == "stop"
    assert server.calls[0].body["max_completion_tokens"] == 512


def test_provider_and_key_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="litellm does not know the provider of model 'stand-in'"):
        LitellmEngine("stand-in")
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(InputError, match="set ANTHROPIC_API_KEY"):
        LitellmEngine("anthropic/claude-sonnet-4-5")


def gone(server: OpenAIServer) -> bool:
    for _ in range(500):
        if not server.connections:
            return True
        time.sleep(0.01)
    return False


def test_closing_early_closes_all_connections(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.WARNING)

    def judge(call: Call) -> Reply:
        return answer(delay_s=0.0 if call.number <= 5 else 60.0)

    with OpenAIServer(judge) as server:
        for _ in range(2):
            completions = engine_for(server).generate(asked(100), Sampling())
            if server.count == 0:
                assert next(completions).finish == "stop"
            completions.close()  # type: ignore[attr-defined]
        assert gone(server)
    assert not caplog.records
    assert not "".join(capfd.readouterr())


def test_ctrl_c_closes_all_connections(caplog: pytest.LogCaptureFixture) -> None:
    def judge(call: Call) -> Reply:
        if call.number == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return answer(delay_s=0.0 if call.number < 15 else 60.0)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with OpenAIServer(judge) as server:
            with pytest.raises(KeyboardInterrupt):
                list(engine_for(server).generate(asked(100), Sampling()))
            assert gone(server)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not caplog.records


@pytest.fixture(scope="module")
def real() -> Iterator[RealServer]:
    with serving() as server:
        yield server


def test_real_server_behind_litellm(real: RealServer) -> None:
    engine = LitellmEngine(
        f"openai/{real.model}", ApiOptions(api_base=real.url, concurrency=2, retries=1)
    )
    sampling = Sampling(temperature=0.0, max_tokens=12)
    question = (Message("user", "What is the capital of France?"),)
    completions = list(engine.generate([Request(str(i), question, i) for i in range(3)], sampling))
    assert len(completions) == 3
    for completion in completions:
        assert "Paris" in completion.text
        assert completion.finish in ("stop", "length")
        assert 0 < completion.tokens <= 12
        assert completion.prompt_tokens > 10
        assert completion.cost is None
