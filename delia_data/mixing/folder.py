"""Write mixtures as folders that `datasets` can load."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.parquet as pq

from delia_data.errors import InputError
from delia_data.mixing.mixture import Mixture
from delia_data.mixing.options import config_name
from delia_data.outputs import (
    FINISHED,
    LOCK,
    Manifest,
    atomic_path,
    check_folder_is_ours,
    finish,
    folder_lock,
    write_text,
)
from delia_data.records import read_record
from delia_data.tokens import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NAMES: Final = frozenset({"README.md", "train.parquet", "test.parquet"})
_SHARDS: Final = "train-*-of-*.parquet"
"""Files of mixtures that 0.1.0 wrote on Ray."""
_GROUP: Final = 10_000
"""Rows per row group; small, so that a streaming reader gets the first row quickly."""


def save_mixture(
    mixture: Mixture,
    folder: str | os.PathLike[str],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Manifest:
    """Write a mixture as a folder that `datasets` can load.

    The folder has `train.parquet`, `test.parquet` if there are held-out rows, a dataset card whose
    configuration is named after the ratio, the manifest, and the finish marker.

    Args:
        mixture: The mixture.
        folder: Output folder; created if it does not exist. A mixture in it is replaced.
        tokenizer: Tokenizer to count the tokens of training rows and of their answers by source,
            with the chat template. The counts are in the manifest's details.

    Returns:
        The manifest as written.

    Raises:
        ForeignFolderError: The folder contains something else.
        LockedError: Another process writes into it.
        OutputError: It cannot be written.
    """
    root, columns = Path(folder), mixture.schema
    names = _NAMES.union(path.name for path in root.glob(_SHARDS))
    check_folder_is_ours(root, names, sign=LOCK)
    with folder_lock(root):
        for old in (FINISHED, *names):
            (root / old).unlink(missing_ok=True)
        splits = {"train": "train.parquet"}
        counts: Counter[str] = Counter()
        batches = mixture.batches()
        if tokenizer is not None:
            batches = _counted(batches, tokenizer, counts)
        _write_rows(root / "train.parquet", batches, columns)
        if mixture.test is not None:
            splits["test"] = "test.parquet"
            _write_rows(root / "test.parquet", mixture.test.to_batches(), columns)
        write_text(root / "README.md", _card(mixture.manifest, splits))
        manifest = mixture.manifest
        if counts:
            details = {**manifest.details, "tokens": dict(sorted(counts.items()))}
            manifest = manifest.model_copy(update={"details": details})
        return finish(root, manifest)


def _counted(
    batches: Iterable[pa.RecordBatch], tokenizer: PreTrainedTokenizerBase, counts: Counter[str]
) -> Iterator[pa.RecordBatch]:
    """Yield the batches, and count tokens and tokens of answers by source.

    Rows that the chat template refuses are counted as `uncounted_rows`.
    """
    for batch in batches:
        for row in batch.to_pylist():
            try:
                encoded = encode(
                    tokenizer,
                    read_record(row),
                    check_prompt=False,
                    every_answer=row["source"] == "cache",
                )
            except InputError:
                counts["uncounted_rows"] += 1
                continue
            counts[row["source"]] += len(encoded.ids)
            counts[f"{row['source']}_answers"] += sum(encoded.mask)
        yield batch


def _write_rows(path: Path, batches: Iterable[pa.RecordBatch], columns: pa.Schema) -> None:
    """Write row groups of equal size, so that equal rows give equal bytes for any batch size.

    Raises:
        OutputError: The file cannot be written.
    """
    with atomic_path(path) as part, pq.ParquetWriter(part, columns, compression="zstd") as writer:
        waiting = columns.empty_table()
        for batch in batches:
            waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch])])
            while waiting.num_rows >= _GROUP:
                writer.write_table(waiting.slice(0, _GROUP).combine_chunks())
                waiting = waiting.slice(_GROUP)
        if waiting.num_rows:
            writer.write_table(waiting.combine_chunks())


def rows_in_words(rows: Mapping[str, int]) -> str:
    """Return the row counts of a mixture, such as `100 task rows and 400 pairs`."""
    contrast = f", {n} contrast rows" if (n := rows.get("contrast")) else ""
    return f"{rows['task']} task rows{contrast} and {rows['cache']} pairs"


def _card(manifest: Manifest, splits: Mapping[str, str]) -> str:
    """Return the dataset card, whose `configs` make the folder itself loadable.

    Args:
        manifest: The manifest.
        splits: The file of each split.
    """
    name = config_name(manifest.settings["ratio"])
    files = "".join(f"  - split: {s}\n    path: {p}\n" for s, p in splits.items())
    return (
        f"---\nconfigs:\n- config_name: {name}\n  data_files:\n{files}---\n\n"
        f"# A DELIA mixture, {name}\n\n"
        f"{rows_in_words(manifest.rows)} that the model itself wrote, in one fixed order "
        "(arXiv 2408.10841). `manifest.json` has the settings and hashes.\n\n"
        f'```python\nfrom datasets import load_dataset\n\nload_dataset("path/to/this/folder", '
        f'"{name}")\n```\n'
    )
