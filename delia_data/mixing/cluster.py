"""The mixture on a Ray cluster: the rows, order and manifest of one machine, written as shards.

    cache shards ──▶ look ──▶ hashes ──▶ driver: what is picked, as on one machine
                                                        │ plan
    cache shards ──▶ route: picked pairs, to the range  ▼
                     of the order they stand in ──▶ sort ──▶ write: a range, in order ──▶ shard

Every task is a pure function of what it reads, so that one that is lost with its node runs again
and gives the same. The number of shards follows from the number of rows alone. Errors of ours
travel as rows, not as exceptions, and arrive as they would be raised here.
"""

from __future__ import annotations

import json
import os
import pickle
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Unpack, cast

import pyarrow as pa

from delia_data._optional import require
from delia_data.errors import EngineError, InputError
from delia_data.mixing.cluster_connection import connected
from delia_data.mixing.cluster_work import (
    DOUBTFUL,
    STAGED,
    Job,
    Unit,
    count_pairs,
    look,
    raise_first,
    route,
    write_shard,
)
from delia_data.mixing.folder import card, mixture_folder, with_tokens, write_rows
from delia_data.mixing.mixture import mix, named_caches
from delia_data.mixing.options import MixSettings, schema
from delia_data.mixing.sources import shards_of
from delia_data.mixing.survey import Hashes
from delia_data.mixing.task_rows import Rows
from delia_data.outputs import Manifest, finish, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHARD_ROWS: Final = 500_000
_Paths = str | os.PathLike[str]


def mix_on_ray(
    task: Rows | Mapping[str, Rows],
    cache: _Paths | Mapping[str, _Paths],
    folder: str | os.PathLike[str],
    *,
    address: str | None = None,
    shard_rows: int = _SHARD_ROWS,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **settings: Unpack[MixSettings],
) -> Manifest:
    """Mix on a Ray cluster, and write the mixture as shards that `datasets` loads.

    The rows of `train-00000-of-000NN.parquet` and so on, one after another, are those of the
    `train.parquet` that `save_mixture` writes of the same inputs, in the same order; NN depends
    on the number of rows alone. A task reads one file of a cache and holds the pairs that it picks,
    or sorts one shard, so that a cache should come as several files. The driver holds 17 bytes
    for each pair of the caches.

    Args:
        task: As `mix` takes it; read on this machine.
        cache: The pairs: a file, a glob, a cache folder or a folder of shards, or several such by
            name. Every node must see the files under the same path, and have this package.
        folder: Where to; every node must see it under the same path.
        address: Address of a cluster that runs, such as `"10.0.0.1:6379"` or `"auto"`. None for
            the one that this process is connected to or that `RAY_ADDRESS` names, else a cluster
            of this machine alone for the time of the call.
        shard_rows: Rows of a shard, about.
        tokenizer: As `save_mixture` takes it; every node needs `transformers` then.
        **settings: As `mix` takes them.

    Returns:
        The manifest as written: that of one machine, but for the names and hashes of files.

    Raises:
        RatioError: The ratio is wrong, or the cache is too small for it.
        TokenError: A task row does not name its token.
        InputError: An input cannot be read, a choice is unknown, or no cluster answers.
        FormatError: A row is in no known format, or the format is unknown or cannot hold a row.
        OutputError: The folder holds something else, or cannot be written.
        EngineError: The cluster failed.
        MissingExtraError: Ray is not installed.
    """
    if shard_rows < 1:
        raise InputError(f"shard_rows is {shard_rows}: give a number of at least 1")
    given = named_caches(cache)
    caches = {name: _Cache(*shards_of(paths), folder=paths) for name, paths in given.items()}
    with connected(address):
        mixture = mix(
            task,
            cast(Any, caches if isinstance(cache, Mapping) else caches["cache"]),
            **settings,
        )
        rows = mixture.plan.task.num_rows + mixture.plan.pairs
        with mixture_folder(folder) as root:
            shards = max(1, -(-rows // shard_rows))
            job = Job(mixture.plan, str(root.absolute()), shards, tokenizer)
            try:
                tokens = _write_shards(list(caches.values()), job, rows)
            finally:
                _remove_staged(root)
            splits = {"train": "train-*.parquet"}
            if mixture.test is not None:
                splits["test"] = "test.parquet"
                columns = schema(mixture.plan.options.format)
                write_rows(root / "test.parquet", mixture.test.to_batches(), columns)
            write_text(root / "README.md", card(mixture.manifest, splits))
            return finish(root, with_tokens(mixture.manifest, tokens))


@dataclass
class _Cache:
    """The files of a cache, read on the cluster (`survey.Elsewhere`).

    Attributes:
        files: The files.
        fast: Whether they are read as they lie; decided for all of them alike.
        folder: What was given: a folder, or another path.
    """

    files: list[Path]
    fast: bool
    folder: _Paths

    def look(
        self, *, seed: int, tokens: tuple[str, ...], ngrams_of_test: frozenset[tuple[str, ...]]
    ) -> Hashes:
        """Read the hashes of every row; where a file is doubtful, all of them in the general way.

        Raises:
            InputError: A file cannot be read, or a row is wrong: the first, in order of files.
        """
        units = [Unit(0, str(file.absolute()), self.fast) for file in self.files]
        parts = _run(units, look, seed=seed, tokens=tokens, ngrams_of_test=ngrams_of_test)
        found = sorted(parts.take_all(), key=lambda row: row["unit"])
        if self.fast and any(row["error"] == DOUBTFUL for row in found):
            self.fast = False
            return self.look(seed=seed, tokens=tokens, ngrams_of_test=ngrams_of_test)
        raise_first(row["error"] for row in found)
        return Hashes.join([pickle.loads(row["hashes"]) for row in found])


def _write_shards(caches: Sequence[_Cache], job: Job, rows: int) -> Counter[str]:
    """Send the picked pairs to their shards, write them, and count their tokens.

    Raises:
        EngineError: Rows are missing or were written twice.
    """
    units = [
        Unit(number, str(file.absolute()), cache.fast)
        for number, cache in enumerate(caches)
        for file in cache.files
    ]
    routed = _run(units, route, job=job)
    before: dict[int, int] = {}
    if job.plan.options.order == "interleaved" and job.shards > 1:
        routed = routed.materialize()
        counts = _by_shard(routed, count_pairs, job)
        before = dict(enumerate(accumulate((counts[i]["rows"] for i in sorted(counts)), initial=0)))
    written = _by_shard(routed, write_shard, job, before=before)
    found = sum(shard["rows"] for shard in written.values())
    absent = [name for s in written if not (Path(job.folder) / (name := job.name(s))).is_file()]
    if absent:
        raise EngineError(
            f"{job.folder} does not hold {absent[0]}, which a node has written: give a folder on "
            "a file system that every node sees under the same path"
        )
    if sorted(written) != list(range(job.shards)) or found != rows:
        raise EngineError(
            f"the cluster wrote {found} rows where there are {rows}: a cache changed "
            "while it was mixed; run the command again"
        )
    return sum((Counter(json.loads(s["tokens"])) for s in written.values()), Counter())


def _by_shard(
    routed: Any, work: Callable[..., pa.Table], job: Job, **settings: Any
) -> dict[int, dict[str, Any]]:
    """Run a function on the pairs of every shard, each in a task of its own, and count rows."""
    by_shard = routed.sort("shard", boundaries=list(range(1, job.shards)))
    found = _map(by_shard, work, job=job, **settings).take_all()
    raise_first(row["error"] for row in sorted(found, key=lambda row: row["shard"]))
    return {int(row["shard"]): row for row in found}


def _run(units: Sequence[Unit], work: Callable[..., pa.Table], **settings: Any) -> Any:
    """A dataset of what a function gives for every unit, each in a task of its own."""
    data = require("ray.data", extra="ray")
    numbers = data.from_items(
        [{"unit": number} for number in range(len(units))], override_num_blocks=len(units)
    )
    return _map(numbers, work, units=list(units), **settings)


def _map(rows: Any, work: Callable[..., pa.Table], **settings: Any) -> Any:
    return rows.map_batches(work, batch_size=None, batch_format="pyarrow", fn_kwargs=settings)


def _remove_staged(root: Path) -> None:
    """Remove what killed tasks left."""
    for left in root.glob(f".*{STAGED}*"):
        left.unlink(missing_ok=True)
