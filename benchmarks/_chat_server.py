"""A chat server on loopback that costs next to nothing, so that what is measured is its client.

    with ChatServer(work) as server:
        ...  # server.url, server.count()

It runs in a process of its own: `python -m benchmarks._chat_server` prints its port, and serves
until its standard input ends. Every answer has other words, so that none is a duplicate; they are
made before the first request, and stay the same from run to run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import urllib.request
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Final

__all__ = ["ChatServer"]

_ROOT: Final = Path(__file__).parents[1]
_ANSWERS: Final = 25_000  # after which they come again
_SYLLABLES: Final = ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "so", "tu", "va", "ze")


class ChatServer:
    """The server's process, while the block runs.

    Attributes:
        url: Its address, up to `/v1`.
    """

    def __init__(self, *, words: int = 120, delay_s: float = 0.0) -> None:
        """Settle how long its answers are, and how long they take."""
        self._order = ["--words", str(words), "--delay-s", str(delay_s)]
        self.url = ""

    def __enter__(self) -> ChatServer:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks._chat_server", *self._order],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}/v1"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def count(self) -> int:
        """How many chat requests came so far, whole ones."""
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f"{self.url}/count", timeout=30
        ) as reply:
            return int(json.load(reply)["count"])


class _Connection(asyncio.Protocol):
    """HTTP/1.1, as far as clients on the same machine need it."""

    def __init__(self, serve: _Serve) -> None:
        self.serve = serve
        self.transport: asyncio.Transport
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer = data = self.buffer + data if self.buffer else data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = data[:end].lower()
        at = head.find(b"content-length:")
        length = 0 if at < 0 else int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(data) < end + 4 + length:
            return
        self.buffer = data[end + 4 + length :]
        closing = b"connection: close" in head
        if head.startswith(b"post"):
            self.serve.chat(self.transport, closing)
        else:
            self._send(self.serve.about(head), closing)

    def _send(self, reply: bytes, closing: bool) -> None:
        self.transport.write(reply)
        if closing:
            self.transport.close()


class _Serve:
    """Counts requests, and has the answers."""

    def __init__(self, words: int, delay_s: float) -> None:
        self.count = 0
        self.delay_s = delay_s
        self.answers = deque(_answers(words))
        self.loop = asyncio.get_running_loop()

    def chat(self, transport: asyncio.Transport, closing: bool) -> None:
        self.count += 1
        if self.delay_s:
            self.loop.call_later(self.delay_s, self._answer, transport, closing)
        else:
            self._answer(transport, closing)

    def about(self, head: bytes) -> bytes:
        if b"/count" in head:
            return _reply({"count": self.count})
        return _reply({"object": "list", "data": [{"id": "stand-in", "object": "model"}]})

    def _answer(self, transport: asyncio.Transport, closing: bool) -> None:
        transport.write(self.answers[0])
        self.answers.rotate(-1)
        if closing:
            transport.close()


def _answers(words: int) -> list[bytes]:
    draw = random.Random(0)
    known = [f"{a}{b}{c}" for a in _SYLLABLES for b in _SYLLABLES for c in _SYLLABLES]
    usage = {"prompt_tokens": 12, "completion_tokens": words, "total_tokens": 12 + words}
    made = []
    for _ in range(_ANSWERS):
        message = {"role": "assistant", "content": " ".join(draw.choices(known, k=words))}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        head = {"id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": "stand-in"}
        made.append(_reply({**head, "choices": [choice], "usage": usage}))
    return made


def _reply(value: dict[str, object]) -> bytes:
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


async def _main(words: int, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    serve = _Serve(words, delay_s)
    server = await loop.create_server(lambda: _Connection(serve), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--words", type=int, default=120)
    parser.add_argument("--delay-s", type=float, default=0.0)
    given = parser.parse_args()
    asyncio.run(_main(given.words, given.delay_s))
