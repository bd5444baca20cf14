"""The sampling loop: queries in, the model's own pairs out (paper, Algorithm 1).

asker ──▶ engine ──▶ filters ──▶ store
▲                     │          └──▶ journal, Parquet, manifest
└──── how many are kept
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from delia_data.engines.base import Completion, Engine, Sampling
from delia_data.errors import EngineError, InputError
from delia_data.outputs import Manifest, read_manifest
from delia_data.sampling.asker import Asked, Asker
from delia_data.sampling.asking import Asking, Limits, Spending
from delia_data.sampling.filters import (
    Described,
    Filter,
    Remembering,
    default_filters,
    empty,
    failed,
    names,
)
from delia_data.sampling.meter import Meter, Progress
from delia_data.sampling.queries import Queries, Query
from delia_data.sampling.query_list import QueryList
from delia_data.sampling.rows import Sampled
from delia_data.sampling.store import PairStore
from delia_data.tokens import DEFAULT_TOKEN

if TYPE_CHECKING:
    from delia_data.sampling.coverage import Saturation

_PROGRESS_S: Final = 0.25
_LEAST_SHARE: Final = 0.1  # of answers that are kept; lower ones are not believed


@runtime_checkable
class Growing(Protocol):
    """Queries of which more can be had, in the same order; the engine may be what writes them."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    @property
    def spent(self) -> tuple[int, float]:
        """Tokens and dollars that they took so far."""
        ...

    @property
    def dropped(self) -> dict[str, int]:
        """How many texts were not taken as queries, by reason."""
        ...

    def ensure(self, count: int, *, spending: Spending | None = None) -> int:
        """See to it that there are so many, within a budget; give how many there are."""
        ...


def sample(
    engine: Engine,
    queries: Queries | Sequence[Query],
    folder: str | os.PathLike[str],
    *,
    target: int,
    sampling: Sampling | None = None,
    seed: int = 0,
    token: str = DEFAULT_TOKEN,
    asking: Asking | None = None,
    filters: Sequence[Filter] | None = None,
    limits: Limits | None = None,
    saturation: Saturation | None = None,
    keep_rejected: bool = False,
    begin_from: str | os.PathLike[str] | None = None,
    extend: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Manifest:
    """Sample pairs from a model into a cache folder, until `target` of them are kept.

    A rejected pair is replaced by the next query's. A run that was killed goes on where it
    stopped when it is called again, and a finished cache grows when it is called with a higher
    target: what is on disk is never asked for again.

    Args:
        engine: What answers.
        queries: What is asked, in order; equal ones once.
        folder: The cache folder.
        target: Pairs to keep.
        sampling: How answers are drawn.
        seed: Seed of the run; each row's own follows from it and the query's text.
        token: The special token, which no pair may name.
        asking: How a query is put to the model: its text alone where not given.
        filters: What says why a pair is not kept; `default_filters` where not given. A request
            that failed, an empty answer and one that names the token are never kept.
        limits: What may be spent, and how much may fail.
        saturation: Where given, ends the run when new pairs say nothing new.
        keep_rejected: Write the texts of rejected pairs too, and not their reasons alone.
        begin_from: A finished cache, with whose pairs a new one begins; `"bundled"` is the one that
            comes with the package. The settings must be its own (`read_plan`).
        extend: Go on with other queries than those that the cache was begun with.
        on_progress: Called a few times a second, at the beginning and at the end.

    Returns:
        The finished cache's manifest. Where fewer pairs than the target are kept, its
        `details["stopped"]` says why: the `"queries"` ran out, the `"budget"` is spent, or the
        cache is `"saturated"`.

    Raises:
        InputError: No pair was kept, a query is empty, or a limit cannot be held.
        SettingsError: The folder was begun with other settings.
        EngineError: The engine cannot answer any more, or too many requests failed.
        OutputError: The disk is full or gone.
    """
    if target < 1:
        raise InputError(f"target {target} is too few pairs: give at least 1")
    sampling, asking, limits = sampling or Sampling(), asking or Asking(), limits or Limits()
    filters = default_filters(token) if filters is None else filters
    checks = (failed, empty, names(token), *filters)
    if not hasattr(queries, "describe"):
        queries = QueryList(queries)
    plan = {
        **engine.describe(),
        "sampling": asdict(sampling),
        "asking": asdict(asking),
        "filters": [_described(check) for check in filters],
        "queries": queries.describe(),
        "seed": seed,
        "token": token,
    }
    spending = Spending(limits, engine.prices)
    with PairStore.open(folder, plan, begin_from=begin_from, extend=extend) as store:
        if store.finished and store.kept >= target:
            return read_manifest(folder)
        if limits.dollars is not None and store.cost is None:
            raise InputError(
                f"{folder} holds rows whose price is not known, so that no budget in dollars can "
                "be kept: give a budget in tokens, or sample into another folder"
            )
        store.begin()
        _remember(filters, saturation, store)
        spending.add(store.tokens + store.prompt_tokens, store.cost or 0.0)
        if isinstance(queries, Growing):
            spending.add(*queries.spent)
        run = _Run(engine, sampling, checks, store, saturation, on_progress)
        while True:
            asker = Asker(
                queries,
                asking,
                store,
                target=target,
                seed=seed,
                max_tokens=sampling.max_tokens,
                spending=spending,
                limits=limits,
            )
            run.take(asker)
            if asker.stopped != "queries" or not _grown(queries, asking, store, target, spending):
                break
        if not store.kept:
            reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(store.dropped.items()))
            raise InputError(
                f"none of the answers was kept ({reasons or 'nothing was asked'}"
                f"{f'; the last failure: {run.failure}' if run.failure else ''}): "
                "look at the model, the queries and the budget"
            )
        return store.finish(
            _manifest(store, plan, target, asker, queries), keep_rejected=keep_rejected
        )


class _Run:
    """What happens to the completions of one call."""

    def __init__(
        self,
        engine: Engine,
        sampling: Sampling,
        checks: Sequence[Filter],
        store: PairStore,
        saturation: Saturation | None,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.failure: str | None = None  # of the last row that failed
        self._engine = engine
        self._sampling = sampling
        self._checks = checks
        self._store = store
        self._saturation = saturation
        self._on_progress = on_progress
        self._meter = Meter(
            kept=store.kept,
            rejected=store.dropped,
            novelty=None if saturation is None else lambda: saturation.novelty,
        )

    def take(self, asker: Asker) -> None:
        """Take completions until no more is asked."""
        shown = time.monotonic()
        self._on_progress(self._meter.now())
        for completion in self._engine.generate(asker.requests(), self._sampling):
            asked = asker.settle(completion)
            if asked is None:
                continue
            row = judged(asked, completion, self._checks)
            self._store.append([row])
            self._meter.add([row])
            self.failure = row.error or self.failure
            if row.rejected is None:
                asker.kept += 1
                self._watch(row, asker)
            if (now := time.monotonic()) - shown >= _PROGRESS_S:
                shown = now
                self._on_progress(self._meter.now())
        self._on_progress(self._meter.now(fresh=True))
        if asker.unanswered:
            raise EngineError(
                f"the engine left {asker.unanswered} requests unanswered: mend it and run again"
            )

    def _watch(self, row: Sampled, asker: Asker) -> None:
        """End the run where what it keeps says nothing new."""
        if self._saturation is not None:
            self._saturation.add([row.answer])
            if self._saturation.saturated:
                asker.stop("saturated")


def _grown(
    queries: Queries, asking: Asking, store: PairStore, target: int, spending: Spending
) -> bool:
    """Let the model write more queries, where it can; tell whether there are more."""
    if not isinstance(queries, Growing):
        return False
    before, asked = len(queries), len(store.asked)
    share = max(store.kept / asked, _LEAST_SHARE) if asked else 1.0
    more = math.ceil((target - store.kept) / share / asking.answers_per_query)
    return queries.ensure(before + more, spending=spending) > before


def judged(asked: Asked, completion: Completion, filters: Sequence[Filter]) -> Sampled:
    """Say of a completion whether it is kept.

    Args:
        asked: What was asked.
        completion: What came of it.
        filters: What says why not; the first reason counts.
    """
    text = completion.text
    if not text.isascii():  # half of a character has no place in a file
        text = text.encode("utf-8", "replace").decode("utf-8")
    reasons = (reason for check in filters if (reason := check(asked.query, completion)))
    return Sampled(
        asked.number,
        asked.request.id,
        asked.query,
        text,
        completion.tokens,
        completion.prompt_tokens,
        completion.cost,
        next(reasons, None),
        completion.error,
    )


def _remember(filters: Sequence[Filter], saturation: Saturation | None, store: PairStore) -> None:
    """Show what earlier runs kept to whatever compares new pairs with it."""
    remembering = [check for check in filters if isinstance(check, Remembering)]
    if remembering:
        for query, answer in store.pairs():
            for check in remembering:
                check.remember(query, answer)
    if saturation is not None:
        saturation.remember(answer for _, answer in store.pairs())


def _described(check: Filter) -> Any:
    if isinstance(check, Described):
        return check.describe()
    return getattr(check, "__name__", type(check).__name__)


def _manifest(
    store: PairStore, plan: dict[str, Any], target: int, asker: Asker, queries: Queries
) -> Manifest:
    details: dict[str, Any] = {
        "target": target,
        "tokens": store.tokens,
        "prompt_tokens": store.prompt_tokens,
        "cost_usd": store.cost,
    }
    if isinstance(queries, Growing):
        tokens, dollars = queries.spent
        details["queries"] = {
            "written": len(queries),
            "dropped": queries.dropped,
            "tokens": tokens,
            "cost_usd": dollars,
        }
    if store.kept < target:
        details["stopped"] = asker.stopped
    dropped = {reason: n for reason, n in sorted(store.dropped.items()) if n}
    return Manifest(
        kind="cache",
        settings=plan,
        rows={"asked": store.kept + sum(dropped.values()), "kept": store.kept},
        dropped=dropped,
        details=details,
    )
