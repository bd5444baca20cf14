"""Tests that every engine for APIs passes, against a server on loopback with every fault.

    class TestServer(ServerTests):
        engine = OpenAIEngine
        model = "stand-in"

`api_environment` is to be imported too: it applies to every test of the module.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from openai_server import Call, OpenAIServer, Reply, answer, drop, refusal

from delia_data.engines import ApiOptions, Completion, Request, Sampling
from delia_data.engines.api import ApiEngine
from delia_data.errors import EngineError
from delia_data.records import Message

KEY = "sk-test-0123456789abcdef"


@pytest.fixture(autouse=True)
def api_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a key, and turn proxies and waits off."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("delia_data.engines.api._BACKOFF_S", 0.002)


def asked(count: int) -> list[Request]:
    return [Request(str(i), (Message("user", f"question {i}"),), 2**62 + i) for i in range(count)]


def first_time(reply: Reply) -> Callable[[Call], Reply]:
    """Send `reply` for the first call of each question, then an answer."""
    seen: set[str] = set()

    def judge(call: Call) -> Reply:
        if call.question in seen:
            return answer(call.question)
        seen.add(call.question)
        return reply

    return judge


def gone(server: OpenAIServer) -> bool:
    """Return whether every connection to the server is closed within a short time."""
    for _ in range(500):
        if not server.connections:
            return True
        time.sleep(0.01)
    return False


class ServerTests:
    """Tests of an engine; a subclass sets the engine and its model."""

    engine: ClassVar[Callable[..., ApiEngine]]
    model: ClassVar[str]
    log_level: ClassVar[int] = logging.WARNING

    def engine_for(self, server: OpenAIServer, **options: Any) -> ApiEngine:
        return type(self).engine(self.model, ApiOptions(**{"api_base": server.url, **options}))

    def answers(
        self, reply: Callable[[Call], Reply] | None, count: int = 10, **options: Any
    ) -> tuple[list[Completion], OpenAIServer]:
        """Send `count` requests to a server, and return the completions ordered by id."""
        with OpenAIServer(reply) as server:
            engine = self.engine_for(server, **options)
            completions = list(engine.generate(asked(count), Sampling()))
        assert sorted(int(c.id) for c in completions) == list(range(count))
        return sorted(completions, key=lambda c: int(c.id)), server

    def test_each_request_is_sent_once(self) -> None:
        completions, server = self.answers(lambda call: answer(f" re {call.question} "))
        assert [c.text for c in completions] == [f"re question {i}" for i in range(10)]
        assert (completions[0].tokens, completions[0].prompt_tokens) == (3, 10)
        assert len(server.calls) == len({call.body["seed"] for call in server.calls}) == 10
        call = next(call for call in server.calls if call.question == "question 3")
        assert call.path == "/v1/chat/completions"
        assert call.headers["authorization"] == f"Bearer {KEY}"
        assert call.body == {
            "model": "stand-in",
            "messages": [{"role": "user", "content": "question 3"}],
            "temperature": 0.7,
            "top_p": 0.95,
            "max_tokens": 512,
            "seed": 3,
        }

    @pytest.mark.parametrize(
        "fault",
        [
            refusal(500),
            refusal(503),
            refusal(429, retry_after=0.01),
            drop(),
            drop(delay_s=0.01),
            Reply(body=b'{"choices": ['),
            Reply(body=b'{"choices": []}'),
        ],
        ids=lambda r: f"{r.status}-{r.dropped}-{r.body[-12:]!r}-{r.headers}",
    )
    def test_transient_faults_lose_no_row(self, fault: Reply) -> None:
        completions, server = self.answers(first_time(fault))
        assert [c.text for c in completions] == [f"question {i}" for i in range(10)]
        assert server.count == 20

    def test_hanging_request_is_retried(self) -> None:
        completions, _ = self.answers(first_time(answer(delay_s=60)), 3, timeout_s=0.5)
        assert [c.text for c in completions] == [f"question {i}" for i in range(3)]

    def test_bad_request_fails_only_its_row(self) -> None:
        def judge(call: Call) -> Reply:
            if call.question == "question 4":
                return refusal(400, f"This is too long,\n{KEY}.")
            return answer(call.question)

        completions, server = self.answers(judge)
        (failed,) = [c for c in completions if c.finish == "error"]
        assert failed.id == "4"
        assert failed.error == "the request was rejected (HTTP 400): This is too long, ***"
        assert server.count == 10

    @pytest.mark.parametrize(
        ("fault", "said"),
        [
            (refusal(401, f"Incorrect API key provided: {KEY}"), "rejects the key"),
            (refusal(403, "no"), "rejects the key"),
            (refusal(404, "The model does not exist"), "has no model '(openai/)?stand-in'"),
            (refusal(429, "You exceeded your quota", code="insufficient_quota"), "quota"),
            (refusal(402, f"Pay first, owner of {KEY}"), "quota"),
        ],
        ids=lambda value: str(getattr(value, "status", "")),
    )
    def test_fatal_error_ends_the_run_with_one_line(
        self,
        fault: Reply,
        said: str,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        caplog.set_level(self.log_level)
        with OpenAIServer(lambda call: answer("yes") if call.number <= 10 else fault) as server:
            engine = self.engine_for(server, concurrency=4)
            given: list[Completion] = []
            with pytest.raises(EngineError, match=said) as caught:
                given.extend(engine.generate(asked(1000), Sampling()))
        assert [c.text for c in given] == ["yes"] * 10
        assert server.count <= 14
        assert "\n" not in str(caught.value)
        assert not "".join(capfd.readouterr())
        for place in (str(caught.value), repr(engine), str(engine.describe()), caplog.text):
            assert KEY not in place

    def test_unreachable_server_is_reported_soon(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            address = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
            engine = type(self).engine(self.model, ApiOptions(api_base=address))
            with pytest.raises(EngineError, match=f"{address} cannot be reached"):
                list(engine.generate(asked(100), Sampling()))

    @pytest.mark.parametrize("concurrency", [1, 7])
    def test_concurrency_is_never_exceeded(self, concurrency: int) -> None:
        slow, count = answer(delay_s=0.1), 12 * concurrency  # slow enough for all to meet there
        _, server = self.answers(lambda _: slow, count, concurrency=concurrency)
        assert server.most_busy == concurrency

    def test_closing_early_closes_all_connections(
        self, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        caplog.set_level(logging.WARNING)

        def judge(call: Call) -> Reply:
            return answer(delay_s=0.0 if call.number <= 5 else 60.0)

        with OpenAIServer(judge) as server:
            completions = self.engine_for(server).generate(asked(100), Sampling())
            assert next(completions).finish == "stop"
            completions.close()  # type: ignore[attr-defined]
            assert gone(server)
        assert not caplog.records
        assert not "".join(capfd.readouterr())

    def test_ctrl_c_closes_all_connections(self, caplog: pytest.LogCaptureFixture) -> None:
        def judge(call: Call) -> Reply:
            if call.number == 20:
                os.kill(os.getpid(), signal.SIGINT)
            return answer(delay_s=0.0 if call.number < 15 else 60.0)

        given: list[Completion] = []
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with OpenAIServer(judge) as server:
                with pytest.raises(KeyboardInterrupt):
                    given.extend(self.engine_for(server).generate(asked(100), Sampling()))
                assert gone(server)
        finally:
            signal.signal(signal.SIGINT, before)
        assert len(given) == len({c.id for c in given})
        assert not caplog.records
