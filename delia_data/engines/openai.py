"""The engine over any OpenAI-compatible server, spoken to directly.

The key comes from the environment (`OPENAI_API_KEY`) and goes nowhere but into the header; the
address from `api_base`, else from `OPENAI_BASE_URL`, else it is OpenAI's own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, Final

from delia_data._optional import require
from delia_data.engines._http import Broken, Unreachable
from delia_data.engines._options import check_address, check_options, given_prices
from delia_data.engines._pace import Pace
from delia_data.engines._posters import poster
from delia_data.engines._remote import Rejected, stream
from delia_data.engines._replies import public_name, read_answer, read_refusal
from delia_data.engines.base import Completion, Prices, Request, Sampling
from delia_data.errors import InputError

_OPENAI: Final = "https://api.openai.com/v1"
_SEED_BITS: Final = 53


class OpenAIEngine:
    """Asks `/chat/completions` for one answer a request, many at a time.

    The chat template is the server's, and nobody can tell which it is. A server may disregard
    the seed; rows are independent of each other all the same.
    """

    prices: Prices | None
    writes_users = False

    def __init__(
        self,
        model: str,
        *,
        api_base: str | None = None,
        concurrency: int = 64,
        rpm: int | None = None,
        tpm: int | None = None,
        timeout_s: float = 600.0,
        retries: int = 8,
        prompt_price: float | None = None,
        completion_price: float | None = None,
    ) -> None:
        """Settle what to ask; nothing is sent yet.

        Args:
            model: The model's name, as the server knows it.
            api_base: Address up to `/v1`.
            concurrency: Requests out at once at most.
            rpm: Requests a minute at most.
            tpm: Tokens a minute at most, prompts and answers.
            timeout_s: Seconds to wait for an answer.
            retries: Tries of a request after the first at most.
            prompt_price: Dollars for a million tokens of prompts; unknown where not given.
            completion_price: Dollars for a million tokens of answers.

        Raises:
            InputError: An option is out of its bounds, the address is none, or OpenAI is to be
                asked and there is no key.
        """
        check_options(
            timeout_s=timeout_s,
            retries=retries,
            prompt_price=prompt_price,
            completion_price=completion_price,
        )
        self.model = model
        self.api_base = check_address(api_base or os.environ.get("OPENAI_BASE_URL") or _OPENAI)
        self.timeout_s = timeout_s
        self.retries = retries
        self.prices = given_prices(prompt_price, completion_price)
        self.pace = Pace(concurrency, rpm=rpm, tpm=tpm)
        _key(self.api_base)

    @classmethod
    def load(
        cls,
        model: str,
        *,
        api_base: str | None = None,
        concurrency: int = 64,
        rpm: int | None = None,
        tpm: int | None = None,
        timeout_s: float = 600.0,
        retries: int = 8,
        prompt_price: float | None = None,
        completion_price: float | None = None,
    ) -> OpenAIEngine:
        """Make one; the arguments are those of the class."""
        require("aiohttp", extra="openai")
        return cls(
            model,
            api_base=api_base,
            concurrency=concurrency,
            rpm=rpm,
            tpm=tpm,
            timeout_s=timeout_s,
            retries=retries,
            prompt_price=prompt_price,
            completion_price=completion_price,
        )

    def generate(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Completion]:
        """Answer every request once, as many at a time as the server bears."""
        client = _HttpClient(self, sampling)
        return stream(client, requests, sampling, pace=self.pace, retries=self.retries)

    def describe(self) -> dict[str, Any]:
        """Name the engine and the model; neither weights nor chat template can be hashed."""
        api = "api.openai.com" if self.api_base == _OPENAI else None
        return {"engine": "openai", "api": api, "model": public_name(self.model)}

    def close(self) -> None:
        """Nothing is held between calls of `generate`."""


class _HttpClient:
    """Speaks to the server within one event loop."""

    def __init__(self, engine: OpenAIEngine, sampling: Sampling) -> None:
        self.where = f"the server at {engine.api_base}"
        self.model = engine.model
        self.prices = engine.prices
        self.timeout_s = engine.timeout_s
        self.key = _key(engine.api_base)
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        self.poster = poster(f"{engine.api_base}/chat/completions", headers, engine.timeout_s)
        # OpenAI's newer models refuse the old name, other servers may not know the new one.
        limit = "max_completion_tokens" if engine.api_base == _OPENAI else "max_tokens"
        self.fixed = {
            "model": engine.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            limit: sampling.max_tokens,
        }

    async def open(self) -> None:
        """Get ready; nothing is sent."""
        await self.poster.open()

    async def ask(self, request: Request) -> Completion:
        """Post one request, and read what comes."""
        body = {
            **self.fixed,
            "messages": [message.as_dict() for message in request.messages],
            "seed": request.seed % 2**_SEED_BITS,
        }
        try:
            reply = await self.poster.post(json.dumps(body).encode())
        except Unreachable as error:
            reason = f"{self.where} cannot be reached: {error}; check that it runs"
            raise Rejected("down", reason) from None
        except TimeoutError:
            raise Rejected("slow", f"no answer within {self.timeout_s:g} s") from None
        except Broken as error:
            raise Rejected("again", f"the connection broke: {error}") from None
        if reply.status != 200:
            raise read_refusal(
                reply.status,
                reply.headers,
                reply.body,
                where=self.where,
                model=self.model,
                key=self.key,
                variable="OPENAI_API_KEY",
            )
        return read_answer(request, reply.body, self.prices)

    async def close(self) -> None:
        """Close every connection."""
        await self.poster.close()


def _key(api_base: str) -> str:
    """The key of the environment; empty where a server of one's own needs none."""
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key and api_base == _OPENAI:
        raise InputError(
            "OPENAI_API_KEY is not set, and OpenAI asks for it: set it in the environment, "
            "or give the address of another server as api_base"
        )
    if not key.isascii() or not key.isprintable():
        raise InputError("OPENAI_API_KEY holds characters that no key has: set it again")
    return key
