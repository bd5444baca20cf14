"""How fast an API may be asked: a limit that finds itself, and limits that were given.

    requests out ≤ limit ≤ concurrency      limit: +1 with each answer until the first refusal,
                                            then x0.7 with a refusal, +1 every two rounds
    requests a minute ≤ rpm, tokens a minute ≤ tpm

Every method takes the time as `now`, in seconds of any clock, and none waits: the one who asks
does (`_remote`).
"""

from __future__ import annotations

import random
from typing import Final

from delia_data.errors import InputError

_FIRST: Final = 8
_SHRINK: Final = 0.7
_GROW: Final = 0.5
_BASE_S: Final = 0.5
_LONGEST_S: Final = 60.0
_SLACK: Final = 1e-9


def backoff_s(tries: int) -> float:
    """Seconds to wait before another try: anything up to a bound that doubles with each try."""
    return random.uniform(0, min(_LONGEST_S, _BASE_S * 2 ** min(tries, 30)))


class Pace:
    """What may be asked of one API now.

    Attributes:
        concurrency: Requests out at once at most, ever.
        limit: Requests out at once at most, at present.
        round: Grows with each fall of the limit. A refusal counts once a round, so that the many
            requests that were out when the limit was too high do not each lower it.
    """

    def __init__(
        self, concurrency: int = 64, *, rpm: int | None = None, tpm: int | None = None
    ) -> None:
        """Begin at a low limit.

        Args:
            concurrency: Requests out at once at most.
            rpm: Requests a minute at most; no bound where None.
            tpm: Tokens a minute at most, prompts and answers; no bound where None.

        Raises:
            InputError: A value is out of its bounds.
        """
        if concurrency < 1:
            raise InputError(f"concurrency {concurrency} is too low: give at least 1")
        for name, value in (("rpm", rpm), ("tpm", tpm)):
            if value is not None and value < 1:
                raise InputError(f"{name} {value} is too low: give at least 1")
        self.concurrency = concurrency
        self.limit = float(min(concurrency, _FIRST))
        self.round = 0
        self._requests = None if rpm is None else _Bucket(rpm)
        self._tokens = None if tpm is None else _Bucket(tpm)
        self._finding = True
        self._falls = 0
        self._paused_until = 0.0

    @property
    def counts_tokens(self) -> bool:
        """Whether tokens are limited."""
        return self._tokens is not None

    def wait_s(self, now: float, tokens: int = 0) -> float:
        """Seconds until a request of so many tokens may be sent; 0.0 where it may be now."""
        wait = self._paused_until - now
        if self._requests is not None:
            wait = max(wait, self._requests.wait_s(now, 1))
        if self._tokens is not None:
            wait = max(wait, self._tokens.wait_s(now, tokens))
        return max(wait, 0.0)

    def sent(self, now: float, tokens: int = 0) -> None:
        """Note a request that is sent, of so many tokens as far as one can tell."""
        if self._requests is not None:
            self._requests.spend(now, 1)
        if self._tokens is not None:
            self._tokens.spend(now, tokens)

    def correct(self, now: float, tokens: int) -> None:
        """Note that a request took so many tokens more, or fewer, than was thought."""
        if self._tokens is not None:
            self._tokens.spend(now, tokens)

    def answered(self, round: int) -> None:
        """Raise the limit a little: a request that was sent in this round was answered."""
        self._falls = 0
        if self.limit < self.concurrency and round == self.round:
            step = 1.0 if self._finding else _GROW / self.limit
            self.limit = min(self.limit + step, float(self.concurrency))

    def refused(self, round: int, now: float, retry_after_s: float | None = None) -> None:
        """Lower the limit: the API said that it is asked too much, or did not keep up.

        Nothing is sent for as long as it asked for; and for longer and longer where it refuses
        again and again without an answer in between.
        """
        if retry_after_s is not None:
            self._paused_until = max(self._paused_until, now + retry_after_s)
        if round != self.round:
            return
        self.round += 1
        self.limit = max(1.0, self.limit * _SHRINK)
        self._finding = False
        if self._falls:
            self._paused_until = max(self._paused_until, now + backoff_s(self._falls))
        self._falls += 1


class _Bucket:
    """Fills with time, by so much that no minute (its end left out) holds more than allowed.

    It holds a second's worth at most. A request that is larger than that takes it into debt.
    """

    def __init__(self, per_minute: float) -> None:
        self.size = max(1.0, per_minute / 60)
        self.rate = (per_minute - self.size + 1) / 60
        self.level = self.size
        self.at: float | None = None

    def wait_s(self, now: float, amount: float) -> float:
        """Seconds until so much may be spent."""
        self._fill(now)
        missing = min(amount, self.size) - self.level
        return missing / self.rate if missing > _SLACK else 0.0

    def spend(self, now: float, amount: float) -> None:
        """Take so much out, or give it back where it is negative."""
        self._fill(now)
        self.level = min(self.level - amount, self.size)

    def _fill(self, now: float) -> None:
        if self.at is not None:
            self.level = min(self.size, self.level + (now - self.at) * self.rate)
        self.at = now
