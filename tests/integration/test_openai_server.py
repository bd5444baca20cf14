"""The `openai` engine on a real server that serves the embedded model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from real_server import RealServer, serving

from delia_data.engines import Request, Sampling, load_engine
from delia_data.errors import EngineError
from delia_data.records import Message

pytestmark = pytest.mark.integration

QUESTION = (Message("user", "What is the capital of France?"),)


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_real_server_answers_each_request_once(server: RealServer) -> None:
    engine = load_engine(
        "openai", model=server.model, api_base=server.url, concurrency=2, retries=1
    )
    requests = [Request(str(i), QUESTION, i) for i in range(4)]
    completions = list(engine.generate(requests, Sampling(temperature=0.0, max_tokens=12)))
    assert sorted(c.id for c in completions) == ["0", "1", "2", "3"]
    for completion in completions:
        assert "Paris" in completion.text
        assert completion.finish in ("stop", "length")
        assert 0 < completion.tokens <= 12
        assert completion.prompt_tokens > 10
        assert completion.cost is None


def test_unknown_model_is_one_line(server: RealServer) -> None:
    engine = load_engine("openai", model="no-such-model", api_base=server.url, retries=0)
    request = Request("0", QUESTION, 0)
    try:
        (completion,) = engine.generate([request], Sampling(max_tokens=5))
    except EngineError as error:
        said = str(error)
    else:
        assert completion.finish == "error"
        said = str(completion.error)
    assert "\n" not in said
