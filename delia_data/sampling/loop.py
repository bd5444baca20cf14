"""The sampling loop: queries in, the model's own pairs out (paper, Algorithm 1)."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

from delia_data._batches import batches
from delia_data.engines.base import Completion, Engine, Request, Sampling
from delia_data.errors import EngineError, InputError
from delia_data.manifest import Manifest, is_finished, read_manifest
from delia_data.ranking import row_seed
from delia_data.records import Message, content_id
from delia_data.sampling.filters import Filter, default_filters
from delia_data.sampling.queries import Query
from delia_data.sampling.store import PairStore, Sampled
from delia_data.tokens import DEFAULT_TOKEN

__all__ = ["query_id", "sample"]

_WATCHED: Final = 32  # latest requests, of which more than half failing means a dead engine


def query_id(query: str) -> str:
    """Content id of a query: 32 hexadecimal digits."""
    return content_id([Message("user", query)])


def sample(
    engine: Engine,
    queries: Sequence[Query],
    folder: str | os.PathLike[str],
    *,
    target: int,
    sampling: Sampling | None = None,
    seed: int = 0,
    token: str = DEFAULT_TOKEN,
    group: int = 32,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Manifest:
    """Sample pairs from a model into a cache folder, until `target` of them are kept.

    A rejected pair is replaced by the next query's. A killed run goes on where it stopped when
    it is called again: what is on disk is never asked for again.

    Args:
        engine: What answers.
        queries: What is asked, in order; each at most once.
        folder: The cache folder.
        target: Pairs to keep.
        sampling: How answers are drawn.
        seed: Seed of the run; each query's own follows from it and the query's text.
        token: The special token, which no pair may name.
        group: Finished requests that are written to disk together.
        on_progress: Called with the number of pairs kept so far.

    Returns:
        The finished cache's manifest.

    Raises:
        InputError: A query is empty, there are too few to ever reach the target, or they ran out.
        SettingsError: The folder was begun with other settings.
        EngineError: More than half of the latest 32 requests failed, or none was answered.
    """
    sampling = sampling or Sampling()
    distinct = list({query.text: query for query in queries}.values())
    if target < 1:
        raise InputError(f"target {target} is too few pairs: give at least 1")
    if len(distinct) < target:
        raise InputError(
            f"{len(distinct)} distinct queries cannot give {target} pairs: "
            "give more queries, or a lower target"
        )
    if any(not query.text.strip() for query in distinct):
        raise InputError("a query is empty: fill it or drop it")
    plan = {
        **engine.describe(),
        "sampling": asdict(sampling),
        "seed": seed,
        "target": target,
        "token": token,
    }
    with PairStore.open(folder, plan) as store:
        if is_finished(folder):
            return read_manifest(folder)
        filters = default_filters(token)
        latest: deque[Completion] = deque(maxlen=_WATCHED)
        on_progress(len(store.kept))
        while len(store.kept) < target:
            missing = target - len(store.kept)
            wave = _next_queries(distinct, store, missing)
            if not wave:
                raise InputError(
                    f"the queries ran out at {len(store.kept)} of {target} pairs "
                    f"({_counts(store)} rejected): give more queries; what is sampled stays"
                )
            texts = {query_id(query.text): query.text for query in wave}
            requests = (_request(query, seed) for query in wave)
            before = len(store.sampled)
            for completions in batches(engine.generate(requests, sampling), group):
                latest.extend(completions)
                dead = _is_dead(latest)
                answered = [c for c in completions if not dead or c.finish != "error"]
                store.append(_sampled(answered, texts, filters))
                on_progress(len(store.kept))
                if dead:
                    raise EngineError(_failures(latest))
            if len(store.sampled) == before:
                raise EngineError(f"the engine answered none of {len(wave)} requests: mend it")
        return _finish(store, plan, target)


def _next_queries(queries: Sequence[Query], store: PairStore, count: int) -> list[Query]:
    """The next queries that were not asked yet."""
    asked = {row.query_id for row in store.sampled}
    waiting = (query for query in queries if query_id(query.text) not in asked)
    return [query for query, _ in zip(waiting, range(count), strict=False)]


def _request(query: Query, seed: int) -> Request:
    row_id = query_id(query.text)
    return Request(row_id, (Message("user", query.text),), row_seed(seed, row_id, "sample"))


def _sampled(
    completions: Sequence[Completion], texts: dict[str, str], filters: Sequence[Filter]
) -> Iterator[Sampled]:
    for completion in completions:
        query = texts[completion.id]
        reasons = (reason for check in filters if (reason := check(query, completion)))
        yield Sampled(completion.id, query, completion.text, completion.tokens, next(reasons, None))


def _is_dead(latest: Sequence[Completion]) -> bool:
    failed = sum(1 for completion in latest if completion.finish == "error")
    return len(latest) == _WATCHED and failed * 2 > len(latest)


def _failures(latest: Sequence[Completion]) -> str:
    errors = [completion.error for completion in latest if completion.finish == "error"]
    return (
        f"{len(errors)} of the latest {len(latest)} requests failed ({errors[-1]}): "
        "mend the engine and run again; what is sampled stays"
    )


def _finish(store: PairStore, plan: dict[str, Any], target: int) -> Manifest:
    kept = store.kept[:target]
    manifest = Manifest(
        kind="cache",
        settings=plan,
        rows={"asked": len(store.sampled), "kept": len(kept)},
        dropped=dict(sorted(store.dropped.items())),
        details={"tokens": sum(row.tokens for row in kept)},
    )
    return store.finish(manifest, kept)


def _counts(store: PairStore) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in sorted(store.dropped.items())) or "none"
