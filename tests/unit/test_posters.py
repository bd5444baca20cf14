"""Both ways to post behave alike, and the direct one reads what servers send."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from openai_server import Call, OpenAIServer, answer, drop, refusal

from delia_data.engines._connections import Connections
from delia_data.engines._http import Broken, Poster, Reply, Unreachable
from delia_data.engines._posters import _Aiohttp, poster

HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer k"}


def direct(url: str, timeout_s: float = 10.0) -> Poster:
    return Connections(url, HEADERS, timeout_s)


def general(url: str, timeout_s: float = 10.0) -> Poster:
    return _Aiohttp(url, HEADERS, timeout_s, None)


@pytest.fixture(params=[direct, general])
def way(request: pytest.FixtureRequest) -> Callable[..., Poster]:
    found: Callable[..., Poster] = request.param
    return found


def posted(post: Poster, work: Callable[[Poster], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        await post.open()
        try:
            return await work(post)
        finally:
            await post.close()

    return asyncio.run(run())


def test_the_way_follows_from_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert isinstance(poster("http://127.0.0.1:1/v1", {}, 1.0), Connections)
    assert isinstance(poster("https://127.0.0.1:1/v1", {}, 1.0), _Aiohttp)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert isinstance(poster("http://host.invalid/v1", {}, 1.0), _Aiohttp)


def test_a_body_goes_and_an_answer_comes(way: Callable[..., Poster]) -> None:
    with OpenAIServer(lambda call: answer(call.raw.decode() * 50_000)) as server:
        reply = posted(way(f"{server.url}/chat"), lambda post: post.post(b"abc"))
        (call,) = server.calls
    assert reply.status == 200 and len(reply.body) > 150_000
    assert call.path == "/v1/chat" and call.raw == b"abc"
    assert call.headers["authorization"] == "Bearer k"


def test_headers_of_a_refusal_are_found_whatever_their_case(way: Callable[..., Poster]) -> None:
    with OpenAIServer(lambda _: refusal(429, retry_after=3)) as server:
        reply = posted(way(server.url), lambda post: post.post(b"x"))
    assert reply.status == 429 and reply.headers["retry-after"] == "3"


def test_many_at_once_and_connections_used_again(way: Callable[..., Poster]) -> None:
    async def work(post: Poster) -> list[Reply]:
        for _ in range(3):
            replies = await asyncio.gather(*(post.post(b"%d" % i) for i in range(20)))
        return list(replies)

    seen = set()

    def echo(call: Call) -> Any:
        seen.update(id(connection) for connection in server.connections)
        return answer(call.raw.decode())

    with OpenAIServer(echo) as server:
        replies = posted(way(server.url), work)
        assert len(server.calls) == 60
    assert len(seen) == 20
    for number, reply in enumerate(replies):
        assert f'"content": "{number}"'.encode() in reply.body


@pytest.mark.parametrize(
    ("reply", "error"), [(drop(), Broken), (answer(delay_s=9), TimeoutError)], ids=["drop", "hang"]
)
def test_what_goes_wrong_is_told(way: Callable[..., Poster], reply: Any, error: Any) -> None:
    with OpenAIServer(lambda _: reply) as server, pytest.raises(error):
        posted(way(server.url, timeout_s=0.3), lambda post: post.post(b"x"))


def test_where_nobody_listens_nothing_is_reached(way: Callable[..., Poster]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Unreachable, match="refused"):
            posted(way(url), lambda post: post.post(b"x"))


def test_after_a_timeout_the_connection_is_not_used_again(way: Callable[..., Poster]) -> None:
    async def work(post: Poster) -> Reply:
        with pytest.raises(TimeoutError):
            await post.post(b"slow")
        return await post.post(b"quick")

    with OpenAIServer(
        lambda call: answer(call.raw.decode(), delay_s=0.5 * (call.raw == b"slow"))
    ) as server:
        reply = posted(way(server.url, timeout_s=0.2), work)
    assert b"quick" in reply.body


class _Pieces(asyncio.Protocol):
    """Answers each request with these pieces, one after the other."""

    def __init__(self, pieces: list[bytes], closing: bool) -> None:
        self.pieces, self.closing = pieces, closing
        self.left: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert data.endswith(b"\r\n\r\nx")
        self.left = list(self.pieces)
        self.send()

    def send(self) -> None:
        if self.left:
            self.transport.write(self.left.pop(0))
            asyncio.get_running_loop().call_later(0.001, self.send)
        elif self.closing:
            self.transport.close()


async def _served(pieces: list[bytes], *, closing: bool, posts: int = 1) -> list[Reply]:
    """Post to a server that sends these pieces for each request."""
    opened: list[_Pieces] = []

    def connection() -> _Pieces:
        opened.append(_Pieces(pieces, closing))
        return opened[-1]

    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
    post = Connections(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", {}, 5.0)
    try:
        replies = [await post.post(b"x") for _ in range(posts)]
    finally:
        await post.close()
        server.close()
        for one in opened:
            one.transport.abort()
        await asyncio.sleep(0.01)
    assert len(opened) == (posts if closing else 1)
    return replies


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;note=1\r\nde\r\n0\r\n\r\n"


@pytest.mark.parametrize("by_byte", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize(
    ("wire", "closing"),
    [
        (HEAD + b"Content-Length: 5\r\n\r\nabcde", False),
        (HEAD + CHUNKED, False),
        (HEAD + CHUNKED[:-2] + b"Trailer: 1\r\n\r\n", False),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"content-length:5\r\n\r\nabcde", False),
        (HEAD + b"Connection: close\r\nContent-Length: 5\r\n\r\nabcde", True),
        (HEAD + b"Connection: close\r\n\r\nabcde", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nabcde", True),
    ],
    ids=["length", "chunks", "trailer", "continue", "close", "until the end", "old"],
)
def test_answers_are_read_however_they_come(wire: bytes, closing: bool, by_byte: bool) -> None:
    pieces = [wire[i : i + 1] for i in range(len(wire))] if by_byte else [wire]
    replies = asyncio.run(_served(pieces, closing=closing, posts=2))
    assert [(reply.status, reply.body) for reply in replies] == [(200, b"abcde")] * 2


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        HEAD + b"Content-Length: many\r\n\r\n",
        HEAD + b"no header\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nabc",
        HEAD + b"Content-Length: 5\r\n\r\nabc",
    ],
)
def test_what_is_no_answer_is_told(wire: bytes) -> None:
    with pytest.raises(Broken):
        asyncio.run(_served([wire], closing=True))


def test_a_server_that_closes_idle_connections_is_borne() -> None:
    async def work(post: Poster) -> int:
        assert isinstance(post, Connections)
        await post.post(b"x")
        for connection in list(server.connections):
            server._loop.call_soon_threadsafe(connection.end)
        while post.idle:
            await asyncio.sleep(0.001)
        return (await post.post(b"x")).status

    with OpenAIServer() as server:
        assert posted(direct(server.url), work) == 200
