"""The engine for OpenAI-compatible servers, over aiohttp.

The key comes from `OPENAI_API_KEY` and is sent only in the header. The address comes from the
option `api_base`, else from `OPENAI_BASE_URL`, else it is OpenAI's.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from delia_data._optional import require
from delia_data.engines.api import ApiEngine, ApiOptions, Client, check_address
from delia_data.engines.base import Completion, Request, Sampling
from delia_data.engines.replies import Api, RequestFailure, read_completion, read_failure
from delia_data.errors import InputError

if TYPE_CHECKING:
    import aiohttp

_OPENAI: Final = "https://api.openai.com/v1"
_SEED_BITS: Final = 53
_CONNECT_S: Final = 30.0
_MAX_ANSWER_BYTES: Final = 64 * 2**20


class OpenAIEngine(ApiEngine):
    """Posts to `/chat/completions`, one answer per request, many requests at a time.

    The server applies its own chat template, so a manifest cannot name it. Rows are independent of
    each other even if the server ignores the seed.
    """

    name = "openai"

    def __init__(self, model: str, options: ApiOptions | None = None) -> None:
        """Prepare the engine. Nothing is sent.

        Args:
            model: The model's name, as the server knows it.
            options: Options of the API.

        Raises:
            InputError: The address is invalid, or OpenAI is the server and there is no key.
            MissingExtraError: aiohttp is not installed.
        """
        options = options or ApiOptions()
        require("aiohttp", extra="openai")
        address = options.api_base or os.environ.get("OPENAI_BASE_URL") or _OPENAI
        self.api_base = check_address(address)
        provider = "api.openai.com" if self.api_base == _OPENAI else None
        super().__init__(model, options, provider=provider, prices=options.prices)
        _read_key(self.api_base)

    def connect(self, sampling: Sampling) -> Client:
        """Return a client for one `generate` call."""
        return _Client(self, sampling)


class _Client:
    """The connections to one server within one event loop."""

    def __init__(self, engine: OpenAIEngine, sampling: Sampling) -> None:
        options, key = engine.options, _read_key(engine.api_base)
        where = f"the server at {engine.api_base}"
        self.api = Api(where, engine.model, "OPENAI_API_KEY", engine.secrets)
        self.aiohttp = require("aiohttp", extra="openai")
        self.url = f"{engine.api_base}/chat/completions"
        self.headers = {
            "Content-Type": "application/json",
            **({"Authorization": f"Bearer {key}"} if key else {}),
            **options.extra_headers,
        }
        self.prices, self.options, self.sampling = engine.prices, options, sampling
        # OpenAI's newer models reject the old name; other servers may not know the new one.
        usual = "max_completion_tokens" if engine.api_base == _OPENAI else "max_tokens"
        self.fixed = {
            "model": engine.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            options.token_limit_field or usual: sampling.total_tokens(thinks=False),
            **options.body,
        }
        self.session: aiohttp.ClientSession

    async def open(self) -> None:
        """Open a session without connections."""
        aiohttp, timeout_s = self.aiohttp, self.options.timeout_s
        parts = urlsplit(self.url)
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self.headers,
            timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(_CONNECT_S, timeout_s)),
            proxy=None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme),
        )

    async def ask(self, request: Request) -> Completion:
        """Post a request and read the answer."""
        body = {**self.fixed, "messages": [message.as_dict() for message in request.messages]}
        if self.options.send_seed:
            body["seed"] = request.seed % 2**_SEED_BITS
        status, headers, raw = await self._post(json.dumps(body).encode())
        if status != 200:
            raise read_failure(status, headers, raw, self.api)
        return read_completion(raw, request, self.sampling, self.api, self.prices)

    async def close(self) -> None:
        """Close all connections."""
        await self.session.close()

    async def _post(self, body: bytes) -> tuple[int, Any, bytes]:
        """Return the status, the headers, and the body of an answer."""
        aiohttp, name = self.aiohttp, self.api.name
        raw = bytearray()
        try:
            data = aiohttp.BytesPayload(body)  # avoids detecting the type of the body
            async with self.session.post(self.url, data=data, allow_redirects=False) as response:
                async for chunk in response.content.iter_any():
                    raw += chunk
                    if len(raw) > _MAX_ANSWER_BYTES:
                        raise RequestFailure("invalid", f"{name} sent more than 64 MiB")
                return response.status, response.headers, bytes(raw)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise RequestFailure(
                "unreachable",
                f"{name} cannot be reached: {_explain(error)}; check that it is running",
            ) from None
        except TimeoutError:
            raise RequestFailure(
                "throttle", f"no answer within {self.options.timeout_s:g} s"
            ) from None
        except aiohttp.ClientError as error:
            raise RequestFailure("retry", f"the connection broke: {_explain(error)}") from None


def _explain(error: Exception) -> str:
    """Return the operating system's words for an error, without addresses."""
    number = getattr(error, "errno", None) or 0
    text = os.strerror(number) if number > 0 else str(error) or type(error).__name__
    return " ".join(text.split())[:200]


def _read_key(api_base: str) -> str:
    """Return the key from the environment; an empty string if a server needs none."""
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key and api_base == _OPENAI:
        raise InputError(
            "OPENAI_API_KEY is not set, and OpenAI needs a key: set it in the environment, or give "
            "the address of another server as api_base"
        )
    if not key.isascii() or not key.isprintable():
        raise InputError("OPENAI_API_KEY has characters that keys do not have: set it again")
    return key
