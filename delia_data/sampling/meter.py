"""The live meter of a sampling run: how fast, how much, and what it is worth so far."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from delia_data.sampling.rows import Sampled
from delia_data.sampling.words import words

_BUCKET_S: Final = 1.0
_DISTINCT_EVERY_S: Final = 5.0  # counting a window takes some 20 ms
_DUPLICATES: Final = ("duplicate", "near_duplicate")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, and how it goes.

    Attributes:
        asked: Rows that are finished, those of earlier runs of the cache included.
        kept: Those of them that are kept.
        rejected: How many were rejected, by reason.
        elapsed_s: Seconds since this run began.
        rows_per_s: Rows finished a second, in the last half minute.
        tokens_per_s: Tokens generated a second, in the last half minute.
        rows_per_s_overall: The same since this run began.
        tokens_per_s_overall: The same since this run began.
        tokens: Tokens generated in this run.
        prompt_tokens: Tokens of this run's prompts, where the engine tells.
        cost: Dollars of this run; None as soon as one row's price is not known.
        accepted_share: Kept rows of all; None before the first.
        duplicate_share: Exact duplicates among the rows that no other filter rejects.
        near_duplicate_share: Near duplicates among the rows that no other filter rejects.
        distinct_1: Different words of all words, in the latest kept answers of this run.
        distinct_2: Different pairs of neighbouring words of all such pairs, in the same.
        novelty: Share of the latest pairs that are unlike all before; None where not measured.
    """

    asked: int
    kept: int
    rejected: Mapping[str, int]
    elapsed_s: float
    rows_per_s: float
    tokens_per_s: float
    rows_per_s_overall: float
    tokens_per_s_overall: float
    tokens: int
    prompt_tokens: int
    cost: float | None
    accepted_share: float | None
    duplicate_share: float | None
    near_duplicate_share: float | None
    distinct_1: float | None
    distinct_2: float | None
    novelty: float | None


class Meter:
    """Counts finished rows; its memory does not grow with them."""

    def __init__(
        self,
        window: int = 1000,
        *,
        kept: int = 0,
        rejected: Mapping[str, int] | None = None,
        recent_s: float = 30.0,
        novelty: Callable[[], float | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to count; the run's time begins now.

        Args:
            window: Kept answers, the latest, that the distinct shares are counted over.
            kept: Rows kept in earlier runs of the same cache.
            rejected: Rows rejected in earlier runs, by reason.
            recent_s: Seconds that the present rates are taken over.
            novelty: Gives the share of new pairs, as `Saturation.novelty` does; None where it is
                not measured.
            clock: Gives seconds.
        """
        self._window = window
        self._answers: deque[str] = deque(maxlen=window)
        self._kept = kept
        self._rejected = Counter(rejected or {})
        self._recent_s = recent_s
        self._novelty = novelty
        self._clock = clock
        self._begun = clock()
        self._buckets: deque[list[float]] = deque()  # begin in s, rows, tokens
        self._rows = self._tokens = self._prompt_tokens = 0
        self._cost: float | None = 0.0
        self._distinct: tuple[float | None, float | None] = (None, None)
        self._counted_at = -_DISTINCT_EVERY_S
        self._counted = self._added = 0  # answers when distinct shares were counted, and now

    def add(self, rows: Sequence[Sampled]) -> None:
        """Count finished rows."""
        if not rows:
            return
        now = self._clock()
        if not self._buckets or now - self._buckets[-1][0] >= _BUCKET_S:
            self._buckets.append([now, 0, 0])
            self._forget(now)
        bucket = self._buckets[-1]
        for row in rows:
            self._tokens += row.tokens
            self._prompt_tokens += row.prompt_tokens
            bucket[2] += row.tokens
            if row.cost is None or self._cost is None:
                self._cost = None
            else:
                self._cost += row.cost
            if row.rejected is None:
                self._kept += 1
                self._added += 1
                self._answers.append(row.answer)
            else:
                self._rejected[row.rejected] += 1
        bucket[1] += len(rows)
        self._rows += len(rows)

    def now(self, *, fresh: bool = False) -> Progress:
        """Tell how far the run is.

        Args:
            fresh: Count the distinct shares again; otherwise they are up to 5 s old.
        """
        now = self._clock()
        elapsed = now - self._begun
        self._forget(now)
        recent = min(elapsed, self._recent_s)
        asked = self._kept + self._rejected.total()
        clean = self._kept + sum(self._rejected[reason] for reason in _DUPLICATES)
        if self._added != self._counted and (
            fresh
            or now - self._counted_at >= _DISTINCT_EVERY_S
            or (self._added >= 2 * self._counted and self._counted < self._window)  # few as yet
        ):
            self._distinct = distinct(self._answers, 1), distinct(self._answers, 2)
            self._counted, self._counted_at = self._added, now
        return Progress(
            asked=asked,
            kept=self._kept,
            rejected=dict(sorted(self._rejected.items())),
            elapsed_s=elapsed,
            rows_per_s=_rate(sum(bucket[1] for bucket in self._buckets), recent),
            tokens_per_s=_rate(sum(bucket[2] for bucket in self._buckets), recent),
            rows_per_s_overall=_rate(self._rows, elapsed),
            tokens_per_s_overall=_rate(self._tokens, elapsed),
            tokens=self._tokens,
            prompt_tokens=self._prompt_tokens,
            cost=self._cost,
            accepted_share=_share(self._kept, asked),
            duplicate_share=_share(self._rejected["duplicate"], clean),
            near_duplicate_share=_share(self._rejected["near_duplicate"], clean),
            distinct_1=self._distinct[0],
            distinct_2=self._distinct[1],
            novelty=self._novelty() if self._novelty else None,
        )

    def _forget(self, now: float) -> None:
        """Drop the buckets that are older than the time that the present rates are taken over."""
        while self._buckets and now - self._buckets[0][0] > self._recent_s:
            self._buckets.popleft()


def distinct(texts: Iterable[str], n: int) -> float | None:
    """Distinct-n (Li et al. 2016, section 5.1): different n-grams of all n-grams of the texts.

    Words are compared in lower case and without punctuation. None where there is no n-gram.
    """
    seen: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        found = words(text)
        grams = list(zip(*(found[i:] for i in range(n)), strict=False))
        seen.update(grams)
        total += len(grams)
    return len(seen) / total if total else None


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
