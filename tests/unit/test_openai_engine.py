"""The engine over OpenAI-compatible servers, against one on loopback with every fault."""

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

from delia_data.engines import Completion, Engine, Prices, Request, Sampling, load_engine
from delia_data.engines.openai import OpenAIEngine
from delia_data.errors import EngineError, InputError
from delia_data.records import Message

KEY = "sk-test-0123456789abcdef"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("delia_data.engines._pace._BASE_S", 0.002)


def asked(count: int) -> list[Request]:
    return [Request(str(i), (Message("user", f"question {i}"),), 2**62 + i) for i in range(count)]


def engine_for(server: OpenAIServer, **options: Any) -> OpenAIEngine:
    return OpenAIEngine("stand-in", **{"api_base": server.url, **options})


def answers(
    reply: Callable[[Call], Reply] | None, count: int = 20, **options: Any
) -> tuple[list[Completion], OpenAIServer]:
    """What comes of so many requests to a server that replies so, ordered by id."""
    with OpenAIServer(reply) as server:
        completions = list(engine_for(server, **options).generate(asked(count), Sampling()))
    assert sorted(int(c.id) for c in completions) == list(range(count))
    return sorted(completions, key=lambda c: int(c.id)), server


def first_time(reply: Reply) -> Callable[[Call], Reply]:
    """Replies so to each question's first call, then as usual."""
    seen: set[str] = set()

    def judge(call: Call) -> Reply:
        if call.question in seen:
            return answer(call.question)
        seen.add(call.question)
        return reply

    return judge


def test_it_is_an_engine() -> None:
    assert isinstance(OpenAIEngine("m", api_base="http://127.0.0.1:1/v1"), Engine)


def test_every_request_is_asked_once_with_all_that_belongs_to_it() -> None:
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


def test_without_a_key_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    _, server = answers(None, 1)
    assert "authorization" not in server.calls[0].headers


def test_the_address_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with OpenAIServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/")
        (completion,) = load_engine("openai", model="m").generate(asked(1), Sampling())
    assert completion.tokens == 120


def test_tokens_and_costs_are_the_server_s() -> None:
    completions, _ = answers(lambda _: answer(words=7), 3, prompt_price=2.0, completion_price=10)
    assert [(c.tokens, c.prompt_tokens) for c in completions] == [(7, 10)] * 3
    assert completions[0].cost == pytest.approx((10 * 2 + 7 * 10) / 1e6)


def test_without_prices_the_cost_is_unknown() -> None:
    completions, _ = answers(None, 1)
    assert completions[0].cost is None
    assert OpenAIEngine("m", api_base="http://127.0.0.1:1/v1").prices is None


def test_prices_of_zero_are_known() -> None:
    completions, _ = answers(None, 1, prompt_price=0, completion_price=0)
    assert completions[0].cost == 0


def test_without_usage_nothing_is_guessed() -> None:
    completions, _ = answers(
        lambda _: answer(words=7, usage=False), 1, prompt_price=1, completion_price=1
    )
    assert (completions[0].tokens, completions[0].prompt_tokens) == (0, 0)
    assert completions[0].cost is None


@pytest.mark.parametrize(
    ("told", "finish"), [("stop", "stop"), ("length", "length"), ("eos", "stop")]
)
def test_why_an_answer_ended_is_told(told: str, finish: str) -> None:
    completions, _ = answers(lambda _: answer("yes", finish=told), 1)
    assert (completions[0].finish, completions[0].text) == (finish, "yes")


def test_what_a_content_filter_stopped_is_an_error_that_cost() -> None:
    completions, _ = answers(
        lambda _: answer("ye", finish="content_filter"), 1, prompt_price=1, completion_price=1
    )
    (completion,) = completions
    assert (completion.finish, completion.text, completion.tokens) == ("error", "", 1)
    assert "content filter" in str(completion.error)
    assert completion.cost


@pytest.mark.parametrize(
    "fault",
    [
        refusal(500),
        refusal(502),
        refusal(503),
        refusal(429),
        refusal(429, retry_after=0.01),
        drop(),
        drop(delay_s=0.01),
        Reply(body=b'{"choices": ['),
        Reply(body=b"[]"),
        Reply(body=b'{"choices": []}'),
        Reply(body=b'{"choices": [{"message": null}]}'),
    ],
    ids=lambda r: f"{r.status}-{r.dropped}-{r.body[-12:]!r}-{r.headers}",
)
def test_faults_that_pass_cost_nothing(fault: Reply) -> None:
    completions, server = answers(first_time(fault))
    assert [c.text for c in completions] == [f"question {i}" for i in range(20)]
    assert server.count == 40


def test_a_request_that_hangs_is_asked_again() -> None:
    completions, _ = answers(first_time(answer(delay_s=60)), 5, timeout_s=0.1)
    assert [c.text for c in completions] == [f"question {i}" for i in range(5)]


def test_a_bad_request_costs_its_row_alone() -> None:
    def judge(call: Call) -> Reply:
        if call.question == "question 4":
            return refusal(400, "This is too long.\nMuch too long.", code="context_length_exceeded")
        return answer(call.question)

    completions, server = answers(judge)
    (failed,) = [c for c in completions if c.finish == "error"]
    assert failed.id == "4"
    assert failed.error == "the request was refused (HTTP 400): This is too long. Much too long"
    assert server.count == 20


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'"no"', b"{}", b'{"error": "no"}', b'{"detail": [{"loc": 1}]}']
)
def test_any_body_of_a_refusal_is_borne(body: bytes) -> None:
    completions, _ = answers(lambda _: Reply(400, body), 2)
    assert all(str(c.error).startswith("the request was refused (HTTP 400)") for c in completions)


def test_retries_are_bounded() -> None:
    completions, server = answers(lambda _: refusal(500, "broken"), 3, retries=2)
    assert all(str(c.error).endswith("failed (HTTP 500): broken (3 tries)") for c in completions)
    assert server.count == 9


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (refusal(401, f"Incorrect API key provided: {KEY}"), "refuses the key"),
        (refusal(403, "no"), "refuses the key"),
        (refusal(404, "The model `stand-in` does not exist"), "has no model 'stand-in'"),
        (refusal(400, "no such model", code="model_not_found"), "has no model 'stand-in'"),
        (refusal(429, "You exceeded your quota", code="insufficient_quota"), "quota"),
        (refusal(402, f"Pay first, owner of {KEY}"), "quota"),
        (Reply(302, b"", {"location": "http://127.0.0.1:1/"}), "no such API"),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_what_ends_everything_is_one_line_after_what_was_finished(
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


def test_a_server_that_is_down_is_told_soon() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        engine = OpenAIEngine("m", api_base=f"http://127.0.0.1:{port}/v1")
        with pytest.raises(EngineError, match=f"127.0.0.1:{port}/v1 cannot be reached: .*refused"):
            list(engine.generate(asked(100), Sampling()))


def test_a_server_that_goes_down_ends_the_run_after_what_it_answered() -> None:
    given: list[Completion] = []
    with OpenAIServer() as server:
        completions = engine_for(server, concurrency=4, retries=3).generate(asked(500), Sampling())
        given.extend(next(completions) for _ in range(50))
    with pytest.raises(EngineError, match="cannot be reached"):
        given.extend(completions)
    assert len(given) >= 50
    assert all(c.finish == "stop" for c in given)


@pytest.mark.parametrize("concurrency", [1, 7, 32])
def test_the_server_never_sees_more_than_the_concurrency(concurrency: int) -> None:
    slow, count = answer(delay_s=0.1), 12 * concurrency  # slow enough for all to meet there
    _, server = answers(lambda _: slow, count, concurrency=concurrency)
    assert server.most_busy == concurrency


def test_a_server_that_bears_eight_is_seldom_asked_more() -> None:
    def judge(call: Call) -> Reply:
        return refusal(429) if call.busy > 8 else answer(delay_s=0.005)

    completions, server = answers(judge, 600, concurrency=64)
    assert not any(c.error for c in completions)
    assert server.statuses[429] < 0.1 * server.count
    assert server.statuses[200] == 600


def test_one_connection_serves_many_requests() -> None:
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


def test_an_early_end_closes_every_connection(caplog: pytest.LogCaptureFixture) -> None:
    def judge(call: Call) -> Reply:
        return answer(delay_s=0.0 if call.number <= 5 else 60.0)

    with OpenAIServer(judge) as server:
        completions = engine_for(server).generate(asked(100), Sampling())
        assert next(completions).finish == "stop"
        completions.close()  # type: ignore[attr-defined]
        assert gone(server)
    assert not caplog.records


def test_ctrl_c_arrives_and_closes_every_connection(caplog: pytest.LogCaptureFixture) -> None:
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


def test_a_user_s_turn_names_the_way() -> None:
    def requests() -> Iterator[Request]:
        yield Request("0", (), 0, role="user")

    engine = OpenAIEngine("m", api_base="http://127.0.0.1:1/v1")
    assert not engine.writes_users
    with pytest.raises(InputError, match="--expand"):
        list(engine.generate(requests(), Sampling()))


def test_a_manifest_names_the_model_and_no_machine() -> None:
    engine = OpenAIEngine("/models/mine/smol", api_base="http://host.inside:8000/v1")
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


def test_a_broken_key_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret\nsecond")
    with pytest.raises(InputError, match="characters") as caught:
        OpenAIEngine("m")
    assert "second" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"api_base": "localhost:8000"}, "is no address"),
        ({"api_base": "http://me:secret@host/v1"}, "password"),
        ({"concurrency": 0}, "concurrency"),
        ({"rpm": 0}, "rpm"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"retries": -1}, "retries"),
        ({"prompt_price": 1.0}, "belong together"),
        ({"prompt_price": -1.0, "completion_price": 1.0}, "prompt_price"),
        ({"api_key": "x"}, "no option api_key"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        load_engine("openai", model="m", **{"api_base": "http://127.0.0.1:1/v1", **options})
    assert "secret" not in str(caught.value)


def test_prices_are_for_a_token() -> None:
    engine = load_engine(
        "openai", model="m", prompt_price=2.5, completion_price=10.0, concurrency=3, tpm=1000
    )
    assert engine.prices == Prices(2.5e-6, 1e-5)
