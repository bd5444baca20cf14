"""The sampling loop: queries in, the model's own pairs out (paper, Algorithm 1).

    scheduler ──▶ engine ──▶ filters ──▶ store
        ▲                                  │
        └───── number of accepted pairs ◀──┴──▶ log, Parquet, manifest

The store counts the rows; the scheduler and the progress meter read its counts.
"""

from __future__ import annotations

import heapq
import math
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from delia_data.engines.base import Engine, Sampling
from delia_data.errors import EngineError, InputError
from delia_data.outputs import Manifest, read_manifest
from delia_data.ranking import rank, whole_number
from delia_data.sampling.budget import Budget, Limits
from delia_data.sampling.filters import (
    Filter,
    Judge,
    StatefulFilter,
    default_filters,
    describe,
    empty,
    failed,
    names,
)
from delia_data.sampling.generated_queries import load_queries
from delia_data.sampling.queries import (
    FileQueries,
    GrowableQueries,
    Queries,
    Query,
    QueryList,
    QuerySource,
)
from delia_data.sampling.schedule import PromptOptions, RequestScheduler, check_turns, query_id
from delia_data.sampling.similarity import distinct
from delia_data.sampling.store import Counts, PairStore, SampledRow, read_usage
from delia_data.tokens import DEFAULT_TOKEN, thinks

if TYPE_CHECKING:
    from delia_data.sampling.embeddings import Saturation

_PROGRESS_S: Final = 0.25
_MIN_ACCEPTED_SHARE: Final = 0.1  # lower bound when planning how many queries to generate
_DISTINCT_EVERY_S: Final = 5.0
_DISTINCT_TIME: Final = 0.01  # maximum share of the time to compute distinct-n in


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
        tokens: Tokens generated in this run.
        prompt_tokens: Prompt tokens of this run, if the engine reports them.
        cost: Cost of this run in dollars; None once the price of a row is unknown.
        accepted_share: Accepted pairs divided by finished rows; None before the first row.
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
    tokens: int
    prompt_tokens: int
    cost: float | None
    accepted_share: float | None
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
        saturation: Saturation | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start measuring the totals of a cache, which the caller updates.

        Distinct-n is computed over the latest `window` answers, rates over `recent_s` seconds.
        """
        self._counts, self._start = counts, replace(counts)
        self._answers: deque[str] = deque(maxlen=window)
        self._recent_s, self._saturation, self._clock = recent_s, saturation, clock
        self._started = self._distinct_due = clock()
        # Time in s, rows and tokens at each report of the last `recent_s`, and at the one before.
        self._reports = deque([(self._started, counts.finished, counts.tokens)])
        self._accepted = self._measured = 0  # answers of this run, and those when distinct-n was
        self._distinct: tuple[float | None, float | None] = (None, None)

    def add(self, row: SampledRow) -> None:
        """Take a finished row, which `counts` includes."""
        if row.rejected is None:
            self._accepted += 1
            self._answers.append(row.text)

    def now(self, *, fresh: bool = False) -> Progress:
        """Return the current progress.

        Args:
            fresh: Compute distinct-n again; otherwise its values are at least 5 s apart.
        """
        now, counts, start = self._clock(), self._counts, self._start
        reports, rows = self._reports, counts.finished
        while len(reports) > 1 and now - reports[1][0] >= self._recent_s:
            reports.popleft()
        since, rows_then, tokens_then = reports[0]
        reports.append((now, rows, counts.tokens))
        near = counts.dropped["near_duplicate"]
        if self._accepted != self._measured and (fresh or now >= self._distinct_due):
            self._distinct = distinct(self._answers, 1), distinct(self._answers, 2)
            took = self._clock() - now
            self._measured = self._accepted
            self._distinct_due = now + max(_DISTINCT_EVERY_S, took / _DISTINCT_TIME)
        return Progress(
            asked=rows,
            kept=counts.accepted,
            rejected={reason: n for reason, n in sorted(counts.dropped.items()) if n},
            elapsed_s=now - self._started,
            rows_per_s=_ratio(rows - rows_then, now - since) or 0.0,
            tokens_per_s=_ratio(counts.tokens - tokens_then, now - since) or 0.0,
            tokens=counts.tokens - start.tokens,
            prompt_tokens=counts.prompt_tokens - start.prompt_tokens,
            cost=None if counts.unpriced > start.unpriced else counts.dollars - start.dollars,
            accepted_share=_ratio(counts.accepted, rows),
            near_duplicate_share=_ratio(near, counts.accepted + counts.dropped["duplicate"] + near),
            distinct_1=self._distinct[0],
            distinct_2=self._distinct[1],
            novelty=None if self._saturation is None else self._saturation.novelty,
        )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def sample(
    engine: Engine,
    queries: QuerySource,
    folder: str | os.PathLike[str],
    *,
    target: int,
    sampling: Sampling | None = None,
    seed: int = 0,
    token: str = DEFAULT_TOKEN,
    prompts: PromptOptions | None = None,
    turns: int = 1,
    filters: Sequence[Filter] | None = None,
    limits: Limits | None = None,
    saturation: Saturation | None = None,
    keep_rejected: bool = False,
    keep_reasoning: bool = False,
    begin_from: str | os.PathLike[str] | None = None,
    extend: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Manifest:
    """Sample pairs from a model into a cache folder until `target` of them are accepted.

    A rejected pair is replaced by the next query's. Call it again with the same arguments to resume
    a run that was killed, and with a higher target to grow a finished cache. Rows on disk are never
    requested again, except for those that a change of settings reopens: with a higher `max_tokens`,
    answers that were cut off are requested again; with fewer filters or a higher threshold,
    rejected rows are judged again if their texts are stored (`keep_rejected`), and requested again
    otherwise. Accepted pairs stay, and `details["earlier_settings"]` of the manifest counts those
    of earlier settings.

    Args:
        engine: Engine that answers.
        queries: Queries in order; repeated ones count once. `"bundled"`, `"self"`, a path, glob,
            or Hub id, a dataset, table or list of rows, texts or `Query` objects, or your own
            `Queries`.
        folder: The cache folder.
        target: Number of pairs to accept.
        sampling: Sampling parameters; the defaults of `Sampling` if None.
        seed: Seed of the run. Each row's own seed follows from it and from the query's text.
        token: The special token, which no pair may contain.
        prompts: How a query becomes a prompt; by default its text alone.
        turns: Number of answers in a pair. With more than one, a pair is a conversation: the model
            writes the user's turn after an answer, and answers it. Every answer passes the filters.
        filters: Functions that reject pairs; `default_filters(token)` if None. Failed requests,
            empty answers and pairs that contain the token are always rejected.
        limits: Limits of spending and failures.
        saturation: If given, ends the run when new pairs add nothing new.
        keep_rejected: Write the texts of rejected pairs too, not only the reasons.
        keep_reasoning: Write what the model thought before each answer into the column
            `reasoning`.
        begin_from: Finished cache whose pairs a new cache starts with; `"bundled"` is the one that
            comes with the package. The settings must be the same (`read_plan`).
        extend: Continue with other queries than those the cache was started with.
        on_progress: Called at the start, at the end, and up to four times a second in between.

    Returns:
        The manifest of the finished cache. If it holds fewer pairs than the target,
        `details["stopped"]` is the reason: `"queries"` (they ran out), `"budget"` (it is spent),
        or `"saturated"`.

    Raises:
        InputError: No pair was accepted, a query is empty, a limit cannot be enforced, or the
            engine cannot write the user's turns.
        SettingsError: The folder was started with settings that may not change.
        EngineError: The engine cannot answer anymore, or too many requests failed.
        OutputError: The disk is full or gone.
    """
    target, seed = whole_number(target, "target", 1), whole_number(seed, "seed")
    check_turns(engine, turns)
    sampling, prompts = sampling or Sampling(), prompts or PromptOptions()
    limits = limits or Limits()
    filters = default_filters(token) if filters is None else filters
    source = load_queries(
        queries, engine=engine, folder=Path(folder) / "queries", seed=seed, token=token
    )
    plan = {
        **engine.describe(),
        "sampling": sampling.as_dict(),
        "asking": asdict(prompts),
        **({"turns": turns} if turns > 1 else {}),
        "filters": [describe(check) for check in filters],
        "queries": source.describe(),
        "seed": seed,
        "token": token,
    }
    for check in filters:
        if isinstance(check, Judge):
            check.check_engine(engine, limits)
    budget = Budget(limits, engine.prices)
    tokenizer = getattr(engine, "tokenizer", None)
    max_tokens = sampling.total_tokens(thinks=tokenizer is not None and thinks(tokenizer))
    with PairStore.open(
        folder,
        plan,
        begin_from=begin_from,
        extend=extend,
        keep_rejected=keep_rejected,
        keep_reasoning=keep_reasoning,
    ) as store:
        counts = store.counts
        if store.finished and counts.accepted >= target:
            return read_manifest(folder)
        if limits.dollars is not None and counts.cost is None:
            raise InputError(
                f"{folder} holds rows whose price is unknown, so a budget in dollars cannot be "
                "enforced: give a budget in tokens, or sample into another folder"
            )
        store.begin()
        _show_earlier_pairs(store, filters, saturation)
        meter = ProgressMeter(counts, saturation=saturation)
        scheduler = RequestScheduler(
            source,
            prompts,
            store,
            (failed, empty, names(token), *filters),
            target=target,
            seed=seed,
            max_tokens=max_tokens,
            budget=budget,
            limits=limits,
            turns=turns,
        )
        for row in scheduler.replay(store.stored_answers()):
            store.append(row)
        store.clear_aside()
        budget.spend(counts.tokens + counts.prompt_tokens, counts.cost or 0.0)
        growable = source if isinstance(source, GrowableQueries) else None
        if growable is not None:
            budget.spend(*growable.spent)
        failure: str | None = None
        while True:
            scheduler.restart()
            on_progress(meter.now())
            shown = time.monotonic()
            for row in scheduler.run(engine, sampling):
                row.thoughts = row.thoughts if keep_reasoning else None
                store.append(row)
                meter.add(row)
                failure = row.error or failure
                if saturation is not None and row.rejected is None:
                    saturation.add([row.text])
                    if saturation.saturated:
                        scheduler.stop("saturated")
                if (now := time.monotonic()) - shown >= _PROGRESS_S:
                    shown = now
                    on_progress(meter.now())
            on_progress(meter.now(fresh=True))
            if scheduler.pending:
                raise EngineError(
                    f"the engine left {scheduler.pending} requests unanswered: run again"
                )
            if growable is None or scheduler.stopped != "queries":
                break
            if not _grow(growable, store, prompts, target, budget):
                break
        if not counts.accepted:
            reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(counts.dropped.items()))
            raise InputError(
                f"no answer was accepted ({reasons or 'no request was made'}"
                f"{f'; the last failure: {failure}' if failure else ''}): "
                "check the model, the queries and the budget"
            )
        manifest = _manifest(store, plan, target, scheduler.stopped, source)
        return store.finish(manifest)


def _grow(
    queries: GrowableQueries, store: PairStore, prompts: PromptOptions, target: int, budget: Budget
) -> bool:
    """Generate the queries that the missing pairs probably need; return whether there are more."""
    before, finished, accepted = len(queries), len(store.row_ids), store.counts.accepted
    share = max(accepted / finished, _MIN_ACCEPTED_SHARE) if finished else 1.0
    more = math.ceil((target - accepted) / share / prompts.answers_per_query)
    return queries.ensure(before + more, budget=budget) > before


def _show_earlier_pairs(
    store: PairStore, filters: Sequence[Filter], saturation: Saturation | None
) -> None:
    """Pass the pairs of earlier runs to everything that compares new pairs with them."""
    stateful = [check for check in filters if isinstance(check, StatefulFilter)]
    if stateful:
        for query, answer in store.pairs():
            for check in stateful:
                check.remember(query, answer)
    if saturation is not None:
        saturation.remember(answer for _, answer in store.pairs())


def _manifest(
    store: PairStore, plan: dict[str, Any], target: int, stopped: str | None, queries: Queries
) -> Manifest:
    counts = store.counts
    details: dict[str, Any] = {
        "target": target,
        "tokens": counts.tokens,
        "prompt_tokens": counts.prompt_tokens,
        "cost_usd": counts.cost,
    }
    if counts.reasoning:
        details["reasoning_removed"] = counts.reasoning
    if isinstance(queries, GrowableQueries):
        tokens, dollars = queries.spent
        details["queries"] = {
            "written": len(queries),
            "dropped": queries.dropped,
            "tokens": tokens,
            "cost_usd": dollars,
        }
    if isinstance(queries, FileQueries) and queries.read:
        details["read"] = {"queries": queries.read}
    if store.earlier:
        names = ("pairs", "sampling", "filters")
        details["earlier_settings"] = [{n: each[n] for n in names} for each in store.earlier]
    if counts.accepted < target:
        details["stopped"] = stopped
    return Manifest(
        kind="cache",
        settings=plan,
        rows={"asked": counts.finished, "kept": counts.accepted},
        dropped={reason: n for reason, n in sorted(counts.dropped.items()) if n},
        details=details,
    )


PROBE_ROWS: Final = 50
"""Rows that `estimate` requests by default."""
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
    queries: QuerySource,
    folder: str | os.PathLike[str] | None = None,
    *,
    target: int,
    prompts: PromptOptions | None = None,
    seed: int = 0,
    token: str = DEFAULT_TOKEN,
    rows: int = PROBE_ROWS,
    **options: Any,
) -> RunEstimate:
    """Sample a few queries, drawn uniformly, and extrapolate to the whole run.

    Args:
        engine: Engine that answers.
        queries: The queries of the run, as for `sample`. If a model generates them, as many as the
            probe needs are generated.
        folder: The cache folder of the run. Generated queries are written there, and the run uses
            them; nothing else is written. A temporary folder if None.
        target: Number of pairs to accept.
        prompts: How a query becomes a prompt; by default its text alone.
        seed: Seed of the run.
        token: The special token, which no pair may contain.
        rows: Number of rows of the probe.
        **options: `sampling`, `turns` and `filters`, as for `sample`.

    Raises:
        InputError: There are no queries, the engine cannot write the user's turns, or every row
            of the probe was rejected.
        EngineError: The engine cannot answer.
    """
    prompts = prompts or PromptOptions()
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
        cache, progress = Path(temporary) / "cache", list[Progress]()
        manifest = sample(
            engine,
            QueryList(drawn),
            cache,
            target=len(drawn),
            prompts=replace(prompts, answers_per_query=1),
            seed=seed,
            token=token,
            on_progress=progress.append,
            **options,
        )
        usage = read_usage(cache)
    accepted = usage["accepted"]

    # The run takes `target` times what an accepted pair takes, its share of rejected rows included.
    resampled = np.random.default_rng(seed).integers(0, len(accepted), (_RESAMPLES, len(accepted)))
    share = np.maximum(accepted[resampled].mean(axis=1), 0.5 / len(accepted))

    def scale(values: np.ndarray[Any, Any]) -> Interval:
        totals = target * values[resampled].mean(axis=1) / share
        low, high = np.percentile(totals, _LEVEL)
        return Interval(float(low), target * float(values.mean() / accepted.mean()), float(high))

    tokens_of, costs = usage["tokens"], usage["cost"]
    hours_per_token = progress[-1].elapsed_s / max(tokens_of.sum(), 1.0) / 3600
    tokens_of = tokens_of + extra_tokens
    return RunEstimate(
        probed=len(accepted),
        kept=manifest.rows["kept"],
        rejected=manifest.dropped,
        target=target,
        available=None if growable else count * prompts.answers_per_query,
        rows=scale(np.ones(len(accepted))),
        prompt_tokens=scale(usage["prompt_tokens"]) if usage["prompt_tokens"].any() else None,
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
