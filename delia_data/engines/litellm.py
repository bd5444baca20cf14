"""The engine over any API that litellm knows: `anthropic/...`, `gemini/...`, `azure/...`, ...

For servers that speak OpenAI's language the engine `openai` is much faster. Keys come from the
environment, under the names that litellm's documentation gives for each provider.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from delia_data._optional import require
from delia_data.engines._litellm_errors import translated
from delia_data.engines._options import check_address, check_options, given_prices
from delia_data.engines._pace import Pace
from delia_data.engines._remote import stream
from delia_data.engines._replies import public_name, to_completion
from delia_data.engines.base import Completion, Prices, Request, Sampling
from delia_data.errors import InputError

_SEED_BITS: Final = 31
_LOGGING: Final = "litellm.litellm_core_utils.logging_worker"


class LitellmEngine:
    """Asks through `litellm.acompletion`, one answer a request, many at a time.

    litellm retries nothing and drops nothing here, but the seed where a provider takes none;
    what a model refuses to be told (a temperature, say) is an error.
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
            model: Provider and model, as litellm names them: `"anthropic/claude-sonnet-4-5"`.
            api_base: Address of a server of one's own; the provider's where not given.
            concurrency: Requests out at once at most.
            rpm: Requests a minute at most.
            tpm: Tokens a minute at most, prompts and answers.
            timeout_s: Seconds to wait for an answer.
            retries: Tries of a request after the first at most.
            prompt_price: Dollars for a million tokens of prompts; litellm's own price of the
                model where not given, and unknown where it has none.
            completion_price: Dollars for a million tokens of answers.

        Raises:
            InputError: An option is out of its bounds, the provider is unknown, or its key is
                not in the environment.
            MissingExtraError: litellm is not installed.
        """
        check_options(
            timeout_s=timeout_s,
            retries=retries,
            prompt_price=prompt_price,
            completion_price=completion_price,
        )
        self.model = model
        self.api_base = None if api_base is None else check_address(api_base)
        self.timeout_s = timeout_s
        self.retries = retries
        self.pace = Pace(concurrency, rpm=rpm, tpm=tpm)
        litellm = _litellm()
        self.provider = _provider(litellm, model, api_base)
        self.prices = given_prices(prompt_price, completion_price) or _known_prices(litellm, model)

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
    ) -> LitellmEngine:
        """Make one; the arguments are those of the class."""
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
        """Answer every request once, as many at a time as the API bears."""
        client = _LitellmClient(self, sampling)
        return stream(client, requests, sampling, pace=self.pace, retries=self.retries)

    def describe(self) -> dict[str, Any]:
        """Name the engine and the model; neither weights nor chat template can be hashed."""
        return {"engine": "litellm", "api": self.provider, "model": public_name(self.model)}

    def close(self) -> None:
        """Nothing is held between calls of `generate`."""


class _LitellmClient:
    """Speaks through litellm within one event loop."""

    def __init__(self, engine: LitellmEngine, sampling: Sampling) -> None:
        self.litellm = _litellm()
        self.engine = engine
        supported = self.litellm.get_supported_openai_params(engine.model) or []
        self.takes_seed = "seed" in supported
        wanted = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
        }
        # 1 is what an API that cannot be told of a temperature or a top_p takes anyway.
        self.fixed: dict[str, Any] = {
            name: value for name, value in wanted.items() if name in supported or value != 1
        }
        if engine.api_base is not None:
            self.fixed["api_base"] = engine.api_base
            if _missing_keys(self.litellm, engine.model):
                self.fixed["api_key"] = "none"

    async def open(self) -> None:
        """Give the loop the threads that litellm prepares its calls in."""
        asyncio.get_running_loop().set_default_executor(_Threads())

    async def ask(self, request: Request) -> Completion:
        """Try a request once."""
        seed = {"seed": request.seed % 2**_SEED_BITS} if self.takes_seed else {}
        try:
            answer = await self.litellm.acompletion(
                model=self.engine.model,
                messages=[message.as_dict() for message in request.messages],
                timeout=self.engine.timeout_s,
                num_retries=0,
                max_retries=0,
                drop_params=False,
                **seed,
                **self.fixed,
            )
        except Exception as error:
            raise translated(
                self.litellm,
                error,
                model=self.engine.model,
                provider=self.engine.provider,
                api_base=self.engine.api_base,
                timeout_s=self.engine.timeout_s,
            ) from None
        return to_completion(request, answer.model_dump(), self.engine.prices)

    async def close(self) -> None:
        """End litellm's logging, and close and forget the connections that it keeps."""
        worker = require(_LOGGING, extra="litellm").GLOBAL_LOGGING_WORKER
        await worker.stop()
        await worker.clear_queue()
        await self.litellm.close_litellm_async_clients()
        self.litellm.in_memory_llm_clients_cache.flush_cache()


class _Threads(ThreadPoolExecutor):
    """Threads that leave no coroutine behind.

    litellm has a thread make the coroutine of its call and then awaits it. A task that is
    cancelled in between never does, and Python warns of each such coroutine.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a call; what it returns too late for the task that asked for it is closed."""
        future = super().submit(fn, *args, **kwargs)
        if task := asyncio.current_task():
            task.add_done_callback(lambda _: future.add_done_callback(_close_unawaited))
        return future


def _close_unawaited(future: Future[Any]) -> None:
    if future.cancelled() or future.exception() is not None:
        return
    made = future.result()
    if inspect.iscoroutine(made) and inspect.getcoroutinestate(made) == inspect.CORO_CREATED:
        made.close()


def _litellm() -> Any:
    """Import litellm (seconds), told to fetch nothing, read no `.env` file and print nothing."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
    litellm = require("litellm", extra="litellm")
    litellm.suppress_debug_info = True
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return litellm


def _provider(litellm: Any, model: str, api_base: str | None) -> str:
    """The provider of a model, whose key is there."""
    try:
        provider = str(litellm.get_llm_provider(model, api_base=api_base)[1])
    except litellm.exceptions.BadRequestError as error:
        raise InputError(
            f"litellm knows no provider of model {model!r}: put one before its name, "
            "as in openai/NAME or anthropic/NAME"
        ) from error
    if api_base is None and (missing := _missing_keys(litellm, model)):
        raise InputError(
            f"the key for {model} is not in the environment: set {' or '.join(missing)}"
        )
    return provider


def _missing_keys(litellm: Any, model: str) -> list[str]:
    """Environment variables that hold the provider's key, where none is set."""
    missing: list[str] = litellm.validate_environment(model)["missing_keys"]
    return [name for name in missing if name.endswith("KEY")]


def _known_prices(litellm: Any, model: str) -> Prices | None:
    """What litellm's table says; 0 there may as well mean that nobody knows."""
    try:
        info = litellm.get_model_info(model)
    except Exception:  # it raises bare ones
        return None
    asked, written = info.get("input_cost_per_token"), info.get("output_cost_per_token")
    return Prices(asked, written) if asked and written else None
