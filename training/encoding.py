"""Rows as training takes them: ids, labels on the answer alone, and proof that they are sound."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any, Final

import datasets
import numpy as np
import pyarrow as pa

from delia_data.errors import InputError, TokenError
from delia_data.outputs import canonical_json
from delia_data.records import Record, read_record
from delia_data.tokens import label, lint_rows
from delia_data.training.settings import TrainSettings
from delia_data.training.source import Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
