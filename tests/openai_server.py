"""An OpenAI-compatible server for tests on loopback, without latency, with the faults of a test.

    with OpenAIServer(lambda call: refusal(429) if call.busy > 8 else answer()) as server:
        ...  # server.url, server.calls, server.most_busy, server.statuses

`python -m tests.openai_server` runs the server in a process of its own: it prints its address and
serves until its standard input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from types import TracebackType
from typing import Any

WORDS = ("river", "lamp", "paper", "stone", "window", "garden", "letter", "bread")


@dataclass
class Call:
    """One request; `busy` is the number of requests in progress, including this one."""

    number: int
    path: str
    headers: dict[str, str]
    raw: bytes
    busy: int

    @cached_property
    def body(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.raw)
        return loaded

    @property
    def question(self) -> str:
        return str(self.body["messages"][-1]["content"])


@dataclass(frozen=True)
class Reply:
    """One reply, sent after `delay_s`; if `dropped`, the connection is closed without a reply."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    dropped: bool = False

    @cached_property
    def wire(self) -> bytes:
        head = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        head += [f"{name}: {value}" for name, value in self.headers.items()]
        head += ["content-type: application/json", f"content-length: {len(self.body)}", "", ""]
        return "\r\n".join(head).encode() + self.body


def answer(
    text: str | None = None,
    *,
    words: int = 120,
    finish: str = "stop",
    usage: bool = True,
    delay_s: float = 0.0,
) -> Reply:
    """Return a chat completion with a text, or with a number of words."""
    content = text if text is not None else " ".join(WORDS[i % len(WORDS)] for i in range(words))
    value: dict[str, Any] = {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": "stand-in",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content},
                "finish_reason": finish,
            }
        ],
    }
    if usage:
        tokens = len(content.split())
        value["usage"] = {
            "prompt_tokens": 10,
            "completion_tokens": tokens,
            "total_tokens": 10 + tokens,
        }
    return Reply(body=json.dumps(value).encode(), delay_s=delay_s)


def refusal(
    status: int,
    message: str = "no",
    *,
    code: str | None = None,
    retry_after: float | str | None = None,
    delay_s: float = 0.0,
) -> Reply:
    """Return an error in OpenAI's format."""
    body = {"error": {"message": message, "type": "error", "param": None, "code": code}}
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    return Reply(status, json.dumps(body).encode(), headers, delay_s)


def drop(*, delay_s: float = 0.0) -> Reply:
    """Return a reply that closes the connection."""
    return Reply(delay_s=delay_s, dropped=True)


class OpenAIServer:
    """A server in a thread, which answers each call with the result of `reply`."""

    def __init__(
        self, reply: Callable[[Call], Reply] | None = None, *, port: int = 0, keep: bool = True
    ) -> None:
        usual = answer()
        self.reply = reply or (lambda _: usual)
        self.keep = keep
        self.calls: list[Call] = []
        self.count = 0
        self.busy = 0
        self.most_busy = 0
        self.statuses: Counter[int] = Counter()
        self.connections: set[_Connection] = set()
        self.url = ""
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None

    def __enter__(self) -> OpenAIServer:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def take(self, path: str, headers: dict[str, str], raw: bytes) -> Reply:
        """Record a call and return the reply."""
        self.count += 1
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        call = Call(self.count, path, headers, raw, self.busy)
        if self.keep:
            self.calls.append(call)
        made = self.reply(call)
        self.statuses[0 if made.dropped else made.status] += 1
        return made

    def _serve(self) -> None:
        self._loop.run_until_complete(self._run())
        self._loop.close()

    async def _run(self) -> None:
        self._stop = asyncio.Event()
        server = await self._loop.create_server(
            lambda: _Connection(self, self._loop), "127.0.0.1", self._port, backlog=1024
        )
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._ready.set()
        await self._stop.wait()
        server.close()
        for connection in list(self.connections):
            connection.end()
        await asyncio.sleep(0)


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, which handles one call after another."""

    def __init__(self, server: OpenAIServer, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.loop = loop
        self.buffer = b""
        self.later: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        if self.later is not None:
            self.later.cancel()
            self.later = None
            self.server.busy -= 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, mark, rest = self.buffer.partition(b"\r\n\r\n")
        if not mark:
            return
        lines = head.decode("latin-1").split("\r\n")
        headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines[1:])}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        self.buffer = rest[length:]
        made = self.server.take(lines[0].split(" ")[1], headers, rest[:length])
        if made.delay_s:
            self.later = self.loop.call_later(made.delay_s, self._send, made)
        else:
            self._send(made)

    def _send(self, made: Reply) -> None:
        self.later = None
        self.server.busy -= 1
        if made.dropped:
            self.transport.abort()
        else:
            self.transport.write(made.wire)

    def end(self) -> None:
        """Close the connection at once."""
        self.transport.abort()


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--words", type=int, default=120)
    parser.add_argument("--delay-s", type=float, default=0.0)
    given = parser.parse_args()
    usual = answer(words=given.words, delay_s=given.delay_s)
    with OpenAIServer(lambda _: usual, port=given.port, keep=False) as server:
        print(server.url, flush=True)
        sys.stdin.read()
        print(json.dumps({"calls": server.count, "most_busy": server.most_busy}))


if __name__ == "__main__":
    main()
