"""Progress of a sampling run: speed, totals, and running quality figures."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from delia_data.sampling.store import Counts, SampledRow
from delia_data.sampling.words import distinct

_BUCKET_S: Final = 1.0
_DISTINCT_EVERY_S: Final = 5.0  # counting a window takes some 20 ms


@dataclass(frozen=True, slots=True)
class Progress:
    """State of a run.

    Attributes:
        asked: Finished rows, those of earlier runs of the cache included.
        kept: Accepted pairs among them.
        rejected: Rejected rows by reason.
        elapsed_s: Seconds since this run began.
        rows_per_s: Rows finished per second in the last half minute.
        tokens_per_s: Tokens generated per second in the last half minute.
        rows_per_s_overall: Rows finished per second since this run began.
        tokens_per_s_overall: Tokens generated per second since this run began.
        tokens: Tokens generated in this run.
        prompt_tokens: Prompt tokens of this run, if the engine reports them.
        cost: Cost of this run in dollars; None once the price of a row is unknown.
        accepted_share: Accepted pairs divided by finished rows; None before the first row.
        duplicate_share: Exact duplicates among the rows that no other filter rejects.
        near_duplicate_share: Near duplicates among the rows that no other filter rejects.
        distinct_1: Distinct-1 of the latest accepted answers of this run.
        distinct_2: Distinct-2 of the same answers.
        novelty: Share of the latest pairs that differ from all earlier ones; None if not measured.
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


class ProgressMeter:
    """Measures the progress of one run; its memory does not grow with the number of rows."""

    def __init__(
        self,
        counts: Counts,
        window: int = 1000,
        *,
        recent_s: float = 30.0,
        novelty: Callable[[], float | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start measuring; the run's time begins now.

        Args:
            counts: Totals of the cache, which somebody else updates.
            window: Number of latest accepted answers to compute distinct-n over.
            recent_s: Seconds to compute the current rates over.
            novelty: Function that returns the novelty; None if it is not measured.
            clock: Function that returns seconds.
        """
        self._counts = counts
        self._start = replace(counts)
        self._window = window
        self._answers: deque[str] = deque(maxlen=window)
        self._recent_s = recent_s
        self._novelty = novelty or (lambda: None)
        self._clock = clock
        self._started = clock()
        self._buckets: deque[list[float]] = deque()  # start in s, rows, tokens
        self._rows = self._accepted = 0  # rows of this run
        self._distinct: tuple[float | None, float | None] = (None, None)
        self._distinct_at = -_DISTINCT_EVERY_S
        self._distinct_rows = 0  # accepted rows when distinct-n was computed

    def add(self, row: SampledRow) -> None:
        """Take a finished row, which `counts` includes."""
        now = self._clock()
        if not self._buckets or now - self._buckets[-1][0] >= _BUCKET_S:
            self._buckets.append([now, 0, 0])
            self._drop_old_buckets(now)
        self._rows += 1
        self._buckets[-1][1] += 1
        self._buckets[-1][2] += row.tokens
        if row.rejected is None:
            self._accepted += 1
            self._answers.append(row.answer)

    def now(self, *, fresh: bool = False) -> Progress:
        """Return the current progress.

        Args:
            fresh: Compute distinct-n again; otherwise its values are up to 5 s old.
        """
        now = self._clock()
        elapsed = now - self._started
        self._drop_old_buckets(now)
        recent = min(elapsed, self._recent_s)
        counts, start = self._counts, self._start
        duplicates, near = counts.dropped["duplicate"], counts.dropped["near_duplicate"]
        clean = counts.kept + duplicates + near
        if self._accepted != self._distinct_rows and (
            fresh
            or now - self._distinct_at >= _DISTINCT_EVERY_S
            # While there are few answers, every one changes the figures.
            or (self._accepted >= 2 * self._distinct_rows and self._distinct_rows < self._window)
        ):
            self._distinct = distinct(self._answers, 1), distinct(self._answers, 2)
            self._distinct_rows, self._distinct_at = self._accepted, now
        tokens = counts.tokens - start.tokens
        return Progress(
            asked=counts.asked,
            kept=counts.kept,
            rejected={reason: n for reason, n in sorted(counts.dropped.items()) if n},
            elapsed_s=elapsed,
            rows_per_s=_ratio(sum(bucket[1] for bucket in self._buckets), recent) or 0.0,
            tokens_per_s=_ratio(sum(bucket[2] for bucket in self._buckets), recent) or 0.0,
            rows_per_s_overall=_ratio(self._rows, elapsed) or 0.0,
            tokens_per_s_overall=_ratio(tokens, elapsed) or 0.0,
            tokens=tokens,
            prompt_tokens=counts.prompt_tokens - start.prompt_tokens,
            cost=None if counts.unpriced > start.unpriced else counts.dollars - start.dollars,
            accepted_share=_ratio(counts.kept, counts.asked),
            duplicate_share=_ratio(duplicates, clean),
            near_duplicate_share=_ratio(near, clean),
            distinct_1=self._distinct[0],
            distinct_2=self._distinct[1],
            novelty=self._novelty(),
        )

    def _drop_old_buckets(self, now: float) -> None:
        while self._buckets and now - self._buckets[0][0] > self._recent_s:
            self._buckets.popleft()


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None
