"""Task rows and cached pairs in one fixed order: the mixture (paper, Algorithm 1, step 4).

    task rows, contrast rows ────────────────┐
                                             ├──▶ keyed order ──▶ mixture
    cache ──▶ keyed rank ──▶ ratio x rows ───┘

With several epochs, epoch k takes the pairs of ranks k * ratio x rows to (k + 1) * ratio x rows,
and has its own order.

A mixture is a pure function of the rows' contents and the settings. It is stored as an array of row
numbers; rows are read on demand.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from delia_data.bundled_cache import BUNDLED, cache_path, is_bundled
from delia_data.errors import FormatError, InputError, RatioError
from delia_data.mixing.options import (
    TEACHER_MESSAGES,
    MixOptions,
    OnShort,
    Order,
    Pairs,
    schema,
    template_column,
)
from delia_data.mixing.store import (
    SCHEMA,
    CacheRows,
    Numbers,
    binary_ids,
    hex_of,
    hex_texts,
    ngrams,
    open_cache,
    take_in_windows,
)
from delia_data.mixing.task_rows import (
    ContrastRow,
    Rows,
    TaskRow,
    TaskRows,
    as_task_rows,
    check_token,
)
from delia_data.outputs import Manifest, canonical_json, is_finished, read_manifest
from delia_data.ranking import md5, rank
from delia_data.reading import MESSAGES
from delia_data.records import Format, content_id, read_record, write_record
from delia_data.tokens import DEFAULT_TOKEN, split_tokens

_BATCH = 10_000
_SOURCES = ("task", "cache", "contrast")
_Row = TypeVar("_Row", bound=TaskRow | ContrastRow)


@dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture: its manifest, and rows that are read on demand.

    A pickled copy has row numbers, and reads the rows from the same files.

    Attributes:
        manifest: Inputs with hashes, settings, row counts and counts of dropped rows.
        test: Held-out task rows; None if the task has none.
        format: Row format of the training rows.
        task: Training rows of the task, then its contrast rows; columns `messages` and `id`.
        wordings: Wording id of each row in `task`; null for contrast rows and for a task without
            wordings.
        caches: The caches.
        rows: Row numbers in the mixture's order, counted through the task and then the caches.
        teachers: Turns that the teacher sees of each row of `task`; null for a row without a
            teacher. None if no row has one.
        task_rows: Number of rows of `task` before the contrast rows.
    """

    manifest: Manifest
    test: pa.Table | None
    format: Format
    task: pa.RecordBatch = field(repr=False)
    wordings: pa.StringArray = field(repr=False)
    caches: tuple[CacheRows, ...] = field(repr=False)
    rows: Numbers = field(repr=False)
    teachers: pa.ListArray | None = field(default=None, repr=False)
    task_rows: int = 0

    @property
    def schema(self) -> pa.Schema:
        """Columns of the rows."""
        taught = self.teachers is not None
        return schema(self.format, taught=taught, template_options=self._template_options)

    @property
    def _template_options(self) -> Mapping[str, Any] | None:
        return self.manifest.settings.get("template_options")

    @property
    def num_rows(self) -> int:
        """Number of training rows."""
        return len(self.rows)

    def batches(self, begin: int = 0, end: int | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the training rows in order, in bounded memory.

        Args:
            begin: Position of the first row.
            end: Position after the last row; by default the end.

        Raises:
            FormatError: The format cannot represent a row.
        """
        batches = [self.task, *(batch for cache in self.caches for batch in cache.batches)]
        for numbers, window in take_in_windows(batches, self.rows[begin:end]):
            of_cache = numbers >= self.task.num_rows
            sources = np.where(of_cache, 1, np.where(numbers >= self.task_rows, 2, 0))
            in_task, taught = pa.array(numbers, mask=of_cache), {}
            if self.teachers is not None:
                taught[TEACHER_MESSAGES] = self.teachers.take(in_task)
            columns = {
                "messages": window["messages"],
                "source": pa.array(_SOURCES).take(pa.array(sources)),
                "source_id": hex_texts(window["id"]),
                "wording_id": self.wordings.take(in_task),
                **taught,
            }
            whole = pa.RecordBatch.from_pydict(columns)
            for start in range(0, whole.num_rows, _BATCH):
                yield convert(whole.slice(start, _BATCH), self.format, self._template_options)

    @cached_property
    def train(self) -> pa.Table:
        """The training rows as one table in memory."""
        return pa.Table.from_batches(self.batches(), self.schema)

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}


def mix(
    task: Rows | Mapping[str, Rows],
    cache: Pairs | Mapping[str, Pairs],
    *,
    ratio: float,
    seed: int = 0,
    test: Sequence[TaskRow] | None = None,
    order: Order = "shuffled",
    on_short: OnShort = "error",
    format: Format = "messages",
    token: str | None = DEFAULT_TOKEN,
    task_weights: Mapping[str, float] | None = None,
    cache_weights: Mapping[str, float] | None = None,
    decontaminate: bool = False,
    strict: bool = False,
    epochs: int = 1,
    epoch: int | None = None,
    contrast: float | None = None,
    template_options: Mapping[str, Any] | None = None,
) -> Mixture:
    """Mix task rows with `ratio` pairs per row.

    The mixture has exactly `round(ratio * task rows)` pairs. Duplicates, pairs that equal a task
    row (training or held-out) and pairs that name a special token are dropped; each is replaced by
    the next pair in rank. A training row that equals a held-out row is dropped too, and the ratio
    applies to the remaining rows. Contrast rows of a task folder are added, and do not change the
    number of pairs.

    Args:
        task: Task rows in their wordings: rows, a `Dataset`, a task folder, or a file or glob in
            any row format; or several of these by name.
        cache: The pairs: records or rows, a `Dataset` or `IterableDataset`, a cache folder, a
            folder of shards, a file or glob (`.jsonl`, `.json`, `.parquet`, `.arrow`, `.csv`), or
            a Hub id; or several of these by name. `"bundled"` is the bundled cache.
        ratio: Pairs per task row; may be a fraction, 0 is the task alone.
        seed: Seed of selection and order.
        test: Held-out rows of the task; by default those of its folder.
        order: `"shuffled"`, or `"interleaved"`: a task row, then its pairs, as in Algorithm 1.
        on_short: Action if the cache is too small: `"error"`, take `"all"` pairs, or `"repeat"`
            the cache.
        format: Row format of the result.
        token: Special token of tasks other than task folders, which name their own; None for a
            task without one. Every task row, training or held-out, must name its token.
        task_weights: Multiple of the rows of each named task: 2.0 takes every row twice, 0.5 half
            of them. Default: 1.0.
        cache_weights: Relative share of the pairs from each named cache. Default: 1.0.
        decontaminate: Drop pairs that share 13 consecutive words with a held-out row.
        strict: Refuse rows of a cache with tools, images, audio, a negative label, a weight of 0,
            a preference or reasoning. By default they are dropped or changed, and counted.
        epochs: Number of consecutive epochs. Each has all task and contrast rows. Epoch `k` has
            the next pairs in rank after those of epoch `k - 1`, and its own order. Epoch 0 equals
            the mixture of one epoch.
        epoch: Index of a single epoch to mix, instead of `epochs`.
        contrast: Contrast rows per task row in each epoch. Epoch `k` has those after the ones of
            epoch `k - 1`, and starts again where they run out. Default: all of them in each epoch.
        template_options: Options of the chat template by name. Every row has them in the column
            `chat_template_kwargs`, which TRL passes to the template.

    Returns:
        The mixture.

    Raises:
        RatioError: The ratio is wrong, or there are too few pairs or contrast rows for it.
        TokenError: A task row does not name its token.
        InputError: There are no task rows, an input cannot be read, or an option is unknown.
        FormatError: The format of a row is unknown, or `format` is unknown or cannot represent a
            row.
    """
    options = MixOptions(
        ratio,
        seed,
        order,
        on_short,
        format,
        decontaminate,
        strict,
        epochs,
        epoch,
        contrast,
        template_options,
    )
    seed = options.seed
    tasks = {name: as_task_rows(given, token) for name, given in _named(task, "task").items()}
    held_out = [row for rows in tasks.values() for row in rows.test] if test is None else [*test]
    held_out_ids = {row.record.id for row in held_out}
    train = [[r for r in rows.train if r.record.id not in held_out_ids] for rows in tasks.values()]
    near = [[r for r in rows.contrast if r.task_row not in held_out_ids] for rows in tasks.values()]
    weights = _weights("task", tasks, task_weights)
    of_tasks, near_tasks = _weighted(train, weights, seed), _weighted(near, weights, seed)
    taken, contrasting = [*chain(*of_tasks)], [*chain(*near_tasks)]
    if not taken:
        raise InputError("the task has no training rows that are not held out: give at least one")
    tokens = _check_tokens(tasks.values(), held_out)
    caches = named_caches(cache)
    stored = {name: open_cache(given, strict) for name, given in caches.items()}
    wanted = round(options.ratio * len(taken))
    shares = _shares(wanted, _weights("cache", caches, cache_weights))
    task_rows = [row for rows in tasks.values() for row in rows.train]
    every_contrast = [row for rows in tasks.values() for row in rows.contrast]
    task_ids = {row.record.id for row in (*task_rows, *held_out)}
    task_ids |= {row.record.id for row in every_contrast}
    usable: dict[str, Usable] = {}
    for name, opened in stored.items():
        usable[name] = usable_pairs(
            opened,
            seed=seed,
            tokens=split_tokens(*tokens),
            task_ids=task_ids,
            test_ngrams=ngrams(_texts(held_out)) if decontaminate else frozenset(),
            earlier=[other.ids for other in usable.values()],
        )
    if options.format == "alpaca":
        _check_turns([*_rows_of(taken), *_rows_of(contrasting)], stored)
    limits = [
        _limit(pairs, name, share, options, len(taken), bundled=is_bundled(caches[name]))
        for (name, pairs), share in zip(usable.items(), shares, strict=True)
    ]
    ranks = {
        number: [
            range(min(number * share, limit), min((number + 1) * share, limit))
            for share, limit in zip(shares, limits, strict=True)
        ]
        for number in options.epoch_numbers
    }
    dropped = sum((pairs.dropped for pairs in usable.values()), Counter[str]())
    dropped["task_row_is_held_out"] = len(task_rows) - sum(map(len, train))
    dropped["contrast_row_is_held_out"] = len(every_contrast) - sum(map(len, near))
    read = {n if n == "task" else f"task:{n}": rows.read for n, rows in tasks.items() if rows.read}
    read |= {n: cache.read for n, cache in stored.items() if cache.read}
    written = writers_of(caches) | {
        "contrast" if n == "task" else f"contrast:{n}": rows.contrast_by
        for n, rows in tasks.items()
        if rows.contrast and rows.contrast_by
    }
    places = {
        number: _contrast_places(of_tasks, near_tasks, options.contrast, number)
        for number in options.epoch_numbers
    }
    kinds = Counter(contrasting[place][1].kind for each in places.values() for place in each)
    manifest = Manifest(
        kind="mixture",
        settings={
            **options.as_dict(),
            "select": "uniform",
            "token": tokens[0] if len(tokens) == 1 else list(tokens) or None,
            **_without_empty(
                task_weights=dict(task_weights or {}), cache_weights=dict(cache_weights or {})
            ),
        },
        inputs={
            **_hashes("task", {n: _rows_hash(r.train) for n, r in tasks.items()}),
            "test": _rows_hash(held_out),
            **_without_empty(contrast=every_contrast and _rows_hash(every_contrast)),
            **_hashes("cache", {name: pairs.sha256 for name, pairs in usable.items()}),
        },
        rows={
            "task": len(ranks) * len(taken),
            "cache": sum(len(part) for parts in ranks.values() for part in parts),
            **_without_empty(contrast=kinds.total()),
            "test": len(held_out),
        },
        dropped=dict(sorted((+dropped).items())),
        details=_without_empty(written_by=written, read=read, contrast=dict(sorted(kinds.items()))),
    )
    batch, wordings, teachers = _task_batch([*_rows_of(taken), *_rows_of(contrasting)])
    orders = [
        _in_order(options, number, taken, contrasting, places[number], stored, usable, parts)
        for number, parts in ranks.items()
    ]
    numbers = np.concatenate(orders)
    has_teacher = teachers.is_valid().to_numpy(zero_copy_only=False)
    taught = bool(has_teacher[numbers[numbers < len(teachers)]].any())
    return Mixture(
        manifest,
        _test_table(held_out, options, taught=taught),
        options.format,
        batch,
        wordings,
        tuple(stored.values()),
        numbers,
        teachers if taught else None,
        len(taken),
    )


def _check_tokens(tasks: Collection[TaskRows], held_out: Sequence[TaskRow]) -> tuple[str, ...]:
    """Check that the rows name the token of their task, and return the tokens.

    Raises:
        TokenError: A row names no token.
    """
    for rows in tasks:
        check_token(rows.train, [rows.token] if rows.token else [])
    tokens = tuple(sorted({rows.token for rows in tasks if rows.token}))
    if all(rows.token for rows in tasks):
        check_token(held_out, tokens, "held-out rows")
    return tokens


def _without_empty(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


def named_caches(given: Any) -> dict[str, Any]:
    """Return the caches by name; the bundled cache is its folder."""
    return {name: cache_path(each) for name, each in _named(given, "cache").items()}


def _named(given: Any, name: str) -> Mapping[str, Any]:
    """Return inputs by name; a single input has the default name."""
    return {name: given} if _is_splits(given) or not isinstance(given, Mapping) else given


def _is_splits(given: Any) -> bool:
    """Return whether an input is rows by split, such as a `DatasetDict`."""
    if not isinstance(given, Mapping):
        return False
    splits = {"train", "test", "validation"} & set(given)
    return type(given).__name__ in ("DatasetDict", "IterableDatasetDict") or (
        "train" in splits and set(given) <= {"train", "test", "validation"}
    )


def _weights(
    kind: str, names: Mapping[str, Any], weights: Mapping[str, float] | None
) -> list[float]:
    """Return the weight of each name, by default 1.0.

    Raises:
        InputError: A weight is not a number of at least 0, or its name is unknown.
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


def _weighted(
    parts: Sequence[Sequence[_Row]], weights: Sequence[float], seed: int
) -> list[list[tuple[int, _Row]]]:
    """Return the rows of each task, repeated or reduced by its weight."""
    return [_times(rows, weight, seed) for rows, weight in zip(parts, weights, strict=True)]


def _contrast_places(
    tasks: Sequence[Sequence[Any]],
    contrast: Sequence[Sequence[Any]],
    share: float | None,
    epoch: int,
) -> list[int]:
    """Return the contrast rows of an epoch as positions in those of all tasks.

    Args:
        tasks: Training rows of each task.
        contrast: Contrast rows of each task.
        share: Contrast rows per task row; None for all.
        epoch: Index of the epoch.

    Raises:
        RatioError: A task has fewer contrast rows than an epoch needs.
    """
    places: list[int] = []
    start = 0
    for rows, near in zip(tasks, contrast, strict=True):
        wanted = len(near) if share is None else round(share * len(rows))
        if wanted > len(near):
            raise RatioError(
                f"contrast {share:.15g} needs {wanted} contrast rows in an epoch, and the task has "
                f"{len(near)}: lower it, or diversify with more (delia diversify --contrast)"
            )
        places += [start + (epoch * wanted + i) % len(near) for i in range(wanted)]
        start += len(near)
    return places


def _rows_of(numbered: Sequence[tuple[int, _Row]]) -> list[_Row]:
    return [row for _, row in numbered]


def _times(rows: Sequence[_Row], weight: float, seed: int) -> list[tuple[int, _Row]]:
    """Return rows a multiple of times: all rows for the integer part, then the first in rank."""
    count = round(weight * len(rows))
    whole, rest = divmod(count, len(rows)) if rows else (0, 0)
    ranked = sorted(rows, key=lambda row: (rank(seed, _row_key(row), "select"), _row_key(row)))
    again = [(i, row) for i in range(whole) for row in rows]
    return [*again, *((whole, row) for row in ranked[:rest])]


def _check_turns(task: Sequence[TaskRow | ContrastRow], caches: Mapping[str, CacheRows]) -> None:
    """Refuse rows that the format `alpaca` cannot represent."""
    longer = [name for name, cache in caches.items() if cache.has_longer_rows]
    if any(len(row.record.messages) != 2 for row in task):
        longer.append("task")
    if longer:
        raise FormatError(
            f"the {' and the '.join(longer)} has system turns or earlier turns, for which a "
            "mixture in the format 'alpaca' has no column: use format 'messages'"
        )


def _shares(wanted: int, weights: Sequence[float]) -> list[int]:
    """Split a number in proportion to weights; the parts add up to it."""
    total = sum(weights)
    if total <= 0:
        raise InputError("cache_weights are all 0: give at least one that is more")
    bounds = [round(wanted * sum(weights[:i]) / total) for i in range(len(weights) + 1)]
    return [high - low for low, high in pairwise(bounds)]


def _limit(
    pairs: Usable, name: str, share: int, options: MixOptions, task_rows: int, *, bundled: bool
) -> int:
    """Return the rank below which the pairs of a cache are taken, over all epochs.

    Ranks beyond the number of usable pairs repeat the cache.

    Raises:
        RatioError: The cache is too small, and `on_short` is `"error"`.
    """
    usable, epochs = len(pairs.rows), options.epoch_numbers.stop
    wanted = epochs * share
    if wanted <= usable:
        return wanted
    if not usable:
        lost = ", ".join(f"{n} {reason}" for reason, n in sorted(pairs.dropped.items()) if n)
        raise RatioError(
            f"the {name} holds 0 usable pairs (dropped: {lost or 'none'}): give other pairs, "
            "or lower the ratio to 0"
        )
    if options.on_short == "error":
        every = f" in {epochs} epochs" if epochs > 1 else ""
        most = math.floor(1e4 * (usable // epochs) / task_rows) / 1e4
        grow = f" (delia sample my-cache --from {BUNDLED} --target {math.ceil(1.01 * wanted)})"
        raise RatioError(
            f"ratio {options.ratio:.15g} of {task_rows} task rows{every} needs {wanted} pairs, "
            f"and the {name} holds {usable} usable ones: sample more{grow if bundled else ''}, "
            f"lower the ratio to {most:.15g}, or set on_short (--on-short) to 'all' or 'repeat'"
        )
    return usable if options.on_short == "all" else wanted


def _in_order(
    options: MixOptions,
    epoch: int,
    task: Sequence[tuple[int, TaskRow]],
    contrast: Sequence[tuple[int, ContrastRow]],
    places: Sequence[int],
    caches: Mapping[str, CacheRows],
    usable: Mapping[str, Usable],
    ranks: Sequence[range],
) -> Numbers:
    """Return the row numbers of an epoch, over task rows, contrast rows and caches.

    `places` are the contrast rows of the epoch.
    """
    purpose = f"order:epoch-{epoch}" if epoch else "order"

    def keys_of(rows: Sequence[tuple[int, TaskRow | ContrastRow]], source: str) -> Keys:
        ranks = [rank(options.seed, f"{n}:{source}:{_row_key(row)}", purpose) for n, row in rows]
        halves = [(place >> 64, place & (2**64 - 1)) for place in ranks]
        return np.array(halves, np.uint64).reshape(-1, 2)

    task_keys = keys_of(task, "task")
    contrast_keys = keys_of([contrast[place] for place in places], "contrast")
    contrast_numbers = len(task) + np.array(places, np.int64)
    start = len(task) + len(contrast)
    numbers, keys = [np.empty(0, np.int64)], [np.empty((0, 2), np.uint64)]
    for cache, pairs, wanted in zip(caches.values(), usable.values(), ranks, strict=True):
        begin = wanted.start
        while begin < wanted.stop:
            repetition, first = divmod(begin, len(pairs.rows))
            taken = slice(first, min(len(pairs.rows), first + wanted.stop - begin))
            numbers.append(start + pairs.rows[taken])
            ids = hex_of(pairs.ids[taken])
            keys.append(rank_keys(options.seed, f"{purpose}:{repetition}:cache:", ids))
            begin += taken.stop - taken.start
        start += len(cache.ids)
    pair_numbers, pair_keys = np.concatenate(numbers), np.concatenate(keys)
    if options.order == "shuffled":
        together = np.concatenate([np.arange(len(task)), contrast_numbers, pair_numbers])
        return together[sort_keys(np.concatenate([task_keys, contrast_keys, pair_keys]))]
    of_task, of_pairs = interleave(len(task), len(pair_numbers))
    rows = np.empty(len(task) + len(pair_numbers), np.int64)
    rows[of_task] = sort_keys(task_keys)
    rows[of_pairs] = pair_numbers[sort_keys(pair_keys)]
    if places:  # distributed evenly, each after a task row and its pairs
        ends = np.append(of_task[1:], len(rows))
        after = ends[np.arange(len(places)) * len(task) // len(places)]
        rows = np.insert(rows, after, contrast_numbers[sort_keys(contrast_keys)])
    return rows


def _task_batch(
    rows: Sequence[TaskRow | ContrastRow],
) -> tuple[pa.RecordBatch, pa.StringArray, pa.ListArray]:
    """Return messages and ids of rows, their wording ids, and their teachers' turns."""
    messages = pa.array([write_record(row.record)["messages"] for row in rows], MESSAGES)
    ids = binary_ids(bytes.fromhex("".join(row.record.id for row in rows)))
    wordings = [row.wording_id if isinstance(row, TaskRow) else None for row in rows]
    teachers = [
        [message.as_dict() for message in row.teacher_messages] if row.teacher_messages else None
        for row in rows
    ]
    return (
        pa.RecordBatch.from_arrays([messages, ids], schema=SCHEMA),
        pa.array(wordings, pa.string()),
        pa.array(teachers, MESSAGES),
    )


def _test_table(
    held_out: Sequence[TaskRow], options: MixOptions, *, taught: bool
) -> pa.Table | None:
    if not held_out:
        return None
    placed = sorted(held_out, key=lambda row: (rank(options.seed, _row_key(row)), _row_key(row)))
    batch, wordings, teachers = _task_batch(placed)
    columns = {
        "messages": batch["messages"],
        "source": pa.array(["task"] * len(placed)),
        "source_id": hex_texts(batch["id"]),
        "wording_id": wordings,
        **({TEACHER_MESSAGES: teachers} if taught else {}),
    }
    rows = pa.RecordBatch.from_pydict(columns)
    return pa.Table.from_batches([convert(rows, options.format, options.template_options)])


def convert(
    batch: pa.RecordBatch, format: Format, template_options: Mapping[str, Any] | None = None
) -> pa.RecordBatch:
    """Return a batch with `messages` in the columns of a row format, and with template options.

    Raises:
        FormatError: The format cannot represent a row.
    """
    taught = TEACHER_MESSAGES in batch.schema.names
    columns = schema(format, taught=taught, template_options=template_options)
    origin = [batch[name] for name in batch.schema.names if name != "messages"]
    if template_options:
        origin.append(template_column(template_options, batch.num_rows))
    if format == "messages":
        return pa.RecordBatch.from_arrays(
            [batch["messages"].cast(MESSAGES), *origin], schema=columns
        )
    own = columns.names[: -len(origin)]
    values: dict[str, list[Any]] = {name: [] for name in own}
    for messages in batch["messages"].to_pylist():
        row = write_record(read_record({"messages": messages}, "messages"), format)
        if extra := sorted(set(row).difference(own)):
            raise FormatError(
                f"a row has {' and '.join(extra)}, for which a mixture in the format {format!r} "
                "has no column: use format 'messages'"
            )
        for name in own:
            values[name].append(row[name])
    arrays = [pa.array(values[name], columns.field(name).type) for name in own]
    return pa.RecordBatch.from_arrays([*arrays, *origin], schema=columns)


def writers_of(caches: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model in the manifest of each cache, by the cache's name.

    Args:
        caches: The caches by name, in any form that `mix` accepts. Rows in memory, files and Hub
            ids have no manifest, and are omitted.

    Returns:
        The engine's report on its model: `name`, `weights_sha256` and `chat_template_sha256`, and
        `system` if there was a system prompt; only the name for a model behind an API.
    """
    written = {}
    for name, given in caches.items():
        if isinstance(given, str | os.PathLike) and is_finished(Path(given)):
            settings = read_manifest(given).settings
            if model := settings.get("model"):
                system = settings.get("asking", {}).get("system")
                named = model if isinstance(model, Mapping) else {"name": model}
                written[name] = {**named, "system": system} if system else model
    return written


def _texts(rows: Sequence[TaskRow]) -> Iterator[str]:
    return (turn.content for row in rows for turn in row.record.messages)


def _row_key(row: TaskRow | ContrastRow) -> str:
    return f"{row.record.id}:{row.wording_id or ''}"


def _rows_hash(rows: Sequence[TaskRow | ContrastRow]) -> str:
    """Hash a set of rows, independent of their order."""

    def key(row: TaskRow | ContrastRow) -> str:
        if isinstance(row, TaskRow) and row.teacher_messages:
            return f"{_row_key(row)}:{content_id(row.teacher_messages)}"
        return _row_key(row)

    return hashlib.sha256(canonical_json(sorted(map(key, rows)))).hexdigest()


def _hashes(kind: str, by_name: Mapping[str, str]) -> dict[str, str]:
    if list(by_name) == [kind]:
        return dict(by_name)
    return {f"{kind}:{name}": digest for name, digest in by_name.items()}


# Selection and order. Both depend only on a hash of each row's content id and the seed, not on the
# row's position or the number of workers.

Keys = np.ndarray[Any, np.dtype[np.uint64]]
"""`ranking.rank` of rows: upper and lower 64 bits; shape (rows, 2)."""


@dataclass(frozen=True)
class Usable:
    """The pairs of a cache that can be mixed.

    Attributes:
        rows: Their row numbers, in the order of selection.
        ids: Their content ids in binary, in the same order.
        dropped: Counts of the other rows by reason; each row has one reason.
        sha256: Hash of the ids of all rows, independent of their order.
    """

    rows: Numbers
    ids: pa.FixedSizeBinaryArray
    dropped: Counter[str]
    sha256: str


def usable_pairs(
    cache: CacheRows,
    *,
    seed: int,
    tokens: Sequence[str],
    task_ids: Collection[str],
    test_ngrams: frozenset[tuple[str, ...]],
    earlier: Iterable[pa.FixedSizeBinaryArray],
) -> Usable:
    """Return the pairs of a cache that can be mixed, in the order of selection.

    Args:
        cache: The rows of the cache.
        seed: Seed of the selection.
        tokens: Special tokens; a pair that contains one is dropped.
        task_ids: Content ids of training and held-out task rows; equal pairs are dropped.
        test_ngrams: N-grams of held-out rows; pairs that contain one are dropped.
        earlier: Usable ids of each preceding cache; equal pairs are dropped.
    """
    ids = cache.ids
    hexadecimal = hex_of(ids)
    order = sort_keys(rank_keys(seed, "select:", hexadecimal))
    in_order = ids.take(pa.array(order))
    usable = np.ones(len(order), bool)
    dropped = Counter(cache.dropped)

    def drop(which: np.ndarray[Any, Any], reason: str) -> None:
        if count := int(np.count_nonzero(which & usable)):
            dropped[reason] += count
        usable[which] = False

    def numbered(rows: Numbers) -> np.ndarray[Any, Any]:
        mask = np.zeros(len(order), bool)
        mask[rows] = True
        return mask[order]

    words = np.frombuffer(hexadecimal, np.uint64).reshape(-1, 4)[order]
    repeats = np.zeros(len(order), bool)
    repeats[1:] = (words[1:] == words[:-1]).all(axis=1)
    drop(repeats, "duplicate")
    drop(_among(in_order, binary_ids(bytes.fromhex("".join(task_ids)))), "also_in_task")
    drop(numbered(cache.rows_with_token(tokens)), "names_token")
    if test_ngrams:
        drop(numbered(cache.rows_with_ngram(test_ngrams)), "overlaps_test")
    for others in earlier:
        drop(_among(in_order, others), "duplicate")
    total = words.sum(axis=0, dtype=np.uint64).tolist()
    content = hashlib.sha256(f"{len(order)}:{total}".encode()).hexdigest()
    return Usable(order[usable], in_order.filter(pa.array(usable)), dropped, content)


def rank_keys(seed: int, purpose: str, hexadecimal: bytes) -> Keys:
    """Return `ranking.rank` of rows.

    Args:
        seed: Seed of the run.
        purpose: Purpose of the order, and further text before the id, separated by colons.
        hexadecimal: Concatenated ids of 32 hexadecimal digits.
    """
    key = f"{seed}:{purpose}".encode()
    digests = [
        md5(key + hexadecimal[i : i + 32], usedforsecurity=False).digest()
        for i in range(0, len(hexadecimal), 32)
    ]
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)[:, ::-1]


def sort_keys(keys: Keys) -> Numbers:
    """Return the row numbers in ascending order of the keys."""
    upper = keys[:, 0]
    order = np.argsort(upper)
    if np.any(upper[order[1:]] == upper[order[:-1]]):  # duplicates, or very rarely a collision
        order = np.lexsort((keys[:, 1], upper))
    return order


def interleave(task_rows: int, pairs: int) -> tuple[Numbers, Numbers]:
    """Return the positions of task rows and pairs when each task row precedes its share of pairs.

    Args:
        task_rows: Number of task rows, at least 1.
        pairs: Number of pairs.
    """
    shares = np.array([round(row * pairs / task_rows) for row in range(task_rows + 1)])
    owners = np.searchsorted(shares, np.arange(pairs), side="right")
    return np.arange(task_rows) + shares[:-1], np.arange(pairs) + owners


def _among(ids: pa.FixedSizeBinaryArray, others: pa.FixedSizeBinaryArray) -> np.ndarray[Any, Any]:
    mask: np.ndarray[Any, Any] = pc.is_in(ids, others).to_numpy(zero_copy_only=False)
    return mask.astype(bool)
