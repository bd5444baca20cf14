"""The two ways to post to an API.

An address that begins with http:// and needs no proxy is a server here or near, which may give
more answers a second than a general client can take: `Connections`. All others, with TLS or behind
a proxy, go through aiohttp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from delia_data._optional import require
from delia_data.engines._connections import Connections
from delia_data.engines._http import Broken, Poster, Reply, Unreachable, why

if TYPE_CHECKING:
    import aiohttp

_CONNECT_S: Final = 30.0


def poster(url: str, headers: Mapping[str, str], timeout_s: float) -> Poster:
    """Choose the way to post to an address.

    Args:
        url: The address.
        headers: Headers of every request.
        timeout_s: Seconds to wait for an answer.
    """
    proxy = _proxy(url)
    if proxy is None and urlsplit(url).scheme == "http":
        return Connections(url, headers, timeout_s)
    return _Aiohttp(url, headers, timeout_s, proxy)


class _Aiohttp:
    """Posts through aiohttp."""

    def __init__(
        self, url: str, headers: Mapping[str, str], timeout_s: float, proxy: str | None
    ) -> None:
        self.aiohttp = require("aiohttp", extra="openai")
        self.url, self.headers, self.timeout_s, self.proxy = url, headers, timeout_s, proxy
        self.session: aiohttp.ClientSession

    async def open(self) -> None:
        self.session = self.aiohttp.ClientSession(
            connector=self.aiohttp.TCPConnector(limit=0),
            cookie_jar=self.aiohttp.DummyCookieJar(),
            headers=self.headers,
            timeout=self.aiohttp.ClientTimeout(
                total=self.timeout_s, sock_connect=min(_CONNECT_S, self.timeout_s)
            ),
            proxy=self.proxy,
        )

    async def post(self, body: bytes) -> Reply:
        aiohttp = self.aiohttp
        try:
            async with self.session.post(self.url, data=body, allow_redirects=False) as response:
                return Reply(response.status, response.headers, await response.read())
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unreachable(why(error)) from None
        except aiohttp.ClientError as error:
            raise Broken(why(error)) from None

    async def close(self) -> None:
        await self.session.close()


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for this address."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
