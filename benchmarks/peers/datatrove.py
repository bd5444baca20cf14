"""datatrove's `InferenceRunner` with an endpoint; the option `checkpoint` turns checkpoints on."""

from __future__ import annotations

import json
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner
from datatrove.pipeline.writers import JsonlWriter
from loguru import logger

from benchmarks.peers._timing import Job, measure


async def _rollout(document: Document, generate: Any) -> Any:
    result = await generate({"messages": [{"role": "user", "content": document.text}]})
    return result.text


def _run(job: Job) -> None:
    logger.remove()
    config = InferenceConfig(
        server_type="endpoint",
        model_name_or_path="stand-in",
        endpoint_url=job.url.removesuffix("/v1"),
        max_concurrent_generations=job.concurrency,
        default_generation_params={"temperature": 0.7, "top_p": 0.95, "max_tokens": 512},
    )
    checkpoints = str(job.folder / "checkpoints") if "checkpoint" in job.options else None
    name = "${rank}_${chunk_index}.jsonl" if checkpoints else None
    runner = InferenceRunner(
        rollout_fn=_rollout,
        config=config,
        output_writer=JsonlWriter(str(job.folder / "out"), name, compression=None),
        checkpoints_local_dir=checkpoints,
    )
    runner.run(Document(query, str(number)) for number, query in enumerate(job.queries))


def _count(job: Job) -> int:
    files = (job.folder / "out").glob("*.jsonl")
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return len({row["id"] for row in rows if row["metadata"]["rollout_results"][0]})


if __name__ == "__main__":
    measure(_run, _count)
