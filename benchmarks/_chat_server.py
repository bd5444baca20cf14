"""Chat server on loopback with precomputed answers, to measure the speed of clients.

    with ChatServer() as server:
        ...  # server.url, server.count()

`python -m benchmarks._chat_server` prints its port, and serves until its standard input ends. The
25,000 answers differ, so that clients find no duplicates, and are the same in every run.
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
from types import TracebackType
from typing import Final

from benchmarks._process import ROOT

__all__ = ["ChatServer"]

_ANSWERS: Final = 25_000  # then the first one follows again
_SYLLABLES: Final = ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "so", "tu", "va", "ze")


class ChatServer:
    """Context manager that runs the server in its own process.

    Attributes:
        url: Base URL, up to `/v1`.
    """

    def __init__(self, *, words: int = 120, delay_s: float = 0.0) -> None:
        """Set the length of the answers in words, and their delay."""
        self._options = ["--words", str(words), "--delay-s", str(delay_s)]
        self.url = ""

    def __enter__(self) -> ChatServer:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks._chat_server", *self._options],
            cwd=ROOT,
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
        """Return the number of complete chat requests so far."""
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f"{self.url}/count", timeout=30
        ) as reply:
            return int(json.load(reply)["count"])


class _Connection(asyncio.Protocol):
    """The part of HTTP/1.1 that clients on the same machine need."""

    def __init__(self, responder: _Responder) -> None:
        self.responder = responder
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
            self.responder.chat(self.transport, closing)
        else:
            self._send(self.responder.info(head), closing)

    def _send(self, reply: bytes, closing: bool) -> None:
        self.transport.write(reply)
        if closing:
            self.transport.close()


class _Responder:
    """Counts requests and answers them."""

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

    def info(self, head: bytes) -> bytes:
        if b"/count" in head:
            return _reply({"count": self.count})
        return _reply({"object": "list", "data": [{"id": "stand-in", "object": "model"}]})

    def _answer(self, transport: asyncio.Transport, closing: bool) -> None:
        transport.write(self.answers[0])
        self.answers.rotate(-1)
        if closing:
            transport.close()


def _answers(words: int) -> list[bytes]:
    random_words = random.Random(0)
    vocabulary = [f"{a}{b}{c}" for a in _SYLLABLES for b in _SYLLABLES for c in _SYLLABLES]
    usage = {"prompt_tokens": 12, "completion_tokens": words, "total_tokens": 12 + words}
    replies = []
    for _ in range(_ANSWERS):
        message = {
            "role": "assistant",
            "content": " ".join(random_words.choices(vocabulary, k=words)),
        }
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        head = {"id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": "stand-in"}
        replies.append(_reply({**head, "choices": [choice], "usage": usage}))
    return replies


def _reply(value: dict[str, object]) -> bytes:
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


async def _main(words: int, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    responder = _Responder(words, delay_s)
    server = await loop.create_server(lambda: _Connection(responder), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--words", type=int, default=120)
    parser.add_argument("--delay-s", type=float, default=0.0)
    given = parser.parse_args()
    asyncio.run(_main(given.words, given.delay_s))
