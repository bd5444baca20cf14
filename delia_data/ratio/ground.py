"""What the stages of a series share: task rows, held-out rows, and pairs that are in no mixture.

cache ── by keyed hash ──┬──▶ kept out      their loss tells whether the model keeps its words
                         └──▶ pool ──▶ mixtures of every ratio, the smaller in the larger
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from delia_data.bundled_cache import cache_path
from delia_data.errors import InputError, RatioError
from delia_data.mixing import Mixture, TaskRows, mix
from delia_data.mixing.mixture import writers_of
from delia_data.outputs import canonical_json, read_manifest
from delia_data.ranking import rank
from delia_data.ratio.settings import RatioSettings
from delia_data.records import Record
from delia_data.sampling import read_cache
from delia_data.tasks import TaskRow, read_task_rows
from delia_data.tasks.instruction import with_query

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MEASURED: Final = 200  # rows whose tokens are counted for an estimate


@dataclass(frozen=True)
class Ground:
    """What the stages of a series share.

    Attributes:
        name: The task's name.
        task: Its rows; of those to train on, as many as are asked for.
        task_rows: Training rows that the task has in all, those that are held out too left out.
        held_out: Held-out rows in held-out wordings, which name the token.
        plain: The same rows without the token; none where one of them has no plain form.
        kept_out: Pairs that are in no mixture.
        pool: All other pairs.
        written_by: The model that wrote the cache, as far as it says so.
        hashes: Of the task and of the cache, by name.
    """

    name: str
    task: TaskRows
    task_rows: int
    held_out: tuple[Record, ...]
    plain: tuple[Record, ...]
    kept_out: tuple[Record, ...]
    pool: tuple[Record, ...]
    written_by: dict[str, Any]
    hashes: dict[str, str]

    def mixture(self, ratio: float, seed: int) -> Mixture:
        """The mixture of one ratio and seed; the pairs of a smaller ratio are among its own.

        Raises:
            RatioError: The cache is too small.
        """
        made = mix(self.task, self.pool, ratio=ratio, seed=seed, on_short="all")
        rows = made.manifest.rows
        if rows["cache"] < round(ratio * rows["task"]):
            most = int(1e4 * rows["cache"] / rows["task"]) / 1e4
            raise RatioError(
                f"ratio {ratio:g} of {rows['task']} task rows needs {round(ratio * rows['task'])} "
                f"pairs, and {rows['cache']} are left beside the {len(self.kept_out)} that are "
                f"kept out: sample more, stop the series at {most:g} or below, or train on fewer "
                "task rows"
            )
        return made

    def rows(self, ratio: float, seed: int, *, after: float | None = None) -> list[dict[str, Any]]:
        """Rows to train on in their order.

        Args:
            ratio: Pairs for each task row.
            seed: Seed of pick and order.
            after: A smaller ratio that was trained already: the pairs alone that it does not have.
        """
        rows: list[dict[str, Any]] = self.mixture(ratio, seed).train.to_pylist()
        if after is None:
            return rows
        earlier = set(self.mixture(after, seed).train["source_id"].to_pylist())
        return [r for r in rows if r["source"] == "cache" and r["source_id"] not in earlier]

    def mean_tokens(self, tokenizer: PreTrainedTokenizerBase) -> tuple[float, float]:
        """Tokens of a task row and of a pair, the means of some hundred each."""
        from delia_data.tokens import encode

        def mean(records: Sequence[Record]) -> float:
            order = sorted(records, key=lambda record: rank(0, record.id, "counted"))[:_MEASURED]
            return sum(len(encode(tokenizer, each).ids) for each in order) / max(1, len(order))

        return mean([row.record for row in self.task.train]), mean(self.pool)


def read_ground(
    task: str | os.PathLike[str], cache: str | os.PathLike[str], settings: RatioSettings
) -> Ground:
    """Read a task folder and a cache, and set aside what is measured on.

    A pair whose query is that of a kept-out pair is in no mixture either.

    Raises:
        InputError: It is no task folder or has no held-out rows, or there is no such cache.
        RatioError: The cache is too small for the largest ratio, or two ratios come to the same
            number of pairs.
        UnfinishedError: A folder has no finish marker.
    """
    cache = cache_path(cache)
    root = Path(task)
    if not root.is_dir():
        raise InputError(f"{root} is no task folder: give what delia diversify wrote")
    rows = read_task_rows(root)
    if not rows.train or not rows.test:
        raise InputError(
            f"task {root} has {len(rows.train)} training rows and {len(rows.test)} held-out ones, "
            "and both are needed: diversify it with held-out rows (--test, --test-share)"
        )
    known = {row.record.id for row in rows.test}
    train = [row for row in rows.train if row.record.id not in known]
    test = _first(rows.test, settings.rows, settings.seed, "held out")
    if len(test) < 2:
        raise InputError(f"task {root} has one held-out row, and at least 2 are needed: give more")
    pairs = read_cache(cache)
    told = [p for p in pairs if not any(rows.token in turn.content for turn in p.messages)]
    kept = sorted(told, key=lambda pair: rank(settings.seed, pair.id, "ratio kept out"))
    kept_out = tuple(kept[: settings.pairs])
    queries = {pair.query for pair in kept_out}
    if len(kept_out) < settings.pairs:
        raise RatioError(
            f"{cache} has {len(kept_out)} pairs, and {settings.pairs} are to be kept out of every "
            "mixture: sample more, or keep fewer out (--pairs)"
        )
    found = Ground(
        name=str(read_manifest(root).settings.get("name", root.name)),
        task=TaskRows(
            _first(train, settings.task_rows, settings.seed, "task"), rows.test, rows.token
        ),
        task_rows=len(train),
        held_out=tuple(row.record for row in test),
        plain=tuple(_plain(row) for row in test) if all(row.plain for row in test) else (),
        kept_out=kept_out,
        pool=tuple(pair for pair in pairs if pair.query not in queries),
        written_by=writers_of({"cache": cache}),
        hashes={
            "task": rows.sha256,
            "cache": hashlib.sha256(canonical_json(sorted(p.id for p in pairs))).hexdigest(),
        },
    )
    found.mixture(settings.ratios[-1], settings.seed)  # a seed picks pairs; as many fit for all
    counts = [round(ratio * len(found.task.train)) for ratio in settings.ratios]
    if len(set(counts)) < len(counts):
        told_counts = ", ".join(map(str, counts))
        raise RatioError(
            f"of {len(found.task.train)} task rows the ratios come to {told_counts} pairs: "
            "give ratios that differ by at least a pair"
        )
    return found


def _first(
    rows: Sequence[TaskRow], most: int | None, seed: int, purpose: str
) -> tuple[TaskRow, ...]:
    """So many rows at most, by keyed hash; those of fewer are among those of more."""
    order = sorted(
        range(len(rows)), key=lambda i: (rank(seed, rows[i].record.id, f"ratio {purpose}"), i)
    )
    return tuple(rows[i] for i in sorted(order[:most]))


def _plain(row: TaskRow) -> Record:
    return with_query(row.record, row.plain or "")
