"""What the engines over HTTP share, on a clock that the test turns, with no network."""

from __future__ import annotations

import asyncio
import heapq
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import FrameType

import pytest

from delia_data.engines import Completion, Request, Sampling
from delia_data.engines._pace import Pace
from delia_data.engines._remote import Rejected, stream
from delia_data.errors import EngineError, InputError
from delia_data.records import Message


class ClockLoop(asyncio.SelectorEventLoop):
    """Its clock goes on where there is nothing else to do, straight to the next alarm."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        while self._scheduled and self._scheduled[0].cancelled():
            heapq.heappop(self._scheduled)._scheduled = False
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0].when())
        super()._run_once()  # type: ignore[misc]


@dataclass
class Api:
    """Answers after `seconds`, later ones later by `spread`.

    `judge` may raise, given the request and how many are out; `last` is called before an answer.
    """

    judge: Callable[[Request, int], None] = lambda *_: None
    last: Callable[[Request], None] = lambda _: None
    seconds: float = 0.01
    spread: float = 0.0
    sent: list[tuple[float, str]] = field(default_factory=list)
    out: int = 0
    most: int = 0
    refused: int = 0
    cancelled: int = 0
    closed: bool = False

    async def open(self) -> None:
        self.closed = False

    async def ask(self, request: Request) -> Completion:
        self.sent.append((asyncio.get_running_loop().time(), request.id))
        self.out += 1
        self.most = max(self.most, self.out)
        try:
            self.judge(request, self.out)
            await asyncio.sleep(self.seconds + self.spread * request.seed)
            self.last(request)
        except Rejected:
            self.refused += 1
            raise
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.out -= 1
        return Completion(request.id, f"answer {request.id}", 3, "stop", None, 10)

    async def close(self) -> None:
        self.closed = True


def asked(count: int) -> list[Request]:
    return [Request(str(i), (Message("user", f"question {i}"),), i) for i in range(count)]


def run(
    api: Api,
    requests: Iterable[Request | None],
    *,
    pace: Pace | None = None,
    retries: int = 8,
) -> Iterator[Completion]:
    return stream(
        api,
        requests,
        Sampling(max_tokens=90),
        pace=pace or Pace(64),
        retries=retries,
        new_loop=ClockLoop,
    )


def ids(completions: Iterable[Completion]) -> list[str]:
    return sorted((c.id for c in completions), key=int)


def fault(kind: str, *, on: Callable[[Request], bool], wait_s: float | None = None, times: int = 1):  # type: ignore[no-untyped-def]
    """Rejects a request's first `times` tries where `on` holds."""
    seen: dict[str, int] = {}

    def judge(request: Request, out: int) -> None:
        seen[request.id] = seen.get(request.id, 0) + 1
        if on(request) and seen[request.id] <= times:
            raise Rejected(kind, f"it is {kind}", wait_s)  # type: ignore[arg-type]

    return judge


def test_every_request_is_answered_once() -> None:
    api = Api()
    assert ids(run(api, asked(500))) == [str(i) for i in range(500)]
    assert len(api.sent) == 500
    assert api.closed


def test_no_requests_give_nothing() -> None:
    assert list(run(Api(), [])) == []


@pytest.mark.parametrize("concurrency", [1, 3, 40])
def test_no_more_is_out_or_held_than_allowed(concurrency: int) -> None:
    held = most = 0

    def requests() -> Iterator[Request]:
        nonlocal held, most
        for request in asked(200):
            held += 1
            most = max(most, held)
            yield request

    api = Api()
    for _ in run(api, requests(), pace=Pace(concurrency)):
        held -= 1
    assert api.most == most == concurrency


def test_with_nothing_to_ask_it_goes_on_with_what_it_has() -> None:
    answered: list[str] = []

    def requests() -> Iterator[Request | None]:
        """Each two requests, and the next two only when both are answered."""
        for first, second in zip(*[iter(asked(20))] * 2, strict=True):
            yield first
            yield second
            while {first.id, second.id} - set(answered):
                yield None

    for completion in run(Api(), requests()):
        answered.append(completion.id)
    assert sorted(answered, key=int) == [str(i) for i in range(20)]


def test_no_minute_holds_more_requests_than_rpm() -> None:
    api = Api()
    assert len(list(run(api, asked(100), pace=Pace(64, rpm=30)))) == 100
    times = [at for at, _ in api.sent]
    assert all(later - at >= 60 - 1e-6 for at, later in zip(times, times[30:], strict=False))
    assert times[-1] < 60 * 100 / 30 * 1.05


def test_no_minute_takes_more_tokens_than_tpm() -> None:
    api = Api()
    assert len(list(run(api, asked(400), pace=Pace(64, tpm=1300)))) == 400
    seconds = api.sent[-1][0]
    assert 0.8 * 1300 <= 400 * 13 / seconds * 60 <= 1300 * 1.1


def test_a_server_that_bears_eight_is_hardly_ever_asked_more() -> None:
    def judge(request: Request, out: int) -> None:
        if out > 8:
            raise Rejected("slow", "too many")

    api = Api(judge)
    completions = list(run(api, asked(2000), pace=Pace(64)))
    assert ids(completions) == [str(i) for i in range(2000)]
    assert not any(c.error for c in completions)
    assert api.refused < 0.05 * len(api.sent)
    # Eight at a time take 2.5 s; the rest is pauses.
    assert api.sent[-1][0] < 30


def test_a_server_that_recovers_is_asked_more_again() -> None:
    def judge(request: Request, out: int) -> None:
        if out > (2 if 200 < len(api.sent) < 400 else 64):
            raise Rejected("slow", "too many")

    api, pace = Api(judge), Pace(32)
    assert len(list(run(api, asked(6000), pace=pace))) == 6000
    assert pace.limit > 28


def test_retry_after_holds_for_everybody() -> None:
    api = Api(fault("slow", on=lambda r: r.id == "20", wait_s=33.0))
    completions = list(run(api, asked(300)))
    assert len(completions) == 300
    at = next(at for at, name in api.sent if name == "20")
    assert not [t for t, _ in api.sent if at + 0.02 < t < at + 33]
    assert sum(name == "20" for _, name in api.sent) == 2


def test_a_pause_that_lasts_too_long_ends_the_run() -> None:
    api = Api(fault("slow", on=lambda r: r.id == "20", wait_s=86_400.0))
    with pytest.raises(EngineError, match="it is slow"):
        list(run(api, asked(300)))
    assert api.sent[-1][0] < 60


@pytest.mark.parametrize("kind", ["again", "slow"])
def test_faults_that_pass_are_retried_later_and_later(kind: str) -> None:
    api = Api(fault(kind, on=lambda r: int(r.id) % 7 == 0, times=2))
    completions = list(run(api, asked(50)))
    assert not any(c.error for c in completions)
    assert len(api.sent) == 50 + 2 * 8


@pytest.mark.parametrize("kind", ["again", "slow"])
def test_retries_are_bounded_and_cost_one_row_alone(kind: str) -> None:
    api = Api(fault(kind, on=lambda r: r.id == "4", times=99))
    completions = list(run(api, asked(30), retries=3))
    assert ids(completions) == [str(i) for i in range(30)]
    (failed,) = [c for c in completions if c.finish == "error"]
    assert (failed.id, failed.error) == ("4", f"it is {kind} (4 tries)")
    assert len(api.sent) == 29 + 4


def test_a_request_that_is_refused_is_not_retried() -> None:
    api = Api(fault("row", on=lambda r: r.id == "4", times=99))
    (failed,) = [c for c in run(api, asked(30)) if c.finish == "error"]
    assert (failed.id, failed.error, failed.text) == ("4", "it is row", "")
    assert len(api.sent) == 30


def test_the_end_comes_after_what_was_finished() -> None:
    api = Api(fault("end", on=lambda r: int(r.id) >= 100, times=99))
    given: list[Completion] = []
    with pytest.raises(EngineError, match="it is end"):
        given.extend(run(api, asked(1000), pace=Pace(16)))
    assert ids(given) == [str(i) for i in range(100)]
    assert len(api.sent) <= 116
    assert api.closed


def test_what_never_answered_is_given_up_soon() -> None:
    api = Api(fault("down", on=lambda r: True, times=99))
    with pytest.raises(EngineError, match="it is down"):
        list(run(api, asked(10), pace=Pace(1)))
    assert len(api.sent) == 3


def test_what_answered_before_is_given_time() -> None:
    api = Api(fault("down", on=lambda r: int(r.id) > 5, times=7))
    assert not any(c.error for c in run(api, asked(10)))


def test_a_fault_of_ours_is_not_taken_for_a_row_s() -> None:
    def judge(request: Request, out: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(run(Api(judge), asked(10)))


def test_the_user_s_turn_is_refused() -> None:
    with pytest.raises(InputError, match="--expand"):
        list(run(Api(), [Request("0", (), 0, role="user")]))


def test_closing_early_cancels_what_is_out() -> None:
    api = Api(spread=0.01)
    completions = run(api, asked(100), pace=Pace(8))
    next(completions)
    completions.close()  # type: ignore[attr-defined]
    assert api.cancelled > 0
    assert api.out == 0
    assert api.closed


def test_what_reads_the_requests_may_fail() -> None:
    def requests() -> Iterator[Request]:
        yield from asked(5)
        raise InputError("the file ends early")

    api = Api()
    with pytest.raises(InputError, match="ends early"):
        list(run(api, requests()))
    assert api.closed


def test_it_runs_where_a_loop_runs_already() -> None:
    async def cell() -> list[str]:
        return ids(run(Api(), asked(50)))

    assert len(asyncio.run(cell())) == 50


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("raising", [True, False])
def test_ctrl_c_does_what_it_does_elsewhere(raising: bool, late: bool) -> None:
    struck: list[int] = []

    def usual(number: int, frame: FrameType | None) -> None:
        struck.append(number)
        if raising:
            raise KeyboardInterrupt

    def strike(request: Request, out: int = 0) -> None:
        if request.id == "30":
            signal.raise_signal(signal.SIGINT)

    given: list[Completion] = []
    api = Api(last=strike, spread=0.001) if late else Api(strike)
    before = signal.signal(signal.SIGINT, usual)
    try:
        with pytest.raises(KeyboardInterrupt) if raising else nullcontext():
            given.extend(run(api, asked(60), pace=Pace(4)))
        assert signal.getsignal(signal.SIGINT) is usual
    finally:
        signal.signal(signal.SIGINT, before)
    assert struck == [signal.SIGINT]
    assert api.out == 0
    assert api.closed
    assert ids(given) == [str(i) for i in range(len(given))]
    assert 20 < len(given) <= 31 if raising else len(given) == 60


def test_what_it_learns_stays() -> None:
    pace = Pace(64)
    list(run(Api(), asked(200), pace=pace))
    assert pace.limit == 64
    api = Api()
    list(run(api, asked(100), pace=pace))
    assert api.most == 64
