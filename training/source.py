"""Where a training's rows come from: a mixture's folder, `delia://`, or what `datasets` loads.

    out/mixture                          a folder that delia mix wrote, finished
    delia://ratio-4/cache=out/cache      the same, made on first use
    rows.jsonl, org/name, org/name:c     what load_dataset reads, c a configuration: the split train

The first two say which token and whose words they hold. Of the third nothing is known: a row with
the token in its prompt is a task row, any other a pair, unless a column `source` says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from delia_data.errors import InputError
from delia_data.mixing.mixture import Mixture
from delia_data.models import quiet
from delia_data.outputs import FINISHED, LOCK, MANIFEST, Manifest, read_manifest
from delia_data.records import read_rows

# A Hub id, or one of the names that this package gives to datasets.
_NAME: Final = re.compile(r"delia_(mix|task|cache)|[\w-][\w.-]*/[\w.-]+")
_DELIA: Final = "delia://"
_TRAIN: Final = "train.parquet"
_FILES: Final = (".parquet", ".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class Source:
    """Rows to train on, and what is known of them.

    Attributes:
        rows: The training rows in their order, each in a row format's columns; it can be gone
            through again and again.
        name: What to call it in an error.
        manifest: The mixture's manifest, where there is one.
    """

    rows: Iterable[dict[str, Any]]
    name: str = "the mixture"
    manifest: Manifest | None = field(default=None)

    @property
    def tokens(self) -> list[str] | None:
        """The special tokens that the task rows name; None where it is not known."""
        if self.manifest is None:
            return None
        tokens = self.manifest.settings.get("token")
        return [tokens] if isinstance(tokens, str) else list(tokens or [])

    @property
    def written_by(self) -> dict[str, Any]:
        """The models that wrote the pairs, by the cache's name, as far as is known."""
        return dict(self.manifest.details.get("written_by", {})) if self.manifest else {}


Given = str | os.PathLike[str] | Source | Mixture | Iterable[dict[str, Any]]
"""What a training can be given; `open_source` opens it."""


def open_source(given: Given) -> Source:
    """Open what a training is given.

    Args:
        given: A path, a `delia://` address or a name that `load_dataset` knows; what `mix` gives;
            or rows.

    Raises:
        InputError: There is nothing there, it is no mixture, or it has no training rows.
        UnfinishedError: It is a folder of ours without its finish marker.
    """
    if isinstance(given, Source):
        return given
    if isinstance(given, Mixture):
        return Source(datasets.Dataset(given.train), manifest=given.manifest)
    if not isinstance(given, str | os.PathLike):
        rows = given if isinstance(given, datasets.Dataset | list | tuple) else list(given)
        return Source(rows)
    name = os.fspath(given)
    if name.startswith(_DELIA):
        return _open_folder(_made(name), name)
    folder = Path(name)
    if folder.is_dir() and any((folder / sign).exists() for sign in (MANIFEST, FINISHED, LOCK)):
        return _open_folder(folder, name)
    return _load(name)


def _open_folder(folder: Path, name: str) -> Source:
    manifest = read_manifest(folder)
    if manifest.kind != "mixture":
        raise InputError(f"{name} holds a {manifest.kind}, not a mixture: give a mixture's folder")
    files = sorted(folder.glob("train*.parquet"))
    return Source(_tables(files, name), name, manifest)


def _made(address: str) -> Path:
    """The folder of a mixture that an address names; it is made where it is not there."""
    from delia_data.filesystem import DeliaFileSystem

    whole = address if address.endswith(".parquet") else f"{address.rstrip('/')}/{_TRAIN}"
    found = DeliaFileSystem().info(whole)
    return Path(DeliaFileSystem._strip_protocol(found["resolved"])).parent


def _load(name: str) -> Source:
    """What `load_dataset` makes of a name, with nothing known of where it comes from."""
    file = Path(name)
    if file.is_file():
        if file.suffix not in _FILES:
            raise InputError(
                f"{name} has an unknown ending: give a mixture's folder, or a file that ends in "
                f"{', '.join(_FILES)}"
            )
        if file.suffix == ".parquet":
            return Source(_tables([file], name), name)
        return Source([row for _, row in read_rows(file)], name)
    if file.is_dir():
        return Source(_read(name, name), name)
    path, _, configuration = name.partition(":")
    if not _NAME.fullmatch(path):
        raise InputError(
            f"{name} is not there: give the folder that delia mix wrote, delia://ratio-4, a file "
            "of rows, or a dataset's id such as org/name"
        )
    return Source(_read(path, name, **({"name": configuration} if configuration else {})), name)


def _tables(files: Sequence[Path], name: str) -> datasets.Dataset:
    """Rows of Parquet files, one file after another."""
    try:
        return datasets.Dataset(pa.concat_tables([pq.read_table(file) for file in files]))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{name} cannot be read: {str(error).splitlines()[0]}") from error


def _read(path: str, name: str, **options: Any) -> datasets.Dataset:
    """Load the split `train`; whatever `datasets` raises becomes one line."""
    try:
        with quiet():
            rows = datasets.load_dataset(path, split="train", **options)
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        line = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        raise InputError(
            f"{name} cannot be read as a mixture: {line.strip()}; give the folder that delia mix "
            "wrote, delia://ratio-4, or what load_dataset reads"
        ) from error
    if not isinstance(rows, datasets.Dataset):
        raise InputError(f"{name} is a {type(rows).__name__}: give a dataset with a split train")
    return rows
