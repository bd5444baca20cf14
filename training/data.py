"""Where a training's rows come from: a mixture's folder, `delia://`, or what `datasets` loads.

    out/mixture                          a folder that delia mix wrote, finished
    delia://ratio-4/cache=out/cache      the same, made on first use
    rows.jsonl, org/name, org/name:c     what load_dataset reads, c a configuration: the split train

The first two say which token and whose words they hold. Of the third nothing is known: a row with
the token in its prompt is a task row, any other a pair, unless a column `source` says so.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from delia_data.errors import InputError, TokenError
from delia_data.mixing.mixture import Mixture
from delia_data.models import identify_files, quiet
from delia_data.outputs import FINISHED, LOCK, MANIFEST, Manifest, canonical_json, read_manifest
from delia_data.records import Record, read_record, read_rows
from delia_data.tokens import label, lint_rows
from delia_data.training.prepare import prepared_from
from delia_data.training.settings import TrainSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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


NO_ANSWER: Final = "no_answer_token_within_max_length"
"""Why a row is left out when rows are cut: nothing of its answer would be learned."""

_IGNORED: Final = -100


@dataclass(frozen=True)
class EncodedRows:
    """The tokenised rows of a training, in the order in which they are trained on.

    Attributes:
        dataset: Columns `input_ids` and `labels` (-100 where there is no loss), lists of equal
            length, and `is_task`.
        cut: Rows that were cut to the most tokens that are kept.
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
    for record, is_task in _records(source, token):
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
    """Put every row through the chat template, and prove that the token and answers are whole.

    Args:
        source: The rows.
        tokenizer: The tokenizer, with the token added.
        settings: What says the token, the most tokens of a row, and whether to cut longer ones.
        context: Positions that the model has, where that is known.

    Raises:
        InputError: There is no chat template, or one that refuses a row's turns; or rows are longer
            than what is kept, and are not to be cut.
        TokenError: The lint found rows of which training would learn something wrong.
    """
    limit, named = settings.max_length, "max_length"
    if context is not None and context < limit:
        limit, named = context, "the model's context"
    ids, masks, is_task = _Lists(), _Lists(), list[bool]()
    kept, longest, cut, dropped = list[bool](), 0, 0, Counter[str]()
    for record, of_task in _records(source, settings.token):
        labelled = label(tokenizer, record)
        longest = max(longest, len(labelled.ids))
        short = labelled.cut(limit)
        cut += len(short.ids) < len(labelled.ids)
        whole = any(short.mask) or not any(labelled.mask)  # what the lint is to find stays in
        kept.append(whole)
        if not whole:
            dropped[NO_ANSWER] += 1
            continue
        ids.append(short.ids)
        masks.append(short.mask)
        is_task.append(of_task)
    if cut and not settings.truncate:
        raise InputError(
            f"{cut} of {len(kept)} rows are longer than {named} of {limit} tokens (the longest has "
            f"{longest}): raise max_length, choose a model with a longer context, or cut them with "
            "truncate (--truncate)"
        )
    if not is_task:
        raise InputError(
            f"of none of the {len(kept)} rows an answer token is left within {named} of {limit} "
            "tokens: raise max_length"
        )
    _refuse_unsound(source, tokenizer, settings.token, limit, kept)
    return EncodedRows(_dataset(ids, masks, is_task), cut, dict(dropped))


def _records(source: Source, token: str) -> Iterator[tuple[Record, bool]]:
    """Each row's record, and whether it is a task row."""
    for row in source.rows:
        record, said = read_record(row), row.get("source")
        if said in ("task", "cache"):
            yield record, said == "task"
        else:
            yield record, any(token in message.content for message in record.prompt)


def _refuse_unsound(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    token: str,
    limit: int,
    kept: list[bool],
) -> None:
    """Lint the rows that are kept.

    Raises:
        TokenError: There are problems; the message has their number and the first.
    """
    rows = compress(_records(source, token), kept)
    problems = lint_rows(rows, tokenizer, tokens=(token,), max_length=limit).problems
    if problems:
        first = problems[0]
        raise TokenError(
            f"{len(problems)} problems in {len(kept)} rows, the first in row {first.row}: "
            f"{first.reason}; delia lint lists them"
        )


class _Lists:
    """Lists of numbers, one after another in one array."""

    def __init__(self) -> None:
        self.values: list[np.ndarray[Any, np.dtype[np.int32]]] = []

    def append(self, values: tuple[int, ...] | tuple[bool, ...]) -> None:
        self.values.append(np.asarray(values, dtype=np.int32))

    @property
    def flat(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        return np.concatenate(self.values)

    @property
    def offsets(self) -> pa.Array:
        lengths = [0, *map(len, self.values)]
        return pa.array(np.cumsum(lengths), pa.int32())


def _dataset(ids: _Lists, masks: _Lists, is_task: list[bool]) -> datasets.Dataset:
    labels = np.where(masks.flat == 1, ids.flat, _IGNORED)
    columns = {
        "input_ids": pa.ListArray.from_arrays(ids.offsets, pa.array(ids.flat)),
        "labels": pa.ListArray.from_arrays(ids.offsets, pa.array(labels)),
        "is_task": pa.array(is_task),
    }
    return datasets.Dataset(pa.table(columns))


_DTYPES: Final = ("bfloat16", "float32", "float16")
"""Types in which a sampling engine may have held the weights; the default comes first."""


class OwnWordsWarning(UserWarning):
    """Pairs were written by another model than the one that is trained on them."""


def foreign_writers(
    written_by: Mapping[str, Any], model: str, tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """Say of each cache that another model wrote it, and how that is known.

    Args:
        written_by: What the mixture says of its writers, by the cache's name.
        model: The model to be trained: the embedded model's name, a folder, or a Hub id.
        tokenizer: Its tokenizer.

    Returns:
        A line for each cache that another model wrote, or one with another chat template. Of a
        model behind an API nothing but its name can be compared.
    """
    if not written_by:
        return []
    own = _Own(model, tokenizer)
    return [line for cache, writer in written_by.items() for line in _foreign(cache, writer, own)]


class _Own:
    """The model to be trained; its weights are hashed when something is compared with them."""

    def __init__(self, model: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.known: list[dict[str, str]] = []

    def identities(self) -> Iterator[dict[str, str]]:
        """Identities in one type after another; of a prepared model, what it was before."""
        if (origin := prepared_from(self.model)) is not None:
            yield origin
            return
        for number, dtype in enumerate(_DTYPES):
            if number == len(self.known):
                self.known.append(identify_files(self.model, self.tokenizer, dtype=dtype))
            yield self.known[number]


def _foreign(cache: str, writer: Any, own: _Own) -> Iterator[str]:
    name = writer if isinstance(writer, str) else str(writer.get("name"))
    first = next(own.identities())
    told = f"the {cache}'s pairs were written by {name}, and {first['name']} is trained on them"
    advice = "they are not its own words, and buffer nothing: sample pairs from the trained model"
    if isinstance(writer, str) or "weights_sha256" not in writer:
        if _last(name) != _last(first["name"]):
            yield f"{told}: {advice}"
        return
    if all(writer["weights_sha256"] != own["weights_sha256"] for own in own.identities()):
        yield f"{told} (weights {writer['weights_sha256'][:12]} there): {advice}"
    elif writer.get("chat_template_sha256") != first["chat_template_sha256"]:
        yield (
            f"the {cache}'s pairs were sampled through another chat template than that of "
            f"{first['name']}: sample them again, or train with the template they were sampled with"
        )


def _last(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].casefold()
