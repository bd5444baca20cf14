"""curator's `LLM` over an OpenAI-compatible server, with its own cache in a new folder."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# It counts tokens with an encoding that it would fetch; one of its dependencies brings it along.
_LITELLM = find_spec("litellm")
assert _LITELLM is not None and _LITELLM.origin is not None
os.environ["TIKTOKEN_CACHE_DIR"] = str(
    Path(_LITELLM.origin).parent / "litellm_core_utils" / "tokenizers"
)

from bespokelabs import curator  # noqa: E402

from benchmarks.peers._clock import Order, measure  # noqa: E402

_FOUND: list[int] = []
_NO_LIMIT = 10**9


class _Asker(curator.LLM):
    def prompt(self, input: dict[str, Any]) -> str:
        return str(input["query"])

    def parse(self, input: dict[str, Any], response: str) -> dict[str, Any]:
        return {"query": input["query"], "answer": response}


def _run(order: Order) -> None:
    asker = _Asker(
        model_name="gpt-4o-mini",
        backend="openai",
        generation_params={"temperature": 0.7, "top_p": 0.95, "max_tokens": 512},
        backend_params={
            "base_url": order.url,
            "api_key": "none",
            "max_concurrent_requests": order.concurrency,
            "max_requests_per_minute": _NO_LIMIT,
            "max_tokens_per_minute": _NO_LIMIT,
        },
    )
    rows = [{"query": query} for query in order.queries]
    response = asker(rows, working_dir=str(order.folder))
    _FOUND.append(len(set(response.dataset["answer"])))


def _count(_order: Order) -> int:
    return _FOUND[0]


if __name__ == "__main__":
    measure(_run, _count)
