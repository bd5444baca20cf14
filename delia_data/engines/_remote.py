"""What the engines over HTTP share: async inside, synchronous outside.

    intake ──▶ ready ──pace──▶ out (a task a try) ──▶ done ──▶ generate yields
                 ▲                   │
                 └──── back off ◀────┘  where another try may work

The event loop has no thread: `generate` runs it until something is done, gives that, takes new
requests and runs it again. So a row costs no queue and no switch of threads, and what the reader of
the completions does is never disturbed. Ctrl-C waits for the end of such a run, which it brings
about at once: inside, it would strike libraries in the middle of anything.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, Literal, Protocol, TypeVar

from delia_data.engines._pace import Pace, backoff_s
from delia_data.engines.base import Completion, Request, RequestStream, Sampling
from delia_data.errors import EngineError, InputError

T = TypeVar("T")

_LONGEST_WAIT_S: Final = 300.0
_DRAIN_S: Final = 10.0
_TRIES_TO_REACH: Final = 2


class Rejected(Exception):  # noqa: N818 - it is handled, not reported
    """One try of a request failed.

    Attributes:
        kind: `"row"`: this request will never be answered. `"again"`: another try may work.
            `"slow"`: so may it, and the API is asked too much. `"down"`: nothing could be
            reached. `"end"`: no request will be answered any more.
        reason: What went wrong, in a line without secrets.
        retry_after_s: Seconds after which to try again, where the API says so.
    """

    def __init__(
        self,
        kind: Literal["row", "again", "slow", "down", "end"],
        reason: str,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.retry_after_s = retry_after_s


class Client(Protocol):
    """What speaks to one API, within one event loop."""

    async def open(self) -> None:
        """Get ready to ask."""

    async def ask(self, request: Request) -> Completion:
        """Try a request once; raises `Rejected` where it fails."""

    async def close(self) -> None:
        """Close connections."""


@dataclass(slots=True)
class _Job:
    request: Request
    tokens: int
    tries: int = 0
    round: int = 0


def stream(
    client: Client,
    requests: Iterable[Request | None],
    sampling: Sampling,
    *,
    pace: Pace,
    retries: int,
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
) -> Iterator[Completion]:
    """Answer every request once, as many at a time as `pace` allows.

    Args:
        client: What is asked.
        requests: What to ask, as `Engine.generate` takes them.
        sampling: How answers are drawn.
        pace: How fast; what it learns stays in it.
        retries: Tries of a request after the first at most.
        new_loop: Makes the event loop; tests give one whose clock they turn.

    Yields:
        A completion for each request, as it comes.

    Raises:
        EngineError: Nothing will be answered any more.
        InputError: A request asks for the user's turn.
    """
    run = _Run(client, RequestStream(requests), sampling, pace, retries, new_loop())
    try:
        yield from run.completions()
    finally:
        run.close()


class _Run:
    """One `generate`: the requests it holds, and the event loop that works on them."""

    def __init__(
        self,
        client: Client,
        intake: RequestStream,
        sampling: Sampling,
        pace: Pace,
        retries: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.client = client
        self.intake = intake
        self.sampling = sampling
        self.pace = pace
        self.retries = retries
        self.loop = loop
        self.held = 0
        self.ready: deque[_Job] = deque()
        self.out: set[asyncio.Task[None]] = set()
        self.done: list[Completion] = []
        self.failure: BaseException | None = None
        self.reached = False
        self.alarm: asyncio.TimerHandle | None = None
        self.thread: ThreadPoolExecutor | None = None

    def completions(self) -> Iterator[Completion]:
        """Take requests, run the loop until something is done, give it, and again."""
        self._until(self.client.open)
        while self.failure is None:
            for request in self.intake.take(int(self.pace.limit) - self.held):
                self._accept(request)
            self.loop.call_soon(self._send)
            if not self.held:
                if self.intake.ended:
                    return
                continue
            self._slice(self.loop.run_forever)
            done, self.done = self.done, []
            self.held -= len(done)
            yield from done
        until = self.loop.time() + _DRAIN_S
        self.loop.call_at(until, self.loop.stop)
        while self.out and self.loop.time() < until:
            self._slice(self.loop.run_forever)
        yield from self.done
        raise self.failure

    def close(self) -> None:
        """Cancel what is out, close connections and the loop."""
        try:
            self._until(self._end)
        finally:
            self.loop.close()
            if self.thread is not None:
                self.thread.shutdown()

    async def _end(self) -> None:
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
                "an API writes the assistant's turns only, and the user's was asked for: "
                "grow queries from seeds with --expand, or use a local engine"
            )
        tokens = 0
        if self.pace.counts_tokens:
            letters = sum(len(message.content) for message in request.messages)
            tokens = letters // 4 + self.sampling.max_tokens
        self.held += 1
        self.ready.append(_Job(request, tokens))

    def _send(self) -> None:
        """Start as many tries as may be started now, and wake up for the next."""
        while self.ready and len(self.out) < int(self.pace.limit) and self.failure is None:
            now = self.loop.time()
            if wait := self.pace.wait_s(now, self.ready[0].tokens):
                if self.alarm is not None:
                    self.alarm.cancel()
                self.alarm = self.loop.call_later(wait, self._send)
                return
            job = self.ready.popleft()
            job.round = self.pace.round
            self.pace.sent(now, job.tokens)
            self.out.add(self.loop.create_task(self._try(job)))

    async def _try(self, job: _Job) -> None:
        try:
            completion = await self.client.ask(job.request)
        except Rejected as refusal:
            self._refused(job, refusal)
        except Exception as error:
            self._fail(error)
        else:
            self.reached = True
            self.pace.answered(job.round)
            if job.tokens and completion.tokens:
                used = completion.prompt_tokens + completion.tokens
                self.pace.correct(self.loop.time(), used - job.tokens)
            self._finish(completion)
        self.out.discard(asyncio.current_task())
        if self.failure is not None:
            if not self.out:
                self.loop.stop()
        elif self.ready:
            self._send()

    def _refused(self, job: _Job, refusal: Rejected) -> None:
        kind, wait_s = refusal.kind, refusal.retry_after_s or 0.0
        if kind == "slow" and wait_s <= _LONGEST_WAIT_S:
            self.pace.refused(job.round, self.loop.time(), refusal.retry_after_s)
        allowed = self.retries
        if kind == "down" and not self.reached:
            allowed = min(allowed, _TRIES_TO_REACH)
        self.reached = self.reached or kind != "down"
        if kind == "end" or wait_s > _LONGEST_WAIT_S:
            self._fail(EngineError(refusal.reason))
        elif kind == "row":
            self._finish(_failed(job, refusal.reason))
        elif job.tries < allowed:
            job.tries += 1
            self.loop.call_later(max(wait_s, backoff_s(job.tries)), self._again, job)
        elif kind == "down":
            self._fail(EngineError(refusal.reason))
        else:
            self._finish(_failed(job, f"{refusal.reason} ({job.tries + 1} tries)"))

    def _again(self, job: _Job) -> None:
        self.ready.append(job)
        self._send()

    def _finish(self, completion: Completion) -> None:
        self.done.append(completion)
        if self.failure is None:
            self.loop.stop()

    def _fail(self, error: Exception) -> None:
        """Send nothing any more; what is out may still come."""
        if self.failure is None:
            self.failure = error
            self.loop.stop()

    def _until(self, coroutine: Callable[[], Coroutine[Any, Any, None]]) -> None:
        def work() -> None:
            task = self.loop.create_task(coroutine())
            task.add_done_callback(lambda _: self.loop.stop())
            while not task.done():  # a stop may be left over from a Ctrl-C that came late
                self.loop.run_forever()
            task.result()

        self._slice(work, stops=False)

    def _slice(self, work: Callable[[], T], *, stops: bool = True) -> T:
        """Run the loop for a while; in a thread where this one runs a loop, as notebooks do."""
        with self._late_interrupts(stops):
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                pass
            else:
                self.thread = self.thread or ThreadPoolExecutor(1)
                return self.thread.submit(work).result()
            return work()

    @contextmanager
    def _late_interrupts(self, stops: bool) -> Iterator[None]:
        """Have Ctrl-C do what it usually does after the run of the loop, which it may stop."""
        usual = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(usual):
            yield
            return
        struck: list[FrameType | None] = []

        def strike(_number: int, frame: FrameType | None) -> None:
            struck.append(frame)
            if stops:
                self.loop.call_soon_threadsafe(self.loop.stop)

        signal.signal(signal.SIGINT, strike)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, usual)
            if struck:
                usual(signal.SIGINT, struck[-1])


def _failed(job: _Job, reason: str) -> Completion:
    return Completion(job.request.id, "", 0, "error", reason)
