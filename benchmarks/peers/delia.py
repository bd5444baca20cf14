"""`delia_data.sampling.sample` with the OpenAI engine; the option `bare` turns filters off."""

from __future__ import annotations

from benchmarks.peers._timing import Job, measure
from delia_data.engines import ApiOptions
from delia_data.engines.openai import OpenAIEngine
from delia_data.outputs import read_manifest
from delia_data.sampling import Query, sample


def _run(job: Job) -> None:
    options = ApiOptions(api_base=job.url, concurrency=job.concurrency)
    engine = OpenAIEngine("stand-in", options)
    queries = [Query(query, "plain") for query in job.queries]
    filters = () if "bare" in job.options else None
    sample(engine, queries, job.folder / "cache", target=len(queries), filters=filters)


def _count(job: Job) -> int:
    return read_manifest(job.folder / "cache").rows["kept"]


if __name__ == "__main__":
    measure(_run, _count)
