"""distilabel's `TextGeneration` with `OpenAILLM`; batches of the concurrency, cache off."""

from __future__ import annotations

import logging

from distilabel.models.llms import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration

from benchmarks.peers._timing import Job, measure

_COUNTS: list[int] = []


def _run(job: Job) -> None:
    logging.disable(logging.WARNING)
    with Pipeline(name="sampling", cache_dir=str(job.folder / "cache")) as pipeline:
        load = LoadDataFromDicts(
            data=[{"instruction": query} for query in job.queries],
            batch_size=job.concurrency,
        )
        generate = TextGeneration(
            llm=OpenAILLM(
                model="stand-in",
                base_url=job.url,
                api_key="none",
                generation_kwargs={"temperature": 0.7, "top_p": 0.95, "max_new_tokens": 512},
            ),
            input_batch_size=job.concurrency,
            add_raw_input=False,
            add_raw_output=False,
        )
        load >> generate
    rows = pipeline.run(use_cache=False)["default"]["train"]
    rows.to_json(str(job.folder / "rows.jsonl"))
    _COUNTS.append(len({answer for answer in rows["generation"] if answer}))


def _count(_job: Job) -> int:
    return _COUNTS[0]


if __name__ == "__main__":
    measure(_run, _count)
