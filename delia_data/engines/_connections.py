"""HTTP/1.1 to a server that is spoken to directly, without TLS and without a proxy.

    post ──▶ idle connection, else a new one ──▶ head and body in one write
                  ▲                                     │
                  └──── answer is whole ◀── data ◀──────┘

It does what asking a model's server takes and nothing else, in a third of the time that a general
client needs: such a server may give thousands of answers a second. `_posters` has the way for all
others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlsplit

from delia_data.engines._http import Broken, Reply, Unreachable, why

_CONNECT_S: Final = 30.0
_END: Final = b"\r\n\r\n"


class Connections:
    """Posts to one address, over as many connections as there are requests at a time."""

    def __init__(self, url: str, headers: Mapping[str, str], timeout_s: float) -> None:
        """Settle where to post; nothing is opened yet."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._timeout_s = timeout_s
        lines = [
            f"POST {quote(parts.path, safe='/%:@-._~+,;=')} HTTP/1.1",
            f"Host: {parts.netloc.rpartition('@')[2]}",
            *(f"{name}: {value}" for name, value in headers.items()),
            "Content-Length: ",
        ]
        self._head = "\r\n".join(lines).encode("ascii")
        self.idle: list[_Connection] = []
        self.all: set[_Connection] = set()

    async def open(self) -> None:
        """Nothing to do: connections come with requests."""

    async def post(self, body: bytes) -> Reply:
        """Send a body, and read the answer.

        Raises:
            Unreachable: There is no connection.
            Broken: The connection ended early, or what came is not HTTP.
            TimeoutError: The answer took too long.
        """
        connection = self.idle.pop() if self.idle else await self._connect()
        return await connection.ask(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))

    async def close(self) -> None:
        """Close every connection."""
        for connection in list(self.all):
            connection.abort()
        while self.all:
            await asyncio.sleep(0)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        opening = loop.create_connection(
            lambda: _Connection(self, self._timeout_s), self._host, self._port
        )
        try:
            _, connection = await asyncio.wait_for(opening, min(_CONNECT_S, self._timeout_s))
        except TimeoutError:
            raise Unreachable("no connection in time") from None
        except OSError as error:
            raise Unreachable(why(error)) from None
        return connection


class _Connection(asyncio.Protocol):
    """One connection: one request after another."""

    def __init__(self, pool: Connections, timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[Reply] | None = None
        self._buffer = bytearray()

    async def ask(self, request: bytes) -> Reply:
        """Send a request and wait for its answer."""
        self._waiter = self._loop.create_future()
        alarm = self._loop.call_later(self._timeout_s, self._fail, TimeoutError())
        self._transport.write(request)
        try:
            return await self._waiter
        except BaseException:
            self.abort()
            raise
        finally:
            alarm.cancel()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the pool."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._pool.all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the pool; an answer without a length ends here."""
        self._pool.all.discard(self)
        if self in self._pool.idle:
            self._pool.idle.remove(self)
        if exc is None:
            self._read(ended=True)
        self._fail(Broken(why(exc) if exc else "the server closed it"))

    def data_received(self, data: bytes) -> None:
        """Take what came, and see whether the answer is whole."""
        self._buffer += data
        if self._waiter is None:  # nothing was asked
            self.abort()
        else:
            self._read()

    def _read(self, *, ended: bool = False) -> None:
        try:
            found = _reply(self._buffer, ended)
        except (ValueError, IndexError):
            self._fail(Broken("what came is not HTTP"))
            self.abort()
            return
        if found is None or self._waiter is None or self._waiter.done():
            return
        reply, length, keep = found
        del self._buffer[:length]
        waiter, self._waiter = self._waiter, None
        if keep and not self._buffer and not ended:
            self._pool.idle.append(self)
        else:
            self.abort()
        waiter.set_result(reply)

    def _fail(self, error: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)


def _reply(data: bytearray, ended: bool) -> tuple[Reply, int, bool] | None:
    """The answer at the beginning of `data`, its length, and whether another may follow.

    None where it is not whole.

    Raises:
        ValueError: It is no answer; so does IndexError say.
    """
    start = 0
    while True:
        end = data.find(_END, start)
        if end < 0:
            return None
        first, *lines = bytes(data[start:end]).decode("latin-1").split("\r\n")
        start = end + len(_END)
        version, status = first.split(" ", 2)[:2]
        if not version.startswith("HTTP/1."):
            raise ValueError(first)
        if int(status) >= 200:  # others announce an answer
            break
    split = (line.split(":", 1) for line in lines)
    headers = {name.lower(): value.strip() for name, value in split}
    keep = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    if headers.get("transfer-encoding", "").lower() == "chunked":
        found = _chunks(data, start)
        if found is None:
            return None
        body, end = found
    elif "content-length" in headers:
        end = start + int(headers["content-length"])
        if len(data) < end:
            return None
        body = bytes(data[start:end])
    elif status in ("204", "304"):
        body, end = b"", start
    elif ended:
        body, end = bytes(data[start:]), len(data)
    else:
        return None
    return Reply(int(status), headers, body), end, keep


def _chunks(data: bytearray, start: int) -> tuple[bytes, int] | None:
    """A body that comes in chunks, and where it ends; None where it is not whole."""
    body = bytearray()
    while True:
        end = data.find(b"\r\n", start)
        if end < 0:
            return None
        size = int(data[start:end].partition(b";")[0], 16)
        if size == 0:
            last = data.find(_END, end)
            return None if last < 0 else (bytes(body), last + len(_END))
        start = end + 2 + size + 2
        if len(data) < start:
            return None
        body += data[end + 2 : start - 2]
