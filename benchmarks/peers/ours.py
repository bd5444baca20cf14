"""`delia_data.sampling.sample` over the OpenAI engine; the option `bare` leaves the filters out."""

from __future__ import annotations

from benchmarks.peers._clock import Order, measure
from delia_data.engines import ApiOptions
from delia_data.engines.openai import OpenAIEngine
from delia_data.outputs import read_manifest
from delia_data.sampling import Query, sample


def _run(order: Order) -> None:
    options = ApiOptions(api_base=order.url, concurrency=order.concurrency)
    engine = OpenAIEngine("stand-in", options)
    queries = [Query(query, "plain") for query in order.queries]
    filters = () if "bare" in order.options else None
    sample(engine, queries, order.folder / "cache", target=len(queries), filters=filters)


def _count(order: Order) -> int:
    return read_manifest(order.folder / "cache").rows["kept"]


if __name__ == "__main__":
    measure(_run, _count)
