"""A bare aiohttp loop that appends JSON lines."""

from __future__ import annotations

import asyncio
import json

import aiohttp

from benchmarks.peers._timing import Job, measure


async def _request_all(job: Job) -> None:
    rows = iter(enumerate(job.queries))
    connector = aiohttp.TCPConnector(limit=job.concurrency)
    with (job.folder / "rows.jsonl").open("w") as file:
        async with aiohttp.ClientSession(connector=connector) as session:

            async def work() -> None:
                for number, query in rows:
                    body = {
                        "model": "stand-in",
                        "messages": [{"role": "user", "content": query}],
                        "temperature": 0.7,
                        "top_p": 0.95,
                        "max_tokens": 512,
                    }
                    async with session.post(f"{job.url}/chat/completions", json=body) as reply:
                        value = await reply.json()
                    answer = value["choices"][0]["message"]["content"]
                    line = {"id": number, "query": query, "answer": answer}
                    file.write(json.dumps(line) + "\n")

            await asyncio.gather(*(work() for _ in range(job.concurrency)))


def _run(job: Job) -> None:
    asyncio.run(_request_all(job))


def _count(job: Job) -> int:
    return len(set((job.folder / "rows.jsonl").read_text().splitlines()))


if __name__ == "__main__":
    measure(_run, _count)
