"""Rows to train on: opened, encoded and linted in one pass, and checked for who wrote the pairs.

    out/mixture                          a finished folder that delia mix wrote
    delia_mix:ratio-4                    the same, of the bundled task and cache
    rows.jsonl, org/name, org/name:c     anything load_dataset reads (c is a configuration); the
                                         split train

The first two name their token and the models that wrote the pairs. The third does not: a row with
the token in its prompt is a task row, any other row a pair, unless a column `source` tells.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from delia_data.errors import FormatError, InputError, TokenError
from delia_data.mixing.mixture import Mixture
from delia_data.models import identify_files, quiet
from delia_data.outputs import FINISHED, LOCK, MANIFEST, Manifest, canonical_json, read_manifest
from delia_data.reading import read_rows
from delia_data.records import Record, read_record
from delia_data.tokens import Linter
from delia_data.training.prepare import prepared_from
from delia_data.training.settings import TrainSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A Hub id, or one of the names that this package registers with datasets.
_NAME: Final = re.compile(r"delia_(mix|task|cache)|[\w-][\w.-]*/[\w.-]+")
_MIX: Final = "delia_mix"
_FILES: Final = (".parquet", ".jsonl", ".ndjson", ".json")
_IGNORED: Final = -100
NO_ANSWER: Final = "no_answer_token_within_max_length"
"""Reason to drop a row when rows are cut: nothing of its answer would be learned."""
_DTYPES: Final = ("bfloat16", "float32", "float16")
"""Types in which a sampling engine may have held the weights; the default comes first."""


@dataclass(frozen=True)
class Source:
    """Rows to train on, with their mixture's manifest if there is one.

    Attributes:
        rows: The training rows in their order, in the columns of a row format; can be iterated
            over several times.
        name: Name of the input in errors.
        manifest: The mixture's manifest, if there is one.
        places: File and line of each row, if they are known.
    """

    rows: Iterable[dict[str, Any]]
    name: str = "the mixture"
    manifest: Manifest | None = None
    places: Sequence[str] | None = None

    @property
    def tokens(self) -> list[str] | None:
        """The special tokens that the task rows name; None if the source does not tell."""
        if self.manifest is None:
            return None
        tokens = self.manifest.settings.get("token")
        return [tokens] if isinstance(tokens, str) else list(tokens or [])

    @property
    def written_by(self) -> dict[str, Any]:
        """The models that wrote the pairs, by the cache's name, as far as the source tells."""
        return dict(self.manifest.details.get("written_by", {})) if self.manifest else {}

    def records(self, tokens: Sequence[str]) -> Iterator[tuple[Record, bool]]:
        """Yield each row's record, with whether it is a task row.

        Args:
            tokens: Tokens by which a task row is recognized if it has no column `source`.

        Raises:
            FormatError: A row is in no known format.
        """
        for index, row in enumerate(self.rows):
            try:
                record = read_record(row)
            except FormatError as error:
                raise FormatError(f"{self.place(index)}: {error}") from error
            if row.get("source") in ("task", "cache"):
                yield record, row["source"] == "task"
            else:
                prompt = "".join(message.content for message in record.prompt)
                yield record, any(token in prompt for token in tokens)

    def place(self, index: int) -> str:
        """Return the file and number of a row, for errors; -1 stands for the tokenizer."""
        if index < 0:
            return "the tokenizer"
        return f"{self.name}, row {index}" if self.places is None else self.places[index]


Given = str | os.PathLike[str] | Source | Mixture | Iterable[dict[str, Any]]
"""Every input of a training; `open_source` opens it."""


def open_source(given: Given) -> Source:
    """Open the rows of a training.

    Args:
        given: A path or a name that `load_dataset` knows; a mixture that `mix` returned; or rows.

    Raises:
        InputError: The input does not exist, is no mixture, or has no training rows.
        UnfinishedError: It is a folder of this package without its finish marker.
    """
    if isinstance(given, Source):
        return given
    if isinstance(given, Mixture):
        return Source(datasets.Dataset(given.train), manifest=given.manifest)
    if not isinstance(given, str | os.PathLike):
        return Source(given if isinstance(given, datasets.Dataset | list | tuple) else list(given))
    name = os.fspath(given)
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


def _load(name: str) -> Source:
    """Open a file, folder or dataset without a manifest."""
    file = Path(name)
    if file.is_file():
        if file.suffix not in _FILES:
            raise InputError(
                f"{name} has an unknown ending: give a mixture's folder, or a file that ends in "
                f"{', '.join(_FILES)}"
            )
        if file.suffix == ".parquet":
            return Source(_tables([file], name), name)
        places, rows = zip(*read_rows(file), strict=True)
        return Source(rows, name, places=places)
    if file.is_dir():
        return Source(_read(name, name), name)
    path, _, configuration = name.partition(":")
    if not _NAME.fullmatch(path):
        raise InputError(
            f"{name} does not exist: give the folder that delia mix wrote, delia_mix:ratio-4, a "
            "file of rows, or a dataset's id such as org/name"
        )
    rows = _read(path, name, configuration or None)
    manifest = Manifest.model_validate_json(rows.info.description) if path == _MIX else None
    return Source(rows, name, manifest)


def _tables(files: Sequence[Path], name: str) -> datasets.Dataset:
    """Read Parquet files, one after another."""
    try:
        return datasets.Dataset(pa.concat_tables([pq.read_table(file) for file in files]))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{name} cannot be read: {str(error).splitlines()[0]}") from error


def _read(path: str, name: str, configuration: str | None = None) -> datasets.Dataset:
    """Load the split `train`; an error of `datasets` becomes one line."""
    try:
        with quiet():
            rows = datasets.load_dataset(path, configuration, split="train")
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        line = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        raise InputError(
            f"{name} cannot be read as a mixture: {line.strip()}; give the folder that delia mix "
            "wrote, delia_mix:ratio-4, or what load_dataset reads"
        ) from error
    if not isinstance(rows, datasets.Dataset):
        raise InputError(f"{name} is a {type(rows).__name__}: give a dataset with a split train")
    return rows


@dataclass(frozen=True)
class EncodedRows:
    """The tokenized rows of a training, in the order in which they are trained on.

    Attributes:
        dataset: Columns `input_ids` and `labels` (-100 where no loss is taken), lists of equal
            length, and `is_task`.
        cut: Rows that were cut to the limit.
        dropped: Rows that were left out, by reason.
    """

    dataset: datasets.Dataset
    cut: int
    dropped: dict[str, int]


def count_rows(source: Source, token: str) -> tuple[dict[str, int], str]:
    """Count the rows by source, and hash them in their order.

    Raises:
        InputError: There are no rows.
        FormatError: A row is in no known format.
    """
    counts = {"task": 0, "cache": 0}
    digest = hashlib.sha256()
    for record, is_task in source.records([token]):
        counts["task" if is_task else "cache"] += 1
        digest.update(canonical_json([record.id, is_task]))
    if not any(counts.values()):
        raise InputError(f"{source.name} has no training rows: make it again")
    return counts, digest.hexdigest()


def encode_rows(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    settings: TrainSettings,
    *,
    context: int | None = None,
) -> EncodedRows:
    """Put every row through the chat template once, and lint the very ids that are trained on.

    Args:
        source: The rows.
        tokenizer: The tokenizer, with the token added.
        settings: The token, the most tokens of a row, and whether to cut longer rows.
        context: Positions that the model has, if known.

    Raises:
        InputError: There is no chat template; or rows are longer than the limit, and are not to
            be cut.
        TokenError: The lint found rows from which training would learn something wrong.
    """
    limit, named = settings.max_length, "max_length"
    if context is not None and context < limit:
        limit, named = context, "the model's context"
    linter = Linter(tokenizer, tokens=(settings.token,), max_length=limit)
    ids: list[np.ndarray[Any, np.dtype[np.int32]]] = []
    labels: list[np.ndarray[Any, np.dtype[np.int32]]] = []
    are_task: list[bool] = []
    count, cut, dropped = 0, 0, Counter[str]()
    for count, (record, is_task) in enumerate(source.records([settings.token]), start=1):
        row = linter.encode(count - 1, record, is_task)
        if row is None:
            continue
        short = row.cut(limit)
        cut += len(short.ids) < len(row.ids)
        if any(row.mask) and not any(short.mask):
            dropped[NO_ANSWER] += 1
            continue
        linter.check(count - 1, record, is_task, row)
        ids.append(np.asarray(short.ids, dtype=np.int32))
        labels.append(np.where(short.mask, ids[-1], np.int32(_IGNORED)))
        are_task.append(is_task)
    report = linter.report()
    if cut and not settings.truncate:
        raise InputError(
            f"{source.name}: {cut} of {count} rows are longer than {named} of {limit} tokens (the "
            f"longest has {report.longest}): raise max_length, choose a model with a longer "
            "context, or cut them with truncate (--truncate)"
        )
    if report.problems:
        first, number = report.problems[0], len(report.problems)
        raise TokenError(
            f"{number} problem{'s' * (number != 1)} in {count} rows, the first in "
            f"{source.place(first.row)}: {first.reason}; delia lint lists them"
        )
    if not ids:
        raise InputError(
            f"{source.name}: no answer token of any of the {count} rows is within {named} of "
            f"{limit} tokens: raise max_length"
        )
    offsets = pa.array(np.cumsum([0, *map(len, ids)]), pa.int32())
    columns = {
        "input_ids": pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(ids))),
        "labels": pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(labels))),
        "is_task": pa.array(are_task),
    }
    return EncodedRows(datasets.Dataset(pa.table(columns)), cut, dict(dropped))


class ProvenanceWarning(UserWarning):
    """Pairs were written by another model than the one that is trained on them."""


def mismatched_sources(
    written_by: Mapping[str, Any], model: str, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """Compare the models that wrote the pairs with the model to be trained.

    Only the model's own words buffer (paper, section 3). A model behind an API can be compared by
    name alone.

    Args:
        written_by: The mixture's record of the models, by the cache's name.
        model: The model to be trained: the embedded model's name, a folder, or a Hub id.
        tokenizer: Its tokenizer.

    Returns:
        A line for each cache that another model wrote, or that was sampled through another chat
        template.
    """
    if not written_by:
        return []
    known: list[dict[str, str]] = []

    def identities() -> Iterator[dict[str, str]]:
        """Yield the model's identity in one type after another; weights are hashed when needed."""
        if (origin := prepared_from(model)) is not None:
            yield origin
            return
        for number, dtype in enumerate(_DTYPES):
            if number == len(known):
                known.append(identify_files(model, tokenizer, dtype=dtype))
            yield known[number]

    own = next(identities())
    lines = []
    for cache, writer in written_by.items():
        name = writer if isinstance(writer, str) else str(writer.get("name"))
        line = f"the {cache}'s pairs were written by {name}, and {own['name']} is trained on them"
        advice = "they are not its own words, and buffer nothing: sample pairs from the model"
        if isinstance(writer, str) or "weights_sha256" not in writer:
            if _last_part(name) != _last_part(own["name"]):
                lines.append(f"{line}: {advice}")
        elif all(writer["weights_sha256"] != each["weights_sha256"] for each in identities()):
            lines.append(f"{line} (weights {writer['weights_sha256'][:12]} there): {advice}")
        elif writer.get("chat_template_sha256") != own["chat_template_sha256"]:
            lines.append(
                f"the {cache}'s pairs were sampled through another chat template than that of "
                f"{own['name']}: sample them again, or train with the template they were sampled "
                "with"
            )
    return lines


def _last_part(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].casefold()
