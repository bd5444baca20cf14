"""The engine over OpenAI-compatible servers, against one on loopback with every fault."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from openai_server import Call, OpenAIServer, Reply, answer, drop, refusal

from delia_data.cli._options import EngineOptions
from delia_data.engines import ApiOptions, Completion, Engine, Request, Sampling, load_engine
from delia_data.engines.openai import OpenAIEngine
from delia_data.errors import EngineError, InputError
from delia_data.records import Message

KEY = "sk-test-0123456789abcdef"
NOWHERE = ApiOptions(api_base="http://127.0.0.1:1/v1")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("delia_data.engines.api._BACKOFF_S", 0.002)


def asked(count: int) -> list[Request]:
    return [Request(str(i), (Message("user", f"question {i}"),), 2**62 + i) for i in range(count)]


def engine_for(server: OpenAIServer, **options: Any) -> OpenAIEngine:
    return OpenAIEngine("stand-in", ApiOptions(**{"api_base": server.url, **options}))


def answers(
    reply: Callable[[Call], Reply] | None,
    count: int = 20,
    sampling: Sampling | None = None,
    **options: Any,
) -> tuple[list[Completion], OpenAIServer]:
    """Send `count` requests to a server, and return the completions ordered by id."""
    with OpenAIServer(reply) as server:
        engine = engine_for(server, **options)
        completions = list(engine.generate(asked(count), sampling or Sampling()))
    assert sorted(int(c.id) for c in completions) == list(range(count))
    return sorted(completions, key=lambda c: int(c.id)), server


def first_time(reply: Reply) -> Callable[[Call], Reply]:
    """Send `reply` for the first call of each question, then an answer."""
    seen: set[str] = set()

    def judge(call: Call) -> Reply:
        if call.question in seen:
            return answer(call.question)
        seen.add(call.question)
        return reply

    return judge


def test_protocol() -> None:
    engine = OpenAIEngine("m", NOWHERE)
    assert isinstance(engine, Engine)
    assert not engine.writes_users


def test_each_request_is_sent_once() -> None:
    completions, server = answers(lambda call: answer(f" re {call.question} "))
    assert [c.text for c in completions] == [f"re question {i}" for i in range(20)]
    assert len(server.calls) == 20
    call = next(call for call in server.calls if call.question == "question 3")
    assert call.path == "/v1/chat/completions"
    assert call.headers["authorization"] == f"Bearer {KEY}"
    assert call.body == {
        "model": "stand-in",
        "messages": [{"role": "user", "content": "question 3"}],
        "temperature": 0.7,
        "top_p": 0.95,
        "max_tokens": 512,
        "seed": (2**62 + 3) % 2**53,
    }
    assert len({call.body["seed"] for call in server.calls}) == 20


def test_no_key_no_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    _, server = answers(None, 1)
    assert "authorization" not in server.calls[0].headers


def test_address_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with OpenAIServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/")
        (completion,) = load_engine("openai", model="m").generate(asked(1), Sampling())
    assert completion.tokens == 120


def test_cost_is_unknown_without_prices() -> None:
    completions, _ = answers(None, 1)
    assert completions[0].cost is None
    assert OpenAIEngine("m", NOWHERE).prices is None


@pytest.mark.parametrize(
    "fault",
    [
        refusal(500),
        refusal(429, retry_after=0.01),
        drop(),
        drop(delay_s=0.01),
        Reply(body=b'{"choices": ['),
    ],
    ids=lambda r: f"{r.status}-{r.dropped}-{r.body[-12:]!r}-{r.headers}",
)
def test_transient_faults_lose_no_row(fault: Reply) -> None:
    completions, server = answers(first_time(fault))
    assert [c.text for c in completions] == [f"question {i}" for i in range(20)]
    assert server.count == 40


def test_hanging_request_is_retried() -> None:
    completions, _ = answers(first_time(answer(delay_s=60)), 5, timeout_s=0.1)
    assert [c.text for c in completions] == [f"question {i}" for i in range(5)]


def test_bad_request_fails_only_its_row() -> None:
    def judge(call: Call) -> Reply:
        if call.question == "question 4":
            return refusal(400, "This is too long.\nMuch too long.", code="context_length_exceeded")
        return answer(call.question)

    completions, server = answers(judge)
    (failed,) = [c for c in completions if c.finish == "error"]
    assert failed.id == "4"
    assert failed.error == "the request was rejected (HTTP 400): This is too long. Much too long"
    assert server.count == 20


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (refusal(401, f"Incorrect API key provided: {KEY}"), "rejects the key"),
        (refusal(402, f"Pay first, owner of {KEY}"), "quota"),
        (Reply(302, b"", {"location": "http://127.0.0.1:1/"}), "not a chat completions API"),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_fatal_error_ends_the_run_with_one_line(
    fault: Reply, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with OpenAIServer(lambda call: answer("yes") if call.number <= 10 else fault) as server:
        engine = engine_for(server, concurrency=4)
        given: list[Completion] = []
        with pytest.raises(EngineError, match=said) as caught:
            given.extend(engine.generate(asked(1000), Sampling()))
    assert len(given) == 10
    assert all(c.text == "yes" for c in given)
    assert server.count <= 14
    assert "\n" not in str(caught.value)
    for place in (str(caught.value), repr(engine), str(engine.describe()), caplog.text):
        assert KEY not in place


def test_unreachable_server_is_reported_soon() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        engine = OpenAIEngine("m", ApiOptions(api_base=f"http://127.0.0.1:{port}/v1"))
        with pytest.raises(EngineError, match=f"127.0.0.1:{port}/v1 cannot be reached: .*refused"):
            list(engine.generate(asked(100), Sampling()))


def test_server_that_goes_down_ends_the_run() -> None:
    given: list[Completion] = []
    with OpenAIServer() as server:
        completions = engine_for(server, concurrency=4, retries=3).generate(asked(500), Sampling())
        given.extend(next(completions) for _ in range(50))
    with pytest.raises(EngineError, match="cannot be reached"):
        given.extend(completions)
    assert len(given) >= 50
    assert all(c.finish == "stop" for c in given)


@pytest.mark.parametrize("concurrency", [1, 7, 32])
def test_concurrency_is_never_exceeded(concurrency: int) -> None:
    slow, count = answer(delay_s=0.1), 12 * concurrency  # slow enough for all to meet there
    _, server = answers(lambda _: slow, count, concurrency=concurrency)
    assert server.most_busy == concurrency


def test_connections_are_reused() -> None:
    opened: set[int] = set()

    def judge(call: Call) -> Reply:
        opened.update(id(connection) for connection in server.connections)
        return answer("yes")

    with OpenAIServer(judge) as server:
        list(engine_for(server, concurrency=4).generate(asked(200), Sampling()))
    assert len(opened) <= 4


def gone(server: OpenAIServer) -> bool:
    """Whether every connection to the server is closed, or soon will be."""
    for _ in range(500):
        if not server.connections:
            return True
        time.sleep(0.01)
    return False


def test_closing_early_closes_all_connections(caplog: pytest.LogCaptureFixture) -> None:
    def judge(call: Call) -> Reply:
        return answer(delay_s=0.0 if call.number <= 5 else 60.0)

    with OpenAIServer(judge) as server:
        completions = engine_for(server).generate(asked(100), Sampling())
        assert next(completions).finish == "stop"
        completions.close()  # type: ignore[attr-defined]
        assert gone(server)
    assert not caplog.records


def test_ctrl_c_closes_all_connections(caplog: pytest.LogCaptureFixture) -> None:
    def judge(call: Call) -> Reply:
        if call.number == 40:
            os.kill(os.getpid(), signal.SIGINT)
        return answer(delay_s=0.0 if call.number < 30 else 60.0)

    given: list[Completion] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with OpenAIServer(judge) as server:
            with pytest.raises(KeyboardInterrupt):
                given.extend(engine_for(server).generate(asked(100), Sampling()))
            assert gone(server)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(given) == len({c.id for c in given})
    assert not caplog.records


def test_manifest_names_the_model_and_no_machine() -> None:
    engine = OpenAIEngine("/models/mine/smol", ApiOptions(api_base="http://host.inside:8000/v1"))
    assert engine.describe() == {
        "engine": "openai",
        "api": None,
        "model": {"name": "smol", "weights_sha256": None, "chat_template_sha256": None},
    }
    assert OpenAIEngine("org/name").describe()["api"] == "api.openai.com"
    assert OpenAIEngine("org/name").describe()["model"]["name"] == "org/name"


def test_openai_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " ")
    with pytest.raises(InputError, match="OPENAI_API_KEY is not set"):
        OpenAIEngine("m")


def test_invalid_key_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret\nsecond")
    with pytest.raises(InputError, match="characters") as caught:
        OpenAIEngine("m")
    assert "second" not in str(caught.value)


def test_options_change_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_SIGNATURE", "very-secret-1")
    template = {"chat_template_kwargs": {"enable_thinking": False}}
    given = [
        "token_limit_field=max_completion_tokens",
        "send-seed=false",
        f"extra_body={json.dumps(template)}",
        'extra_headers={"x-signature": "${ACME_SIGNATURE}"}',
    ]
    options = EngineOptions(engine_option=given).values()
    with OpenAIServer() as server:
        engine = load_engine("openai", model="m", api_base=server.url, **options)
        list(engine.generate(asked(1), Sampling(max_tokens=200)))
    (call,) = server.calls
    assert call.headers["x-signature"] == "very-secret-1"
    assert call.body == {
        "model": "m",
        "messages": [{"role": "user", "content": "question 0"}],
        "temperature": 0.7,
        "top_p": 0.95,
        "max_completion_tokens": 200,
        **template,
    }
    assert engine.describe()["extra_body"] == template
    assert "very-secret" not in f"{engine.describe()} {engine.options}"  # type: ignore[attr-defined]


def test_option_that_is_not_yaml_is_not_shown() -> None:
    with pytest.raises(InputError, match=r"--engine-option extra_headers: .* nor JSON") as caught:
        EngineOptions(engine_option=['extra_headers={"x-signature": "secret']).values()
    assert "secret" not in str(caught.value)


def test_unknown_options_are_rejected() -> None:
    with pytest.raises(InputError, match="no option api_key: it has api_base, concurrency"):
        load_engine("openai", model="m", api_key="x")


def test_http_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    with OpenAIServer() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        engine = OpenAIEngine("m", ApiOptions(api_base="http://elsewhere.invalid/v1"))
        (completion,) = engine.generate(asked(1), Sampling())
    assert completion.finish == "stop"
    assert proxy.calls[0].path == "http://elsewhere.invalid/v1/chat/completions"


def test_answer_of_unlimited_size_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("delia_data.engines.openai._MAX_ANSWER_BYTES", 10_000)
    (completion,), _ = answers(lambda _: answer("a" * 200_000), 1)
    assert "more than" in str(completion.error)
