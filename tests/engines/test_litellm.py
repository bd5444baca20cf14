"""The engine over litellm: every fault of a server on loopback, and a real server."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from api_engines import ServerTests, api_environment, asked  # noqa: F401
from openai_server import OpenAIServer, answer, refusal
from real_server import RealServer, serving

from delia_data.engines import ApiOptions, Engine, Prices, Request, Sampling, load_engine
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


class TestServer(ServerTests):
    engine = LitellmEngine
    model = "openai/stand-in"


answers = TestServer().answers


def test_manifest_names_no_machine() -> None:
    engine = load_engine("litellm", model="openai/stand-in", api_base="http://host.inside/v1")
    assert isinstance(engine, Engine)
    assert engine.describe() == {
        "engine": "litellm",
        "api": "openai",
        "model": {"name": "openai/stand-in", "weights_sha256": None, "chat_template_sha256": None},
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
        template_options={"enable_thinking": False},
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


@pytest.mark.parametrize(("reason", "finish"), [("stop", "stop"), ("length", "length")])
def test_finish_reasons(reason: str, finish: str) -> None:
    completions, _ = answers(lambda _: answer("yes", finish=reason), 1)
    assert (completions[0].finish, completions[0].text) == (finish, "yes")


def test_content_filter_is_an_error() -> None:
    completions, _ = answers(lambda _: answer("ye", finish="content_filter"), 1)
    assert (completions[0].finish, completions[0].text) == ("error", "")
    refused, server = answers(lambda _: refusal(400, "no", code="content_policy_violation"), 2)
    assert all(c.finish == "error" for c in refused)
    assert server.count == 2


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
