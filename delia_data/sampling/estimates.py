"""Estimates of a run from a few of its rows: tokens, hours and dollars, with intervals."""

from __future__ import annotations

import heapq
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from delia_data.engines.base import Engine, Request, Sampling
from delia_data.errors import EngineError, InputError
from delia_data.ranking import rank
from delia_data.sampling.filters import Filter, default_filters
from delia_data.sampling.generated_queries import load_queries
from delia_data.sampling.queries import GrowableQueries, Queries, Query
from delia_data.sampling.schedule import (
    FilterQueue,
    PendingRequest,
    PromptOptions,
    check_turns,
    query_id,
)
from delia_data.sampling.store import SampledRow
from delia_data.tokens import DEFAULT_TOKEN

PROBE_ROWS: Final = 50
_RESAMPLES: Final = 2_000
_LEVEL: Final = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimated number with its 95% interval.

    Attributes:
        low: Lower end of the interval.
        value: The estimate.
        high: Upper end of the interval.
    """

    low: float
    value: float
    high: float


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """Estimated rows, tokens, time and cost of a run.

    The intervals are bootstrapped over the rows of the probe. They reflect how much the rows
    differ, not how much the speed of the machine or the server varies.

    Attributes:
        probed: Number of rows of the probe.
        kept: Number of accepted rows among them.
        rejected: Number of rejected rows by reason.
        target: Number of pairs that the run is to accept.
        available: Number of rows that the queries provide; None if more can be generated.
        rows: Rows to request.
        prompt_tokens: Prompt tokens; None if the engine does not report them.
        tokens: Tokens to generate, those of generated queries included.
        hours: Time at the speed of the probe, in hours.
        dollars: Cost in dollars; None if the price is unknown.
    """

    probed: int
    kept: int
    rejected: dict[str, int]
    target: int
    available: int | None
    rows: Interval
    prompt_tokens: Interval | None
    tokens: Interval
    hours: Interval
    dollars: Interval | None


def estimate(
    engine: Engine,
    queries: str | os.PathLike[str] | Queries | Sequence[Query],
    folder: str | os.PathLike[str] | None = None,
    *,
    target: int,
    filters: Sequence[Filter] | None = None,
    sampling: Sampling | None = None,
    prompts: PromptOptions | None = None,
    turns: int = 1,
    seed: int = 0,
    token: str = DEFAULT_TOKEN,
    rows: int = PROBE_ROWS,
    clock: Callable[[], float] = time.monotonic,
) -> RunEstimate:
    """Request a few queries, drawn uniformly, and extrapolate to the whole run.

    Args:
        engine: Engine that answers.
        queries: The queries of the run, as for `sample`. If a model generates them, as many as the
            probe needs are generated.
        folder: The cache folder of the run. Generated queries are written there, and the run uses
            them; nothing else is written. A temporary folder if None.
        target: Number of pairs to accept.
        filters: Functions that reject pairs; `default_filters(token)` if None.
        sampling: Sampling parameters; the defaults of `Sampling` if None.
        prompts: How a query becomes a prompt; by default its text alone.
        turns: Number of answers in a pair, as for `sample`.
        seed: Seed of the run.
        token: The special token, which no pair may contain.
        rows: Number of rows of the probe.
        clock: Function that returns seconds.

    Raises:
        InputError: There are no queries, or the engine cannot write the user's turns.
        EngineError: The engine cannot answer, or every row of the probe was rejected.
    """
    check_turns(engine, turns)
    sampling, prompts = sampling or Sampling(), prompts or PromptOptions()
    filters = default_filters(token) if filters is None else filters
    with tempfile.TemporaryDirectory() as temporary:
        written_in = Path(temporary if folder is None else folder) / "queries"
        source = load_queries(queries, engine=engine, folder=written_in, seed=seed, token=token)
        growable = isinstance(source, GrowableQueries)
        extra_tokens = extra_dollars = 0.0  # for the query of each row
        if isinstance(source, GrowableQueries):
            source.ensure(rows)
            tokens, dollars = source.spent
            written = max(len(source), 1) * prompts.answers_per_query
            extra_tokens, extra_dollars = tokens / written, dollars / written
        drawn, count = _draw(source, seed, rows)
    if not drawn:
        raise InputError("there are no queries: give at least one")
    waiting = deque(
        PendingRequest(number, query, prompts.request(query, 0, seed), turns)
        for number, query in enumerate(drawn)
    )
    pending: dict[str, PendingRequest] = {}
    queue = FilterQueue(filters)

    def requests() -> Iterator[Request | None]:
        while waiting or pending:
            if waiting:
                row = waiting.popleft()
                pending[row.request.id] = row
                yield row.request
            else:
                yield None

    probe: list[SampledRow] = []
    started = clock()
    for completion in engine.generate(requests(), sampling):
        done = queue.add(pending.pop(completion.id), completion)
        for in_progress, finished in (*done, *([] if pending or waiting else queue.judge())):
            if finished is not None:
                probe.append(finished)
            else:
                waiting.append(in_progress)
    seconds = clock() - started
    rejected = [row.rejected for row in probe if row.rejected is not None]
    if len(rejected) == len(probe):
        reason = next((row.error for row in probe if row.error), None) or probe[0].rejected
        raise EngineError(
            f"none of {len(probe)} probe rows was accepted ({reason}): fix the cause first"
        )

    # The run takes `target` times what an accepted pair takes, its share of rejected rows included.
    accepted = np.array([row.rejected is None for row in probe], float)
    resampled = np.random.default_rng(seed).integers(0, len(probe), (_RESAMPLES, len(probe)))
    share = np.maximum(accepted[resampled].mean(axis=1), 0.5 / len(probe))

    def scale(values: np.ndarray[Any, Any]) -> Interval:
        totals = target * values[resampled].mean(axis=1) / share
        low, high = np.percentile(totals, _LEVEL)
        return Interval(float(low), target * float(values.mean() / accepted.mean()), float(high))

    tokens_of = np.array([row.tokens for row in probe], float)
    prompts_of = np.array([row.prompt_tokens for row in probe], float)
    costs = np.array([row.cost if row.cost is not None else np.nan for row in probe])
    hours_per_token = seconds / max(tokens_of.sum(), 1.0) / 3600
    tokens_of += extra_tokens
    return RunEstimate(
        probed=len(probe),
        kept=len(probe) - len(rejected),
        rejected={reason: rejected.count(reason) for reason in sorted(set(rejected))},
        target=target,
        available=None if growable else count * prompts.answers_per_query,
        rows=scale(np.ones(len(probe))),
        prompt_tokens=scale(prompts_of) if prompts_of.any() else None,
        tokens=scale(tokens_of),
        hours=scale(tokens_of * hours_per_token),
        dollars=None if np.isnan(costs).any() else scale(costs + extra_dollars),
    )


def _draw(queries: Queries, seed: int, rows: int) -> tuple[list[Query], int]:
    """Draw queries uniformly; also return the number of different queries."""
    seen: set[int] = set()

    def ranked() -> Iterator[tuple[int, Query]]:
        for query in queries:
            key = rank(seed, query_id(query), "plan")
            if key not in seen:
                seen.add(key)
                yield key, query

    lowest = heapq.nsmallest(rows, ranked(), key=lambda pair: pair[0])
    return [query for _, query in lowest], len(seen)
