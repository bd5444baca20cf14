"""The engine for any API that litellm knows: `anthropic/...`, `gemini/...`, `azure/...`, ...

For OpenAI-compatible servers the engine `openai` is much faster. Keys come from the environment,
under the names in litellm's documentation.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from delia_data._optional import require
from delia_data.engines.api import ApiEngine, ApiOptions, Client
from delia_data.engines.base import Completion, Prices, Request, Sampling
from delia_data.engines.replies import (
    CONTENT_FILTER,
    Api,
    RequestFailure,
    classify_error,
    read_retry_after,
    redact,
    to_completion,
)
from delia_data.errors import InputError

_SEED_BITS: Final = 31
_LOGGING: Final = "litellm.litellm_core_utils.logging_worker"
_CONNECTION_ERRORS: Final = ("ConnectError", "ConnectTimeout", "ClientConnectorError")
_PREFIX: Final = re.compile(r"^(?:litellm\.)?(?:\w+(?:Error|Exception)\b(?:: | - ))+")


class LitellmEngine(ApiEngine):
    """Asks through `litellm.acompletion`, one answer per request, many requests at a time.

    litellm retries nothing here. It drops no parameter except the seed of a provider that takes
    none: a model that rejects a temperature, for example, raises an error.
    """

    name = "litellm"

    def __init__(self, model: str, options: ApiOptions | None = None) -> None:
        """Prepare the engine. Nothing is sent.

        Args:
            model: Provider and model as litellm names them: `"anthropic/claude-sonnet-4-5"`.
            options: Options of the API.

        Raises:
            InputError: The provider is unknown, or its key is not in the environment.
            MissingExtraError: litellm is not installed.
        """
        options = options or ApiOptions()
        litellm = _litellm()
        provider = _provider(litellm, model, options.api_base)
        prices = options.prices or _known_prices(litellm, model)
        super().__init__(model, options, provider=provider, prices=prices)

    def connect(self, sampling: Sampling) -> Client:
        """Return a client for one `generate` call."""
        return _Client(self, sampling)


class _Client:
    """Calls of litellm within one event loop."""

    def __init__(self, engine: LitellmEngine, sampling: Sampling) -> None:
        self.litellm = _litellm()
        self.engine = engine
        options = engine.options
        where = f"the server at {options.api_base}" if options.api_base else str(engine.provider)
        self.api = Api(where, engine.model, "the provider's key", engine.secrets)
        self.sampling = sampling
        supported = self.litellm.get_supported_openai_params(engine.model) or []
        self.send_seed = options.send_seed and "seed" in supported
        wanted = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            options.token_limit_field or "max_tokens": sampling.total_tokens(thinks=False),
        }
        # An API without the parameter temperature or top_p uses 1.
        self.fixed: dict[str, Any] = {
            name: value for name, value in wanted.items() if name in supported or value != 1
        }
        if options.body:
            self.fixed["extra_body"] = options.body
        if options.extra_headers:
            self.fixed["extra_headers"] = dict(options.extra_headers)
        if options.api_base is not None:
            self.fixed["api_base"] = options.api_base
            if _missing_keys(self.litellm, engine.model):
                self.fixed["api_key"] = "none"

    async def open(self) -> None:
        """Set the threads of the loop in which litellm prepares its calls."""
        asyncio.get_running_loop().set_default_executor(_Threads())

    async def ask(self, request: Request) -> Completion:
        """Send a request once."""
        seed = {"seed": request.seed % 2**_SEED_BITS} if self.send_seed else {}
        try:
            answer = await self.litellm.acompletion(
                model=self.engine.model,
                messages=[message.as_dict() for message in request.messages],
                timeout=self.engine.options.timeout_s,
                num_retries=0,
                max_retries=0,
                drop_params=False,
                **seed,
                **self.fixed,
            )
        except Exception as error:
            raise translate_error(
                self.litellm, error, self.api, self.engine.options.timeout_s
            ) from None
        value = answer.model_dump()
        return to_completion(value, request, self.sampling, self.api, self.engine.prices)

    async def close(self) -> None:
        """Stop litellm's logging, and close and forget the connections that it keeps."""
        worker = require(_LOGGING, extra="litellm").GLOBAL_LOGGING_WORKER
        await worker.stop()
        await worker.clear_queue()
        await self.litellm.close_litellm_async_clients()
        self.litellm.in_memory_llm_clients_cache.flush_cache()


def translate_error(litellm: Any, error: Exception, api: Api, timeout_s: float) -> RequestFailure:
    """Return what an exception of litellm means."""
    kinds = litellm.exceptions
    message = redact(_PREFIX.sub("", str(getattr(error, "message", None) or error)), api)
    if _is_connection_error(error):
        reason = f"{api.name} cannot be reached; check that it is running, and the network"
        return RequestFailure("unreachable", reason)
    if isinstance(error, kinds.Timeout):
        return RequestFailure("throttle", f"no answer within {timeout_s:g} s")
    if isinstance(error, kinds.UnsupportedParamsError):
        return RequestFailure("stop", f"{api.model} does not accept a parameter: {message}")
    if isinstance(error, kinds.ContentPolicyViolationError):
        return RequestFailure("row", CONTENT_FILTER)
    status = getattr(error, "status_code", None)
    if not isinstance(status, int):
        kind = type(error).__name__
        return RequestFailure("retry", f"litellm failed: {kind}: {message}")
    body = getattr(error, "body", None)
    code = str(body.get("code") or "") if isinstance(body, dict) else ""
    headers = getattr(error, "litellm_response_headers", None) or {}
    return classify_error(status, code, message, read_retry_after(headers), api)


def _is_connection_error(error: BaseException | None) -> bool:
    """Return whether an error is a failed connection, from any HTTP library of litellm."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if type(error).__name__ in _CONNECTION_ERRORS:
            return True
        error = error.__cause__ or error.__context__
    return False


class _Threads(ThreadPoolExecutor):
    """Threads that leave no coroutine unawaited.

    litellm makes the coroutine of a call in a thread and then awaits it. A task that is cancelled
    in between never awaits it, and Python warns about each such coroutine.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a call, and close a coroutine that it returns after its task ended."""
        future = super().submit(fn, *args, **kwargs)
        if task := asyncio.current_task():
            task.add_done_callback(lambda _: future.add_done_callback(_close_unawaited))
        return future


def _close_unawaited(future: Future[Any]) -> None:
    if future.cancelled() or future.exception() is not None:
        return
    result = future.result()
    if inspect.iscoroutine(result) and inspect.getcoroutinestate(result) == inspect.CORO_CREATED:
        result.close()


def _litellm() -> Any:
    """Import litellm (seconds), without downloads, `.env` files, and output."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
    litellm = require("litellm", extra="litellm")
    litellm.suppress_debug_info = True
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return litellm


def _provider(litellm: Any, model: str, api_base: str | None) -> str:
    """Return the provider of a model, after checking that its key is set."""
    try:
        provider = str(litellm.get_llm_provider(model, api_base=api_base)[1])
    except litellm.exceptions.BadRequestError as error:
        raise InputError(
            f"litellm does not know the provider of model {model!r}: put it before the name, "
            "as in openai/NAME or anthropic/NAME"
        ) from error
    if api_base is None and (missing := _missing_keys(litellm, model)):
        raise InputError(
            f"the key for {model} is not in the environment: set {' or '.join(missing)}"
        )
    return provider


def _missing_keys(litellm: Any, model: str) -> list[str]:
    """Return the environment variables for the provider's key, if none of them is set."""
    missing: list[str] = litellm.validate_environment(model)["missing_keys"]
    return [name for name in missing if name.endswith("KEY")]


def _known_prices(litellm: Any, model: str) -> Prices | None:
    """Return the prices in litellm's table, where 0 may mean unknown."""
    try:
        info = litellm.get_model_info(model)
    except Exception:  # litellm raises plain exceptions
        return None
    prompt, completion = info.get("input_cost_per_token"), info.get("output_cost_per_token")
    return Prices(prompt, completion) if prompt and completion else None
