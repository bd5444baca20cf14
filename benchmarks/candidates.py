"""Ways to mix two files into a `datasets.Dataset`.

A candidate imports its libraries inside its function. Its `modules` are imported before the time is
measured, as they would be in a user's script.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks._inputs import Inputs

__all__ = ["CANDIDATES", "DATASETS", "LOWER_BOUND", "OURS", "Candidate"]

_MESSAGES: Final = "STRUCT(role VARCHAR, content VARCHAR)[]"
_BATCH: Final = 1_000  # rows of an Arrow batch, as in `datasets`


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to mix.

    Attributes:
        name: Name in the tables.
        build: Makes the mixture, with all its files inside the given folder.
        modules: Modules to import before the time is measured.
        is_correct: Whether the numbers of rows and of task rows are correct.
        limitations: Properties of a mixture of delia_data that the result lacks.
    """

    name: str
    build: Callable[[Inputs, Path], Any]
    modules: tuple[str, ...]
    is_correct: Callable[[Inputs, int, int], bool]
    limitations: str


def _exact(inputs: Inputs, rows: int, task_rows: int) -> bool:
    return (rows, task_rows) == (inputs.rows, inputs.task_rows)


def _all_pairs(inputs: Inputs, rows: int, task_rows: int) -> bool:
    return (rows, task_rows) == (inputs.task_rows + inputs.pairs, inputs.task_rows)


def _until_one_ends(inputs: Inputs, rows: int, task_rows: int) -> bool:
    pairs = rows - task_rows
    within = task_rows <= inputs.task_rows and pairs <= inputs.pairs
    return within and (task_rows == inputs.task_rows or pairs == inputs.pairs)


def _ours(inputs: Inputs, folder: Path) -> Any:
    """Load `delia_mix` without a cache."""
    from datasets import load_dataset

    return load_dataset(
        "delia_mix",
        ratio=inputs.ratio,
        task=inputs.task,
        cache=inputs.cache,
        cache_dir=str(folder),
        split="train",
    )


def _datasets(inputs: Inputs, folder: Path) -> Any:
    """Mix with `datasets`: tag, shuffle, select, concatenate, shuffle."""
    from datasets import concatenate_datasets

    task = _load_json(inputs.task, folder).map(lambda _: {"source": "task"})
    cache = _load_json(inputs.cache, folder).map(lambda _: {"source": "cache"})
    selected = cache.shuffle(seed=0).select(range(inputs.selected_pairs))
    return concatenate_datasets([task, selected]).shuffle(seed=0)


def _trl(inputs: Inputs, folder: Path) -> Any:  # noqa: ARG001  (it caches under HF_HOME)
    """Mix with TRL, with fractions of 1 and `ratio`."""
    from trl.scripts.utils import DatasetConfig, DatasetMixtureConfig, get_dataset

    parts = [
        DatasetConfig(path="json", data_files=inputs.task, fraction=1),
        DatasetConfig(path="json", data_files=inputs.cache, fraction=inputs.ratio),
    ]
    return get_dataset(DatasetMixtureConfig(datasets=parts))["train"]


def _interleave(inputs: Inputs, folder: Path) -> Any:
    """Mix with `interleave_datasets`, with probabilities in the proportion of 1 to `ratio`."""
    from datasets import interleave_datasets

    parts = [_load_json(inputs.task, folder), _load_json(inputs.cache, folder)]
    share = 1 / (1 + inputs.ratio)
    return interleave_datasets(parts, probabilities=[share, 1 - share], seed=0)


def _duckdb(inputs: Inputs, folder: Path) -> Any:
    """Mix with an SQL statement, and load its Parquet file with `datasets`."""
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
                     ORDER BY hash(messages, 0) LIMIT {inputs.selected_pairs})
                )
                ORDER BY hash(messages, 1)
            ) TO '{target}' (FORMAT parquet)
            """
        )
    return load_dataset("parquet", data_files=str(target), cache_dir=str(folder), split="train")


def _lower_bound(inputs: Inputs, folder: Path) -> Any:
    """Copy all rows from JSON Lines to an Arrow stream that `datasets` maps, in input order.

    This is the fastest method we know that does not hold the whole file in memory. At 300,000 pairs
    it took 0.5 s, like `pyarrow.json.read_json`, which does; `pyarrow.json.open_json` took 0.9 s,
    DuckDB's `COPY` to Parquet 1.3 s, Polars to Arrow 1.8 s.
    """
    import duckdb
    import pyarrow as pa
    from datasets import Dataset

    target = folder / "rows.arrow"
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
DATASETS: Final = Candidate(
    "datasets",
    _datasets,
    ("datasets",),
    _exact,
    "keeps duplicates; an additional pair moves every row; no row ids",
)
LOWER_BOUND: Final = Candidate(
    "lower bound: copy in input order",
    _lower_bound,
    ("datasets", "duckdb", "pyarrow"),
    _all_pairs,
    "takes all pairs; does not shuffle; keeps duplicates; no row ids",
)
CANDIDATES: Final = (
    OURS,
    DATASETS,
    Candidate(
        "TRL get_dataset",
        _trl,
        ("trl.scripts.utils", "datasets"),
        _exact,
        "takes the first pairs, not a sample; does not shuffle; drops task rows without a warning "
        "if there are too few pairs; keeps duplicates; no source, no row ids",
    ),
    Candidate(
        "interleave_datasets",
        _interleave,
        ("datasets",),
        _until_one_ends,
        "keeps the ratio only on average; stops when one file ends, so task rows may be missing; "
        "takes the first pairs, in input order; keeps duplicates; no source, no row ids",
    ),
    Candidate(
        "DuckDB ORDER BY hash",
        _duckdb,
        ("duckdb", "datasets"),
        _exact,
        "does not report too few pairs; keeps duplicates; no row ids; `hash` may change with "
        "DuckDB's version",
    ),
    LOWER_BOUND,
)
