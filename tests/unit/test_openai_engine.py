"""The engine over OpenAI-compatible servers, against one on loopback with every fault."""

from __future__ import annotations

import json
import logging

import pytest
from api_engines import KEY, ServerTests, api_environment, asked  # noqa: F401
from openai_server import Call, OpenAIServer, Reply, answer

from delia_data.cli._options import EngineOptions
from delia_data.engines import ApiOptions, Completion, Engine, Sampling, load_engine
from delia_data.engines.openai import OpenAIEngine
from delia_data.errors import EngineError, InputError

NOWHERE = ApiOptions(api_base="http://127.0.0.1:1/v1")


class TestServer(ServerTests):
    engine = OpenAIEngine
    model = "stand-in"
    log_level = logging.DEBUG


answers, engine_for = TestServer().answers, TestServer().engine_for


def test_protocol() -> None:
    engine = OpenAIEngine("m", NOWHERE)
    assert isinstance(engine, Engine)
    assert not engine.writes_users


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


def test_server_that_goes_down_ends_the_run() -> None:
    given: list[Completion] = []
    with OpenAIServer() as server:
        completions = engine_for(server, concurrency=4, retries=3).generate(asked(500), Sampling())
        given.extend(next(completions) for _ in range(50))
    with pytest.raises(EngineError, match="cannot be reached"):
        given.extend(completions)
    assert len(given) >= 50
    assert all(c.finish == "stop" for c in given)


def test_connections_are_reused() -> None:
    opened: set[int] = set()

    def judge(call: Call) -> Reply:
        opened.update(id(connection) for connection in server.connections)
        return answer("yes")

    with OpenAIServer(judge) as server:
        list(engine_for(server, concurrency=4).generate(asked(200), Sampling()))
    assert len(opened) <= 4


def test_manifest_names_the_model_and_no_machine() -> None:
    engine = OpenAIEngine("/models/mine/smol", ApiOptions(api_base="http://host.inside:8000/v1"))
    assert engine.describe() == {
        "engine": "openai",
        "api": None,
        "model": {"name": "smol", "weights_sha256": None, "chat_template_sha256": None},
    }
    assert OpenAIEngine("org/name").describe()["api"] == "api.openai.com"
    assert OpenAIEngine("org/name").describe()["model"]["name"] == "org/name"


def test_redirect_is_not_followed() -> None:
    away = Reply(302, b"", {"location": "http://127.0.0.1:1/"})
    with (
        OpenAIServer(lambda _: away) as server,
        pytest.raises(EngineError, match="not a chat completions API"),
    ):
        list(engine_for(server).generate(asked(1), Sampling()))


def test_openai_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " ")
    with pytest.raises(InputError, match="OPENAI_API_KEY is not set"):
        OpenAIEngine("m")


def test_invalid_key_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret\nsecond")
    with pytest.raises(InputError, match="characters") as caught:
        OpenAIEngine("m")
    assert "second" not in str(caught.value)


def test_template_options_and_room_for_thoughts() -> None:
    options = EngineOptions(template_option=["enable_thinking=true"]).values()
    with OpenAIServer() as server:
        engine = load_engine("openai", model="m", api_base=server.url, **options)
        list(engine.generate(asked(1), Sampling(max_tokens=20, max_thinking_tokens=100)))
    (call,) = server.calls
    assert call.body["chat_template_kwargs"] == {"enable_thinking": True}
    assert call.body["max_tokens"] == 120
    assert engine.describe()["model"]["template_options"] == {"enable_thinking": True}
    assert "extra_body" not in engine.describe()
    with pytest.raises(InputError, match="both set chat_template_kwargs"):
        ApiOptions(template_options={"a": 1}, extra_body={"chat_template_kwargs": {"b": 1}})


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
