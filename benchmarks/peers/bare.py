"""A bare aiohttp loop that appends JSON lines: what a client cannot do without."""

from __future__ import annotations

import asyncio
import json

import aiohttp

from benchmarks.peers._clock import Order, measure


async def _ask_all(order: Order) -> None:
    rows = iter(enumerate(order.queries))
    connector = aiohttp.TCPConnector(limit=order.concurrency)
    with (order.folder / "rows.jsonl").open("w") as file:
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
                    async with session.post(f"{order.url}/chat/completions", json=body) as reply:
                        value = await reply.json()
                    answer = value["choices"][0]["message"]["content"]
                    line = {"id": number, "query": query, "answer": answer}
                    file.write(json.dumps(line) + "\n")

            await asyncio.gather(*(work() for _ in range(order.concurrency)))


def _run(order: Order) -> None:
    asyncio.run(_ask_all(order))


def _count(order: Order) -> int:
    return len(set((order.folder / "rows.jsonl").read_text().splitlines()))


if __name__ == "__main__":
    measure(_run, _count)
