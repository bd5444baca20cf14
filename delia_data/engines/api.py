"""The common part of the engines for APIs: options, rate limits, retries.

    stream ──▶ ready ──rate limiter──▶ running (one task per attempt) ──▶ done ──▶ generate yields
                 ▲                        │
                 └─────── back off ◀──────┘  if another attempt may succeed

The engine is async inside and synchronous outside. Its event loop has no thread: `generate` runs
the loop until a request is done, yields the completion, takes new requests, and runs the loop
again. A row therefore costs no queue and no thread switch. Ctrl-C stops such a run of the loop and
takes effect right after it; inside the loop it would interrupt libraries at arbitrary points.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import re
import signal
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, ClassVar, Final, Protocol, Self, TypeVar
from urllib.parse import urlsplit

from delia_data.engines.base import (
    Completion,
    Engine,
    Prices,
    Request,
    RequestStream,
    Sampling,
)
from delia_data.engines.replies import RequestFailure, environment_secrets, public_name
from delia_data.errors import EngineError, InputError
from delia_data.outputs import Number, Settings, setting
from delia_data.tokens import check_template_options

T = TypeVar("T")

_FIRST_LIMIT: Final = 8
_SHRINK: Final = 0.7
_GROW: Final = 0.5
_BACKOFF_S: Final = 0.5
_MAX_BACKOFF_S: Final = 60.0
_MAX_RETRY_AFTER_S: Final = 300.0
_DRAIN_S: Final = 10.0
_FEW_RETRIES: Final = 2
_SLACK: Final = 1e-9
_ALLOCATIONS: Final = 50_000  # allocations between garbage collections; Python's default is 700
_SECRET_NAME: Final = re.compile(r"api_?key|authorization|secret|password", re.IGNORECASE)
_RESERVED_FIELDS: Final = {
    "model": "--model",
    "messages": "the queries",
    "temperature": "--temperature",
    "top_p": "--top-p",
    "max_tokens": "--max-tokens",
    "max_completion_tokens": "--max-tokens",
    "seed": "--seed",
    "n": "more queries",
    "stream": "no option",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiOptions(Settings):
    """Options of the engines `openai` and `litellm`.

    Raises:
        InputError: A value is out of range or of the wrong type.
    """

    api_base: str | None = setting(
        None,
        "Address of the server, up to `/v1`. Default: `OPENAI_BASE_URL` or OpenAI for `openai`; "
        "the provider's own address for `litellm`.",
    )
    concurrency: int = setting(64, "Maximum number of requests at a time.", ge=1)
    rpm: int | None = setting(
        None, "Maximum number of requests per minute; None for no limit.", ge=1
    )
    tpm: int | None = setting(
        None,
        "Maximum number of tokens per minute, prompts and answers; None for no limit.",
        ge=1,
    )
    timeout_s: Number = setting(600.0, "Seconds to wait for an answer.", gt=0)
    retries: int = setting(8, "Maximum number of attempts after the first one.", ge=0)
    prompt_price: Number | None = setting(
        None,
        "Dollars per million prompt tokens. Default: litellm's own price of the model, or unknown.",
        ge=0,
    )
    completion_price: Number | None = setting(None, "Dollars per million generated tokens.", ge=0)
    token_limit_field: str | None = setting(
        None,
        "Name of the request field that limits the tokens of an answer. Default: "
        "`max_completion_tokens` for OpenAI, `max_tokens` for all other servers.",
        pattern=r"^[A-Za-z_]\w*$",
    )
    send_seed: bool = setting(True, "Whether to send a seed with each request.", strict=True)
    template_options: Mapping[str, Any] | None = setting(
        None,
        'Options for the served model\'s chat template, such as `{"enable_thinking": False}`, '
        "sent as `chat_template_kwargs`.",
    )
    extra_body: Mapping[str, Any] = setting(
        dict,
        'Additional fields of the request body, such as `{"top_k": 20}`. The manifest records '
        "them.",
    )
    extra_headers: Mapping[str, Any] = setting(
        dict,
        "Additional HTTP headers. `${NAME}` in a value stands for an environment variable, so that "
        "a secret need not be on the command line. No file records them.",
        repr=False,
    )

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.api_base is not None:
            object.__setattr__(self, "api_base", check_address(self.api_base))
        if (self.prompt_price is None) != (self.completion_price is None):
            raise InputError("prompt_price and completion_price: give both or neither")
        self._check_extra_body()
        if self.template_options:
            check_template_options(self.template_options)
            if "chat_template_kwargs" in self.extra_body:
                raise InputError(
                    "template_options and extra_body both set chat_template_kwargs: leave it out "
                    "of extra_body"
                )
        object.__setattr__(self, "extra_headers", _expand_headers(self.extra_headers))

    @property
    def prices(self) -> Prices | None:
        """The given prices, per token; None if no prices are given."""
        if self.prompt_price is None or self.completion_price is None:
            return None
        return Prices(self.prompt_price / 1e6, self.completion_price / 1e6)

    @property
    def body(self) -> dict[str, Any]:
        """Additional fields of the request body, template options included."""
        if not self.template_options:
            return dict(self.extra_body)
        return {**self.extra_body, "chat_template_kwargs": dict(self.template_options)}

    def _check_extra_body(self) -> None:
        try:
            json.dumps(self.extra_body, allow_nan=False)
        except (ValueError, TypeError, RecursionError):
            raise InputError(
                'extra_body is not a JSON object: give one such as {"top_k": 20}'
            ) from None
        reserved = {**_RESERVED_FIELDS, self.token_limit_field or "max_tokens": "--max-tokens"}
        for name in sorted(self.extra_body):
            if name in reserved:
                raise InputError(
                    f"extra_body sets {name!r}, which the engine sets itself: use {reserved[name]}"
                )
            if _SECRET_NAME.search(name):
                raise InputError(
                    f"extra_body sets {name!r}, and manifests record extra_body: give a secret in "
                    "the environment or in extra_headers"
                )


def check_address(address: str) -> str:
    """Return the address of an API without trailing slashes.

    Raises:
        InputError: The address is not an HTTP address, or contains a secret.
    """
    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query
        secret = bool(parts.username or parts.password)
        _ = parts.port
    except ValueError:
        valid = secret = False
    if secret:
        raise InputError(
            "api_base contains a user name or password: give the plain address, and the key in "
            "the environment"
        )
    if not valid:
        raise InputError(
            f"api_base {address!r} is not an address: give one such as http://127.0.0.1:8000/v1"
        )
    return address.rstrip("/")


def _expand_headers(headers: Mapping[str, Any]) -> dict[str, str]:
    """Return headers with environment variables in place of `${NAME}`."""

    def expand(match: re.Match[str]) -> str:
        value = os.environ.get(match[1], "").strip()
        if not value:
            raise InputError(f"extra_headers uses {match[0]}: set {match[1]} in the environment")
        return value

    expanded = {}
    for name, value in headers.items():
        text = re.sub(r"\$\{(\w+)\}", expand, str(value))
        if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII):
            raise InputError(f"extra_headers: {name[:40]!r} is not the name of a header")
        if not text.isascii() or not text.isprintable():
            raise InputError(f"extra_headers: the value of {name!r} has invalid characters")
        expanded[name] = text
    return expanded


def backoff_s(attempts: int) -> float:
    """Return seconds to wait before the next attempt: random, up to a limit that doubles."""
    return random.uniform(0, min(_MAX_BACKOFF_S, _BACKOFF_S * 2 ** min(attempts, 30)))


class RateLimiter:
    """Limits on the requests to one API: one that adapts, and those that were given.

        requests running ≤ limit ≤ concurrency    limit: +1 per answer until the first refusal;
                                                  then x0.7 per refusal, +1 every two rounds
        requests per minute ≤ rpm, tokens per minute ≤ tpm

    Methods take the time as `now`, in seconds of any clock, and none of them waits.

    Attributes:
        concurrency: Maximum of `limit`.
        limit: Maximum number of requests to run at present.
        round: Number of times that the limit fell. Only the first refusal in a round lowers the
            limit, because the requests sent while it was too high all get refused.
    """

    def __init__(
        self, concurrency: int = 64, *, rpm: int | None = None, tpm: int | None = None
    ) -> None:
        """Start at a low limit."""
        self.concurrency = concurrency
        self.limit = float(min(concurrency, _FIRST_LIMIT))
        self.round = 0
        self._requests = None if rpm is None else _Bucket(rpm)
        self._tokens = None if tpm is None else _Bucket(tpm)
        self._ramping_up = True
        self._refusals_in_a_row = 0
        self._paused_until = 0.0

    @property
    def counts_tokens(self) -> bool:
        """Whether tokens are limited."""
        return self._tokens is not None

    def wait_s(self, now: float, tokens: int = 0) -> float:
        """Return the seconds until a request of `tokens` tokens may be sent."""
        wait = self._paused_until - now
        if self._requests is not None:
            wait = max(wait, self._requests.wait_s(now, 1))
        if self._tokens is not None:
            wait = max(wait, self._tokens.wait_s(now, tokens))
        return max(wait, 0.0)

    def record_request(self, now: float, tokens: int = 0) -> None:
        """Record a request that is sent, with an estimate of its tokens."""
        if self._requests is not None:
            self._requests.spend(now, 1)
        self.correct_tokens(now, tokens)

    def correct_tokens(self, now: float, difference: int) -> None:
        """Record that requests took more tokens than estimated, or fewer."""
        if self._tokens is not None:
            self._tokens.spend(now, difference)

    def record_answer(self, round: int) -> None:
        """Raise the limit a little after an answer to a request of a round."""
        self._refusals_in_a_row = 0
        if self.limit < self.concurrency and round == self.round:
            step = 1.0 if self._ramping_up else _GROW / self.limit
            self.limit = min(self.limit + step, float(self.concurrency))

    def record_refusal(self, round: int, now: float, retry_after_s: float | None = None) -> None:
        """Lower the limit after a refusal of a request of a round, or a timeout.

        Nothing is sent for as long as the API asks. Refusals without an answer in between pause
        everything for longer and longer.
        """
        if retry_after_s is not None:
            self._paused_until = max(self._paused_until, now + retry_after_s)
        if round != self.round:
            return
        self.round += 1
        self.limit = max(1.0, self.limit * _SHRINK)
        self._ramping_up = False
        if self._refusals_in_a_row:
            pause_s = backoff_s(self._refusals_in_a_row)
            self._paused_until = max(self._paused_until, now + pause_s)
        self._refusals_in_a_row += 1


class _Bucket:
    """A token bucket that fills so slowly that no minute holds more than the limit.

    It holds at most a second's worth. A larger request leaves it in debt.
    """

    def __init__(self, per_minute: float) -> None:
        self.size = max(1.0, per_minute / 60)
        self.rate = (per_minute - self.size + 1) / 60
        self.level = self.size
        self.updated: float | None = None

    def wait_s(self, now: float, amount: float) -> float:
        self._fill(now)
        missing = min(amount, self.size) - self.level
        return missing / self.rate if missing > _SLACK else 0.0

    def spend(self, now: float, amount: float) -> None:
        self._fill(now)
        self.level = min(self.level - amount, self.size)

    def _fill(self, now: float) -> None:
        if self.updated is not None:
            self.level = min(self.size, self.level + (now - self.updated) * self.rate)
        self.updated = now


class Client(Protocol):
    """A connection to one API within one event loop."""

    async def open(self) -> None:
        """Prepare to send requests."""

    async def ask(self, request: Request) -> Completion:
        """Send a request once; raise `RequestFailure` if the attempt fails."""

    async def close(self) -> None:
        """Close all connections."""


@dataclass(slots=True)
class _Job:
    request: Request
    tokens: int
    task: asyncio.Task[None] | None = None
    retries: int = 0
    round: int = 0


class ApiEngine(Engine):
    """The part that `OpenAIEngine` and `LitellmEngine` have in common.

    Attributes:
        name: The engine's name.
        model: The model's name.
        provider: The provider, as a manifest names it; None for a server of the user's own.
        options: Options of the API.
        prices: Prices; None if unknown.
        limiter: The rate limiter, which keeps what it finds from one `generate` to the next.
    """

    Options: ClassVar = ApiOptions
    name: ClassVar[str]
    writes_users = False

    def __init__(
        self,
        model: str,
        options: ApiOptions,
        *,
        provider: str | None = None,
        prices: Prices | None = None,
    ) -> None:
        self.model = model
        self.options = options
        self.provider = provider
        self.prices = prices
        self.limiter = RateLimiter(options.concurrency, rpm=options.rpm, tpm=options.tpm)

    @classmethod
    def load(cls, model: str, **options: Any) -> Self:
        """Return an engine with the given fields of `ApiOptions`."""
        return cls(model, ApiOptions(**options))

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that must not appear in a message: keys, and values of additional headers."""
        values = self.options.extra_headers.values()
        return (*environment_secrets(), *(value for value in values if len(value) >= 8))

    @abstractmethod
    def connect(self, sampling: Sampling) -> Client:
        """Return a client for one `generate` call."""

    def generate(
        self, requests: Iterable[Request | None], sampling: Sampling
    ) -> Iterator[Completion]:
        """Answer every request once, as many at a time as the API accepts."""
        client, retries = self.connect(sampling), self.options.retries
        return generate(client, requests, sampling, limiter=self.limiter, retries=retries)

    def describe(self) -> dict[str, Any]:
        """Name the engine and the model. Weights and chat template cannot be hashed."""
        model = public_name(self.model)
        if self.options.template_options:
            model["template_options"] = dict(self.options.template_options)
        described = {"engine": self.name, "api": self.provider, "model": model}
        if self.options.extra_body:
            described["extra_body"] = dict(self.options.extra_body)
        return described

    def close(self) -> None:
        """Do nothing: `generate` closes its connections."""


def generate(
    client: Client,
    requests: Iterable[Request | None],
    sampling: Sampling,
    *,
    limiter: RateLimiter,
    retries: int,
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
) -> Iterator[Completion]:
    """Answer every request once, as many at a time as the rate limiter allows.

    A test gives a `new_loop` whose clock it controls.

    Raises:
        EngineError: No request can be answered anymore.
        InputError: A request asks for the user's turn.
    """
    run = _Run(client, RequestStream(requests), sampling, limiter, retries, new_loop())
    # Requests in flight are thousands of objects that live for milliseconds. At Python's default
    # threshold, the garbage collector walks them, and all older objects, for a fifth of the time.
    thresholds = gc.get_threshold()
    if 0 < thresholds[0] < _ALLOCATIONS:
        gc.set_threshold(_ALLOCATIONS, *thresholds[1:])
    try:
        yield from run.completions()
    finally:
        gc.set_threshold(*thresholds)
        run.close()


@dataclass(slots=True)
class _Run:
    """One `generate` call: its requests, and the event loop that works on them."""

    client: Client
    stream: RequestStream
    sampling: Sampling
    limiter: RateLimiter
    retries: int
    loop: asyncio.AbstractEventLoop
    pending: int = 0
    ready: deque[_Job] = field(default_factory=deque)
    running: set[asyncio.Task[None]] = field(default_factory=set)
    done: list[Completion] = field(default_factory=list)
    error: BaseException | None = None
    was_reached: bool = False
    alarm: asyncio.TimerHandle | None = None
    thread: ThreadPoolExecutor | None = None

    def completions(self) -> Iterator[Completion]:
        """Take requests, run the loop until one is done, yield it, and repeat."""
        self._run_until_done(self.client.open)
        while self.error is None:
            for request in self.stream.take(int(self.limiter.limit) - self.pending):
                self._accept(request)
            self.loop.call_soon(self._send)
            if not self.pending:
                if self.stream.ended:
                    return
                continue
            self._run_loop(self.loop.run_forever)
            done, self.done = self.done, []
            self.pending -= len(done)
            yield from done
        until = self.loop.time() + _DRAIN_S
        self.loop.call_at(until, self.loop.stop)
        while self.running and self.loop.time() < until:
            self._run_loop(self.loop.run_forever)
        yield from self.done
        raise self.error

    def close(self) -> None:
        """Cancel running requests, and close connections and the loop."""
        try:
            self._run_until_done(self._shut_down)
        finally:
            self.loop.close()
            if self.thread is not None:
                self.thread.shutdown()

    async def _shut_down(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.client.close()
        await self.loop.shutdown_asyncgens()
        await self.loop.shutdown_default_executor()

    def _accept(self, request: Request) -> None:
        if request.role == "user":
            raise InputError(
                "an API writes only the assistant's turns, and the request is for a user's turn: "
                "grow queries from seeds with --expand, or use a local engine"
            )
        tokens = 0
        if self.limiter.counts_tokens:
            characters = sum(len(message.content) for message in request.messages)
            tokens = characters // 4 + self.sampling.total_tokens(thinks=False)
        self.pending += 1
        self.ready.append(_Job(request, tokens))

    def _send(self) -> None:
        """Start as many attempts as are allowed now, and set an alarm for the next one."""
        while self.ready and len(self.running) < int(self.limiter.limit) and self.error is None:
            now = self.loop.time()
            if wait := self.limiter.wait_s(now, self.ready[0].tokens):
                if self.alarm is not None:
                    self.alarm.cancel()
                self.alarm = self.loop.call_later(wait, self._send)
                return
            job = self.ready.popleft()
            job.round = self.limiter.round
            self.limiter.record_request(now, job.tokens)
            job.task = self.loop.create_task(self._attempt(job))
            self.running.add(job.task)

    async def _attempt(self, job: _Job) -> None:
        try:
            completion = await self.client.ask(job.request)
        except RequestFailure as failure:
            self._handle(job, failure)
        except Exception as error:
            self._stop(error)
        else:
            self.was_reached = True
            self.limiter.record_answer(job.round)
            if job.tokens and completion.tokens:
                used = completion.prompt_tokens + completion.tokens
                self.limiter.correct_tokens(self.loop.time(), used - job.tokens)
            self._finish(completion)
        self.running.discard(job.task)
        if self.error is not None:
            if not self.running:
                self.loop.stop()
        elif self.ready:
            self._send()

    def _handle(self, job: _Job, failure: RequestFailure) -> None:
        """Retry a request whose attempt failed, record its failure, or end the run."""
        kind, wait_s = failure.kind, failure.retry_after_s or 0.0
        if kind == "throttle" and wait_s <= _MAX_RETRY_AFTER_S:
            self.limiter.record_refusal(job.round, self.loop.time(), failure.retry_after_s)
        retries = self.retries
        if kind == "invalid" or (kind == "unreachable" and not self.was_reached):
            retries = min(retries, _FEW_RETRIES)
        self.was_reached = self.was_reached or kind != "unreachable"
        if kind == "stop" or wait_s > _MAX_RETRY_AFTER_S:
            self._stop(EngineError(failure.reason))
        elif kind == "row":
            self._finish(_failed(job, failure.reason))
        elif job.retries < retries:
            job.retries += 1
            self.loop.call_later(max(wait_s, backoff_s(job.retries)), self._retry, job)
        elif kind == "unreachable":
            self._stop(EngineError(failure.reason))
        else:
            self._finish(_failed(job, f"{failure.reason} ({job.retries + 1} attempts)"))

    def _retry(self, job: _Job) -> None:
        self.ready.append(job)
        self._send()

    def _finish(self, completion: Completion) -> None:
        self.done.append(completion)
        if self.error is None:
            self.loop.stop()

    def _stop(self, error: Exception) -> None:
        """Send nothing more. Running requests may still finish."""
        if self.error is None:
            self.error = error
            self.loop.stop()

    def _run_until_done(self, coroutine: Callable[[], Coroutine[Any, Any, None]]) -> None:
        def work() -> None:
            task = self.loop.create_task(coroutine())
            task.add_done_callback(lambda _: self.loop.stop())
            while not task.done():  # an earlier Ctrl-C may have set it
                self.loop.run_forever()
            task.result()

        self._run_loop(work, stoppable=False)

    def _run_loop(self, work: Callable[[], T], *, stoppable: bool = True) -> T:
        """Run the loop, in a thread if this thread already runs one, as notebooks do."""
        with self._defer_interrupts(stoppable):
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                pass
            else:
                self.thread = self.thread or ThreadPoolExecutor(1)
                return self.thread.submit(work).result()
            return work()

    @contextmanager
    def _defer_interrupts(self, stoppable: bool) -> Iterator[None]:
        """Let Ctrl-C stop the loop, and call its usual handler afterwards."""
        usual = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(usual):
            yield
            return
        interrupts: list[FrameType | None] = []

        def interrupt(_number: int, frame: FrameType | None) -> None:
            interrupts.append(frame)
            if stoppable:
                self.loop.call_soon_threadsafe(self.loop.stop)

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, usual)
            if interrupts:
                usual(signal.SIGINT, interrupts[-1])


def _failed(job: _Job, reason: str) -> Completion:
    """Return the completion of a request that failed; the engine made the useful retries."""
    return Completion(job.request.id, "", 0, "error", reason, final=True)
