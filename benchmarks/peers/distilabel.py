"""distilabel's `TextGeneration` over `OpenAILLM`, in batches of the concurrency, without cache."""

from __future__ import annotations

import logging

from distilabel.models.llms import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration

from benchmarks.peers._clock import Order, measure

_FOUND: list[int] = []


def _run(order: Order) -> None:
    logging.disable(logging.WARNING)
    with Pipeline(name="sampling", cache_dir=str(order.folder / "cache")) as pipeline:
        load = LoadDataFromDicts(
            data=[{"instruction": query} for query in order.queries],
            batch_size=order.concurrency,
        )
        ask = TextGeneration(
            llm=OpenAILLM(
                model="stand-in",
                base_url=order.url,
                api_key="none",
                generation_kwargs={"temperature": 0.7, "top_p": 0.95, "max_new_tokens": 512},
            ),
            input_batch_size=order.concurrency,
            add_raw_input=False,
            add_raw_output=False,
        )
        load >> ask
    made = pipeline.run(use_cache=False)["default"]["train"]
    made.to_json(str(order.folder / "rows.jsonl"))
    _FOUND.append(len({answer for answer in made["generation"] if answer}))


def _count(_order: Order) -> int:
    return _FOUND[0]


if __name__ == "__main__":
    measure(_run, _count)
