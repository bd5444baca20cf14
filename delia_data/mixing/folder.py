"""A mixture as a folder that `datasets` loads by itself."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from delia_data.files import LOCK, atomic_path, folder_lock, write_text
from delia_data.manifest import FINISHED, Manifest, check_folder_is_ours, finish
from delia_data.mixing.mixture import Mixture
from delia_data.mixing.options import config_name, schema

__all__ = ["save_mixture"]

_NAMES: Final = frozenset({"README.md", "train.parquet", "test.parquet"})
_GROUP: Final = 10_000
"""Rows of a row group: small enough that a reader of a stream gets its first row at once."""


def save_mixture(mixture: Mixture, folder: str | os.PathLike[str]) -> Manifest:
    """Write a mixture as a folder that `datasets` loads by itself.

    The folder holds `train.parquet`, `test.parquet` where there are held-out rows, a dataset
    card whose configuration is named after the ratio, the manifest and the finish marker.

    Raises:
        ForeignFolderError: The folder holds something else.
        LockedError: Another process writes there.
        OutputError: It cannot be written.
    """
    root = Path(folder)
    columns = schema(mixture.plan.options.format)
    check_folder_is_ours(root, _NAMES, sign=LOCK)
    with folder_lock(root):
        for old in (FINISHED, *_NAMES):
            (root / old).unlink(missing_ok=True)
        splits = ["train"]
        _write(root / "train.parquet", mixture.batches(), columns)
        if mixture.test is not None:
            splits.append("test")
            _write(root / "test.parquet", mixture.test.to_batches(), columns)
        write_text(root / "README.md", _card(mixture.manifest, splits))
        return finish(root, mixture.manifest)


def _write(path: Path, batches: Iterable[pa.RecordBatch], columns: pa.Schema) -> None:
    """Write row groups of one size, whatever the size of the batches: equal rows, equal bytes."""
    with atomic_path(path) as part, pq.ParquetWriter(part, columns, compression="zstd") as writer:
        waiting = columns.empty_table()
        for batch in batches:
            waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch])])
            while waiting.num_rows >= _GROUP:
                writer.write_table(waiting.slice(0, _GROUP).combine_chunks())
                waiting = waiting.slice(_GROUP)
        if waiting.num_rows:
            writer.write_table(waiting.combine_chunks())


def _card(manifest: Manifest, splits: Sequence[str]) -> str:
    """The dataset card, whose `configs` make the folder itself loadable."""
    name = config_name(manifest.settings["ratio"])
    files = "".join(f"  - split: {s}\n    path: {s}.parquet\n" for s in splits)
    rows = manifest.rows
    return (
        f"---\nconfigs:\n- config_name: {name}\n  data_files:\n{files}---\n\n"
        f"# A DELIA mixture, {name}\n\n"
        f"{rows['task']} task rows and {rows['cache']} pairs that the model itself wrote, in one "
        f"fixed order (arXiv 2408.10841). `manifest.json` has the settings and hashes.\n\n"
        f'```python\nfrom datasets import load_dataset\n\nload_dataset("path/to/this/folder", '
        f'"{name}")\n```\n'
    )
