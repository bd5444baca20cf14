"""The ways to mix that are measured: each makes a `datasets.Dataset` of the same two files.

A candidate imports inside its function; what its `modules` names is imported before the clock
starts, as a user's script would have done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks._inputs import Inputs

__all__ = ["CANDIDATES", "LIMIT", "OURS", "USUAL", "Candidate"]

_MESSAGES: Final = "STRUCT(role VARCHAR, content VARCHAR)[]"
# Rows in an Arrow batch of the limit; `datasets` writes as many.
_BATCH: Final = 1_000


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to mix.

    Attributes:
        name: What the tables call it.
        build: Makes the mixture, all its files inside the given folder.
        modules: Imported before the clock starts.
        right: Whether a number of rows, and of task rows among them, is what it should give.
        lacks: What a mixture of ours has and its result has not.
    """

    name: str
    build: Callable[[Inputs, Path], Any]
    modules: tuple[str, ...]
    right: Callable[[Inputs, int, int], bool]
    lacks: str


def _exact(inputs: Inputs, rows: int, task_rows: int) -> bool:
    return (rows, task_rows) == (inputs.rows, inputs.task_rows)


def _everything(inputs: Inputs, rows: int, task_rows: int) -> bool:
    return (rows, task_rows) == (inputs.task_rows + inputs.pairs, inputs.task_rows)


def _one_used_up(inputs: Inputs, rows: int, task_rows: int) -> bool:
    pairs = rows - task_rows
    within = task_rows <= inputs.task_rows and pairs <= inputs.pairs
    return within and (task_rows == inputs.task_rows or pairs == inputs.pairs)


def _ours(inputs: Inputs, folder: Path) -> Any:
    """`load_dataset("delia_mix", ...)`, cold."""
    from datasets import load_dataset

    return load_dataset(
        "delia_mix",
        ratio=inputs.ratio,
        task=inputs.task,
        cache=inputs.cache,
        cache_dir=str(folder),
        split="train",
    )


def _usual(inputs: Inputs, folder: Path) -> Any:
    """What a script with `datasets` does: tag, shuffle, select, concatenate, shuffle."""
    from datasets import concatenate_datasets

    task = _load_json(inputs.task, folder).map(lambda _: {"source": "task"})
    cache = _load_json(inputs.cache, folder).map(lambda _: {"source": "cache"})
    picked = cache.shuffle(seed=0).select(range(inputs.picked))
    return concatenate_datasets([task, picked]).shuffle(seed=0)


def _trl(inputs: Inputs, folder: Path) -> Any:  # noqa: ARG001  (it caches under HF_HOME)
    """TRL's mixture, with shares of 1 and `ratio`."""
    from trl.scripts.utils import DatasetConfig, DatasetMixtureConfig, get_dataset

    parts = [
        DatasetConfig(path="json", data_files=inputs.task, fraction=1),
        DatasetConfig(path="json", data_files=inputs.cache, fraction=inputs.ratio),
    ]
    return get_dataset(DatasetMixtureConfig(datasets=parts))["train"]


def _interleave(inputs: Inputs, folder: Path) -> Any:
    """`interleave_datasets` with probabilities of 1 and `ratio`."""
    from datasets import interleave_datasets

    parts = [_load_json(inputs.task, folder), _load_json(inputs.cache, folder)]
    share = 1 / (1 + inputs.ratio)
    return interleave_datasets(parts, probabilities=[share, 1 - share], seed=0)


def _duckdb(inputs: Inputs, folder: Path) -> Any:
    """One SQL statement, its Parquet file loaded with `datasets`."""
    import duckdb
    from datasets import load_dataset

    target = folder / "mixture.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"SET temp_directory = '{folder / 'spill'}'")
        connection.execute(
            f"""
            COPY (
                FROM (
                    {_select(inputs.task, "task")}
                    UNION ALL
                    ({_select(inputs.cache, "cache")}
                     ORDER BY hash(messages, 0) LIMIT {inputs.picked})
                )
                ORDER BY hash(messages, 1)
            ) TO '{target}' (FORMAT parquet)
            """
        )
    return load_dataset("parquet", data_files=str(target), cache_dir=str(folder), split="train")


def _limit(inputs: Inputs, folder: Path) -> Any:
    """All rows from JSON Lines to an Arrow stream such as `datasets` maps, in the order given.

    Of the plain ways the fastest that does not hold the whole file in memory. At 300,000 pairs it
    took 0.5 s, as did `pyarrow.json.read_json`, which holds it; `pyarrow.json.open_json` took
    0.9 s, DuckDB's `COPY` to Parquet 1.3 s, Polars to Arrow 1.8 s.
    """
    import duckdb
    import pyarrow as pa
    from datasets import Dataset

    target = folder / "limit.arrow"
    statement = f"{_select(inputs.task, 'task')} UNION ALL {_select(inputs.cache, 'cache')}"
    with duckdb.connect() as connection:
        connection.execute(f"SET temp_directory = '{folder / 'spill'}'")
        batches: Any = connection.sql(statement).to_arrow_reader(_BATCH)
        with pa.OSFile(str(target), "wb") as file, pa.ipc.new_stream(file, batches.schema) as out:
            for batch in batches:
                out.write_batch(batch)
    return Dataset.from_file(str(target))


def _load_json(path: str, folder: Path) -> Any:
    from datasets import load_dataset

    return load_dataset("json", data_files=path, cache_dir=str(folder), split="train")


def _select(path: str, source: str) -> str:
    return (
        f"SELECT messages, '{source}' AS source FROM read_json('{path}', "
        f"format = 'newline_delimited', columns = {{messages: '{_MESSAGES}'}})"
    )


OURS: Final = Candidate(
    "delia_mix",
    _ours,
    ("delia_data", "datasets"),
    _exact,
    "",
)
USUAL: Final = Candidate(
    "datasets, the usual way",
    _usual,
    ("datasets",),
    _exact,
    "keeps duplicates; one more pair moves every row; no row ids",
)
LIMIT: Final = Candidate(
    "the limit: input order",
    _limit,
    ("datasets", "duckdb", "pyarrow"),
    _everything,
    "no selection: takes all pairs; does not shuffle; keeps duplicates; no row ids",
)
CANDIDATES: Final = (
    OURS,
    USUAL,
    Candidate(
        "TRL get_dataset",
        _trl,
        ("trl.scripts.utils", "datasets"),
        _exact,
        "takes the first pairs, not a sample; does not shuffle; too few pairs cut the task without "
        "a word; keeps duplicates; no source, no row ids",
    ),
    Candidate(
        "interleave_datasets",
        _interleave,
        ("datasets",),
        _one_used_up,
        "ratio on average only; stops where one file ends, so that task rows may be missing; takes "
        "the first pairs, in input order; keeps duplicates; no source, no row ids",
    ),
    Candidate(
        "DuckDB ORDER BY hash",
        _duckdb,
        ("duckdb", "datasets"),
        _exact,
        "too few pairs are no error; keeps duplicates; no row ids; `hash` may change with DuckDB",
    ),
    LIMIT,
)
