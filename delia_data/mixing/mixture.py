"""Task rows and cached pairs in one fixed order: the mixture (paper, Algorithm 1, step 4).

    task rows ───────────────────────────────┐
                                             ├──▶ keyed order ──▶ mixture
    cache ──▶ keyed rank ──▶ ratio x rows ───┘

A mixture is a pure function of the rows' contents and the settings: which pairs are taken and
where each row stands follow from a hash of the row's content id and the seed.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from delia_data.bundled_cache import BUNDLED, cache_path, is_bundled
from delia_data.errors import FormatError, InputError, RatioError
from delia_data.mixing.engine import Spill
from delia_data.mixing.options import MESSAGES, MixOptions, OnShort, Order, Select, schema
from delia_data.mixing.plan import Picked, Plan, convert
from delia_data.mixing.sources import Pairs
from delia_data.mixing.survey import Survey, ngrams, survey
from delia_data.mixing.task_rows import Rows, TaskRow, TaskRows, as_task_rows, check_token
from delia_data.mixing.writers import writers_of
from delia_data.outputs import Manifest, canonical_json
from delia_data.ranking import rank
from delia_data.records import Format, Record, write_record
from delia_data.tokens import DEFAULT_TOKEN


class Mixture:
    """A mixture: its accounting at once, its rows when they are asked for.

    Attributes:
        plan: What the training rows follow from; it can be sent to another process.
        test: Held-out task rows as a table, pairs are never among them; None where there are none.
        manifest: What it was made from, and the accounting.
        spill: Temporary files that the plan reads; they go with the last reference to them.
    """

    def __init__(
        self, plan: Plan, test: pa.Table | None, manifest: Manifest, spill: Spill | None = None
    ) -> None:
        """Keep what `mix` found.

        Args:
            plan: What the training rows follow from.
            test: Held-out rows.
            manifest: The accounting.
            spill: Temporary files that the plan reads.
        """
        self.plan = plan
        self.test = test
        self.manifest = manifest
        self.spill = spill

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Give the training rows in their order, a batch at a time; memory stays bounded.

        Raises:
            FormatError: The format cannot hold a row.
        """
        return self.plan.stream()

    @cached_property
    def train(self) -> pa.Table:
        """The training rows as one table in memory."""
        return pa.Table.from_batches(self.batches(), schema(self.plan.options.format))


def mix(
    task: Rows | Mapping[str, Rows],
    cache: Pairs | Mapping[str, Pairs],
    *,
    ratio: float,
    seed: int = 0,
    test: Sequence[TaskRow] | None = None,
    order: Order = "shuffled",
    on_short: OnShort = "error",
    select: Select = "uniform",
    format: Format = "messages",
    token: str | None = DEFAULT_TOKEN,
    task_weights: Mapping[str, float] | None = None,
    cache_weights: Mapping[str, float] | None = None,
    decontaminate: bool = False,
) -> Mixture:
    """Mix pairs of the cache with the task rows, `ratio` of them for each.

    Exactly `round(ratio * task rows)` pairs are taken. Exact duplicates are dropped, as are pairs
    that equal a task row, held-out ones too, or name a special token; the next in rank takes the
    place of each. A training row that equals a held-out one is dropped too, and the ratio is that
    of the rows that remain.

    Args:
        task: Task rows in their wordings: rows, a `Dataset`, a task folder, or a file or glob in
            any row format; or several such, by name.
        cache: The pairs: records or rows, a `Dataset` or `IterableDataset`, a cache folder, a
            folder of shards, a file or glob (`.jsonl`, `.json`, `.parquet`, `.arrow`, `.csv`), or
            a Hub id; or several such, by name. `"bundled"` is the cache that comes with the
            package.
        ratio: Pairs for each task row; fractions work, 0 is the task alone.
        seed: Seed of selection and order.
        test: Held-out rows of the task; those of its folder when not given.
        order: `"shuffled"`: all together. `"interleaved"`: a task row, then its pairs, as
            Algorithm 1 writes it.
        on_short: What to do where the cache is too small: `"error"`, take `"all"` that there
            are, or `"repeat"` the cache.
        select: How pairs are chosen: `"uniform"`, every pair alike.
        format: Row format of the result.
        token: The special token of tasks that do not say their own, as task folders do; None for
            a task that has none. Every task row must name its token, a held-out one too.
        task_weights: Multiples of each named task's rows: 2.0 takes every row twice, 0.5 half of
            them; 1.0 for a task that is not named.
        cache_weights: Shares of the pairs that come from each named cache, relative to each
            other; 1.0 for a cache that is not named.
        decontaminate: Drop pairs that share 13 words in a row with a held-out row.

    Returns:
        The mixture.

    Raises:
        RatioError: The ratio is wrong, or the cache is too small for it.
        TokenError: A task row does not name its token.
        InputError: There are no task rows, an input cannot be read, or a choice is unknown.
        FormatError: A row is in no known format, or the format is unknown or cannot hold a row.
    """
    options = MixOptions(ratio, seed, order, on_short, select, format, decontaminate)
    tasks = {name: as_task_rows(given, token) for name, given in _named(task, "task").items()}
    held_out = [row for rows in tasks.values() for row in rows.test] if test is None else [*test]
    known = {row.record.id for row in held_out}
    train = [[r for r in rows.train if r.record.id not in known] for rows in tasks.values()]
    taken = [
        row
        for rows, weight in zip(train, _weights("task", tasks, task_weights), strict=True)
        for row in _times(rows, weight, seed)
    ]
    if not taken:
        raise InputError("the task has no training rows that are not held out: give at least one")
    for rows in tasks.values():
        check_token(rows.train, [rows.token] if rows.token else [])
    tokens = tuple(sorted({rows.token for rows in tasks.values() if rows.token}))
    if all(rows.token for rows in tasks.values()):
        check_token(held_out, tokens, "held-out rows")
    spill = Spill()
    caches = named_caches(cache)
    wanted = round(options.ratio * len(taken))
    shares = _shares(wanted, _weights("cache", caches, cache_weights))
    surveys = _surveys(caches, shares, spill.path, options, tokens, tasks, held_out)
    _check_turns(options.format, [row.record for _, row in taken], surveys)
    picked = [
        _picked(found, name, share, options, len(taken), bundled=is_bundled(caches[name]))
        for (name, found), share in zip(surveys.items(), shares, strict=True)
    ]
    pairs = sum(count for _, count in picked)
    plan = Plan(options, tokens, _task_table(taken), tuple(cache for cache, _ in picked), pairs)
    manifest = Manifest(
        kind="mixture",
        settings={
            "ratio": options.ratio,
            "seed": seed,
            "order": order,
            "on_short": on_short,
            "format": format,
            "select": select,
            "token": tokens[0] if len(tokens) == 1 else list(tokens) or None,
            **({"decontaminate": True} if decontaminate else {}),
            **({"task_weights": dict(task_weights)} if task_weights else {}),
            **({"cache_weights": dict(cache_weights)} if cache_weights else {}),
        },
        inputs={
            **_hashes("task", {n: _rows_hash(r.train) for n, r in tasks.items()}),
            "test": _rows_hash(held_out),
            **_hashes("cache", {name: found.content for name, found in surveys.items()}),
        },
        rows={"task": len(taken), "cache": pairs, "test": len(held_out)},
        dropped=dict(sorted(_dropped(tasks, train, surveys).items())),
        details={"written_by": written} if (written := writers_of(caches)) else {},
    )
    return Mixture(plan, _test_table(held_out, options), manifest, spill)


def named_caches(given: Any) -> dict[str, Any]:
    """The caches that were given, by name; the bundled one by its folder."""
    return {name: cache_path(each) for name, each in _named(given, "cache").items()}


def _named(given: Any, name: str) -> Mapping[str, Any]:
    """One input under its own name, or several under theirs."""
    return given if isinstance(given, Mapping) else {name: given}


def _weights(
    kind: str, names: Mapping[str, Any], weights: Mapping[str, float] | None
) -> list[float]:
    """A weight for each name, 1.0 where none is given.

    Raises:
        InputError: A weight is no number of at least 0, or names nothing.
    """
    given = dict(weights or {})
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise InputError(f"{kind}_weights name {', '.join(unknown)}: there are {', '.join(names)}")
    for name, weight in given.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight < 0:
            raise InputError(
                f"{kind}_weights[{name!r}] is {weight!r}: give a number of at least 0, such as 2.0"
            )
    return [float(given.get(name, 1.0)) for name in names]


def _times(rows: Sequence[TaskRow], weight: float, seed: int) -> list[tuple[int, TaskRow]]:
    """Take rows a multiple of times: all as often as fits, and the first in rank once more."""
    count = round(weight * len(rows))
    whole, rest = divmod(count, len(rows)) if rows else (0, 0)
    ranked = sorted(rows, key=lambda row: (rank(seed, _row_key(row), "select"), _row_key(row)))
    again = [(i, row) for i in range(whole) for row in rows]
    return [*again, *((whole, row) for row in ranked[:rest])]


def _check_turns(format: Format, task: Sequence[Record], surveys: Mapping[str, Survey]) -> None:
    """Refuse a format that has columns for one question and its answer alone."""
    if format != "alpaca":
        return
    longer = [name for name, found in surveys.items() if found.longer]
    if any(len(record.messages) != 2 for record in task):
        longer.append("task")
    if longer:
        raise FormatError(
            f"the {' and the '.join(longer)} has system turns or earlier ones, for which a mixture "
            "in the format 'alpaca' has no column: use format 'messages'"
        )


def _dropped(
    tasks: Mapping[str, TaskRows],
    train: Sequence[Sequence[TaskRow]],
    surveys: Mapping[str, Survey],
) -> Counter[str]:
    """Rows that are not in the mixture, by reason."""
    dropped = sum((found.dropped for found in surveys.values()), Counter[str]())
    held_out = sum(len(rows.train) for rows in tasks.values()) - sum(map(len, train))
    return dropped + Counter({"task_row_is_held_out": held_out})


def _surveys(
    caches: Mapping[str, Pairs],
    shares: Sequence[int],
    spill: Path,
    options: MixOptions,
    tokens: tuple[str, ...],
    tasks: Mapping[str, Any],
    held_out: Sequence[TaskRow],
) -> dict[str, Survey]:
    records = [row.record for rows in tasks.values() for row in rows.train]
    records += [row.record for row in held_out]
    of_test = [turn.content for row in held_out for turn in row.record.messages]
    surveys: dict[str, Survey] = {}
    for number, ((name, given), share) in enumerate(zip(caches.items(), shares, strict=True)):
        surveys[name] = survey(
            given,
            f"cache_{number}",
            spill,
            seed=options.seed,
            tokens=tokens,
            task=records,
            wanted=share,
            ngrams_of_test=ngrams(of_test) if options.decontaminate else frozenset(),
            earlier=tuple(surveys.values()),
        )
    return surveys


def _shares(wanted: int, weights: Sequence[float]) -> list[int]:
    """Cut a number in proportion to weights; the parts add up to it."""
    total = sum(weights)
    if total <= 0:
        raise InputError("cache_weights are all 0: give at least one that is more")
    bounds = [round(wanted * sum(weights[:i]) / total) for i in range(len(weights) + 1)]
    return [high - low for low, high in pairwise(bounds)]


def _picked(
    found: Survey, name: str, wanted: int, options: MixOptions, task_rows: int, *, bundled: bool
) -> tuple[Picked, int]:
    """What is taken of a cache, and how many pairs that is."""
    usable = len(found.ranks)
    if wanted > usable and (options.on_short == "error" or not usable):
        share = usable / task_rows if wanted else 0.0
        grow = f" (delia sample my-cache --from {BUNDLED} --target {math.ceil(1.01 * wanted)})"
        raise RatioError(
            f"ratio {options.ratio:.15g} of {task_rows} task rows needs {wanted} pairs, and the "
            f"{name} holds {usable} usable ones: sample more{grow if bundled else ''}, "
            f"lower the ratio to {math.floor(1e4 * share) / 1e4:.15g}, or set on_short "
            "(--on-short) to 'all' or 'repeat'"
        )
    if options.on_short == "all":
        wanted = min(wanted, usable)
    whole, rest = divmod(wanted, usable) if usable else (0, 0)
    counts = [usable] * whole + ([rest] if rest else [])
    thresholds = tuple(found.threshold(count) for count in counts)
    kept = [found.kept] if found.kept and counts else []
    kept += [found.kept.again(options.seed, i) for i in range(1, len(counts)) if found.kept]
    return Picked(thresholds, found.excluded, found.repeated, tuple(kept)), wanted


def _task_table(rows: Sequence[tuple[int, TaskRow]]) -> pa.Table:
    return pa.table(
        {
            "messages": pa.array([write_record(r.record)["messages"] for _, r in rows], MESSAGES),
            "id": [row.record.id for _, row in rows],
            "wording_id": pa.array([row.wording_id for _, row in rows], pa.string()),
            "repetition": pa.array([number for number, _ in rows], pa.int64()),
        }
    )


def _test_table(rows: Sequence[TaskRow], options: MixOptions) -> pa.Table | None:
    if not rows:
        return None
    placed = sorted(rows, key=lambda row: (rank(options.seed, _row_key(row)), _row_key(row)))
    columns = {
        "messages": pa.array([write_record(row.record)["messages"] for row in placed], MESSAGES),
        "source": ["task"] * len(placed),
        "source_id": [row.record.id for row in placed],
        "wording_id": pa.array([row.wording_id for row in placed], pa.string()),
    }
    batch = pa.RecordBatch.from_pydict(columns)
    return pa.Table.from_batches([convert(batch, options.format)])


def _row_key(row: TaskRow) -> str:
    return f"{row.record.id}:{row.wording_id or ''}"


def _rows_hash(rows: Sequence[TaskRow]) -> str:
    """Hash of a set of rows: the same whatever their order."""
    return hashlib.sha256(canonical_json(sorted(_row_key(row) for row in rows))).hexdigest()


def _hashes(kind: str, by_name: Mapping[str, str]) -> dict[str, str]:
    if list(by_name) == [kind]:
        return dict(by_name)
    return {f"{kind}:{name}": digest for name, digest in by_name.items()}
