"""The common part of the engines for APIs: scheduling, retries, rate limits, and options."""

from __future__ import annotations

import asyncio
import heapq
import math
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delia_data.engines import ApiOptions, Completion, Prices, Request, Sampling
from delia_data.engines.api import RateLimiter, backoff_s, generate
from delia_data.engines.replies import RequestFailure
from delia_data.errors import EngineError, InputError
from delia_data.records import Message


class ClockLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when nothing is ready."""

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
    """An API that answers after `seconds` plus `spread` times the seed.

    `judge` gets the request and the number of running requests, and may raise. `last` is called
    before each answer.
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
        except RequestFailure:
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
    limiter: RateLimiter | None = None,
    retries: int = 8,
) -> Iterator[Completion]:
    return generate(
        api,
        requests,
        Sampling(max_tokens=90),
        limiter=limiter or RateLimiter(64),
        retries=retries,
        new_loop=ClockLoop,
    )


def ids(completions: Iterable[Completion]) -> list[str]:
    return sorted((c.id for c in completions), key=int)


def fault(kind: str, *, on: Callable[[Request], bool], wait_s: float | None = None, times: int = 1):  # type: ignore[no-untyped-def]
    """Fail the first `times` attempts of the requests for which `on` is true."""
    seen: dict[str, int] = {}

    def judge(request: Request, out: int) -> None:
        seen[request.id] = seen.get(request.id, 0) + 1
        if on(request) and seen[request.id] <= times:
            raise RequestFailure(kind, f"it is {kind}", wait_s)  # type: ignore[arg-type]

    return judge


def test_each_request_is_answered_once() -> None:
    api = Api()
    assert ids(run(api, asked(500))) == [str(i) for i in range(500)]
    assert len(api.sent) == 500
    assert api.closed


def test_no_requests_give_nothing() -> None:
    assert list(run(Api(), [])) == []


@pytest.mark.parametrize("concurrency", [1, 3, 40])
def test_concurrency_limits_running_and_pending_requests(concurrency: int) -> None:
    held = most = 0

    def requests() -> Iterator[Request]:
        nonlocal held, most
        for request in asked(200):
            held += 1
            most = max(most, held)
            yield request

    api = Api()
    for _ in run(api, requests(), limiter=RateLimiter(concurrency)):
        held -= 1
    assert api.most == most == concurrency


def test_none_in_the_stream_waits_for_a_completion() -> None:
    answered: list[str] = []

    def requests() -> Iterator[Request | None]:
        """Yield two requests, and the next two only when both are answered."""
        for first, second in zip(*[iter(asked(20))] * 2, strict=True):
            yield first
            yield second
            while {first.id, second.id} - set(answered):
                yield None

    for completion in run(Api(), requests()):
        answered.append(completion.id)
    assert sorted(answered, key=int) == [str(i) for i in range(20)]


def test_rpm_limits_each_minute() -> None:
    api = Api()
    assert len(list(run(api, asked(100), limiter=RateLimiter(64, rpm=30)))) == 100
    times = [at for at, _ in api.sent]
    assert all(later - at >= 60 - 1e-6 for at, later in zip(times, times[30:], strict=False))
    assert times[-1] < 60 * 100 / 30 * 1.05


def test_tpm_limits_each_minute() -> None:
    api = Api()
    assert len(list(run(api, asked(400), limiter=RateLimiter(64, tpm=1300)))) == 400
    seconds = api.sent[-1][0]
    assert 0.8 * 1300 <= 400 * 13 / seconds * 60 <= 1300 * 1.1


def test_limit_settles_at_the_capacity_of_the_server() -> None:
    def judge(request: Request, out: int) -> None:
        if out > 8:
            raise RequestFailure("throttle", "too many")

    api = Api(judge)
    completions = list(run(api, asked(2000), limiter=RateLimiter(64)))
    assert ids(completions) == [str(i) for i in range(2000)]
    assert not any(c.error for c in completions)
    assert api.refused < 0.05 * len(api.sent)
    # Eight at a time take 2.5 s; the rest is pauses.
    assert api.sent[-1][0] < 30


def test_limit_rises_again_when_the_server_recovers() -> None:
    def judge(request: Request, out: int) -> None:
        if out > (2 if 200 < len(api.sent) < 400 else 64):
            raise RequestFailure("throttle", "too many")

    api, limiter = Api(judge), RateLimiter(32)
    assert len(list(run(api, asked(6000), limiter=limiter))) == 6000
    assert limiter.limit > 28


def test_retry_after_pauses_all_requests() -> None:
    api = Api(fault("throttle", on=lambda r: r.id == "20", wait_s=33.0))
    completions = list(run(api, asked(300)))
    assert len(completions) == 300
    at = next(at for at, name in api.sent if name == "20")
    assert not [t for t, _ in api.sent if at + 0.02 < t < at + 33]
    assert sum(name == "20" for _, name in api.sent) == 2


def test_too_long_a_pause_ends_the_run() -> None:
    api = Api(fault("throttle", on=lambda r: r.id == "20", wait_s=86_400.0))
    with pytest.raises(EngineError, match="it is throttle"):
        list(run(api, asked(300)))
    assert api.sent[-1][0] < 60


@pytest.mark.parametrize("kind", ["retry", "throttle"])
def test_transient_failures_are_retried(kind: str) -> None:
    api = Api(fault(kind, on=lambda r: int(r.id) % 7 == 0, times=2))
    completions = list(run(api, asked(50)))
    assert not any(c.error for c in completions)
    assert len(api.sent) == 50 + 2 * 8


@pytest.mark.parametrize(
    ("kind", "attempts"), [("retry", 4), ("throttle", 4), ("invalid", 3), ("row", 1)]
)
def test_retries_are_limited_and_only_one_row_fails(kind: str, attempts: int) -> None:
    api = Api(fault(kind, on=lambda r: r.id == "4", times=99))
    completions = list(run(api, asked(30), retries=3))
    assert ids(completions) == [str(i) for i in range(30)]
    (failed,) = [c for c in completions if c.finish == "error"]
    tried = f" ({attempts} attempts)" if attempts > 1 else ""
    assert (failed.id, failed.error, failed.text) == ("4", f"it is {kind}{tried}", "")
    assert failed.final
    assert len(api.sent) == 29 + attempts


def test_finished_requests_are_yielded_before_the_run_ends() -> None:
    api = Api(fault("stop", on=lambda r: int(r.id) >= 100, times=99))
    given: list[Completion] = []
    with pytest.raises(EngineError, match="it is stop"):
        given.extend(run(api, asked(1000), limiter=RateLimiter(16)))
    assert ids(given) == [str(i) for i in range(100)]
    assert len(api.sent) <= 116
    assert api.closed


def test_unreachable_server_ends_the_run_soon() -> None:
    api = Api(fault("unreachable", on=lambda r: True, times=99))
    with pytest.raises(EngineError, match="it is unreachable"):
        list(run(api, asked(10), limiter=RateLimiter(1)))
    assert len(api.sent) == 3


def test_server_that_answered_before_gets_all_retries() -> None:
    api = Api(fault("unreachable", on=lambda r: int(r.id) > 5, times=7))
    assert not any(c.error for c in run(api, asked(10)))


def test_internal_error_is_not_the_failure_of_a_row() -> None:
    def judge(request: Request, out: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(run(Api(judge), asked(10)))


def test_request_for_the_user_turn_is_rejected() -> None:
    with pytest.raises(InputError, match="--expand"):
        list(run(Api(), [Request("0", (), 0, role="user")]))


def test_closing_early_cancels_running_requests() -> None:
    api = Api(spread=0.01)
    completions = run(api, asked(100), limiter=RateLimiter(8))
    next(completions)
    completions.close()  # type: ignore[attr-defined]
    assert api.cancelled > 0
    assert api.out == 0
    assert api.closed


def test_error_in_the_request_iterator_closes_the_client() -> None:
    def requests() -> Iterator[Request]:
        yield from asked(5)
        raise InputError("the file ends early")

    api = Api()
    with pytest.raises(InputError, match="ends early"):
        list(run(api, requests()))
    assert api.closed


def test_generate_works_inside_a_running_event_loop() -> None:
    async def cell() -> list[str]:
        return ids(run(Api(), asked(50)))

    assert len(asyncio.run(cell())) == 50


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("raising", [True, False])
def test_ctrl_c_calls_the_usual_handler(raising: bool, late: bool) -> None:
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
            given.extend(run(api, asked(60), limiter=RateLimiter(4)))
        assert signal.getsignal(signal.SIGINT) is usual
    finally:
        signal.signal(signal.SIGINT, before)
    assert struck == [signal.SIGINT]
    assert api.out == 0
    assert api.closed
    assert ids(given) == [str(i) for i in range(len(given))]
    assert 20 < len(given) <= 31 if raising else len(given) == 60


def test_limit_is_kept_between_calls() -> None:
    limiter = RateLimiter(64)
    list(run(Api(), asked(200), limiter=limiter))
    assert limiter.limit == 64
    api = Api()
    list(run(api, asked(100), limiter=limiter))
    assert api.most == 64


@settings(deadline=None, max_examples=40)
@given(rpm=st.integers(1, 5000), pauses=st.lists(st.floats(0, 90), max_size=400))
def test_rate_limiter_never_exceeds_rpm(rpm: int, pauses: list[float]) -> None:
    limiter, now, sent = RateLimiter(rpm=rpm), 0.0, []
    for pause in [*pauses, *[0.0] * 200]:
        now += pause
        now += limiter.wait_s(now)
        assert limiter.wait_s(now) == 0
        limiter.record_request(now)
        sent.append(now)
    first = 0
    for last, at in enumerate(sent):
        while at - sent[first] >= 60 - 1e-6:
            first += 1
        assert last - first + 1 <= rpm


@pytest.mark.parametrize("rpm", [1, 10, 600, 5000])
def test_rate_limiter_uses_what_rpm_allows(rpm: int) -> None:
    limiter, now, count = RateLimiter(rpm=rpm), 0.0, 0
    while now < 600:
        now += limiter.wait_s(now)
        limiter.record_request(now)
        count += 1
    assert count >= 0.95 * rpm * 10


def test_rate_limiter_counts_actual_tokens() -> None:
    limiter, now, used = RateLimiter(tpm=60_000), 0.0, 0
    while now < 600:
        now += limiter.wait_s(now, 900)
        limiter.record_request(now, 900)
        limiter.correct_tokens(now, 300 - 900)
        used += 300
    assert 0.9 * 600_000 <= used <= 1.02 * 600_000


def test_limit_doubles_until_the_first_refusal() -> None:
    limiter = RateLimiter(64)
    seen = [limiter.limit]
    for _ in range(3):
        for _ in range(int(limiter.limit)):
            limiter.record_answer(0)
        seen.append(limiter.limit)
    assert seen == [8, 16, 32, 64]
    limiter.record_answer(0)
    assert limiter.limit == 64


def test_refusals_of_one_round_lower_the_limit_once() -> None:
    limiter = RateLimiter(8)
    for _ in range(8):
        limiter.record_refusal(0, now=0.0)
    assert limiter.limit == pytest.approx(5.6)
    limiter.record_refusal(1, now=0.0)
    assert limiter.limit == pytest.approx(3.92)


def test_limit_grows_slowly_after_a_refusal() -> None:
    limiter = RateLimiter(64)
    limiter.record_refusal(0, now=0.0)
    before = limiter.limit
    for _ in range(2 * math.ceil(before)):
        limiter.record_answer(1)
    assert before + 0.8 < limiter.limit < before + 1.2


@given(events=st.lists(st.sampled_from(["answered", "refused", "stale"]), max_size=300))
def test_limit_stays_between_one_and_the_concurrency(events: list[str]) -> None:
    limiter = RateLimiter(12)
    for event in events:
        if event == "answered":
            limiter.record_answer(limiter.round)
        else:
            limiter.record_refusal(limiter.round - (event == "stale"), now=0.0)
        assert 1 <= limiter.limit <= 12


def test_retry_after_is_respected() -> None:
    limiter = RateLimiter(8)
    limiter.record_refusal(0, now=100.0, retry_after_s=20.0)
    assert limiter.wait_s(100.0) == 20
    limiter.record_refusal(0, now=101.0, retry_after_s=1.0)
    assert limiter.wait_s(110.0) == 10
    assert limiter.wait_s(120.0) == 0


def test_repeated_refusals_pause_longer_and_longer() -> None:
    limiter = RateLimiter(8)
    limiter.record_refusal(0, now=0.0)
    assert limiter.wait_s(0.0) == 0
    waits = []
    for _ in range(200):
        limiter.record_refusal(limiter.round, now=0.0)
        waits.append(limiter.wait_s(0.0))
    assert waits == sorted(waits)
    assert 20 < waits[-1] <= 60
    limiter.record_answer(limiter.round)
    limiter.record_refusal(limiter.round, now=1000.0)
    assert limiter.wait_s(1000.0) == 0


def test_maximum_backoff_doubles() -> None:
    for tries in range(12):
        draws = [backoff_s(tries) for _ in range(400)]
        bound = min(60, 0.5 * 2**tries)
        assert all(0 <= wait <= bound for wait in draws)
        assert max(draws) > 0.9 * bound
        assert min(draws) < 0.1 * bound


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api_base": "localhost:8000"}, "is not an address"),
        ({"api_base": "http://host:port/v1"}, "is not an address"),
        ({"api_base": 8000}, "api_base 8000 is wrong"),
        ({"api_base": "http://me:hidden@host/v1"}, "password"),
        ({"concurrency": 0}, "concurrency 0 is wrong"),
        ({"concurrency": "many"}, "concurrency 'many' is wrong"),
        ({"rpm": 0.5}, "rpm 0.5 is wrong"),
        ({"tpm": 0}, "tpm 0 is wrong"),
        ({"timeout_s": 0}, "timeout_s 0 is wrong"),
        ({"timeout_s": math.inf}, "timeout_s inf is wrong"),
        ({"retries": -1}, "retries -1 is wrong"),
        ({"retries": None}, "retries None is wrong"),
        ({"prompt_price": 1.0}, "give both or neither"),
        ({"prompt_price": -1.0, "completion_price": 1.0}, "prompt_price -1.0 is wrong"),
        ({"send_seed": "no"}, "send_seed 'no' is wrong"),
        ({"token_limit_field": "max tokens"}, "token_limit_field 'max tokens' is wrong"),
        ({"extra_body": "top_k"}, "extra_body 'top_k' is wrong"),
        ({"extra_body": {"top_k": math.nan}}, "extra_body is not a JSON object"),
        ({"extra_body": {"seed": 1}}, "sets 'seed'.*--seed"),
        ({"extra_body": {"limit": 1}, "token_limit_field": "limit"}, "sets 'limit'.*--max-tokens"),
        ({"extra_body": {"api_key": "hidden"}}, "sets 'api_key'"),
        ({"extra_headers": "hidden"}, "extra_headers is wrong"),
        ({"extra_headers": {"x title": "y"}}, "'x title' is not the name of a header"),
        ({"extra_headers": {"x-title": "hidden\nx: y"}}, "'x-title' has invalid characters"),
        ({"extra_headers": {"x-title": "${NOT_SET_HERE}"}}, "set NOT_SET_HERE"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ApiOptions(**options)  # type: ignore[arg-type]
    assert "hidden" not in str(caught.value)


def test_prices_are_per_token() -> None:
    options = ApiOptions(prompt_price=2.5, completion_price=10.0)
    assert options.prices == Prices(2.5e-6, 1e-5)
    assert ApiOptions(prompt_price=0, completion_price=0).prices == Prices(0.0, 0.0)
    assert ApiOptions().prices is None


def test_headers_take_secrets_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_SIGNATURE", "very-secret")
    options = ApiOptions(extra_headers={"x-signature": "v1 ${ACME_SIGNATURE}"})
    assert options.extra_headers == {"x-signature": "v1 very-secret"}
    assert "very-secret" not in repr(options)
