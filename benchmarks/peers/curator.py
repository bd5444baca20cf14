"""curator's `LLM` with an OpenAI-compatible server; its cache is on, in a new folder."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# curator counts tokens with an encoding that it downloads; its dependency litellm contains it.
_LITELLM = find_spec("litellm")
assert _LITELLM is not None and _LITELLM.origin is not None
os.environ["TIKTOKEN_CACHE_DIR"] = str(
    Path(_LITELLM.origin).parent / "litellm_core_utils" / "tokenizers"
)

from bespokelabs import curator  # noqa: E402

from benchmarks.peers._timing import Job, measure  # noqa: E402

_COUNTS: list[int] = []
_NO_LIMIT = 10**9


class _Answer(curator.LLM):
    def prompt(self, input: dict[str, Any]) -> str:
        return str(input["query"])

    def parse(self, input: dict[str, Any], response: str) -> dict[str, Any]:
        return {"query": input["query"], "answer": response}


def _run(job: Job) -> None:
    llm = _Answer(
        model_name="gpt-4o-mini",
        backend="openai",
        generation_params={"temperature": 0.7, "top_p": 0.95, "max_tokens": 512},
        backend_params={
            "base_url": job.url,
            "api_key": "none",
            "max_concurrent_requests": job.concurrency,
            "max_requests_per_minute": _NO_LIMIT,
            "max_tokens_per_minute": _NO_LIMIT,
        },
    )
    rows = [{"query": query} for query in job.queries]
    response = llm(rows, working_dir=str(job.folder))
    _COUNTS.append(len(set(response.dataset["answer"])))


def _count(_job: Job) -> int:
    return _COUNTS[0]


if __name__ == "__main__":
    measure(_run, _count)
