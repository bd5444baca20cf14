"""What a run will take, told from a few rows of it: tokens, hours and dollars, with intervals."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict

import numpy as np

from delia_data.engines.base import Engine, Sampling
from delia_data.errors import EngineError, InputError
from delia_data.ranking import rank
from delia_data.sampling.asker import Asked
from delia_data.sampling.asking import Asking, query_id
from delia_data.sampling.filters import Filter
from delia_data.sampling.loop import Growing, judged
from delia_data.sampling.queries import Queries, Query
from delia_data.sampling.query_list import QueryList
from delia_data.sampling.rows import Sampled

PROBE_ROWS: Final = 50
_RESAMPLES: Final = 2_000
_LEVEL: Final = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number that is not known yet.

    Attributes:
        low: Lower end of its interval at 95%.
        value: The best guess.
        high: Upper end of the interval.
    """

    low: float
    value: float
    high: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run will take.

    The intervals are bootstrapped over the probe's rows: they tell how much the rows differ, not
    how much the machine's or the server's speed does.

    Attributes:
        probed: Rows of the probe.
        kept: How many of them were kept.
        rejected: How many were rejected, by reason.
        target: Pairs that the run is to keep.
        available: Rows that the queries give; None where more can be had.
        rows: Rows to ask.
        prompt_tokens: Tokens of their prompts; None where the engine does not tell.
        tokens: Tokens to generate; where a model writes the queries, all that those take too.
        hours: Time, at the speed of the probe.
        dollars: What it costs; None where the price is not known.
    """

    probed: int
    kept: int
    rejected: dict[str, int]
    target: int
    available: int | None
    rows: Estimate
    prompt_tokens: Estimate | None
    tokens: Estimate
    hours: Estimate
    dollars: Estimate | None


def forecast(
    engine: Engine,
    queries: Queries | Sequence[Query],
    *,
    target: int,
    filters: Sequence[Filter],
    sampling: Sampling | None = None,
    asking: Asking | None = None,
    seed: int = 0,
    rows: int = PROBE_ROWS,
    clock: Callable[[], float] = time.monotonic,
) -> Forecast:
    """Ask a few of the queries, drawn evenly from all of them, and reckon the rest from them.

    Args:
        engine: What answers.
        queries: What is to be asked; those that a model writes are written where they are fewer
            than the probe needs.
        target: Pairs to keep.
        filters: What says why a pair is not kept.
        sampling: How answers are drawn.
        asking: How a query is put to the model.
        seed: Seed of the run.
        rows: Rows of the probe.
        clock: Gives seconds.

    Raises:
        InputError: There are no queries.
        EngineError: The engine cannot answer, or none of the probe's rows was kept.
    """
    sampling, asking = sampling or Sampling(), asking or Asking()
    if not hasattr(queries, "describe"):
        queries = QueryList(queries)
    if isinstance(queries, Growing):
        queries.ensure(rows)
    drawn, count = _drawn(queries, seed, rows)
    if not drawn:
        raise InputError("there are no queries: give at least one")
    asked = {}
    for number, query in enumerate(drawn):
        request = asking.request(query, 0, seed)
        asked[request.id] = Asked(number, query.text, request)
    began = clock()
    completions = list(engine.generate((row.request for row in asked.values()), sampling))
    seconds = clock() - began
    probed = [judged(asked[completion.id], completion, filters) for completion in completions]
    kept = sum(row.rejected is None for row in probed)
    if not kept:
        reason = next((row.error for row in probed if row.error), None) or probed[0].rejected
        raise EngineError(f"none of {len(probed)} probe rows was kept ({reason}): mend that first")
    rejected = [row.rejected for row in probed if row.rejected is not None]
    return Forecast(
        probed=len(probed),
        kept=kept,
        rejected={reason: rejected.count(reason) for reason in sorted(set(rejected))},
        target=target,
        available=None if isinstance(queries, Growing) else count * asking.answers_per_query,
        **_reckoned(probed, target, seconds, seed, _for_queries(queries, asking)),
    )


def _for_queries(queries: Queries, asking: Asking) -> tuple[float, float]:
    """Tokens and dollars that a row takes for its query to be written."""
    if not isinstance(queries, Growing):
        return 0.0, 0.0
    tokens, dollars = queries.spent
    rows = len(queries) * asking.answers_per_query
    return tokens / rows, dollars / rows


class _Reckoned(TypedDict):
    rows: Estimate
    prompt_tokens: Estimate | None
    tokens: Estimate
    hours: Estimate
    dollars: Estimate | None


def _drawn(queries: Queries, seed: int, rows: int) -> tuple[list[Query], int]:
    """Draw queries evenly, and count them all; equal ones count once."""
    seen: set[int] = set()

    def placed() -> Any:
        for query in queries:
            place = rank(seed, query_id(query.text), "plan")
            if place not in seen:
                seen.add(place)
                yield place, query

    lowest = heapq.nsmallest(rows, placed(), key=lambda pair: pair[0])
    return [query for _, query in lowest], len(seen)


def _reckoned(
    probed: Sequence[Sampled],
    target: int,
    seconds: float,
    seed: int,
    beside: tuple[float, float],
) -> _Reckoned:
    """Numbers of the whole run, from those of the probe's rows.

    Whatever a kept pair takes, the rejected rows beside it included, the run takes `target` times.
    Beside its answer a row takes tokens and dollars for its query.
    """
    kept = np.array([row.rejected is None for row in probed], float)
    tokens = np.array([row.tokens for row in probed], float)
    prompts = np.array([row.prompt_tokens for row in probed], float)
    costs = np.array([row.cost if row.cost is not None else np.nan for row in probed])
    draws = np.random.default_rng(seed).integers(0, len(probed), (_RESAMPLES, len(probed)))
    share = np.maximum(kept[draws].mean(axis=1), 0.5 / len(probed))

    def estimate(values: np.ndarray[Any, Any]) -> Estimate:
        spread = target * values[draws].mean(axis=1) / share
        low, high = np.percentile(spread, _LEVEL)
        return Estimate(float(low), target * float(values.mean() / kept.mean()), float(high))

    per_token = seconds / max(tokens.sum(), 1.0) / 3600
    tokens += beside[0]
    return {
        "rows": estimate(np.ones(len(probed))),
        "prompt_tokens": estimate(prompts) if prompts.any() else None,
        "tokens": estimate(tokens),
        "hours": estimate(tokens * per_token),
        "dollars": None if np.isnan(costs).any() else estimate(costs + beside[1]),
    }
